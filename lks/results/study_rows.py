"""Rows of a study cell: one measured value per entity, block, site and quantity."""

from dataclasses import dataclass

from lks.results import rows

ANYWHERE = ""
"""The site of a quantity that belongs to a whole prompt; its block is -1."""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One measured value; never a mean.

    Attributes:
        draw: the set of entities, among the cell's, that the case belongs to.
        case_id, subject: those of the case; subjects are the clusters of the statistics.
        block: the block whose output was looked at or replaced, 0-based; -1 for a value of the whole prompt.
        site: position: "subject_last" (the subject's last token), "last" (the prompt's last token) or "" with
            block -1.
        quantity: what the value is; see `lks.studies.registry`.
        value: 0 or 1 (shares), bits, cosines or probabilities.
    """

    draw: int
    case_id: str
    subject: str
    block: int
    site: str
    quantity: str
    value: float


SCHEMA = rows.columns(StudyRow, "lks-study", 1)
