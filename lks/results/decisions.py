"""Decisions of scope indicators on prompts, and their shard's columns."""

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_NAME = "lks-decisions"
SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("cell_id", pa.string(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("probe_set", pa.string(), nullable=False),
        pa.field("probe", pa.int32(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("fired", pa.bool_(), nullable=False),
        pa.field("subjects_found", pa.list_(pa.string()), nullable=False),
        pa.field("subject_expected", pa.string(), nullable=False),
    ],
    metadata={"schema": SCHEMA_NAME, "schema_version": str(SCHEMA_VERSION)},
)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether edits apply to a prompt, and whose; never a rate.

    Attributes:
        draw: which of the cell's edit sets was in force.
        probe_set: "edit", "paraphrase" or "locality" of edited cases; "typo", "case" or "alias" (edit prompts
            with their subject spelt in another way); "others" (edit prompts of cases about subjects that are
            not edited); "plain" (sentences without named entities); or the name of an ability test.
        probe: number of the prompt in its set; for plain sentences and ability tests the same text in every
            cell. Texts are not stored: they are the same in all draws of all cells and would make the
            catalogue nine times as large.
        case_id: the case that the prompt is from; "" for plain sentences and ability tests.
        subjects_found: the edited subjects that were found and, if there is a gate, let through, in the order
            of the text. For a method that was run (`lks.evaluation.gate_decisions`) only the last of them; ""
            for one that does not report whose edits act.
        subject_expected: the edited subject that the prompt is about, or ""; always "" for a method that does
            not report whose edits act.
    """

    draw: int
    probe_set: str
    probe: int
    case_id: str
    subjects_found: tuple[str, ...]
    subject_expected: str

    @property
    def fired(self) -> bool:
        """Whether the model would have been changed for this prompt."""
        return bool(self.subjects_found)
