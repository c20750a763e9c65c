"""Did a change alter results? Two results folders, cell by cell and item by item.

Cells are the same if their coordinates are (model, dataset, records, split, measure, method, variant, T, seed), whatever code and presets made
them. On the items that both sides answered, the paired difference of each metric has an interval and a p value by a bootstrap over subjects
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
"""Compared by default, and on demand. "fires" is what scope cells have."""

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
    """Compare two results folders, or their catalogues; nothing is written but a folder's own catalogue.

    Args:
        a: what was: a results folder or its `lks.duckdb`.
        b: what is.
        readouts: those of `READOUTS` and `OTHER_READOUTS` to compare; empty for `READOUTS`.
        metrics: those of `METRICS` and `OTHER_METRICS`; empty for `METRICS`.
        only: key -> values of cells to keep (`lks.runs.plan.parse_only`).
        tolerance: in points of percent; a difference that lies within it with its interval counts as the same.

    Raises:
        StoreError: a side cannot be read, or they have no cell in common.
        UserError: an unknown read-out or metric, a negative tolerance.
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
    for name in names:
        if name not in (*default, *others):
            raise unknown(kind, name, (*default, *others))
    return tuple(names) or tuple(default)


def _kept(outcome: Outcome, only: Mapping[str, Collection[str]]) -> bool:
    return all(str(getattr(outcome.cell, key)) in values for key, values in only.items())


def _held(outcome: Outcome) -> Held:
    return Held(outcome.cell, outcome.cell.id, outcome.status, outcome.reason)


def to_json(report: ComparisonReport) -> str:
    """The whole report; `from_json` reads it back."""
    return _JSON.dump_json(report, indent=1).decode() + "\n"


def from_json(text: str) -> ComparisonReport:
    """A report from `to_json`.

    Raises:
        ValueError: it is not one.
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
    """One line for each metric of each match; a match without any, and a cell of one side alone, has a line with its verdict."""
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
    cell = {name: getattr(held.cell, name) for name in _CELL} | {
        "variant": " ".join(f"{key}={value}" for key, value in held.cell.variant)
    }
    return [*cell.values(), verdict, *rest]


def _plain(value: object) -> object:
    return (
        "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
    )
