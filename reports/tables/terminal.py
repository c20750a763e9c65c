"""The compact tables printed at the end of a run."""

from rich.console import Group
from rich.table import Table

from lks.results.cells import Outcome
from reports.results import (
    COLUMNS,
    Block,
    ResultRow,
    Results,
    Retention,
    cached_note,
    name_of,
    seconds_per_edit,
)
from reports.tables import overview, scope_rates
from reports.tables.model import rule_note
from reports.tables.number_formats import DASH, number, preparation, short

TITLE = (
    "Percent; TF token as in the paper, AR exact as generated. seq: edits one after the other, sim: all at "
    "once"
)
REGIMES = {"sequential": "seq", "simultaneous": "sim"}


def tables(results: Results) -> Group:
    """Return the result table, then retention, edit scope and development cells where there are any."""
    shown, development = results.of("evaluation"), results.of("development")
    names = {outcome.cell.id: name_of(outcome) for outcome in shown.outcomes}
    marked = rule_note(name_of(outcome) for outcome in results.outcomes)
    parts = [_result_table(shown, TITLE)] if shown.blocks or not (development.blocks or results.scope) else []
    if shown.overview:
        parts.append(overview.terminal_table(shown.overview, lambda row: names.get(row.cell_id, row.method)))
    if shown.kept:
        parts.append(_retention_table(shown))
    if results.scope:
        parts.append(scope_rates.terminal_table(results))
    if development.blocks:
        parts.append(_result_table(development, "Development cases, for choosing settings; not results"))
    shown_parts = [part for table in parts for part in ("", table)] if len(parts) > 1 else [*parts]
    notes = [note for note in (marked, cached_note(results.outcomes)) if note]
    return Group(*shown_parts, *(["", *notes] if notes else []))


def _table(title: str) -> Table:
    """Return an empty table with the columns model, T and method."""
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        title=title,
        title_justify="left",
    )
    table.add_column("model", no_wrap=True)
    table.add_column("T", justify="right")
    table.add_column("method", overflow="fold")
    return table


def _result_table(results: Results, title: str) -> Table:
    """Return the table of results, by T, with one row per method."""
    table = _table(title)
    table.add_column("", no_wrap=True)
    for readout in ("TF", "AR"):
        for heading in COLUMNS.values():
            table.add_column(
                f"{readout}\n{heading}" if heading == "Rel" else f"\n{heading}", justify="right", no_wrap=True
            )
    table.add_column("s per\nedit", justify="right", no_wrap=True)
    table.add_column("prep.\ns", justify="right", no_wrap=True)
    for block in results.blocks:
        names = iter((block.model, block.dataset))
        for n_edits in block.n_edits:
            for i, row in enumerate(row for row in block.rows if n_edits in row.cells or not row.variant):
                start = [next(names, ""), "" if i else f"{n_edits:,}", row.name, REGIMES.get(row.regime, "")]
                table.add_row(*start, *_result_cells(results, row.cells.get(n_edits)))
            table.add_row()
    return table


def _result_cells(results: Results, outcome: Outcome | None) -> list[str]:
    """Return a row's texts from the metrics on, or the status of a cell without numbers."""
    if outcome is None or outcome.status != "ok":
        return ["[dim]not run[/]" if outcome is None else f"[red]{outcome.status}[/]"]
    tf, ar = (
        [number(results.score(outcome, readout, metric)) for metric in COLUMNS]
        for readout in ("tf_token", "ar_exact")
    )
    seconds = [short(seconds_per_edit(outcome)), preparation(outcome.costs.prepare_s)]
    return [*tf[:3], f"[bold]{tf[3]}[/]", *ar[:3], f"[bold]{ar[3]}[/]", *seconds]


def _retention_table(results: Results) -> Table:
    """Return the table of the reliability of sequential methods."""
    table = _table(
        "Reliability of sequential methods right after each edit and after all T; lost: the difference, ± "
        "half of its 95 % interval"
    )
    for readout in ("TF", "AR"):
        for i, heading in enumerate(("after\neach", "after\nall", "\nlost")):
            table.add_column(heading if i else f"{readout} {heading}", justify="right", no_wrap=True)
    for block in results.blocks:
        names = iter((block.model, block.dataset))
        for n_edits in block.n_edits:
            for i, row in enumerate(_kept_rows(results, block, n_edits)):
                kept = [
                    results.kept.get((row.cells[n_edits].cell.id, readout, "reliability"))
                    for readout in ("tf_token", "ar_exact")
                ]
                table.add_row(
                    next(names, ""),
                    "" if i else f"{n_edits:,}",
                    row.name,
                    *(text for one in kept for text in kept_texts(one)),
                )
    return table


def _kept_rows(results: Results, block: Block, n_edits: int) -> list[ResultRow]:
    """Return the rows whose method was asked after each edit."""
    return [
        row
        for row in block.rows
        if n_edits in row.cells and (row.cells[n_edits].cell.id, "tf_token", "reliability") in results.kept
    ]


def kept_texts(kept: Retention | None) -> list[str]:
    """Return the texts right after each edit, after all edits, and the loss: "98.0", "61.0", "37.0 ±4.1"."""
    if kept is None or kept.immediate is None or kept.final is None or kept.lost is None:
        return [DASH] * 3
    return [
        f"{kept.immediate:.1f}",
        f"{kept.final:.1f}",
        f"{kept.lost:.1f}" + ("" if kept.half_width is None else f" ±{kept.half_width:.1f}"),
    ]
