"""What a study cell stores: one measured value per entity, block, site and quantity."""

from dataclasses import dataclass

from lks.results import rows

ANYWHERE = ""
"""The site of a quantity that belongs to a whole prompt; its block is -1."""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One value. Nothing here is a mean.

    Attributes:
        draw: which of the cell's sets of entities the case is of.
        case_id, subject: of the case; subjects are the clusters of the statistics.
        block: whose output was looked at or replaced, 0-based; -1 for what is said of the prompt as a whole.
        site: position: "subject_last" (the subject's last token), "last" (the prompt's last token) or "" with block -1.
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
