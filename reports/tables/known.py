"""Tables of what the unedited model knows of the facts in question, and metrics over known facts only."""

from collections.abc import Sequence
from dataclasses import dataclass

from lks.results.reader import Reader
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Results, query
from reports.tables.cell_rows import CellRow, by_cell, device, shown
from reports.tables.model import Column, Table, TableRow, Value
from reports.tables.number_formats import whole
from reports.tables.survey import READ, of_score, reason

METRICS = {
    **{metric: heading for metric, heading in COLUMNS.items() if metric != "edit_performance"},
    "portability": "Port",
}
"""Metrics that are also counted over known facts only, with their headings."""
NO_ANSWERS = "not applicable: no free answers of the unedited model"
NONE_KNOWN = "none known"


@dataclass(frozen=True, slots=True)
class KnownFactsRow:
    """A row of `sql/table_known.sql`: a metric over known facts, in percent, and the counts of old answers.

    If no metric has known facts, `metric` and all fields after it are None; `value` alone is None if not
    every question has a score.
    """

    cell_id: str
    n_facts: int
    n_known: int
    readout: str | None
    metric: str | None
    value: float | None
    low: float | None
    high: float | None
    n_items: int | None


def known(results: Results, store: Reader) -> list[Table]:
    """Return one table for each read-out, of datasets whose edits have an old answer."""
    found = by_cell(store.rows(KnownFactsRow, query("table_known")))
    here = shown(results, found)
    metrics = {
        metric: title
        for metric, title in METRICS.items()
        if any(_is_asked(results, place, "tf_token", metric) for place in here)
    }
    columns = [Column("T"), Column("Method")]
    columns += [
        Column(heading, group, whole)
        for group in ("Old answers", "Other facts")
        for heading in ("known", "all")
    ]
    columns += [Column(heading, group) for group in metrics.values() for heading in ("known", "all")]
    return [_table(results, found, here, readout, tuple(columns), list(metrics)) for readout in READ]


def _table(
    results: Results,
    found: dict[str, list[KnownFactsRow]],
    here: Sequence[CellRow],
    readout: str,
    columns: tuple[Column, ...],
    metrics: Sequence[str],
) -> Table:
    """Return the table of one read-out."""
    rows = []
    for place in here:
        own = found.get(place.outcome.cell.id, [])
        values = [*_counts(results, place, own)]
        for metric in metrics:
            values += [
                _over_known(results, place, own, readout, metric),
                _over_all(results, place, own, readout, metric),
            ]
        rows.append(TableRow((place.n_edits, place.name, *values), place.part))
    caption = (
        f"{READOUTS[readout]}: {READOUT_NOTES[readout]}. Percent, ± half of the 95 % interval, clustered by "
        "subject. Old answers: of the edits; known are those with which the unedited model's free answer "
        "begins. Other facts: locality questions; known are those whose true answer it begins with. Rel, Gen "
        "and Port (questions whose other facts it knows) over the edits whose old answer is known, Loc over "
        "the known other facts, each next to the value over all."
    )
    return Table(
        "known",
        f"What the unedited model knows ({READOUTS[readout]})",
        columns,
        tuple(rows),
        caption,
        2,
        readout,
        device(here),
    )


def _counts(results: Results, place: CellRow, own: Sequence[KnownFactsRow]) -> list[Value]:
    """Return how many old answers and other facts are known, and how many there are."""
    if not own:
        return [Value(why=reason(place, NO_ANSWERS))] * 4
    old = [Value(own[0].n_known), Value(own[0].n_facts)]
    score = results.score(place.outcome, "wild", "locality")
    if score is None:
        return [*old, *[Value(why="not applicable: no such questions")] * 2]
    counted = _row(own, "wild", "locality")
    return [*old, Value(counted.n_items if counted else 0), Value(score.n_items)]


def _over_known(
    results: Results, place: CellRow, own: Sequence[KnownFactsRow], readout: str, metric: str
) -> Value:
    """Return a metric over known facts, or the reason for having none."""
    row = _row(own, readout, metric)
    if row is not None and row.value is not None:
        return Value(row.value, row.low, row.high)
    return Value(
        why=_lacking(results, place, readout, metric) if own and row is None else reason(place, NO_ANSWERS)
    )


def _over_all(
    results: Results, place: CellRow, own: Sequence[KnownFactsRow], readout: str, metric: str
) -> Value:
    """Return a metric over all facts, or the reason for having none."""
    if own and results.score(place.outcome, readout, metric) is None:
        return Value(why=_lacking(results, place, readout, metric))
    return of_score(results, place, readout, metric)


def _row(own: Sequence[KnownFactsRow], readout: str, metric: str) -> KnownFactsRow | None:
    """Return the row of a metric under a read-out, if there is one."""
    return next((row for row in own if (row.readout, row.metric) == (readout, metric)), None)


def _lacking(results: Results, place: CellRow, readout: str, metric: str) -> str:
    """Return why a cell for which the unedited model has free answers has no value of a metric."""
    if _is_asked(results, place, readout, metric):
        return NONE_KNOWN
    return (
        "not measured"
        if _is_asked(results, place, "tf_token", metric)
        else "not applicable: no such questions"
    )


def _is_asked(results: Results, place: CellRow, readout: str, metric: str) -> bool:
    """Return whether a cell has questions of a metric, counted or not."""
    return (
        results.score(place.outcome, readout, "portability_all" if metric == "portability" else metric)
        is not None
    )
