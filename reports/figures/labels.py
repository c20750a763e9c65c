"""Names beside points, none on another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from reports.figures.style import FAINT, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REACHES = (5.0, 9.0, 14.0, 20.0, 27.0, 35.0, 44.0, 54.0, 66.0, 80.0, 96.0, 114.0, 134.0)
"""Distances of a name from its point that are tried, in points of print; up to the second it needs no line."""

TURNS = 24
"""Directions that are tried."""

ON_NAME, ON_LINE, ON_MARKER, OUTSIDE, AWAY = 2.0, 14.0, 3.0, 100.0, 0.5
"""What a place costs: for each square dot on another name or marker, for a line that crosses it or a name that its own line crosses, for a marker
that its own line crosses, for each dot out of the panel, for each point of print away."""


@dataclass(frozen=True, slots=True)
class PointLabel:
    """A point that wants its name beside it, in data coordinates; `strong` ones are named first and darker."""

    x: float
    y: float
    text: str
    strong: bool = True


Spot = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in dots, and what a line through it costs."""

    left: float
    low: float
    right: float
    high: float
    worth: float = 0.0

    def shared(self, other: "Box") -> float:
        """The area of what two have in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        return max(0.0, across) * max(0.0, min(self.high, other.high) - max(self.low, other.low))

    def outside(self, other: "Box") -> float:
        """How far it sticks out of another."""
        sides = (
            other.left - self.left,
            self.right - other.right,
            other.low - self.low,
            self.high - other.high,
        )
        return sum(max(0.0, side) for side in sides)

    def crossed(self, start: Spot, end: Spot) -> bool:
        """Whether a line goes through it (the part of the line within its four sides is not empty)."""
        first, last = 0.0, 1.0
        for at, to, low, high in (
            (start[0], end[0], self.left, self.right),
            (start[1], end[1], self.low, self.high),
        ):
            if abs(to - at) < 1e-9:
                if not low < at < high:
                    return False
                continue
            one, two = sorted(((low - at) / (to - at), (high - at) / (to - at)))
            first, last = max(first, one), min(last, two)
        return first < last

    def holds(self, spot: Spot) -> bool:
        """Whether a spot is in it."""
        return self.left <= spot[0] <= self.right and self.low <= spot[1] <= self.high

    def nearest(self, spot: Spot) -> Spot:
        """The middle of that side of it that is nearest to a spot."""
        x, y = (self.left + self.right) / 2, (self.low + self.high) / 2
        return min(
            ((x, self.low), (x, self.high), (self.left, y), (self.right, y)),
            key=lambda middle: math.dist(middle, spot),
        )


def name_points(axes: "Axes", marks: Sequence[PointLabel], path: Sequence[Spot] = ()) -> None:
    """Write each name at the nearest free place, with a thin line to its point where that is not near. Limits and scales must be set before.

    Args:
        axes: where the points are.
        marks: points and names.
        path: corners of a line that names should keep off, in data coordinates.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    unit = axes.figure.get_dpi() / 72
    canvas: Any = FigureCanvasAgg(cast("Figure", axes.figure))
    renderer = canvas.get_renderer()
    area = axes.get_window_extent(renderer)
    room = Box(area.x0, area.y0, area.x1, area.y1)
    spots = [(float(x), float(y)) for x, y in (axes.transData.transform((mark.x, mark.y)) for mark in marks)]
    corners = [(float(x), float(y)) for x, y in (axes.transData.transform(corner) for corner in path)]
    lines = list(pairwise(corners))
    taken = [Box(x - 3 * unit, y - 3 * unit, x + 3 * unit, y + 3 * unit, ON_MARKER) for x, y in spots]
    for number in sorted(range(len(marks)), key=lambda i: (not marks[i].strong, i)):
        mark = marks[number]
        text = axes.text(
            mark.x, mark.y, mark.text, color=INK if mark.strong else SOFT, ha="center", va="center", zorder=6
        )
        extent = text.get_window_extent(renderer)
        box = _place(
            spots[number], (extent.width + 2 * unit, extent.height + unit), unit, room, (taken, lines)
        )
        taken.append(box)
        x, y = axes.transData.inverted().transform(((box.left + box.right) / 2, (box.low + box.high) / 2))
        text.set_position((float(x), float(y)))
        end = box.nearest(spots[number])
        if math.dist(spots[number], end) > REACHES[1] * unit + 1:
            lines.append((spots[number], end))
            ends = axes.transData.inverted().transform([spots[number], end])
            axes.plot(ends[:, 0], ends[:, 1], color=FAINT, linewidth=0.6, zorder=2.5)


def _place(
    spot: Spot,
    size: tuple[float, float],
    unit: float,
    room: Box,
    filled: tuple[list[Box], list[tuple[Spot, Spot]]],
) -> Box:
    """The place for a name that costs least."""
    taken, lines = filled
    best, least = Box(*spot, *spot), math.inf
    for reach in REACHES:
        if AWAY * reach >= least:
            break
        for turn in range(TURNS):
            angle = 2 * math.pi * turn / TURNS
            x = spot[0] + math.cos(angle) * (reach * unit + size[0] / 2)
            y = spot[1] + math.sin(angle) * (reach * unit + size[1] / 2)
            box = Box(x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2, ON_LINE)
            cost = AWAY * reach + OUTSIDE * box.outside(room)
            if cost < least:
                cost += ON_NAME * sum(box.shared(other) for other in taken) + ON_LINE * sum(
                    box.crossed(*line) for line in lines
                )
            if cost < least and reach > REACHES[1]:
                end = box.nearest(spot)
                cost += sum(
                    other.worth for other in taken if not other.holds(spot) and other.crossed(spot, end)
                )
            if cost < least:
                best, least = box, cost
    return best
