"""The paper's Fig. 8: general ability against T."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.figures.axes import (
    LINE,
    Frame,
    Point,
    against_t,
    band,
    curve,
    heading,
    legend,
    legend_height,
    sheet,
)
from reports.figures.data import ReportData
from reports.figures.drawing import Absent, Drawing
from reports.results import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 3
"""Maximum number of tests with a panel each; if there are more, only the mean is drawn."""


@dataclass(frozen=True, slots=True)
class Ability:
    """One test of one cell, or the mean of all tests (""): percent, with interval and number of documents."""

    cell_id: str
    task: str
    value: float
    low: float | None
    high: float | None
    documents: int


Curves = dict[tuple[str, str], list[Point]]
"""(Method, test) -> its values against T."""


def ability(source: ReportData) -> Drawing | Absent:
    """Draw ability against T: a row of panels per model and dataset, a panel per test and for the mean."""
    name, title = "fig8_ability", "General ability against the number of edits (Fig. 8)"
    rows = source.rows(Ability, "figure_ability")
    drawn = [(block, curves) for block in source.results.blocks if (curves := _curves(block, rows))]
    if not drawn:
        return Absent(name, title, "no test of ability was run: lks grid --grid ability")
    several = [
        (block, curves) for block, curves in drawn if any(len(points) > 1 for points in curves.values())
    ]
    drawn = several or drawn
    tests = [_tests(curves) for _, curves in drawn]
    columns = max(len(one) for one in tests)
    names = source.order({method for _, curves in drawn for method, _ in curves})
    strong, foot = source.strong(names), legend_height([*names, "unedited, 95 %"])
    figure, panels = sheet(
        [1.6] * len(drawn), columns, Frame(bottom=foot + 0.55, top=0.15 + 2 * LINE, down=0.35 + 3 * LINE)
    )
    lowest = min(
        min(point.value if point.low is None else point.low for point in points)
        for _, curves in drawn
        for points in curves.values()
    )
    for (block, curves), tasks, axes_row in zip(drawn, tests, panels, strict=True):
        heading(axes_row[0], block.title)
        for axes, task in zip(axes_row, tasks, strict=False):
            _panel(source, axes, task, curves, strong)
            axes.set_ylim(0 if lowest < 50 else 10 * int(lowest / 10 - 0.5), 102)
            axes.tick_params(labelleft=axes is axes_row[0])
        for axes in axes_row[len(tasks) :]:
            axes.set_axis_off()
        axes_row[0].set_ylabel("% right")
    legend(figure, {one: source.looks[one] for one in names}, strong, "unedited, 95 %")
    documents = sorted({row.documents for row in rows if row.task})
    caption = (
        f"Percent of documents answered rightly, {documents[0]:,} to {documents[-1]:,} for each test; T on a "
        "log axis; bands are 95 % intervals over documents; the grey band is the unedited "
        f"model.{' The axis does not begin at 0.' if lowest >= 50 else ''}{source.said(names)}"
    )
    return Drawing(
        name,
        title,
        caption,
        "Share of right answers in tests of general ability against the number of edits, for each method",
        figure,
    )


def _curves(block: Block, rows: list[Ability]) -> Curves:
    """Return the curves of a block's cells."""
    of = {
        outcome.cell.id: (row.name, n_edits) for row in block.rows for n_edits, outcome in row.cells.items()
    }
    made: Curves = {}
    for row in sorted((row for row in rows if row.cell_id in of), key=lambda row: of[row.cell_id][1]):
        method, n_edits = of[row.cell_id]
        made.setdefault((method, row.task), []).append(Point(n_edits, row.value, row.low, row.high))
    return made


def _tests(curves: Curves) -> list[str]:
    """Return the tests that have a panel, the mean last."""
    tasks = sorted({task for _, task in curves if task})
    mean = [""] if any(not task for _, task in curves) else []
    return [*tasks, *mean] if len(tasks) <= MOST else mean


def _panel(source: ReportData, axes: "Axes", task: str, curves: Curves, strong: list[str]) -> None:
    """Draw the curves of one test, with the unedited model as a band."""
    for (method, of), points in curves.items():
        if of == task and method in source.unedited:
            last = points[-1]
            band(
                axes,
                last.value if last.low is None else last.low,
                last.value,
                last.value if last.high is None else last.high,
            )
        elif of == task:
            curve(axes, points, source.looks[method], method in strong)
    against_t(axes, sorted({int(point.at) for points in curves.values() for point in points}))
    axes.set_title(task.replace("_", " ") or "mean of the tests")
    axes.set_xlabel("edits (T)")
