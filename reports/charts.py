"""A dot plot as inline SVG: one line per row of the table, a panel per metric, a dot per T with its interval.

With twenty methods lines against T cross beyond reading; rows stay apart, and one reads along a row or down a panel.
"""

from markupsafe import Markup, escape

from reports.results import COLUMNS, Block, Results, Row, why

WIDTH, LABELS, GAP, TOP, FOOT, PAD = 980, 214, 22, 38, 18, 10
SHADES = 6
"""Number of shades in the template, from few edits to many."""


def chart(results: Results, block: Block, readout: str) -> Markup:
    """Four panels beside one list of rows. Fonts and colours come from the page's style."""
    height = _row_height(block)
    bottom = TOP + height * len(block.rows)
    label = escape(f"Each metric of each method on {block.title}, one dot per number of edits; the table below has the numbers")
    parts = [_legend(block)]
    for i, row in enumerate(block.rows):
        y = TOP + height * i
        parts.append(f'<rect class="stripe" x="0" y="{y:g}" width="{WIDTH}" height="{height:g}"/>' if i % 2 else "")
        parts.append(_name(row, y + height / 2 + 4))
    parts += [_panel(results, block, readout, number, metric, bottom) for number, metric in enumerate(COLUMNS)]
    return Markup(f'<svg viewBox="0 0 {WIDTH} {bottom + FOOT:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>')


def shade(block: Block, n_edits: int) -> int:
    """The shade of a T: from the lightest for the fewest edits to the darkest for the most."""
    last = len(block.n_edits) - 1
    return SHADES - 1 if not last else round(block.n_edits.index(n_edits) * (SHADES - 1) / last)


def _row_height(block: Block) -> float:
    return max(16.0, 5.0 * len(block.n_edits) + 6)


def _legend(block: Block) -> str:
    """Which shade is which T."""
    parts, x = ['<text class="tick" x="0" y="11">T =</text>'], 24.0
    for n in block.n_edits:
        text = f"{n:,}"
        dot = f'<circle class="s{shade(block, n)}" cx="{x + 5:g}" cy="7.5" r="3.6"/>'
        parts.append(f'<g data-t="{n}">{dot}<text class="tick" x="{x + 12:g}" y="11">{text}</text></g>')
        x += 24 + 6 * len(text)
    return "".join(parts)


def _name(row: Row, y: float) -> str:
    """A row's name; a long one is cut and can be read in full by pointing at it."""
    text = row.name if len(row.name) <= 35 else row.name[:34] + "…"
    return f'<text class="row" x="4" y="{y:g}">{escape(text)}<title>{escape(row.name)}</title></text>'


def _panel(results: Results, block: Block, readout: str, number: int, metric: str, bottom: float) -> str:
    title = {"edit_performance": "edit performance"}.get(metric, metric).capitalize()
    left, width = _place(number)
    marks = [f'<text class="name" x="{left}" y="{TOP - 12}">{title}</text>']
    for v in (0, 25, 50, 75, 100):
        x = left + width * v / 100
        marks.append(f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{TOP}" y2="{bottom:g}"/>')
        marks.append("" if v % 50 else f'<text class="tick mid" x="{x:g}" y="{bottom + 13:g}">{v}</text>')
    height = _row_height(block)
    step = (height - PAD) / max(1, len(block.n_edits) - 1)
    for i, row in enumerate(block.rows):
        for k, n in enumerate(block.n_edits):
            y = TOP + height * i + (PAD / 2 + step * k if len(block.n_edits) > 1 else height / 2)
            marks.append(_dot(results, block, row, n, readout, metric, y))
    return "".join(marks)


def _place(number: int) -> tuple[int, int]:
    """Left edge and width of a panel."""
    width = (WIDTH - LABELS - GAP * len(COLUMNS)) // len(COLUMNS)
    return LABELS + (width + GAP) * number, width


def _dot(results: Results, block: Block, row: Row, n_edits: int, readout: str, metric: str, y: float) -> str:
    """One value with its interval; a cross at the left edge for a cell that failed."""
    number = list(COLUMNS).index(metric)
    left, width = _place(number)
    outcome = row.cells.get(n_edits)
    if outcome is None:
        return ""
    if outcome.status != "ok":
        reason = escape(f"{row.name}, T = {n_edits:,}: {why(outcome)}")
        return "" if number else f'<text class="failed" data-t="{n_edits}" x="{left}" y="{y + 3.5:g}">×<title>{reason}</title></text>'
    score = results.score(outcome, readout, metric)
    if score is None or score.value is None:
        return ""
    ends = (score.value if score.low is None else score.low, score.value, score.value if score.high is None else score.high)
    low, at, high = (round(left + width * v / 100, 1) for v in ends)
    bar = f'<line x1="{low:g}" x2="{high:g}" y1="{y:g}" y2="{y:g}"/>' if high > low else ""
    said = escape(f"{row.name}, T = {n_edits:,}: {score.value:.1f}")
    return f'<g class="s{shade(block, n_edits)}" data-t="{n_edits}">{bar}<circle cx="{at:g}" cy="{y:g}" r="3"><title>{said}</title></circle></g>'
