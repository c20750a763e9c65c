"""Comparison of two results folders, cell by cell and item by item: did a change alter results?

Cells match if their coordinates are equal (model, dataset, records, split, measure, method, variant, T,
seed), whatever code and presets produced them. On the items that both sides answered, the paired difference
of each metric has an interval and a p value from a bootstrap over subjects
(`lks.statistics.paired_bootstrap`), adjusted by Holm over the whole comparison.
"""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from lks.errors import StoreError, UserError, unknown
from lks.results.cells import Outcome
from reports.compare.model import ComparisonReport, Held, Match, Verdict
from reports.compare.scores import TOGETHER, chosen, differences, read, with_edit_performance
from reports.compare.stores import changes, holdings, matched, outcomes, side_by_side
from reports.significance import PARTS

READOUTS = ("tf_token", "ar_exact", "wild", "wild_qa", "wild_chat", "fires")
OTHER_READOUTS = ("tf_exact", "ar_token", "likelihood")
"""`READOUTS` are compared by default, these on demand. "fires" is the read-out of scope cells."""

METRICS = (*PARTS, TOGETHER, "portability", "same_relation", "near_name", "far")
OTHER_METRICS = ("portability_all",)

_JSON = TypeAdapter(ComparisonReport)


def compare(
    a: Path,
    b: Path,
    readouts: Sequence[str] = (),
    metrics: Sequence[str] = (),
    only: Mapping[str, Collection[str]] | None = None,
    tolerance: float = 0.0,
) -> ComparisonReport:
    """Compare two results folders or their catalogues.

    Nothing is written except a folder's own catalogue.

    Args:
        a: the baseline: a results folder or its `lks.duckdb`.
        b: what to compare with it.
        readouts: read-outs from `READOUTS` and `OTHER_READOUTS`; empty for `READOUTS`.
        metrics: metrics from `METRICS` and `OTHER_METRICS`; empty for `METRICS`.
        only: key -> values of cells to keep (`lks.runs.plan.parse_only`).
        tolerance: in percentage points; a difference whose value and interval lie within it counts as the
            same.

    Raises:
        StoreError: a side cannot be read, or the sides have no cell in common.
        UserError: an unknown read-out or metric, or a negative tolerance.
    """
    readouts, metrics = (
        _known("read-out", readouts, READOUTS, OTHER_READOUTS),
        _known("metric", metrics, METRICS, OTHER_METRICS),
    )
    if not tolerance >= 0:
        raise UserError(f"--tolerance {tolerance:g}: points of percent, not below 0.")
    with side_by_side(a, b) as (connection, catalogues, warnings):
        held_a, held_b = (outcomes(connection, catalogues[side], path) for side, path in (("a", a), ("b", b)))
        pairs, only_a, only_b = matched(
            *([one for one in side if _kept(one, only or {})] for side in (held_a, held_b))
        )
        if not pairs:
            where = " after --only" if only else ""
            raise StoreError(f"No cell in common{where}: {holdings(a, held_a)}; {holdings(b, held_b)}.")
        found = read(connection, catalogues, [(one.cell.id, other.cell.id) for one, other in pairs])
    asked = [chosen(with_edit_performance(one.sums), readouts, metrics) for one in found]
    judged, tests = differences(asked, tolerance)
    matches = tuple(
        Match(
            *(_held(one), _held(other), changes(one, other), it.items, rows),
            tuple(lost for lost in it.unscored if lost.readout in readouts and lost.metric in metrics),
            *(it.beside, it.examples),
        )
        for (one, other), it, rows in zip(pairs, found, judged, strict=True)
    )
    return ComparisonReport(
        str(a),
        str(b),
        matches,
        tuple(map(_held, only_a)),
        tuple(map(_held, only_b)),
        tolerance,
        tests,
        tuple(warnings),
    )


def _known(kind: str, names: Sequence[str], default: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """Return the requested names, or the default ones if there are none; raise for unknown names."""
    for name in names:
        if name not in (*default, *others):
            raise unknown(kind, name, (*default, *others))
    return tuple(names) or tuple(default)


def _kept(outcome: Outcome, only: Mapping[str, Collection[str]]) -> bool:
    """Return whether a cell passes the filter."""
    return all(str(getattr(outcome.cell, key)) in values for key, values in only.items())


def _held(outcome: Outcome) -> Held:
    """Return a cell as the comparison shows it."""
    return Held(outcome.cell, outcome.cell.id, outcome.status, outcome.reason)


def to_json(report: ComparisonReport) -> str:
    """Serialise the whole report; `from_json` reads it back."""
    return _JSON.dump_json(report, indent=1).decode() + "\n"


def from_json(text: str) -> ComparisonReport:
    """Read a report written by `to_json`.

    Raises:
        ValueError: the text is not a report.
    """
    return _JSON.validate_json(text)


_CELL = ("model", "dataset", "records", "split", "measure", "method", "variant", "n_edits", "seed")
_NUMBERS = (
    "readout",
    "metric",
    "a",
    "b",
    "value",
    "low",
    "high",
    "p",
    "adjusted_p",
    "n_items",
    "n_subjects",
    "changed",
    "better",
    "worse",
    "state",
)


def to_csv(report: ComparisonReport) -> str:
    """Return one line per metric of each match.

    A match without metrics, and a cell that only one side has, get one line with the verdict.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CELL, "verdict", "why", "a_id", "b_id", *_NUMBERS])
    for match in report.matches:
        start = _start(match.a, match.verdict, match.why, match.a.cell_id, match.b.cell_id)
        for one in match.differences:
            writer.writerow([*start, *(_plain(getattr(one, name)) for name in _NUMBERS)])
        if not match.differences:
            writer.writerow([*start, *[""] * len(_NUMBERS)])
    for side, cells in (("A", report.only_a), ("B", report.only_b)):
        for held in cells:
            ids = (held.cell_id, "") if side == "A" else ("", held.cell_id)
            writer.writerow([*_start(held, f"only in {side}", "", *ids), *[""] * len(_NUMBERS)])
    return text.getvalue()


def _start(held: Held, verdict: Verdict | str, *rest: str) -> list[object]:
    """Return the first fields of a line: the cell, the verdict, and `rest`."""
    cell = {name: getattr(held.cell, name) for name in _CELL} | {
        "variant": " ".join(f"{key}={value}" for key, value in held.cell.variant)
    }
    return [*cell.values(), verdict, *rest]


def _plain(value: object) -> object:
    """Return a value for CSV: None is empty, floats have at most six decimals."""
    return (
        "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
    )
