"""All numbers in long form: CSV files with one bare number per row."""

from lks.results.cells import Outcome
from lks.results.reader import Reader
from reports.results import Results, Score, query, seconds_per_edit
from reports.tables.overview import csv_text, overview_csv
from reports.tables.scope_rates import scope_csv

CELL_HEAD = [
    "split",
    "dataset",
    "records",
    "model",
    "method",
    "variant",
    "regime",
    "n_edits",
    "seed",
    "draws",
]


RAW = ("contexts", "errors", "fluency", "abilities", "generations", "studies")
"""Queries whose rows are written unchanged."""


def files(results: Results, store: Reader) -> dict[str, str]:
    """Return file name -> content for all files that have rows; development cases are in a separate file.

    Args:
        results: results of both splits.
        store: reader of the same results folder.
    """
    evaluated, development = results.of("evaluation"), results.of("development")
    made = {"results.csv": results_csv(evaluated)}
    made |= {"retention.csv": retention_csv(results)} if results.kept else {}
    made |= {"comparisons.csv": comparisons_csv(results)} if results.comparisons else {}
    made |= {"overview.csv": overview_csv(results.overview)} if results.overview else {}
    made |= {"scope.csv": scope_csv(results)} if results.scope else {}
    for name in RAW:
        names, rows = store.table(query(name))
        made |= {f"{name}.csv": csv_text([names, *rows])} if rows else {}
    return made | ({"development.csv": results_csv(development)} if development.blocks else {})


def results_csv(results: Results) -> str:
    """Return one row per cell, read-out and metric; a cell without numbers has one row that says why."""
    costs = ["status", "reason", "prepare_s", "seconds_per_edit"]
    rows = [
        [
            *CELL_HEAD,
            *costs,
            "readout",
            "metric",
            "value",
            "low",
            "high",
            "n_items",
            "n_subjects",
            "published",
            "cell_id",
        ]
    ]
    by_cell: dict[str, list[Score]] = {}
    for key in sorted(results.scores):
        by_cell.setdefault(key[0], []).append(results.scores[key])
    for outcome in results.outcomes:
        seconds = (
            [f"{outcome.costs.prepare_s:.3f}", f"{seconds_per_edit(outcome):.5f}"]
            if outcome.status == "ok"
            else ["", ""]
        )
        start = [*_coordinates(outcome), outcome.status, outcome.reason, *seconds]
        scores = by_cell.get(outcome.cell.id, [])
        rows += [[*start, *_long(results, outcome, score), outcome.cell.id] for score in scores] or [
            [*start, *[""] * 8, outcome.cell.id]
        ]
    return csv_text(rows)


def retention_csv(results: Results) -> str:
    """Return what sequential methods keep: one row per cell, read-out and metric."""
    rows = [
        [
            *CELL_HEAD,
            "readout",
            "metric",
            "immediate",
            "final",
            "lost",
            "half_width",
            "n_items",
            "n_subjects",
            "cell_id",
        ]
    ]
    outcomes = {outcome.cell.id: outcome for outcome in results.outcomes}
    for key in sorted(results.kept):
        kept = results.kept[key]
        numbers = [
            "" if value is None else f"{value:.4f}"
            for value in (kept.immediate, kept.final, kept.lost, kept.half_width)
        ]
        counts = [str(kept.n_items), str(kept.n_subjects)]
        rows.append(
            [
                *_coordinates(outcomes[kept.cell_id]),
                kept.readout,
                kept.metric,
                *numbers,
                *counts,
                kept.cell_id,
            ]
        )
    return csv_text(rows)


def comparisons_csv(results: Results) -> str:
    """Return each method compared with the best one of its table.

    Differences are in percentage points; p values are given before and after Holm, with a flag for ties.
    """
    columns = [
        "readout",
        "metric",
        "difference",
        "low",
        "high",
        "p",
        "adjusted_p",
        "mcnemar_p",
        "tied",
        "cell_id",
        "best_id",
    ]
    outcomes = {outcome.cell.id: outcome for outcome in results.outcomes}
    rows: list[list[object]] = [[*CELL_HEAD, *columns]]
    rows += [
        [*_coordinates(outcomes[one.cell_id]), *(getattr(one, name) for name in columns)]
        for one in results.comparisons
    ]
    return csv_text(rows)


def _coordinates(outcome: Outcome) -> list[str]:
    """Return the fields that identify a cell, in the order of `CELL_HEAD`."""
    cell = outcome.cell
    variant = " ".join(f"{key}={value}" for key, value in cell.variant)
    where = [
        cell.split,
        cell.dataset,
        str(cell.records),
        cell.model,
        cell.method,
        variant,
        outcome.provenance.get("regime", ""),
    ]
    return [*where, str(cell.n_edits), str(cell.seed), str(cell.draws)]


def _long(results: Results, outcome: Outcome, score: Score) -> list[str]:
    """Return the fields of a score, from read-out to published value."""
    cell = outcome.cell
    ours = score.readout == "tf_token" and not cell.variant and cell.split == "evaluation"
    published = (
        results.published.get((cell.dataset, cell.model, cell.method, cell.n_edits, score.metric))
        if ours
        else None
    )
    numbers = ["" if value is None else f"{value:.4f}" for value in (score.value, score.low, score.high)]
    return [
        score.readout,
        score.metric,
        *numbers,
        str(score.n_items),
        str(score.n_subjects),
        "" if published is None else f"{published:g}",
    ]
