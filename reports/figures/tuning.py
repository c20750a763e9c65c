"""Trials of a search for parameters: the objective against each parameter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.figures.axes import LINE, Frame, heading, keys, sheet
from reports.figures.drawing import Drawing
from reports.figures.style import COLOURS, DOUBLE, FAINT, INK, PAPER, SOFT, applied

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
"""Panels in a row."""
LOOKS = ((FAINT, "o", 3.4), (COLOURS[5], "s", 4.2), (COLOURS[0], "D", 5.0))
"""Colour, marker and size of the trials of each rung; the last one is that of the last rung."""
LEAST = 20.0
"""Points of percent that the vertical axis spans at least."""
FAILED: dict[str, Any] = {"marker": "x", "ms": 4.0, "mec": COLOURS[1], "mew": 1.1}
RING: dict[str, Any] = {"marker": "o", "ms": 9.5, "mfc": "none", "mec": INK, "mew": 1.0}
STAR: dict[str, Any] = {"marker": "*", "ms": 9.5, "mfc": COLOURS[1], "mec": PAPER, "mew": 0.6}


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """A trial in the figure.

    Attributes:
        values: value of each parameter.
        rung: index of its rung.
        score: objective as a fraction; None if the trial failed.
        is_default: whether its parameters are the default.
        is_best: whether it is the one that was chosen.
    """

    values: Mapping[str, object]
    rung: int
    score: float | None
    is_default: bool
    is_best: bool


def trials(
    points: Sequence[TrialPoint], parameters: Mapping[str, bool], rungs: Sequence[str], texts: tuple[str, str]
) -> Drawing:
    """Draw a panel for each parameter: its value, and the objective of each trial.

    Args:
        points: all trials.
        parameters: parameter -> whether its axis is logarithmic.
        rungs: label of each rung.
        texts: label of the objective's axis, and the title.
    """
    axis, title = texts
    columns = min(COLUMNS, len(parameters))
    with applied("tuning"):
        frame = Frame(left=0.5, bottom=0.45 + 1.5 * LINE, top=0.15 + LINE, down=0.6, across=0.2, width=DOUBLE)
        figure, grid = sheet([1.5] * -(-len(parameters) // columns), columns, frame)
        panels = [axes for row in grid for axes in row]
        heading(panels[0], title, 0.0)
        scored = [100 * point.score for point in points if point.score is not None]
        low, high = min(scored, default=0.0), max(scored, default=100.0)
        high = min(max(high, low + LEAST), 100.0)
        low = max(min(low, high - LEAST), 0.0)
        room = 0.08 * (high - low)
        limits = (low - 2 * room, high + 1.2 * room)
        for number, (name, log) in enumerate(parameters.items()):
            axes = panels[number]
            _panel(axes, points, name, log, limits[0] + 0.6 * room)
            axes.set_ylim(*limits)
            axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
            axes.set_ylim(*limits)
            axes.set_xlabel(name)
            if number % columns:
                axes.tick_params(labelleft=False)
            else:
                axes.set_ylabel(axis)
        for axes in panels[len(parameters) :]:
            axes.set_axis_off()
        looks = _looks(len(rungs))
        entries: list[tuple[str, dict[str, Any]]] = [
            (label, {"marker": marker, "color": colour, "ms": size})
            for label, (colour, marker, size) in zip(rungs, looks, strict=True)
        ]
        entries += [("default", RING), ("chosen", STAR)]
        if any(point.score is None for point in points):
            entries.append(("failed", FAILED))
        keys(figure, entries)
    caption = "Each mark is a trial: a configuration on the cases of a rung. Rungs have different cases."
    return Drawing("trials", title, caption, f"{title}: {axis} against each parameter", figure)


def _looks(count: int) -> Sequence[tuple[str, str, float]]:
    """Return the looks of the rungs; the last rung always looks the same."""
    return LOOKS[max(0, len(LOOKS) - count) :]


def _panel(axes: "Axes", points: Sequence[TrialPoint], name: str, log: bool, floor: float) -> None:
    """Draw all trials against one parameter, failed ones at the foot."""
    places = _places(axes, points, name, log)
    looks = _looks(1 + max(point.rung for point in points))
    for point in sorted(points, key=lambda point: point.rung):
        at = places(point.values[name])
        if point.score is None:
            axes.plot(at, floor, ls="", zorder=3, **FAILED)
            continue
        value = 100 * point.score
        colour, marker, size = looks[point.rung]
        axes.plot(at, value, ls="", marker=marker, color=colour, ms=size, mec=PAPER, mew=0.5, zorder=3)
        if point.is_default:
            axes.plot(at, value, ls="", zorder=4, **RING)
        if point.is_best:
            axes.plot(at, value, ls="", zorder=5, **STAR)


def _places(axes: "Axes", points: Sequence[TrialPoint], name: str, log: bool) -> Any:
    """Set the axis of a parameter and return the function from its values to places on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = [point.values[name] for point in points]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    distinct = sorted(set(numbers)) if len(numbers) == len(values) else []
    if not distinct or (len(distinct) <= 5 and not log):  # a few values: evenly spaced, with their names
        order: list[object] = list(distinct) or sorted(set(values), key=str)
        axes.set_xticks(range(len(order)), [_label(value) for value in order])
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.grid(False, axis="x")
        return order.index
    if log and min(distinct) > 0 and max(distinct) / min(distinct) >= 10:
        axes.set_xscale("log")
        few = max(distinct) / min(distinct) < 100
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if few else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        whole = all(isinstance(value, int) for value in distinct)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    axes.tick_params(axis="x", colors=SOFT)
    return lambda value: value


def _label(value: object) -> str:
    """Return a value as a short tick label."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
