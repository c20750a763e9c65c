"""Placement of names next to points without overlap."""

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
"""Distances between a name and its point that are tried, in points (1/72 inch); up to the second one, no line
is needed."""

TURNS = 24
"""Number of directions that are tried."""

ON_NAME, ON_LINE, ON_MARKER, OUTSIDE, AWAY = 2.0, 14.0, 3.0, 100.0, 0.5
"""Costs of a place: per square dot on another name or marker; per line that crosses it, or name that its own
line crosses; per marker that its own line crosses; per dot outside the panel; per point (1/72 inch) of
distance."""


@dataclass(frozen=True, slots=True)
class PointLabel:
    """A point to be labelled, in data coordinates; `strong` labels are placed first and drawn darker."""

    x: float
    y: float
    text: str
    strong: bool = True


Spot = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in dots; `worth` is the cost of a line through it."""

    left: float
    low: float
    right: float
    high: float
    worth: float = 0.0

    def shared(self, other: "Box") -> float:
        """Return the area of the overlap with another box."""
        across = min(self.right, other.right) - max(self.left, other.left)
        return max(0.0, across) * max(0.0, min(self.high, other.high) - max(self.low, other.low))

    def outside(self, other: "Box") -> float:
        """Return how far it sticks out of another box."""
        sides = (
            other.left - self.left,
            self.right - other.right,
            other.low - self.low,
            self.high - other.high,
        )
        return sum(max(0.0, side) for side in sides)

    def crossed(self, start: Spot, end: Spot) -> bool:
        """Return whether a line passes through it.

        It does if the part of the line within its four sides is not empty.
        """
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
        """Return whether a spot is inside it."""
        return self.left <= spot[0] <= self.right and self.low <= spot[1] <= self.high

    def nearest(self, spot: Spot) -> Spot:
        """Return the middle of the side that is nearest to a spot."""
        x, y = (self.left + self.right) / 2, (self.low + self.high) / 2
        return min(
            ((x, self.low), (x, self.high), (self.left, y), (self.right, y)),
            key=lambda middle: math.dist(middle, spot),
        )


def name_points(axes: "Axes", marks: Sequence[PointLabel], path: Sequence[Spot] = ()) -> None:
    """Write each name at the nearest free place, with a thin line to its point if that is not near.

    Limits and scales of the axes must be set before.

    Args:
        axes: axes with the points.
        marks: points and names.
        path: corners of a line that names should avoid, in data coordinates.
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
    """Return the place for a name that costs least."""
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
