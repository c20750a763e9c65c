"""How the seconds of cells are spent: a bar for each method, divided into its parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lks.results.cells import ABILITY, ASK, EDIT, PREPARE, UNEDITED, Costs
from reports.figures.axes import (
    LINE,
    Frame,
    across_percents,
    heading,
    keys,
    list_height,
    list_width,
    listed,
    sheet,
)
from reports.figures.data import ReportData, compared
from reports.figures.drawing import Absent, Drawing
from reports.figures.style import COLOURS, FAINT, PAPER, SOFT
from reports.results import Block
from reports.tables.number_formats import hundredths
from reports.tables.seconds import shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FURTHER = "further"
STACKED = {
    PREPARE: ("preparing", COLOURS[1]), EDIT: ("editing", COLOURS[4]), ASK: ("asking", COLOURS[0]),
    ABILITY: ("tests of abilities", COLOURS[5]), FURTHER: ("further stages", FAINT),
}  # fmt: skip
"""Parts of a bar from the left: name and colour; neighbours differ in lightness."""


def seconds(source: ReportData) -> Drawing | Absent:
    """Draw the shares of each method's seconds by part, at the T that most methods were run at.

    The parts are preparing, editing, asking and further stages.
    """
    name, title = "seconds", "Where a cell's seconds go"
    blocks = [(block, part) for block in source.results.blocks if (part := _spent(source, block))[1]]
    if not blocks:
        return Absent(name, title, "no cell has a result: lks grid")
    blocks = compared(blocks, lambda part: len(part[1]))
    lists = [_names(source, block, found) for block, (_, found) in blocks]
    frame = Frame(
        left=max(list_width(names) for names in lists),
        right=0.8,
        bottom=0.5,
        top=0.2 + 2 * LINE,
        down=0.35 + 2 * LINE,
    )
    figure, rows = sheet([list_height(names) for names in lists], 1, frame)
    for (block, (n_edits, found)), names, (axes,) in zip(blocks, lists, rows, strict=True):
        heading(axes, f"{block.title}, T = {n_edits:,}")
        listed(axes, names, labelled=True)
        axes.grid(False, axis="y")
        across_percents(axes, "percent of the cell's seconds")
        for y, method in enumerate(names):
            _bar(axes, y, found[method])
    keys(figure, [(words, {"marker": "s", "color": colour, "ms": 6.5}) for words, colour in STACKED.values()])
    caption = (
        "Percent of the seconds of each cell, and next to the bar how many these are. Preparation that cells "
        "share is done once and counted in each of them; loading models and data is not counted. Each table "
        "at the T that most methods were run at; the unedited model first, then methods by edit performance "
        "over all tables, the best first."
    )
    return Drawing(
        name,
        title,
        caption,
        "For each method a bar with the shares of preparing, editing, asking and further stages",
        figure,
    )


def _spent(source: ReportData, block: Block) -> tuple[int, dict[str, Costs]]:
    """Return T, and the costs of each method."""
    cells = {
        (row.name, n): outcome.costs
        for row in block.rows
        for n, outcome in row.cells.items()
        if outcome.status == "ok" and outcome.costs.seconds
    }
    at = source.widest(block, dict.fromkeys(cells, 1.0))
    return at, {name: costs for (name, n), costs in cells.items() if n == at}


def _names(source: ReportData, block: Block, found: dict[str, Costs]) -> Sequence[str]:
    """Return the names of the unedited model and the methods, in this order."""
    return [row.name for row in block.rows if row.method == UNEDITED and row.name in found] + source.order(
        set(found)
    )


def stacked(costs: Costs) -> dict[str, float]:
    """Return the shares of a cell's seconds by part of its bar.

    Stages that do not test abilities form one part.
    """
    found = dict.fromkeys(STACKED, 0.0)
    for part, share in shares(costs).items():
        kind = part.partition("-")[0]
        found[kind if kind in found else FURTHER] += share
    return found


def _bar(axes: "Axes", y: int, costs: Costs) -> None:
    """Draw the bar of one method, with its total next to it."""
    left = 0.0
    for part, width in stacked(costs).items():
        if width:
            axes.barh(
                y, width, left=left, height=0.74, color=STACKED[part][1], edgecolor=PAPER, linewidth=0.6
            )
        left += width
    axes.text(105, y, f"{hundredths(costs.seconds)} s", va="center_baseline", color=SOFT)
