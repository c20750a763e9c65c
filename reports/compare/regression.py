"""Comparison of new results with golden ones: do they differ by more than another machine would cause?

Cells are compared one by one. Equal raw answers are identical, as they are when the same machine runs twice.
Another kind of processor or another version of torch rounds differently, which may change a few answers. So
each quantity has a tolerance, and a cell is different only if an interval lies beyond it.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np

from lks.statistics import clustered_error, holm, interval, paired_bootstrap
from reports.compare.compare import compare
from reports.compare.model import LEVEL, ComparisonReport, Match, ScoreDifference, SettingChange, label
from reports.compare.stores import side_by_side
from reports.compare.text import METRIC_NAMES, READOUT_NAMES
from reports.results import query
from reports.significance import PARTS

SCORES = ("edit_performance", *PARTS)
SCORE_READOUTS = ("ar_exact", "wild")
"""Only the scores that the tables show, since p is adjusted over all that changed. What changes other scores
changes raw answers too."""

CALLED_DIFFERENT = ("status", "stages", "failed ")
"""Prefixes of the settings whose change alone makes a cell different."""

Quantity = Literal["answers", "perplexity", "ability"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits within which results may differ without being called different.

    Attributes:
        points: for scores, in percentage points.
        answers: for the share of raw answers that changed, in percent.
        perplexity: for the perplexity of plain texts, in percent of the golden results'.
        ability: for abilities, in percentage points.
    """

    points: float = 2.0
    answers: float = 2.0
    perplexity: float = 1.0
    ability: float = 2.0


@dataclass(frozen=True, slots=True)
class QuantityCheck:
    """A check of a quantity other than the scores, with its 95 % interval, in the units of `Tolerance`.

    Attributes:
        quantity: name of the quantity.
        value, low, high: the share of answers that changed (by subject), or the paired difference (by text or
            document).
        clusters: number of subjects, texts or documents.
        tolerance: the allowed value.
        different: whether the interval lies beyond the tolerance; for paired differences the p value,
            adjusted by Holm over all of them, must be small as well.
    """

    quantity: Quantity
    value: float
    low: float
    high: float
    clusters: int
    tolerance: float
    different: bool


@dataclass(frozen=True, slots=True)
class Regression:
    """The result of comparing a run with golden results.

    Attributes:
        comparison: as returned by `lks compare`, except that a score is "different" only if its interval also
            lies beyond the tolerance.
        tolerance: allowed differences.
        checks: the further checks of each match, in the order of `comparison.matches`.
    """

    comparison: ComparisonReport
    tolerance: Tolerance
    checks: tuple[tuple[QuantityCheck, ...], ...]

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """Cell -> reasons why it is different; empty if all is fine."""
        cells = [match.a.cell for match in self.comparison.matches]
        found = {
            label(match.a.cell, cells): (
                *_faults(match),
                *(said(check) for check in checks if check.different),
            )
            for match, checks in zip(self.comparison.matches, self.checks, strict=True)
        }
        found |= {
            label(held.cell): ("missing, the golden results have it",) for held in self.comparison.only_a
        }
        found |= {label(held.cell): ("not in the golden results",) for held in self.comparison.only_b}
        found |= {"a damaged cell": self.comparison.warnings}
        return {cell: why for cell, why in found.items() if why}

    @property
    def fine(self) -> bool:
        """Whether nothing is different."""
        return not self.faults

    @property
    def identical(self) -> int:
        """Number of cells whose raw answers equal those of the golden results."""
        return sum(match.items.identical for match in self.comparison.matches)


def regress(golden: Path, results: Path, tolerance: Tolerance | None = None) -> Regression:
    """Compare results with golden ones.

    Args:
        golden: the golden results folder.
        results: the new results folder; it holds only cells of the golden one's grid.
        tolerance: allowed differences; None for the default.

    Raises:
        StoreError: a folder cannot be read, has another protocol, or the folders have no cell in common.
    """
    allowed = tolerance or Tolerance()
    report = compare(golden, results, SCORE_READOUTS, SCORES, tolerance=allowed.points)
    ids = [(match.a.cell_id, match.b.cell_id) for match in report.matches]
    with side_by_side(golden, results) as (connection, catalogues, _):
        _pair(connection, catalogues, ids)
        answers, moved = _answers(connection, allowed), _documents(connection)
    adjusted = holm([one.p for one in moved]).tolist() if moved else []
    checks: list[list[QuantityCheck]] = [[answers[i]] if i in answers else [] for i in range(len(ids))]
    for one, p in zip(moved, adjusted, strict=True):
        checks[one.match].append(_check(one, p, allowed))
    return Regression(
        replace(report, matches=tuple(_beyond(match, allowed.points) for match in report.matches)),
        allowed,
        tuple(map(tuple, checks)),
    )


def _pair(
    connection: duckdb.DuckDBPyConnection, catalogues: dict[str, str], ids: Sequence[tuple[str, str]]
) -> None:
    """Create the tables that the queries of this module read.

    They are the questions asked of both sides, paired as in `lks compare`, and each side's documents.
    """
    connection.execute("CREATE TEMP TABLE matched (match INTEGER, side VARCHAR, cell_id VARCHAR)")
    rows = [
        (i, side, cell_id) for i, both in enumerate(ids) for side, cell_id in zip("ab", both, strict=True)
    ]
    connection.executemany("INSERT INTO temp.matched VALUES (?, ?, ?)", rows)
    for side, catalogue in catalogues.items():
        connection.execute(f"USE {catalogue}")
        connection.execute(f"SET VARIABLE side = '{side}'")
        for table, name in (("answers", "compare_answers"), ("documents", "regression_documents")):
            connection.execute(f"CREATE TEMP TABLE {table}_{side} AS {query(name)}")
    connection.execute("USE memory")
    connection.execute(f"CREATE TEMP TABLE pairs AS {query('compare_pairs')}")


def _beyond(match: Match, points: float) -> Match:
    """Return a match in which only scores whose interval lies beyond the tolerance are "different"."""
    return replace(match, differences=tuple(_excusing(one, points) for one in match.differences))


def _excusing(one: ScoreDifference, points: float) -> ScoreDifference:
    """Return a score that is "different" only if its interval lies beyond the tolerance."""
    beyond = one.low is not None and one.high is not None and (one.low > points or one.high < -points)
    return replace(one, state="no difference found") if one.state == "different" and not beyond else one


@dataclass(frozen=True, slots=True)
class _Moved:
    """A paired difference of a match before its p value is adjusted, in nats or percentage points."""

    match: int
    quantity: Quantity
    value: float
    low: float
    high: float
    p: float
    clusters: int


def _answers(connection: duckdb.DuckDBPyConnection, allowed: Tolerance) -> dict[int, QuantityCheck]:
    """Return match -> check of the share of raw answers that changed."""
    columns = connection.execute(query("regression_answers")).fetchnumpy()
    found = {}
    for match in np.unique(columns["match"]).tolist():
        here = columns["match"] == match
        changed, subjects = (
            columns["changed"][here].astype(np.float64),
            np.asarray(columns["subject"][here], dtype=object),
        )
        value, clusters = float(changed.mean()), len(np.unique(subjects))
        low, high = interval(value, clustered_error(changed, subjects), clusters) if value else (0.0, 0.0)
        found[int(match)] = QuantityCheck(
            "answers",
            100 * value,
            100 * low,
            100 * high,
            clusters,
            allowed.answers,
            100 * low > allowed.answers,
        )
    return found


def _documents(connection: duckdb.DuckDBPyConnection) -> list[_Moved]:
    """Return the perplexities and abilities that differ."""
    columns = connection.execute(query("regression_sums")).fetchnumpy()
    keys = list(dict.fromkeys(zip(columns["match"].tolist(), columns["name"].tolist(), strict=True)))
    made = []
    for match, name in keys:
        here = (columns["match"] == match) & (columns["name"] == name)
        sums, sizes = (
            np.stack([np.asarray(columns[part][here], dtype=np.float64) for part in parts], 1)
            for parts in (("a", "b"), ("a_size", "b_size"))
        )
        if not np.array_equal(sums[:, 0] * sizes[:, 1], sums[:, 1] * sizes[:, 0]):
            found = paired_bootstrap(sums, sizes, 0)
            value, low, high, p = (float(part[1]) for part in (found.value, found.low, found.high, found.p))
            made.append(_Moved(int(match), name, value, low, high, p, len(sums)))
    return made


def _check(one: _Moved, adjusted_p: float, allowed: Tolerance) -> QuantityCheck:
    """Check a paired difference against its tolerance.

    A perplexity is given in percent of the golden one; its tolerance is the same factor up and down.
    """
    tolerance = allowed.perplexity if one.quantity == "perplexity" else allowed.ability
    reach = math.log1p(tolerance / 100) if one.quantity == "perplexity" else tolerance
    beyond = one.low > reach or one.high < -reach
    value, low, high = (
        _percent(end) if one.quantity == "perplexity" else end for end in (one.value, one.low, one.high)
    )
    return QuantityCheck(
        one.quantity, value, low, high, one.clusters, tolerance, beyond and adjusted_p < LEVEL
    )


def _percent(nats: float) -> float:
    """Return the rise of a perplexity in percent, given that of its logarithm in nats; always finite."""
    return 100 * math.expm1(min(nats, 100.0))


def _faults(match: Match) -> Iterator[str]:
    """Yield the reasons why a match is different, other than its `QuantityCheck`s."""
    if match.why:
        yield match.why
    elif match.items.only_a or match.items.only_b:
        yield (
            f"{match.items.only_a:,} questions of the golden results not asked, {match.items.only_b:,} "
            "asked that they do not have"
        )
    yield from (
        f"{change.what}: {change.a or '–'} → {change.b or '–'}"
        for change in match.changes
        if change.what.startswith(CALLED_DIFFERENT)
    )
    for one in match.differences:
        if one.state == "different":
            name = f"{READOUT_NAMES[one.readout]} {METRIC_NAMES[one.metric]}"
            yield f"{name} {one.value:+.1f} points ({one.low:+.1f} to {one.high:+.1f})"


def said(check: QuantityCheck) -> str:
    """Return a check in a few words: "12.3 % of answers changed (8.1 to 17.9, 5 allowed)"."""
    what = {
        "answers": "{:.3g} % of answers changed",
        "perplexity": "perplexity {:+.3g} %",
        "ability": "ability {:+.3g} points",
    }[check.quantity]
    form = "{:.3g}" if check.quantity == "answers" else "{:+.3g}"
    return (
        f"{what.format(check.value)} ({form.format(check.low)} to {form.format(check.high)}, "
        f"{check.tolerance:g} allowed)"
    )


def parameters(match: Match) -> tuple[SettingChange, ...]:
    """Return the parameters, revisions and numbers of draws that differ, which is why the ids differ."""
    names = {"draws", "model revision", "data revision"}.union(
        *(json.loads(held.cell.parameters) for held in (match.a, match.b))
    )
    return tuple(change for change in match.changes if change.what in names)
