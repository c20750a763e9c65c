"""A figure that can be saved as SVG, PDF and PNG, and embedded in the page in the page's colours.

The same data gives the same bytes.
"""

import io
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from markupsafe import Markup, escape

from reports.figures.style import VARIABLES, applied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["svg", "pdf", "png"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""File metadata without time or machine."""

DOTS = 220
"""Resolution of a PNG, in dots per inch."""


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: stem of its file names.
        title: which figure of which paper it is, or what it shows.
        caption: what a reader must know: read-out, unit, intervals, number of items.
        alt: text alternative; the page names the table with the numbers.
        figure: the matplotlib figure.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: "Figure"

    def file(self, kind: Kind) -> bytes:
        """Return its bytes as "svg", "pdf" or "png"."""
        return self._svg if kind == "svg" else self._saved(kind)

    @cached_property
    def _svg(self) -> bytes:
        """SVG for both file and page, drawn once."""
        return self._saved("svg")

    def _saved(self, kind: str) -> bytes:
        """Save the figure in one format and return the bytes."""
        buffer = io.BytesIO()
        with applied(self.name):
            self.figure.savefig(
                buffer, format=kind, dpi=DOTS if kind == "png" else 72, metadata=_METADATA[kind]
            )
        return buffer.getvalue()

    def on_page(self) -> Markup:
        """Return the SVG as part of a page.

        It has no head, uses the page's colours (CSS variables), and its ids are unique among figures.
        """
        text = self._svg.decode()
        text = text[text.index("<svg") :]
        text = re.sub(
            r"<metadata>.*?</metadata>|<!--.*?-->|<clipPath.*?</clipPath>", "", text, flags=re.DOTALL
        )
        text = re.sub(
            r' clip-path="[^"]*"', "", text
        )  # nothing extends beyond its panel, and a page has no references other than links
        text = re.sub(r' (id=|(?:xlink:)?href=)"(#?)', rf' \1"\2{self.name}-', text).replace(
            "xlink:href", "href"
        )
        text = text.replace("font-family: 'DejaVu Sans', sans-serif", "font-family: system-ui, sans-serif")
        for colour, name in VARIABLES.items():
            text = text.replace(colour, f"var(--{name}, {colour})")
        size = re.search(r'<svg[^>]*? width="([0-9.]+)pt"', text)
        width = float(size[1]) if size else 0.0
        text = re.sub(r'(<svg[^>]*?) height="[0-9.]+pt"', r"\1", text, count=1)
        text = re.sub(
            r'(<svg[^>]*?) width="[0-9.]+pt"',
            rf'\1 style="width:100%;max-width:{width * 1.6:.0f}px;height:auto"',
            text,
            count=1,
        )
        return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(self.alt)}"', 1))


@dataclass(frozen=True, slots=True)
class Absent:
    """A figure for which there is no data.

    Attributes:
        name, title: as in `Drawing`.
        why: why there is none and what to run, such as "not run: lks grid --grid studies".
    """

    name: str
    title: str
    why: str
