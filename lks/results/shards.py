"""Raw answers and outcomes on disk: the source from which the catalogue and every number are derived.

A cell's folder is `cells/<id>/`: one Parquet shard of raw answers (or scope decisions) per stage and
`outcome.json`. Each file appears whole or not at all (temporary file, fsync, rename). `outcome.json` is
written last: the cell counts from that moment on.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from lks.edits import Context, ProbeKind
from lks.errors import DataError
from lks.io.atomic import write_whole
from lks.io.parquet import named, read
from lks.io.untrusted import check_inside, content_of, one_line
from lks.results import ability_rows, decisions, judge_rows, rows, study_rows
from lks.results.cells import (
    ABILITY,
    ANSWERS,
    DECISIONS,
    GENERATIONS,
    IMMEDIATE,
    JUDGED,
    OVERHEAD,
    PASSAGES,
    STUDY,
    Outcome,
)

SCHEMA_NAME = "lks-answers"
SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one probe; never a score.

    Attributes:
        draw: which of the cell's edit sets was in force.
        case_id, subject: those of the case that the probe belongs to; subjects are the clusters of the
            statistics.
        kind, probe_index: which probe of the case.
        prompt: the text shown.
        answer: the reference answer: the target (edit, paraphrase) or the true answer (locality).
        answer_ids: its m tokens as tokenised after the prompt.
        tf_ids: argmax at each of the m positions when the reference answer is fed (teacher forcing).
        ar_ids: the model's own greedy tokens after the prompt; m of them, fewer if it stopped.
        ar_text: `ar_ids` as text.
        answer_logprob: sum of log p over the m reference tokens, nats.
        fired: whether the method's gate let the edit act; None for a method without a gate.
        context: how the prompt was put (`lks.evaluation.prompt_formats`).
        stratum, accepted, rival: those of the probe (`lks.edits.Probe`).
        rival_tokens, rival_logprob: number of tokens of the rival answer after the prompt and the sum of
            their log p, nats; 0 and None where there is no rival.
        kl: mean over the positions of the unedited model's own answer of KL(unedited || this model), nats;
            None where not measured.
        wild_text: free greedy generation to a natural stop (control token, newline) or the longest length
            (`lks.evaluation.readouts.free_lengths`); None where not generated.
        wild_tokens: number of tokens of that generation, including the stop.
    """

    draw: int
    case_id: str
    subject: str
    kind: ProbeKind
    probe_index: int
    prompt: str
    answer: str
    answer_ids: tuple[int, ...]
    tf_ids: tuple[int, ...]
    ar_ids: tuple[int, ...]
    ar_text: str
    answer_logprob: float
    fired: bool | None = None
    context: Context = "bare"
    stratum: str = ""
    accepted: tuple[str, ...] = ()
    rival: str = ""
    rival_tokens: int = 0
    rival_logprob: float | None = None
    kl: float | None = None
    wild_text: str | None = None
    wild_tokens: int = 0

    def __post_init__(self) -> None:
        """Check that there is one teacher-forced token per reference token.

        Raises:
            ValueError: the lengths differ, or the reference answer has no token.
        """
        if not self.answer_ids or len(self.tf_ids) != len(self.answer_ids):
            raise ValueError(
                f"case {self.case_id}: {len(self.tf_ids)} teacher-forced tokens "
                f"for {len(self.answer_ids)} reference tokens"
            )


SCHEMA = rows.columns(Answer, SCHEMA_NAME, SCHEMA_VERSION)

KINDS: dict[str, pa.Schema] = {
    ANSWERS: SCHEMA,
    IMMEDIATE: SCHEMA,
    DECISIONS: decisions.SCHEMA,
    GENERATIONS: rows.GENERATIONS,
    PASSAGES: rows.PASSAGES,
    ABILITY: ability_rows.SCHEMA,
    OVERHEAD: rows.TIMINGS,
    JUDGED: judge_rows.SCHEMA,
    STUDY: study_rows.SCHEMA,
}
"""Columns of the shards, by the first part of the stage's name."""

_QUESTION = ("draw", "case_id", "kind", "probe_index", "context")
KEYS: dict[str, tuple[str, ...]] = {
    ANSWERS: _QUESTION,
    IMMEDIATE: _QUESTION,
    DECISIONS: ("draw", "probe_set", "probe"),
    GENERATIONS: ("draw", "prompt_set", "number"),
    PASSAGES: ("draw", "passage"),
    ABILITY: ("draw", "task", "metric", "doc_id"),
    OVERHEAD: ("draw", "batch", "pair"),
    JUDGED: ("judge", *_QUESTION),
    STUDY: ("draw", "case_id", "block", "site", "quantity"),
}
"""Columns that identify a row of one kind in one cell: scores compare rows of two cells by them, so each
combination occurs once."""

_KNOWN = {name: (schema, version) for schema in KINDS.values() for name, version in [named(schema)]}
"""Schema and newest version of each kind of shard."""

_OUTCOME = TypeAdapter(Outcome)
_SHARD = re.compile(r"cells/[0-9a-f]{16}/[^./\\*?\[\]\x00-\x1f][^/\\*?\[\]\x00-\x1f]*\.parquet")
RowT = TypeVar("RowT")


def write_answers(results: Path, cell_id: str, stage: str, answers: Sequence[Answer]) -> str:
    """Write a cell's shard for one stage, replacing an older one.

    Returns:
        The shard's path relative to the results folder, as `Outcome.shards` wants it.

    Raises:
        DataError: the cell's folder is a link that leads out of the results folder.
        StoreError: there is no space, no permission, or another reason to fail.
    """
    return _write(results, cell_id, stage, answers, SCHEMA)


def write_stage(results: Path, cell_id: str, stage: str, made: Sequence[object]) -> str:
    """Write a cell's shard for any stage, whose name determines the kind of its rows.

    Everything else is as in `write_answers`.
    """
    return _write(results, cell_id, stage, made, schema_of(stage))


def _write(results: Path, cell_id: str, stage: str, made: Sequence[object], schema: pa.Schema) -> str:
    relative = f"cells/{cell_id}/{stage}.parquet"
    check_inside(results, results / relative)
    write_shard(results / relative, cell_id, made, schema)
    return relative


def schema_of(stage: str) -> pa.Schema:
    """Return the columns of a stage's shard."""
    return KINDS[stage.partition("-")[0]]


def kind_of(shard: Path) -> str:
    """Return the kind of rows in a shard, by the first part of its stage's name; answers if it is unknown."""
    first = shard.stem.partition("-")[0]
    return first if first in KINDS else ANSWERS


def write_shard(path: Path, cell_id: str, made: Sequence[object], schema: pa.Schema = SCHEMA) -> None:
    """Write rows of a cell to any file, replacing an older one.

    The schema's columns are fields of the rows.

    Raises:
        StoreError: there is no space, no permission, or another reason to fail.
    """
    columns: dict[str, object] = {
        name: [getattr(row, name) for row in made] for name in schema.names if name != "cell_id"
    }
    table = pa.table({"cell_id": [cell_id] * len(made)} | columns, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(path, sink.getvalue().to_pybytes())


def read_check(path: Path, cell_id: str = "") -> int:
    """Read a shard from end to end, including page checksums.

    Returns:
        The number of rows in it.

    Raises:
        DataError: the file is missing, truncated, damaged, not a shard, of a newer version, or holds rows of
            another cell than the one named.
    """
    return int(_read_checked(path, cell_id).num_rows)


def check_cell(results: Path, outcome: Outcome) -> None:
    """Read a cell's shards from end to end, as `read_check` does, and check that no row occurs twice.

    Raises:
        DataError: as `read_check`; or rows of a cell, in one shard or two, answer the same question.
    """
    keys: dict[str, list[pa.Table]] = {}
    for shard in outcome.shards:
        kind = kind_of(Path(shard))
        keys.setdefault(kind, []).append(_read_checked(results / shard, outcome.cell.id).select(KEYS[kind]))
    for kind, tables in keys.items():
        found = pa.concat_tables(tables)
        if found.group_by(found.column_names).aggregate([]).num_rows < found.num_rows:
            where = ", ".join(
                dict.fromkeys(shard for shard in outcome.shards if kind_of(Path(shard)) == kind)
            )
            raise DataError(
                f"{results}: rows occur twice in {where}: the same {', '.join(found.column_names)}. "
                "Run its cell again."
            )


def _read_checked(path: Path, cell_id: str) -> pa.Table:
    table = read(path, _KNOWN)
    if not table.schema.equals(KINDS[kind_of(path)]):
        raise DataError(f"{path} holds rows of another kind than its name says. Run its cell again.")
    if cell_id and any(found != cell_id for found in table["cell_id"].unique().to_pylist()):
        raise DataError(f"{path} holds rows of another cell than {cell_id}. Run the cell again.")
    return table


def read_answers(path: Path) -> list[Answer]:
    """Return the answers of a shard, in the order they were written.

    Raises:
        DataError: as `read_check`.
    """
    return read_rows(path, Answer)


def read_rows(path: Path, kind: type[RowT]) -> list[RowT]:
    """Return the rows of another stage's shard.

    Raises:
        DataError: as `read_check`.
    """
    found: list[dict[str, object]] = read(path, _KNOWN).drop_columns("cell_id").to_pylist()
    try:
        return [
            kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
            for row in found
        ]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not hold rows of {kind.__name__} ({one_line(error)}). Run its cell again."
        ) from None


def write_outcome(results: Path, outcome: Outcome) -> Path:
    """Write `cells/<id>/outcome.json`, the commit point of a cell: call it after all its shards.

    Raises:
        StoreError: there is no space, no permission, or another reason to fail.
    """
    path = results / "cells" / outcome.cell.id / "outcome.json"
    check_inside(results, path)
    write_whole(path, json.dumps(asdict(outcome), indent=1, sort_keys=True, ensure_ascii=False).encode())
    return path


def read_outcome(results: Path, cell_id: str) -> Outcome:
    """Read a cell's outcome.

    Raises:
        DataError: `outcome.json` is missing, damaged, or of another cell.
    """
    path = results / "cells" / cell_id / "outcome.json"
    try:
        check_inside(results, path)
        outcome = parse_outcome(content_of(path))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: the cell was not finished. Run it again.") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({one_line(error)}). Run its cell again.") from None
    if outcome.cell.id != cell_id:
        raise DataError(
            f"{path} is about cell {outcome.cell.id}, not {cell_id}: written by another version. "
            "Run its cell again."
        )
    for shard in outcome.shards:
        if not shard.startswith(f"cells/{cell_id}/"):
            raise DataError(f"{path} names {shard}, which is not in its own folder. Run its cell again.")
        check_inside(results, results / shard)
    return outcome


def stored_outcome(results: Path, cell_id: str) -> Outcome | None:
    """Read a cell's outcome like `read_outcome`; return None where it is missing or damaged."""
    with contextlib.suppress(DataError):
        return read_outcome(results, cell_id)
    return None


def parse_outcome(document: bytes | str) -> Outcome:
    """Parse an outcome from the JSON of `write_outcome`.

    Raises:
        ValueError: it is not an outcome, or names a shard that could be anywhere; one line, naming the field.
    """
    try:
        outcome = _OUTCOME.validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}") from None
    for number, shard in enumerate(outcome.shards):
        if not _SHARD.fullmatch(shard):
            raise ValueError(
                f"shards.{number}: {one_line(shard)!r} is not of the form cells/<id>/<stage>.parquet"
            )
    return outcome
