"""All figures of a report."""

from collections.abc import Callable
from dataclasses import replace

from lks.results.reader import Reader
from reports.figures.ability import ability
from reports.figures.cost import cost
from reports.figures.data import EXACT, PAPERS, ReportData
from reports.figures.drawing import Absent, Drawing
from reports.figures.methods import errors, readouts, submetrics
from reports.figures.metrics import by_edits, retention
from reports.figures.scope import scope
from reports.figures.seconds import seconds
from reports.figures.studies import gain, probe, swap, tracing
from reports.figures.style import applied
from reports.results import Block, Results

FIGURES: tuple[Callable[[ReportData], Drawing | Absent], ...] = (
    lambda source: by_edits(source, EXACT),
    lambda source: by_edits(source, PAPERS),
    readouts,
    lambda source: cost(source, ("seconds", "patch_bytes"), "cost"),
    lambda source: cost(source, ("peak_bytes",), "cost_memory"),
    seconds,
    ability,
    retention,
    submetrics,
    errors,
    scope,
    probe,
    swap,
    gain,
    tracing,
)
"""Functions that draw the figures, in the order of the page."""


MOST = 40
"""If a table has more rows than this, figures show one seed only."""


def figures(results: Results, store: Reader) -> list[Drawing | Absent]:
    """Draw every figure for evaluation cases; a figure without data says so.

    Args:
        results: results of a results folder.
        store: reader of the same folder.
    """
    evaluated = results.of("evaluation")
    few = replace(evaluated, blocks=tuple(_few(block) for block in evaluated.blocks))
    source = ReportData(few, store)
    with applied():
        drawn = [figure(source) for figure in FIGURES]
    left = sum(len(block.rows) for block in evaluated.blocks) - sum(len(block.rows) for block in few.blocks)
    note = (
        f" Where a table has more than {MOST} lines, only its lowest seed is drawn; {left:,} lines are in "
        "the tables alone."
    )
    return [
        replace(one, caption=one.caption + note) if left and isinstance(one, Drawing) else one
        for one in drawn
    ]


def _few(block: Block) -> Block:
    """Return a block with only its lowest seed if it has more rows than a figure can show legibly."""
    if len(block.rows) <= MOST:
        return block
    seeds = {row.name: min(outcome.cell.seed for outcome in row.cells.values()) for row in block.rows}
    rows = tuple(row for row in block.rows if seeds[row.name] == min(seeds.values()))
    return replace(
        block, rows=rows, n_edits=tuple(sorted({n_edits for row in rows for n_edits in row.cells}))
    )


__all__ = ["figures"]
