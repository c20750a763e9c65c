"""The answers of matched cells of two catalogues, joined item by item, and tests of their differences."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import duckdb
import numpy as np
from numpy.typing import NDArray

from lks.statistics import Floats, holm, paired_bootstrap
from reports.compare.model import LEVEL, Beside, ChangedAnswer, Items, ScoreDifference, State, Unscored
from reports.results import query
from reports.significance import PARTS

TOGETHER = "edit_performance"
RESAMPLES, RESAMPLES_PER_TEST, MOST_RESAMPLES = 10_000, 200, 200_000
"""Number of resamples: at least, per test, and at most. Holm multiplies a p value by up to the number of
tests, so without many more resamples than tests no difference could ever be found."""

Number = int | float | str | None
RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Sums:
    """Scores of one metric of one match, summed over the items of each subject.

    All arrays are [subjects]; `a` and `b` are sums of scores between 0 and 1.
    """

    subjects: NDArray[np.object_]
    a: Floats
    b: Floats
    n_items: Floats
    changed: int
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class MatchedScores:
    """What the catalogues hold on one match, before any test; `sums` is keyed by (read-out, metric)."""

    items: Items
    sums: dict[tuple[str, str], Sums]
    unscored: tuple[Unscored, ...]
    beside: tuple[Beside, ...]
    examples: tuple[ChangedAnswer, ...]


def read(
    connection: duckdb.DuckDBPyConnection, catalogues: dict[str, str], ids: Sequence[tuple[str, str]]
) -> list[MatchedScores]:
    """Read everything that is compared of matched cells.

    Args:
        connection: connection with both catalogues attached.
        catalogues: "a" and "b" -> name of the catalogue.
        ids: ids of the two cells of each match.
    """
    connection.execute("CREATE TEMP TABLE matched (match INTEGER, side VARCHAR, cell_id VARCHAR)")
    rows = [
        (i, side, cell_id) for i, both in enumerate(ids) for side, cell_id in zip("ab", both, strict=True)
    ]
    connection.executemany("INSERT INTO temp.matched VALUES (?, ?, ?)", rows)
    for side, catalogue in catalogues.items():
        connection.execute(f"USE {catalogue}")
        connection.execute(f"SET VARIABLE side = '{side}'")
        for name in ("cells", "answers", "scores"):
            connection.execute(f"CREATE TEMP TABLE {name}_{side} AS {query(f'compare_{name}')}")
    connection.execute("USE memory")
    for name in ("pairs", "items"):
        connection.execute(f"CREATE TEMP TABLE {name} AS {query(f'compare_{name}')}")
    counts = dict(_by_match(connection, "counts", Items))
    sums, beside = _sums(connection), _beside(connection)
    unscored, examples = (
        _by_match(connection, "unscored", Unscored),
        _by_match(connection, "examples", ChangedAnswer),
    )
    nothing = Items(0, 0, 0, 0, 0, 0, 0, 0, 0.0)
    return [
        MatchedScores(
            counts.get(i, nothing),
            sums.get(i, {}),
            _of(unscored, i),
            tuple(beside.get(i, ())),
            _of(examples, i),
        )
        for i in range(len(ids))
    ]


def _by_match(connection: duckdb.DuckDBPyConnection, name: str, kind: type[RowT]) -> list[tuple[int, RowT]]:
    """Return the rows of a query with their match, which is its first column."""
    rows = connection.execute(query(f"compare_{name}")).fetchall()
    return [(int(row[0]), kind(*row[1:])) for row in rows]


def _of(rows: Sequence[tuple[int, RowT]], match: int) -> tuple[RowT, ...]:
    """Return the rows of one match."""
    return tuple(row for i, row in rows if i == match)


def _beside(connection: duckdb.DuckDBPyConnection) -> dict[int, list[Beside]]:
    """Return the quantities that are not tested, in the order of `compare_cells.sql`."""
    found: dict[int, list[Beside]] = {}
    sql = (
        "SELECT match, name, a.value, b.value FROM cells_a a FULL JOIN cells_b b USING (match, name) ORDER "
        "BY match, a.rowid NULLS LAST, b.rowid"
    )
    for match, name, a, b in connection.execute(sql).fetchall():
        found.setdefault(int(match), []).append(Beside(str(name), a, b))
    return found


def _sums(connection: duckdb.DuckDBPyConnection) -> dict[int, dict[tuple[str, str], Sums]]:
    """Read the sums of each match by read-out and metric."""
    columns = connection.execute(query("compare_sums")).fetchnumpy()
    keys = list(
        zip(columns["match"].tolist(), columns["readout"].tolist(), columns["metric"].tolist(), strict=True)
    )
    starts = [i for i, key in enumerate(keys) if not i or key != keys[i - 1]]
    found: dict[int, dict[tuple[str, str], Sums]] = {}
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=False):
        match, readout, metric = keys[start]
        part = {name: column[start:end] for name, column in columns.items()}
        a, b, n_items = (np.asarray(part[name], dtype=np.float64) for name in ("a", "b", "n_items"))
        changed, better, worse = (int(part[name].sum()) for name in ("changed", "better", "worse"))
        found.setdefault(match, {})[readout, metric] = Sums(
            np.asarray(part["subject"], dtype=object), a, b, n_items, changed, better, worse
        )
    return found


def with_edit_performance(sums: dict[tuple[str, str], Sums]) -> dict[tuple[str, str], Sums]:
    """Add the mean of reliability, generality and locality for each read-out that has all three.

    Each item has the weight 1 / (items of its metric).
    """
    made = dict(sums)
    for readout in dict.fromkeys(name for name, _ in sums):
        parts = [sums[readout, part] for part in PARTS if (readout, part) in sums]
        if len(parts) == len(PARTS):
            made[readout, TOGETHER] = _together(parts)
    return made


def _together(parts: Sequence[Sums]) -> Sums:
    """Sum metrics by subject, with each item weighted by 1 / (items of its metric)."""
    subjects = np.unique(np.concatenate([part.subjects for part in parts]))
    a, b, sizes = (np.zeros(len(subjects)) for _ in range(3))
    for part in parts:
        rows, items = np.searchsorted(subjects, part.subjects), part.n_items.sum()
        a[rows] += part.a / items
        b[rows] += part.b / items
        sizes[rows] += part.n_items / items
    changed, better, worse = (
        sum(getattr(part, name) for part in parts) for name in ("changed", "better", "worse")
    )
    return Sums(subjects, a, b, sizes, changed, better, worse)


def differences(
    found: Sequence[dict[tuple[str, str], Sums]], tolerance: float
) -> tuple[list[tuple[ScoreDifference, ...]], int]:
    """Return the differences of each match, adjusted by Holm over all of them, and the number of tests.

    A metric in which no item's score changed has p = 1 in any case and is not among the tests: how many
    differences could have been found depends only on which items changed (Tarone 1990).
    """
    tests = sum(bool(one.better or one.worse) for sums in found for one in sums.values())
    resamples = min(MOST_RESAMPLES, max(RESAMPLES, RESAMPLES_PER_TEST * tests))
    made = [_differences(sums, resamples) for sums in found]
    changed = [one.p for row in made for one in row if one.state != "unchanged"]
    adjusted = iter(holm(changed).tolist() if changed else [])
    judged = [
        tuple(one if one.state == "unchanged" else _judged(one, next(adjusted), tolerance) for one in row)
        for row in made
    ]
    return judged, tests


def _judged(one: ScoreDifference, adjusted_p: float, tolerance: float) -> ScoreDifference:
    """Return a difference with its adjusted p value and its state."""
    within = (
        tolerance > 0
        and one.low is not None
        and one.high is not None
        and -tolerance <= one.low
        and one.high <= tolerance
    )
    state: State = (
        "within tolerance"
        if within and abs(one.value) <= tolerance
        else "different"
        if adjusted_p < LEVEL
        else "no difference found"
    )
    return replace(one, adjusted_p=adjusted_p, state=state)


def _differences(sums: dict[tuple[str, str], Sums], resamples: int) -> tuple[ScoreDifference, ...]:
    """Return the differences of one match; all of its metrics share the resampled subjects."""
    moved = {key: one for key, one in sums.items() if one.better or one.worse}
    found = dict(zip(moved, _bootstrapped(list(moved.values()), resamples), strict=True)) if moved else {}
    made = []
    for (readout, metric), one in sums.items():
        value, low, high, p = found.get(
            (readout, metric), (0.0, *((0.0, 0.0) if len(one.subjects) > 1 else (None, None)), 1.0)
        )
        items = one.n_items.sum()
        a, b = 100 * float(one.a.sum() / items), 100 * float(one.b.sum() / items)
        n_items = (
            sum(int(sums[readout, part].n_items.sum()) for part in PARTS)
            if metric == TOGETHER
            else int(items)
        )
        state: State = "no difference found" if (readout, metric) in found else "unchanged"
        counts = (n_items, len(one.subjects), one.changed, one.better, one.worse)
        made.append(ScoreDifference(readout, metric, a, b, value, low, high, p, p, *counts, state))
    return tuple(made)


def _bootstrapped(
    columns: Sequence[Sums], resamples: int
) -> list[tuple[float, float | None, float | None, float]]:
    """Return difference in points, interval and p of each column: the mean of b - a against a zero column."""
    subjects = np.unique(np.concatenate([one.subjects for one in columns]))
    gains, sizes = (np.zeros((len(subjects), len(columns) + 1)) for _ in range(2))
    sizes[:, -1] = 1
    for i, one in enumerate(columns):
        rows = np.searchsorted(subjects, one.subjects)
        gains[rows, i], sizes[rows, i] = one.b - one.a, one.n_items
    found = paired_bootstrap(gains, sizes, len(columns), resamples)
    ends = [
        [100 * float(end) if np.isfinite(end) else None for end in side] for side in (found.low, found.high)
    ]
    return [
        (100 * float(found.value[i]), ends[0][i], ends[1][i], float(found.p[i])) for i in range(len(columns))
    ]


def chosen(
    sums: dict[tuple[str, str], Sums], readouts: Collection[str], metrics: Collection[str]
) -> dict[tuple[str, str], Sums]:
    """Return the requested read-outs and metrics, in the requested order."""
    ranks = {name: i for names in (readouts, metrics) for i, name in enumerate(names)}
    kept = {
        key: one
        for key, one in sums.items()
        if key[0] in readouts and (key[1] in metrics or key[0] == "fires")
    }
    return dict(
        sorted(
            kept.items(),
            key=lambda entry: (ranks[entry[0][0]], ranks.get(entry[0][1], len(ranks)), entry[0][1]),
        )
    )
