"""The style of figures: few colours that follow the page, print sizes, and the look of each method."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

INK, SOFT, RULE, PAPER, FAINT = "#1d2328", "#5b6670", "#dfe2e0", "#ffffff", "#a3abb1"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers can distinguish. Black is left out, as it is the
unedited model's, and so is yellow, which is hardly visible on paper."""

DEEP = "#00507f"
"""A sixth step of lightness between the colours and ink, for stacked shares."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*", "p", "d")
Dash = Literal["-"] | tuple[float, tuple[float, ...]]
"""Solid, or an offset with lengths of lines and gaps, in line widths."""

DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (5, 1.4, 1.3, 1.4)))

SINGLE, DOUBLE = 3.3, 6.9
"""Widths of one and two columns of a paper, in inches."""

FONT = 8.0
"""Font size in points at those widths; nothing in a figure is smaller."""

HEADING = 9.5
"""Font size of the name of a row of panels, in points."""

MANY = 8
"""If there are more methods than this, only the best few are in colour."""

VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", PAPER: "paper", FAINT: "faint", DEEP: "deep"}
VARIABLES |= {colour: f"c{number}" for number, colour in enumerate(COLOURS, start=1)}
"""Colour -> the page's CSS variable for it."""

DARK = {INK: "#e6eaec", SOFT: "#a7b1b8", RULE: "#333b41", PAPER: "#15191c", FAINT: "#67727a", DEEP: "#3f74a8"}
DARK |= dict(zip(COLOURS, ("#5a9cf0", "#ff8648", "#2cc99c", "#e59cc6", "#f2b640", "#9ad8ff"), strict=True))
"""The same colours on a dark page."""


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """The style of a method, the same in all figures of a report.

    Attributes:
        colour: colour of line and marker.
        marker, dash: as matplotlib takes them; no two methods have the same pair.
    """

    colour: str
    marker: str
    dash: Dash


FIRST = ("LKS", "MEMIT", "WISE", "AlphaEdit", "ROME", "MEND")
"""Titles of the methods that are compared most often; they request colours and markers that differ from each
other."""

UNEDITED_LOOK = MethodStyle(INK, "_", (0, (1.4, 1.4)))


def looks(names: Sequence[str]) -> dict[str, MethodStyle]:
    """Assign a style to each method, the best first.

    A name requests the same colour and marker in every report, and gives way only to a better method. Within
    each run of six methods colours differ, within each run of twelve markers differ.
    """
    made: dict[str, MethodStyle] = {}
    colours: list[int] = []
    markers: list[int] = []
    for place, name in enumerate(names):
        wish = FIRST.index(name) * (len(COLOURS) + 1) if name in FIRST else crc32(name.encode())
        colours = colours or list(range(len(COLOURS)))
        markers = markers or list(range(len(MARKERS)))
        colour, marker = (
            _nearest(colours, wish, len(COLOURS)),
            _nearest(markers, wish // len(COLOURS), len(MARKERS)),
        )
        made[name] = MethodStyle(
            COLOURS[colour], MARKERS[marker], DASHES[(marker + place // len(MARKERS)) % len(DASHES)]
        )
    return made


def _nearest(free: list[int], wish: int, size: int) -> int:
    """Take the wished number, or the next one that is free."""
    return free.pop(free.index(min(free, key=lambda number: (number - wish) % size)))


def page_css() -> str:
    """Return the CSS variables that figures on a page use, for light and dark pages.

    The page's own settings take precedence; `data-theme` on the root overrides the system's preference.
    """

    def block(values: dict[str, str]) -> str:
        """Return the declarations of all variables."""
        return "".join(f"--{name}:{values.get(colour, colour)};" for colour, name in VARIABLES.items())

    system = (
        "@media screen and "
        f"(prefers-color-scheme:dark){{:where(:root:not([data-theme=light])){{{block(DARK)}}}}}"
    )
    return f":where(:root){{{block({})}}}\n{system}\n:where(:root[data-theme=dark]){{{block(DARK)}}}\n"


@contextmanager
def applied(salt: str = "lks") -> Iterator[None]:
    """Apply this style while drawing (fonts, line widths, no frame), whatever the machine's own settings are.

    Args:
        salt: hash salt of the ids in an SVG.
    """
    import matplotlib

    settings: dict[str, Any] = {
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": FONT,
        "axes.titlesize": FONT, "axes.labelsize": FONT, "xtick.labelsize": FONT, "ytick.labelsize": FONT,
        "legend.fontsize": FONT, "axes.titlelocation": "left", "axes.titlepad": 4.0, "text.color": INK,
        "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT, "axes.titlecolor": SOFT,
        "axes.edgecolor": RULE, "axes.linewidth": 0.8, "axes.axisbelow": True, "grid.color": RULE,
        "grid.linewidth": 0.6, "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False,
        "axes.spines.left": False, "axes.spines.bottom": False, "xtick.major.size": 0, "ytick.major.size": 0,
        "xtick.minor.size": 0, "ytick.minor.size": 0, "xtick.major.pad": 3, "ytick.major.pad": 3,
        "lines.linewidth": 1.2, "lines.markersize": 4.2, "lines.markeredgewidth": 0.9,
        "legend.frameon": False, "legend.handlelength": 2.6, "legend.borderpad": 0.0,
        "legend.columnspacing": 1.2, "legend.labelspacing": 0.35, "legend.borderaxespad": 0.0,
        "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER, "figure.dpi": 100,
        "axes.unicode_minus": True, "svg.fonttype": "none", "svg.hashsalt": salt, "pdf.fonttype": 42,
        "path.simplify": False,
    }  # fmt: skip
    everything: Any = {**dict(matplotlib.rcParamsDefault), **settings}
    with matplotlib.rc_context(everything):
        yield
