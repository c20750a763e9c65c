"""Raw answers behind the scores: a sample of each cell, drawn by a fixed rule, for the page's panel."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from lks.results.reader import Reader
from reports.results import query

LONGEST = 600
"""Characters of a free text that are shown."""


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """A raw answer.

    Attributes:
        cell_id, kind, stratum, draw, case_id, subject, prompt: which probe of which cell.
        answer: reference answer.
        unedited_ar, unedited_wild: what the unedited model generated: the first tokens, and until it stopped.
        ar_text, wild_text: what the edited model generated.
        tf_right, tf_tokens: so many tokens of so many are the wanted ones under teacher forcing.
        ar_right, wild_right: the text is the wanted one; None where that cannot be said.
        is_right: what the sample was drawn by: `wild_right`, or `ar_right` where nothing was freely generated.
        error: what is wrong with a free answer that is wrong.
        fired: whether a gate let the edit act.
    """

    cell_id: str
    kind: str
    stratum: str
    draw: int
    case_id: str
    subject: str
    prompt: str
    answer: str
    unedited_ar: str | None
    unedited_wild: str | None
    ar_text: str
    wild_text: str | None
    tf_right: int | None
    tf_tokens: int
    ar_right: bool | None
    wild_right: bool | None
    is_right: bool | None
    error: str | None
    fired: bool | None


@dataclass(frozen=True, slots=True)
class FreeTextSample:
    """A free text before and after editing, and whether the edit holds in free generation."""

    cell_id: str
    draw: int
    subject: str
    prompt: str
    target: str
    before: str
    after: str
    holds: bool


@dataclass(frozen=True, slots=True)
class ErrorShare:
    """How many of a cell's free answers are wrong in one way, percent of all."""

    cell_id: str
    metric: str
    error: str
    share: float


Shown = dict[str, list[dict[str, object]]]
"""Cell id -> rows as JSON has them, without the cell id and without what is not known."""


def samples(store: Reader) -> Shown:
    """Raw answers, right and wrong ones of each kind of probe."""
    return _by_cell(store.rows(AnswerSample, query("answers")))


def texts(store: Reader) -> Shown:
    """Free texts before and after editing."""
    return _by_cell(store.rows(FreeTextSample, query("generations")))


def errors(store: Reader) -> Shown:
    """Shares of the kinds of error."""
    return _by_cell(store.rows(ErrorShare, query("page_errors")))


RowT = TypeVar("RowT", AnswerSample, FreeTextSample, ErrorShare)


def _by_cell(rows: Sequence[RowT]) -> Shown:
    shown: Shown = {}
    for row in rows:
        told = {
            field.name: _short(getattr(row, field.name)) for field in fields(row) if field.name != "cell_id"
        }
        shown.setdefault(row.cell_id, []).append(
            {name: value for name, value in told.items() if value is not None and value != ""}
        )
    return shown


def _short(value: object) -> object:
    return value[: LONGEST - 1] + "…" if isinstance(value, str) and len(value) > LONGEST else value
