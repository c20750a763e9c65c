"""Edit quality against T: each metric of each method, and what sequential editing keeps.

The numbers are those of `results.sql` and `retention.sql`.
"""

from typing import TYPE_CHECKING

from reports.figures.axes import (
    LINE,
    STRETCHED,
    Frame,
    Point,
    against_t,
    curve,
    heading,
    legend,
    legend_height,
    percents,
    sheet,
)
from reports.figures.data import EXACT, PAPERS, ReportData
from reports.figures.drawing import Absent, Drawing
from reports.figures.style import UNEDITED_LOOK
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Block, ResultRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONG = {
    "reliability": "reliability",
    "generality": "generality",
    "locality": "locality",
    "edit_performance": "edit performance",
}
"""Metrics with their panel titles."""

Points = dict[str, list[Point]]
"""Metric -> its values against T."""


def by_edits(source: ReportData, readout: str) -> Drawing | Absent:
    """Draw Rel, Gen, Loc and EP against T under one read-out, with a row of panels per model and dataset."""
    name, title = f"metrics_{readout}", f"Edit quality against the number of edits, {READOUTS[readout]}"
    drawn = [
        (block, [(row, _points(source, row, readout)) for row in block.rows])
        for block in source.results.blocks
    ]
    drawn = [
        (block, lines)
        for block, lines in drawn
        if any(len(points) > 1 for _, line in lines for points in line.values())
    ]
    if not drawn:
        return Absent(name, title, "no model was edited at several T: lks grid --grid micro")
    names = source.order({row.name for _, lines in drawn for row, points in lines if points})
    strong = source.strong(names)
    foot = legend_height([*names, "unedited"])
    figure, rows = sheet(
        [1.4] * len(drawn), len(COLUMNS), Frame(bottom=foot + 0.55, top=0.15 + 2 * LINE, down=0.35 + 3 * LINE)
    )
    for (block, lines), panels in zip(drawn, rows, strict=True):
        heading(panels[0], block.title)
        for axes, metric in zip(panels, COLUMNS, strict=True):
            _panel(source, axes, (block, metric, readout), lines, strong)
            percents(axes, axes is panels[0])
    legend(figure, {one: source.looks[one] for one in names}, strong, "unedited")
    caption = (
        f"{READOUTS[readout]}: {READOUT_NOTES[readout]}. T on a log axis; bands are 95 % intervals clustered "
        f"by subject, none where one case was edited once. {STRETCHED}{source.said(names)}"
    )
    if readout == PAPERS and any(
        key[1] == block.model for key in source.results.published for block, _ in drawn
    ):
        caption += " Large hollow markers: published values of the same model."
    alt = (
        "Four panels for each model and dataset: reliability, generality, locality and edit performance of "
        "each method against the number of edits"
    )
    return Drawing(name, title, caption, alt, figure)


def _panel(
    source: ReportData,
    axes: "Axes",
    what: tuple[Block, str, str],
    lines: list[tuple[ResultRow, Points]],
    strong: list[str],
) -> None:
    """Draw one metric of one table."""
    block, metric, readout = what
    for row, points in lines:
        if row.name in source.unedited:
            curve(
                axes,
                [Point(one.at, one.value, None, None) for one in points.get(metric, [])],
                UNEDITED_LOOK,
                plain=True,
            )
        elif points.get(metric):
            curve(axes, points[metric], source.looks[row.name], row.name in strong)
            known = {
                n: source.results.published_for(block, row, n, metric)
                for n in block.n_edits
                if readout == PAPERS
            }
            values = {n: value for n, value in known.items() if value is not None}
            look = source.looks[row.name]
            axes.plot(
                list(values),
                list(values.values()),
                ls="",
                marker=look.marker,
                ms=7,
                mfc="none",
                mec=look.colour,
                zorder=5,
            )
    against_t(axes, block.n_edits)
    axes.set_title(LONG[metric])
    axes.set_xlabel("edits (T)")


def _points(source: ReportData, row: ResultRow, readout: str) -> Points:
    """Return the values of a row against T, by metric."""
    made: Points = {}
    for n_edits, outcome in sorted(row.cells.items()):
        for metric in COLUMNS:
            score = source.results.score(outcome, readout, metric)
            if score is not None and score.value is not None:
                several = score.n_subjects > 1  # with one subject the interval covers everything
                made.setdefault(metric, []).append(
                    Point(
                        n_edits, score.value, score.low if several else None, score.high if several else None
                    )
                )
    return made


def retention(source: ReportData) -> Drawing | Absent:
    """Draw each metric of sequential methods against T: after each edit (hollow) and after all (filled)."""
    name, title = "retention", "What sequential editing keeps"
    kept = source.results.kept
    drawn = [
        (block, [row for row in block.rows if _kept(source, row, "reliability")[1]])
        for block in source.results.blocks
    ]
    drawn = [(block, lines) for block, lines in drawn if lines]
    if not kept or not drawn:
        return Absent(
            name, title, "no sequential method was run with more than one edit: lks grid --grid baselines"
        )
    metrics = ["reliability", "generality", "locality"]
    names = source.order({row.name for _, lines in drawn for row in lines})
    strong = source.strong(names)
    foot = legend_height([*names, "unedited"])
    figure, rows = sheet(
        [1.6] * len(drawn), 3, Frame(bottom=foot + 0.55, top=0.15 + 2 * LINE, down=0.35 + 3 * LINE)
    )
    for (block, lines), panels in zip(drawn, rows, strict=True):
        heading(panels[0], block.title)
        for axes, metric in zip(panels, metrics, strict=True):
            for row in lines:
                look, (first, last) = source.looks[row.name], _kept(source, row, metric)
                curve(axes, last, look, row.name in strong)
                at, values = [point.at for point in first], [point.value for point in first]
                axes.plot(
                    at,
                    values,
                    ls=(0, (1, 1.5)),
                    lw=0.9,
                    color=look.colour,
                    marker=look.marker,
                    ms=6.5,
                    mfc="none",
                    zorder=5,
                )
            against_t(
                axes,
                sorted({int(point.at) for row in lines for point in _kept(source, row, "reliability")[1]}),
            )
            percents(axes, axes is panels[0])
            axes.set_title(LONG[metric])
            axes.set_xlabel("edits (T)")
    legend(figure, {one: source.looks[one] for one in names}, strong)
    caption = (
        f"{READOUTS[EXACT]}. Large hollow markers, dotted: right after each edit, on the questions of that "
        "edit; filled: the same questions after all T. Bands: 95 % interval of the difference, drawn about "
        f"the final value. {STRETCHED}{source.said(names)}"
    )
    alt = (
        "Reliability, generality and locality of sequential methods right after each edit and after all "
        "edits, against the number of edits"
    )
    return Drawing(name, title, caption, alt, figure)


def _kept(source: ReportData, row: ResultRow, metric: str) -> tuple[list[Point], list[Point]]:
    """Return the values right after each edit and after all edits, against T."""
    found = [
        (n, source.results.kept.get((outcome.cell.id, EXACT, metric)))
        for n, outcome in sorted(row.cells.items())
    ]
    first = [
        Point(n, one.immediate, None, None)
        for n, one in found
        if one is not None and one.immediate is not None
    ]
    last = [
        Point(n, one.final, *_about(one.final, one.half_width))
        for n, one in found
        if one is not None and one.final is not None
    ]
    return first, last


def _about(value: float, half_width: float | None) -> tuple[float | None, float | None]:
    """Return the ends of an interval, clipped to 0 and 100."""
    return (
        (None, None) if half_width is None else (max(0.0, value - half_width), min(100.0, value + half_width))
    )
