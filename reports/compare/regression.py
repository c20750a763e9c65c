"""Does a change alter results by more than another machine does? Golden results against new ones, cell by cell.

Equal raw answers are identical, and that is what one machine gives twice. Another kind of processor or another version of torch rounds otherwise,
which may change a few answers; so each quantity has a tolerance, and a cell is different only where an interval lies beyond it.
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
"""Few scores, as the adjustment of p is over all that changed: those that the tables show. What moves others moves raw answers too."""

CALLED_DIFFERENT = ("status", "stages", "failed ")
"""Starts of what differs beside the answers and is a difference by itself."""

Quantity = Literal["answers", "perplexity", "ability"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What may differ without being called a difference.

    Attributes:
        points: of a score, points of percent.
        answers: share of raw answers that changed, percent.
        perplexity: of plain texts, percent of the golden results'.
        ability: points of percent.
    """

    points: float = 2.0
    answers: float = 2.0
    perplexity: float = 1.0
    ability: float = 2.0


@dataclass(frozen=True, slots=True)
class QuantityCheck:
    """A quantity of a cell beside its scores, with its 95 % interval; units are those of `Tolerance`.

    Attributes:
        quantity: which.
        value, low, high: the share of answers that changed (by subject), or the paired difference (by text or document).
        clusters: how many subjects, texts or documents.
        tolerance: what it may be.
        different: whether the interval lies beyond that, for paired differences also after Holm over all of them.
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
    """What was found.

    Attributes:
        comparison: as `lks compare` has it, but a score is "different" only if its interval lies beyond the tolerance too.
        tolerance: what may differ.
        checks: what else was tested of each match, in the order of `comparison.matches`.
    """

    comparison: ComparisonReport
    tolerance: Tolerance
    checks: tuple[tuple[QuantityCheck, ...], ...]

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """Cell -> why it is different; empty if all is fine."""
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
        """Cells whose raw answers are those of the golden results."""
        return sum(match.items.identical for match in self.comparison.matches)


def regress(golden: Path, results: Path, tolerance: Tolerance | None = None) -> Regression:
    """Compare results with golden ones.

    Args:
        golden: a results folder.
        results: another; it holds no cells but those of the golden one's grid.
        tolerance: what may differ; None for the default.

    Raises:
        StoreError: a folder cannot be read, is of another protocol, or they have no cell in common.
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
    """Make the tables that the queries below read: the questions asked of both sides, as `lks compare` pairs them, and each side's documents."""
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
    """The match with only such scores "different" whose interval lies beyond the tolerance."""
    return replace(match, differences=tuple(_excusing(one, points) for one in match.differences))


def _excusing(one: ScoreDifference, points: float) -> ScoreDifference:
    beyond = one.low is not None and one.high is not None and (one.low > points or one.high < -points)
    return replace(one, state="no difference found") if one.state == "different" and not beyond else one


@dataclass(frozen=True, slots=True)
class _Moved:
    """A paired difference of a match, before its p value is adjusted: nats, or points."""

    match: int
    quantity: Quantity
    value: float
    low: float
    high: float
    p: float
    clusters: int


def _answers(connection: duckdb.DuckDBPyConnection, allowed: Tolerance) -> dict[int, QuantityCheck]:
    """Match -> the share of raw answers that changed."""
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
    """Perplexities and abilities that differ."""
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
    """A perplexity in percent of the golden one; the tolerance up and down is the same factor."""
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
    """By how much a perplexity rises if its logarithm does by so much; a number however large."""
    return 100 * math.expm1(min(nats, 100.0))


def _faults(match: Match) -> Iterator[str]:
    """Why a match is different, beside its `QuantityCheck`s."""
    if match.why:
        yield match.why
    elif match.items.only_a or match.items.only_b:
        yield f"{match.items.only_a:,} questions of the golden results not asked, {match.items.only_b:,} asked that they do not have"
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
    """A check in a few words: "12.3 % of answers changed (8.1 to 17.9, up to 5 are no difference)"."""
    what = {
        "answers": "{:.3g} % of answers changed",
        "perplexity": "perplexity {:+.3g} %",
        "ability": "ability {:+.3g} points",
    }[check.quantity]
    form = "{:.3g}" if check.quantity == "answers" else "{:+.3g}"
    return f"{what.format(check.value)} ({form.format(check.low)} to {form.format(check.high)}, {check.tolerance:g} allowed)"


def parameters(match: Match) -> tuple[SettingChange, ...]:
    """In which parameters, revisions and number of draws the two cells differ: why their ids do."""
    names = {"draws", "model revision", "data revision"}.union(
        *(json.loads(held.cell.parameters) for held in (match.a, match.b))
    )
    return tuple(change for change in match.changes if change.what in names)
