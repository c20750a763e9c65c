"""Quality against cost: which methods are not beaten in both by any other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from reports.figures.axes import LINE, STRETCHED, Frame, heading, percents, sheet, wrapped
from reports.figures.data import EXACT, FEW, ReportData
from reports.figures.drawing import Absent, Drawing
from reports.figures.labels import PointLabel, name_points
from reports.figures.style import FAINT, PAPER, SOFT
from reports.results import READOUTS, Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "seconds": ("time per edit", "s"),
    "patch_bytes": ("size of the patch", "B"),
    "peak_bytes": ("peak memory", "B"),
}
"""Costs that are compared: column of the query -> axis label and unit."""

PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of the edits of a cell."""

    cell_id: str
    seconds: float
    patch_bytes: int
    peak_bytes: int


def cost(source: ReportData, wanted: Sequence[str], name: str) -> Drawing | Absent:
    """Draw EP against costs, on log axes, at the T that most methods were run at."""
    title = "Quality against cost: " + ", ".join(COSTS[one][0] for one in wanted)
    costs = {one.cell_id: one for one in source.rows(Cost, "figure_cost")}
    drawn = [
        (block, *found)
        for block in source.results.blocks
        if len((found := _points(source, block, costs))[1]) >= FEW
    ]
    if not drawn:
        return Absent(name, title, f"no model was edited by {FEW} methods or more: lks grid --grid baselines")
    heights = [2.0 + min(2.0, 0.08 * len(points)) for _, _, points in drawn]
    figure, rows = sheet(
        heights, len(wanted), Frame(left=0.7, bottom=0.4, top=0.15 + LINE, down=0.55 + LINE, across=0.35)
    )
    strong = source.strong(source.order({one for _, _, points in drawn for one in points}))
    for (block, n_edits, points), panels in zip(drawn, rows, strict=True):
        heading(panels[0], f"{block.title}, T = {n_edits:,}", 0.0)
        for axes, wish in zip(panels, wanted, strict=True):
            _panel(source, axes, wish, points, strong)
        panels[0].set_ylabel(f"edit performance ({READOUTS[EXACT]})")
    caption = (
        f"{READOUTS[EXACT]}; costs on log axes. {STRETCHED} Each table at the T that most methods were run "
        "at. The line joins the methods that no other beats in "
        f"both.{source.said(source.order({one for _, _, points in drawn for one in points}))}"
    )
    if "seconds" in wanted:
        caption += " Preparation is not counted."
    return Drawing(
        name,
        title,
        caption,
        (
            "Edit performance of each method against what the edits cost, with the methods that no other "
            "beats in both"
        ),
        figure,
    )


def _points(
    source: ReportData, block: Block, costs: dict[str, Cost]
) -> tuple[int, dict[str, tuple[float, Cost]]]:
    """Return T, and the edit performance and costs of each method."""
    values: dict[tuple[str, int], float] = {}
    found: dict[tuple[str, int], tuple[float, Cost]] = {}
    for row in block.rows:
        for n_edits, outcome in row.cells.items():
            value = source.performance(outcome)
            if value is not None and outcome.cell.id in costs:
                values[row.name, n_edits] = value
                found[row.name, n_edits] = value, costs[outcome.cell.id]
    at = source.widest(block, values)
    return at, {name: pair for (name, n_edits), pair in found.items() if n_edits == at}


def _panel(
    source: ReportData, axes: "Axes", wish: str, points: dict[str, tuple[float, Cost]], strong: list[str]
) -> None:
    """Draw one cost: a marker and a name for each method, and the front."""
    places = {
        name: (float(getattr(one, wish)), value)
        for name, (value, one) in points.items()
        if getattr(one, wish) > 0
    }
    axes.set_xscale("log")
    costs = [x for x, _ in places.values()]
    low, high = min(costs), max(costs)
    spread = max(high / low, 4.0)
    axes.set_xlim(low / spread**0.14, high * spread**0.14)
    axes.set_xticks(*_ticks(low / spread**0.14, high * spread**0.14, COSTS[wish][1]))
    axes.set_xticks([], minor=True)
    percents(axes, above=1.7)
    axes.set_xlabel(COSTS[wish][0])
    axes.grid(False, axis="x")
    line = front(list(places.values()))
    axes.plot(
        [x for x, _ in line],
        [y for _, y in line],
        color=SOFT,
        lw=0.9,
        ls=(0, (4, 2)),
        drawstyle="steps-post",
        zorder=2,
    )
    for name, (x, y) in places.items():
        look, lit = source.looks[name], name in strong
        axes.plot(
            [x],
            [y],
            marker=look.marker,
            ms=5.5,
            color=look.colour if lit else FAINT,
            mfc=look.colour if lit else PAPER,
            zorder=4,
        )
    name_points(
        axes,
        [
            PointLabel(*places[name], wrapped(name, 12).replace("\n  ", "\n"), name in strong)
            for name in source.order(set(places))
        ],
        _corners(line),
    )


def _ticks(low: float, high: float, unit: str) -> tuple[list[float], list[str]]:
    """Return round tick values within a range and their labels, such as 1 ms, 10 ms.

    A wide range is thinned out to about five powers of ten; a short one also has steps between them.
    """
    powers = list(range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
    values = [10.0**power for power in powers[:: max(1, -(-len(powers) // 5))]]
    if len(values) < 2:
        start = math.floor(math.log10(low))
        values = [
            value
            for power in (start, start + 1)
            for step in (1, 1.5, 2, 3, 5, 7)
            if low <= (value := step * 10.0**power) <= high
        ]
    return values, [quantity(value, unit) for value in values]


def quantity(value: float, unit: str) -> str:
    """Format a value with the prefix that leaves one to three digits before the point: "10 ms", "1.5 GB"."""
    power = min(max(3 * math.floor(math.log10(value) / 3 + 1e-9), min(PREFIXES)), max(PREFIXES))
    return f"{value / 10.0**power:.3g} {PREFIXES[power]}{unit}"


def _corners(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the front as it is drawn, in steps."""
    steps = [((x, y), (then, y)) for (x, y), (then, _) in pairwise(line)]
    return [corner for step in steps for corner in step] + list(line[-1:])


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other beats, the cheapest first.

    A point is beaten by one that is cheaper and at least as good, or as cheap and better.
    """
    line: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not line or y > line[-1][1]:
            line.append((x, y))
    return line
