"""Building blocks of figures: panels placed in inches, axes against T, curves with intervals, legends."""

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
"""Distance between lines of text, in inches."""

LETTER = FONT * 0.6 / 72
"""Upper bound for the width of a letter, in inches."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The margins around the panels and the space between them, in inches."""

    left: float = 0.45
    right: float = 0.1
    top: float = 0.4
    bottom: float = 0.4
    across: float = 0.15
    down: float = 0.75
    width: float = DOUBLE


@dataclass(frozen=True, slots=True)
class Point:
    """A value against T (or a block) with its 95 % interval; an end is None where there is no interval."""

    at: float
    value: float
    low: float | None
    high: float | None


def sheet(heights: Sequence[float], columns: int, frame: Frame) -> tuple["Figure", list[list["Axes"]]]:
    """Create a figure with one row of panels for each height in inches, from the top."""
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
    """Write the name of a row of panels, `above` inches above the first of them."""
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
    """Set a logarithmic axis of edits, with ticks at the powers of ten within its range."""
    low, high = min(counts), max(counts)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.5, high * 1.5)
    powers = [10**k for k in range(7) if low <= 10**k <= high]
    ticks = powers if len(powers) > 1 else sorted(set(counts))
    axes.set_xticks(ticks, [short_count(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(False, axis="x")


def short_count(count: int) -> str:
    """Format a count of edits: 1, 10, 100, 1k, 10k."""
    return f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else f"{count:,}"


STRETCHED = "The axis of percents is stretched towards 100: it is even in the square root of what is missing."


def percents(axes: "Axes", labelled: bool = True, above: float = 0.4) -> None:
    """Set a vertical axis of percentages that is linear in the square root of the distance to 100.

    This is because most values that are compared are near 100.

    Args:
        axes: axes of the panel.
        labelled: whether the ticks have labels.
        above: room above 100, in square roots of percent; the whole axis has ten.
    """
    axes.set_yscale("function", functions=(_root, _square))
    axes.set_ylim(_square(-10.3), _square(above))
    axes.set_yticks([0, 50, 75, 90, 99, 100], ["0", "50", "75", "90", "", "100 %"] if labelled else [""] * 6)
    axes.set_yticks([], minor=True)


def _root(percent: Any) -> Any:
    """Transform percentages: 100 to 0, 0 to -10, and values above 100 symmetrically."""
    missing = np.asarray(percent, dtype=float) - 100
    return np.sign(missing) * np.sqrt(np.abs(missing))


def _square(root: Any) -> Any:
    """Invert `_root`."""
    value = np.asarray(root, dtype=float)
    return 100 + np.sign(value) * value**2


def across_percents(axes: "Axes", title: str) -> None:
    """Set a horizontal axis of percentages with its labels inside the panel's width."""
    axes.set_xlim(-3, 103)
    axes.set_xticks([0, 50, 100], ["0", "", "100 %"])
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_title(title)


def curve(
    axes: "Axes", points: Sequence[Point], look: MethodStyle, strong: bool = True, plain: bool = False
) -> None:
    """Draw a line against T.

    Args:
        axes: axes of the panel.
        points: points of the line.
        look: style of the method.
        strong: whether to draw it in its colour, with a band of its intervals.
        plain: whether to omit markers.
    """
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
    """Draw the unedited model as a level with its interval, across the panel."""
    axes.axhspan(low, high, color=RULE, linewidth=0, zorder=1)
    axes.axhline(value, color=UNEDITED_LOOK.colour, linestyle=UNEDITED_LOOK.dash, linewidth=1.0, zorder=1.5)


def legend_height(names: Sequence[str]) -> float:
    """Return the height of a legend of these names, in inches."""
    return (
        math.ceil(len(names) / _columns(names, DOUBLE))
        * (LINE + 0.02)
        * max((wrapped(name).count("\n") + 1 for name in names), default=1)
    )


def legend(
    figure: "Figure", entries: Mapping[str, MethodStyle], strong: Sequence[str], unedited: str = ""
) -> None:
    """Draw the legend of all methods at the foot of the figure, in columns.

    Args:
        figure: figure with room at its foot (`legend_height`).
        entries: style of each method.
        strong: methods that are drawn in colour.
        unedited: label of the band, if there is one.
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
    """Wrap a long name."""
    return "\n".join(
        textwrap.wrap(name, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    )


def _columns(names: Sequence[str], width: float) -> int:
    """Return how many columns of a legend fit."""
    longest = max((len(line) for name in names for line in wrapped(name).splitlines()), default=1)
    return max(1, min(len(names), int((width - 0.1) / (longest * LETTER + 0.5))))


def listed(axes: "Axes", names: Sequence[str], labelled: bool) -> None:
    """Set a vertical axis of methods, the first at the top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [wrapped(name, NAME) if labelled else "" for name in names])
    axes.grid(True, axis="both")


def list_height(names: Sequence[str]) -> float:
    """Return the height of a vertical axis of methods, in inches."""
    return len(names) * (0.035 + LINE * max(wrapped(name, NAME).count("\n") + 1 for name in names))


def list_width(names: Sequence[str]) -> float:
    """Return the width of the names next to a vertical axis of methods, in inches."""
    return 0.1 + LETTER * max(len(line) for name in names for line in wrapped(name, NAME).splitlines())


NAME = 22
"""Maximum number of letters per line of a method's name on a vertical axis."""


def keys(figure: "Figure", entries: Sequence[tuple[str, Mapping[str, Any]]], above: float = 0.04) -> None:
    """Draw a legend of markers in one line at the figure's foot, `above` inches from it.

    Each entry is a name and the keyword arguments of its marker.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], ls="", label=name, **how) for name, how in entries]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.01, above / figure.get_figheight()),
        ncols=len(entries),
        handletextpad=0.2,
    )
