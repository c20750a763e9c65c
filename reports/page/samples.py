"""Raw answers behind the scores: a sample of each cell, drawn by a fixed rule, for the page's panel."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from lks.results.reader import Reader
from reports.results import query

LONGEST = 600
"""Number of characters of a free text that are shown."""


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """A raw answer.

    Attributes:
        cell_id, kind, stratum, draw, case_id, subject, prompt: the cell and the probe.
        answer: reference answer.
        unedited_ar, unedited_wild: what the unedited model generated: the first tokens, and until it stopped.
        ar_text, wild_text: what the edited model generated.
        tf_right, tf_tokens: number of tokens that are right under teacher forcing, and number of tokens.
        ar_right, wild_right: whether the text is right; None if that is unknown.
        is_right: what the sample was drawn by: `wild_right`, or `ar_right` if there was no free generation.
        error: kind of error of a wrong free answer.
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
    """The share of a cell's free answers that are wrong in one way, in percent of all."""

    cell_id: str
    metric: str
    error: str
    share: float


Shown = dict[str, list[dict[str, object]]]
"""Cell id -> rows as in the JSON, without the cell id and without unknown values."""


def samples(store: Reader) -> Shown:
    """Return raw answers, right and wrong ones of each kind of probe."""
    return _by_cell(store.rows(AnswerSample, query("answers")))


def texts(store: Reader) -> Shown:
    """Return free texts before and after editing."""
    return _by_cell(store.rows(FreeTextSample, query("generations")))


def errors(store: Reader) -> Shown:
    """Return the shares of the kinds of error."""
    return _by_cell(store.rows(ErrorShare, query("page_errors")))


RowT = TypeVar("RowT", AnswerSample, FreeTextSample, ErrorShare)


def _by_cell(rows: Sequence[RowT]) -> Shown:
    """Group rows by cell, without the cell id and unknown values."""
    shown: Shown = {}
    for row in rows:
        known = {
            field.name: _short(getattr(row, field.name)) for field in fields(row) if field.name != "cell_id"
        }
        shown.setdefault(row.cell_id, []).append(
            {name: value for name, value in known.items() if value is not None and value != ""}
        )
    return shown


def _short(value: object) -> object:
    """Shorten a text to at most `LONGEST` characters; return other values unchanged."""
    return value[: LONGEST - 1] + "…" if isinstance(value, str) and len(value) > LONGEST else value
