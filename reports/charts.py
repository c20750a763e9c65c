"""Small line charts as inline SVG: each metric against T, one line per row of the table, intervals as bars."""

from collections.abc import Mapping

from markupsafe import Markup, escape

from reports.results import COLUMNS, Block, Results

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 220, 150, 26, 20, 20


def chart(results: Results, block: Block, readout: str, colours: Mapping[str, int]) -> Markup:
    """Four panels, one per metric. Fonts and colours come from the page's style; `colours` says which by a row's name."""
    parts = [_panel(results, block, readout, metric, colours) for metric in COLUMNS]
    return Markup("").join(parts)


def _panel(results: Results, block: Block, readout: str, metric: str, colours: Mapping[str, int]) -> Markup:
    title = {"edit_performance": "edit performance"}.get(metric, metric).capitalize()
    label = escape(f"{title} of each method on {block.model} against the number of edits; the table below has the numbers")
    marks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{_y(v):g}" y2="{_y(v):g}"/><text class="tick" x="{LEFT - 5}" y="{_y(v) + 3:g}">{v}</text>'
        for v in (0, 50, 100)
    )
    marks += "".join(f'<text class="tick mid" x="{_x(block, n):g}" y="{HEIGHT - 5}">{n:,}</text>' for n in block.n_edits)
    for i, row in enumerate(block.rows):
        points = []
        for n in block.n_edits:
            score = results.score(row.cells[n], readout, metric) if n in row.cells else None
            if score is not None and score.value is not None:
                points.append((_x(block, n, i - (len(block.rows) - 1) / 2), score.value, score.half_width or 0.0))
        marks += _series(points, colours[row.name])
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><text class="name" x="{LEFT}" y="11">{title}</text>{marks}</svg>'
    )


def _series(points: list[tuple[float, float, float]], colour: int) -> str:
    path = " ".join(f"{x:g},{_y(value):g}" for x, value, _ in points)
    bars = "".join(f'<line x1="{x:g}" x2="{x:g}" y1="{_y(min(100, v + h)):g}" y2="{_y(max(0, v - h)):g}"/>' for x, v, h in points)
    dots = "".join(f'<circle cx="{x:g}" cy="{_y(value):g}" r="2.6"/>' for x, value, _ in points)
    return f'<g class="c{colour}"><polyline points="{path}"/>{bars}{dots}</g>' if points else ""


def _x(block: Block, n_edits: int, shift: float = 0.0) -> float:
    step = (WIDTH - LEFT) / len(block.n_edits)
    return round(LEFT + step * (block.n_edits.index(n_edits) + 0.5) + 3 * shift, 1)


def _y(value: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / 100), 1)
