"""Panels of a figure: their places in inches, axes against T, curves with intervals, the legend."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.figures.style import DOUBLE, FAINT, FONT, HEADING, PAPER, RULE, UNEDITED_LOOK, MethodStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = FONT * 1.35 / 72
"""Inches from one line of text to the next."""

LETTER = FONT * 0.6 / 72
"""Inches of a letter, on the safe side."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The room around panels and between them, in inches."""

    left: float = 0.45
    right: float = 0.1
    top: float = 0.4
    bottom: float = 0.4
    across: float = 0.15
    down: float = 0.75
    width: float = DOUBLE


@dataclass(frozen=True, slots=True)
class Point:
    """A value against T (or a block) with its 95 % interval; None where there is none."""

    at: float
    value: float
    low: float | None
    high: float | None


def sheet(heights: Sequence[float], columns: int, frame: Frame) -> tuple["Figure", list[list["Axes"]]]:
    """A figure with one row of panels for each height in inches, from the top."""
    from matplotlib.figure import Figure

    tall = frame.top + sum(heights) + frame.down * (len(heights) - 1) + frame.bottom
    figure = Figure(figsize=(frame.width, tall), facecolor=PAPER)
    width = (frame.width - frame.left - frame.right - frame.across * (columns - 1)) / columns
    rows, y = [], tall - frame.top
    for height in heights:
        y -= height
        lefts = [frame.left + number * (width + frame.across) for number in range(columns)]
        rows.append(
            [figure.add_axes((x / frame.width, y / tall, width / frame.width, height / tall)) for x in lefts]
        )
        y -= frame.down
    return figure, rows


def heading(axes: "Axes", text: str, above: float = LINE) -> None:
    """The name of a row of panels, so many inches above the first of them."""
    axes.annotate(
        text,
        (0, 1),
        (0, above * 72 + 5),
        "axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=HEADING,
    )


def against_t(axes: "Axes", counts: Sequence[int]) -> None:
    """A logarithmic axis of edits with the powers of ten that are in it."""
    low, high = min(counts), max(counts)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.5, high * 1.5)
    powers = [10**k for k in range(7) if low <= 10**k <= high]
    ticks = powers if len(powers) > 1 else sorted(set(counts))
    axes.set_xticks(ticks, [short_count(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(False, axis="x")


def short_count(count: int) -> str:
    """1, 10, 100, 1k, 10k."""
    return f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else f"{count:,}"


STRETCHED = "The axis of percents is stretched towards 100: it is even in the square root of what is missing."


def percents(axes: "Axes", labelled: bool = True, above: float = 0.4) -> None:
    """An axis of percents, even in the square root of what is missing to 100, as most of what is compared is near 100.

    Args:
        axes: of the panel.
        labelled: whether its ticks have labels.
        above: room over 100, in roots of percents; the whole axis has ten.
    """
    axes.set_yscale("function", functions=(_root, _square))
    axes.set_ylim(_square(-10.3), _square(above))
    axes.set_yticks([0, 50, 75, 90, 99, 100], ["0", "50", "75", "90", "", "100 %"] if labelled else [""] * 6)
    axes.set_yticks([], minor=True)


def _root(percent: Any) -> Any:
    """0 at 100 percent, -10 at none; beyond 100 as if mirrored."""
    missing = np.asarray(percent, dtype=float) - 100
    return np.sign(missing) * np.sqrt(np.abs(missing))


def _square(root: Any) -> Any:
    """The inverse."""
    value = np.asarray(root, dtype=float)
    return 100 + np.sign(value) * value**2


def across_percents(axes: "Axes", title: str) -> None:
    """A horizontal axis of percents, its labels within the panel's width."""
    axes.set_xlim(-3, 103)
    axes.set_xticks([0, 50, 100], ["0", "", "100 %"])
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_title(title)


def curve(
    axes: "Axes", points: Sequence[Point], look: MethodStyle, strong: bool = True, plain: bool = False
) -> None:
    """A line against T. `strong`: in its colour, with a band of its intervals; `plain`: without markers."""
    at, values = [point.at for point in points], [point.value for point in points]
    if strong:
        low = [math.nan if point.low is None else point.low for point in points]
        high = [math.nan if point.high is None else point.high for point in points]
        axes.fill_between(at, low, high, color=look.colour, alpha=0.14, linewidth=0, zorder=2)
    colour = look.colour if strong else FAINT
    (line,) = axes.plot(
        at,
        values,
        color=colour,
        linestyle=look.dash,
        linewidth=1.3 if strong else 0.8,
        zorder=4 if strong else 3,
    )
    if not plain:
        line.set(
            marker=look.marker, markersize=4.4 if strong else 3.6, markerfacecolor=colour if strong else PAPER
        )


def band(axes: "Axes", low: float, value: float, high: float) -> None:
    """The unedited model: a level with its interval, across the panel."""
    axes.axhspan(low, high, color=RULE, linewidth=0, zorder=1)
    axes.axhline(value, color=UNEDITED_LOOK.colour, linestyle=UNEDITED_LOOK.dash, linewidth=1.0, zorder=1.5)


def legend_height(names: Sequence[str], width: float = DOUBLE) -> float:
    """Inches that a legend of these names takes."""
    return (
        math.ceil(len(names) / _columns(names, width))
        * (LINE + 0.02)
        * max((wrapped(name).count("\n") + 1 for name in names), default=1)
    )


def legend(
    figure: "Figure", entries: Mapping[str, MethodStyle], strong: Sequence[str], unedited: str = ""
) -> None:
    """All methods at the foot of the figure, in columns.

    Args:
        figure: it has room at its foot (`legend_height`).
        entries: how each method looks.
        strong: those that are in colour.
        unedited: what the band is called, if there is one.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    for name, look in entries.items():
        colour, lit = (look.colour, True) if name in strong else (FAINT, False)
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                marker=look.marker,
                linestyle=look.dash,
                markerfacecolor=colour if lit else PAPER,
                label=wrapped(name),
            )
        )
    if unedited:
        handles.append(
            Line2D([], [], color=UNEDITED_LOOK.colour, linestyle=UNEDITED_LOOK.dash, label=unedited)
        )
    names = [*entries, *([unedited] if unedited else [])]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.01, 0.04 / figure.get_figheight()),
        ncols=_columns(names, figure.get_figwidth()),
    )


def wrapped(name: str, width: int = 30) -> str:
    """A long name in several lines."""
    return "\n".join(
        textwrap.wrap(name, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    )


def _columns(names: Sequence[str], width: float) -> int:
    """How many columns of a legend fit."""
    longest = max((len(line) for name in names for line in wrapped(name).splitlines()), default=1)
    return max(1, min(len(names), int((width - 0.1) / (longest * LETTER + 0.5))))


def listed(axes: "Axes", names: Sequence[str], labelled: bool) -> None:
    """A vertical axis of methods, the first on top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [wrapped(name, NAME) if labelled else "" for name in names])
    axes.grid(True, axis="both")


def list_height(names: Sequence[str]) -> float:
    """Inches of such an axis."""
    return len(names) * (0.035 + LINE * max(wrapped(name, NAME).count("\n") + 1 for name in names))


def list_width(names: Sequence[str]) -> float:
    """Inches of the names beside it."""
    return 0.1 + LETTER * max(len(line) for name in names for line in wrapped(name, NAME).splitlines())


NAME = 22
"""Letters in a line of a method's name on such an axis."""


def keys(figure: "Figure", entries: Sequence[tuple[str, Mapping[str, Any]]], above: float = 0.04) -> None:
    """A legend of marks in one line at the figure's foot: name and how its mark is drawn; `above` in inches."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="", label=name, **how) for name, how in entries]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.01, above / figure.get_figheight()),
        ncols=len(entries),
        handletextpad=0.2,
    )
