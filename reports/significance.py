"""Tests of which methods are best and which are not significantly worse.

Comparisons are paired on the same items and clustered by subject. A table is one model on one dataset under
one read-out. At each T and for each metric, every method is compared with the best one: the difference with
its interval and p value comes from a cluster bootstrap (`lks.statistics`), adjusted by Holm over the table.
Scores of 0 and 1 also get McNemar's exact p value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from lks.results.cells import UNEDITED, Outcome
from lks.results.reader import Reader
from lks.statistics import Differences, holm, mcnemar, paired_bootstrap, tied

PARTS = ("reliability", "generality", "locality")
METRICS = (*PARTS, "edit_performance")
EXACT = ("tf_exact", "ar_exact", "wild")
"""Read-outs whose scores are 0 or 1."""

Column = tuple[str, str, str]
"""Cell id, read-out, metric."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method compared with the best one of its table at the same T; differences are in percentage points.

    Attributes:
        cell_id, best_id: ids of the two cells.
        readout, metric: read-out and metric that are compared.
        difference, low, high: difference to the best method with its 95 % interval; at most 0 except for
            rounding.
        p, adjusted_p: two-sided p value, unadjusted and after Holm over the table.
        mcnemar_p: exact p value with items taken as independent; None for scores between 0 and 1.
        tied: whether it is the best method itself or not significantly worse.
    """

    cell_id: str
    best_id: str
    readout: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    adjusted_p: float
    mcnemar_p: float | None
    tied: bool


def comparisons(
    store: Reader, groups: Sequence[Sequence[Outcome]], readouts: Sequence[str]
) -> list[Comparison]:
    """Compare every method with the best one in several tables.

    Args:
        store: reader of the scores.
        groups: the cells of each table; the unedited model, which changes nothing, is ignored.
        readouts: read-outs to compare; each one forms a table.
    """
    sums = _sums(store)
    made: list[Comparison] = []
    for group in groups:
        found = [one for rivals in _rivals(group, sums) for one in _against_best(rivals, readouts, sums)]
        for readout in readouts:
            made += _adjusted([one for one in found if one.readout == readout])
    return _with_mcnemar(store, made)


Sums = dict[Column, dict[str, tuple[float, int]]]
"""(Cell, read-out, metric) -> subject -> sum of its scores and number of its items."""


def _sums(store: Reader) -> Sums:
    """Read the sums of scores per cell, read-out, metric and subject."""
    found: Sums = {}
    names = ", ".join(f"'{part}'" for part in PARTS)
    for cell_id, readout, metric, subject, total, n_items in store.query(
        "SELECT cell_id, readout, metric, subject, total, n_items FROM subject_sums WHERE metric IN "
        f"({names}) AND total IS NOT NULL"
    ):
        found.setdefault((str(cell_id), str(readout), str(metric)), {})[str(subject)] = (
            float(str(total)),
            int(str(n_items)),
        )
    return found


def _rivals(group: Sequence[Outcome], sums: Sums) -> Iterator[list[str]]:
    """Yield groups of cells at the same T that were asked about the same subjects."""
    subjects: dict[str, set[str]] = {}
    for (cell_id, _, metric), own in sums.items():
        if metric == "reliability":
            subjects.setdefault(cell_id, set()).update(own)
    alike: dict[tuple[object, ...], list[str]] = {}
    for outcome in group:
        cell = outcome.cell
        if outcome.status == "ok" and cell.method != UNEDITED and cell.id in subjects:
            alike.setdefault((cell.n_edits, cell.seed, cell.draws, frozenset(subjects[cell.id])), []).append(
                cell.id
            )
    yield from (cells for cells in alike.values() if len(cells) > 1)


def _against_best(cells: Sequence[str], readouts: Sequence[str], sums: Sums) -> list[Comparison]:
    """Compare cells with the best one for each metric and read-out, all on the same resampled subjects."""
    subjects = sorted(
        {
            subject
            for cell in cells
            for readout in readouts
            for part in PARTS
            for subject in sums.get((cell, readout, part), ())
        }
    )
    names: list[Column] = []
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    best: list[int] = []
    for readout, metric in product(readouts, METRICS):
        parts = PARTS if metric == "edit_performance" else (metric,)
        known = [cell for cell in cells if all((cell, readout, part) in sums for part in parts)]
        if len(known) < 2:
            continue
        own = [_column(cell, readout, parts, subjects, sums) for cell in known]
        best += [
            len(columns) + int(np.argmax([scores.sum() / counts.sum() for scores, counts in own]))
        ] * len(known)
        names += [(cell, readout, metric) for cell in known]
        columns += own
    if not columns:
        return []
    totals, sizes = (np.column_stack([column[i] for column in columns]) for i in (0, 1))
    found = paired_bootstrap(totals, sizes, np.array(best))
    return [_comparison(name, names[best[i]][0], found, i) for i, name in enumerate(names)]


def _column(
    cell: str, readout: str, parts: Sequence[str], subjects: Sequence[str], sums: Sums
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sizes, each [subjects], whose ratio of totals is the mean of the parts' means."""
    scores, counts = np.zeros(len(subjects)), np.zeros(len(subjects))
    for part in parts:
        rows = sums[cell, readout, part]
        items = sum(n for _, n in rows.values())
        own = np.array([rows.get(subject, (0.0, 0)) for subject in subjects])
        scores, counts = scores + own[:, 0] / items, counts + own[:, 1] / items
    return scores, counts


def _comparison(name: Column, best: str, found: Differences, i: int) -> Comparison:
    """Return column `i` of bootstrapped differences as a comparison in percentage points."""
    cell, readout, metric = name
    difference, low, high = (100 * float(part[i]) for part in (found.value, found.low, found.high))
    return Comparison(cell, best, readout, metric, difference, low, high, float(found.p[i]), 1.0, None, False)


def _adjusted(table: list[Comparison]) -> list[Comparison]:
    """Fill in Holm's adjusted p over the whole table, and mark which methods are tied with the best."""
    real = [i for i, one in enumerate(table) if one.cell_id != one.best_id]
    if not real:
        return table
    adjusted = np.ones(len(table))
    adjusted[real] = holm([table[i].p for i in real])
    marks = tied([one.difference if one.cell_id != one.best_id else 0.0 for one in table], adjusted)
    return [
        replace(one, adjusted_p=float(p), tied=bool(mark) or one.cell_id == one.best_id)
        for one, p, mark in zip(table, adjusted, marks, strict=True)
    ]


def _with_mcnemar(store: Reader, made: list[Comparison]) -> list[Comparison]:
    """Add McNemar's p value to comparisons of scores that are 0 or 1."""
    pairs = [
        one for one in made if one.readout in EXACT and one.metric in PARTS and one.cell_id != one.best_id
    ]
    if not pairs:
        return made
    values = ", ".join(
        f"('{one.best_id}', '{one.cell_id}', '{one.readout}', '{one.metric}')" for one in pairs
    )
    rows = store.query(
        f"""WITH pairs(best_id, cell_id, readout, metric) AS (VALUES {values}),
        items AS MATERIALIZED (
            SELECT cell_id, readout, metric, draw, case_id, kind, probe_index, score FROM metric_scores
            WHERE readout IN ('tf_exact', 'ar_exact', 'wild') """
        """AND metric IN ('reliability', 'generality', 'locality')
        )
        SELECT p.best_id, p.cell_id, p.readout, p.metric, count(*) FILTER (b.score > o.score), """
        """count(*) FILTER (o.score > b.score)
        FROM pairs p
        JOIN items b ON (b.cell_id, b.readout, b.metric) = (p.best_id, p.readout, p.metric)
        JOIN items o ON (o.cell_id, o.readout, o.metric) = (p.cell_id, p.readout, p.metric)
            AND (o.draw, o.case_id, o.kind, o.probe_index) = (b.draw, b.case_id, b.kind, b.probe_index)
        GROUP BY ALL"""
    )
    exact = {tuple(map(str, row[:4])): mcnemar(int(str(row[4])), int(str(row[5]))) for row in rows}
    return [
        replace(one, mcnemar_p=exact.get((one.best_id, one.cell_id, one.readout, one.metric))) for one in made
    ]
