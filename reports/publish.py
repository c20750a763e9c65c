"""Published results: a folder with numbers as CSV, figures as SVG, and a page.

The page says how the numbers were made and what is missing.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lks.io.atomic import write_whole
from lks.results.cells import Cell, Outcome
from reports import RenderedReport
from reports.figures.drawing import Drawing
from reports.page.provenance import failures, noted
from reports.tables import formats
from reports.tables.model import Table, Value

DATA = ("overview.csv", "results.csv", "studies.csv")
TABLES = ("table1", "abilities", "known", "portability")
"""Tables that the page shows if they have rows."""
READOUTS = ("tf_token", "ar_exact", "wild")
"""Read-outs whose tables the page shows; `results.csv` has all of them."""


def publish(report: RenderedReport, folder: Path, wanted: Sequence[Cell] = ()) -> None:
    """Write the part of a report that is worth keeping in a repository.

    Args:
        report: the report, as returned by `reports.render`.
        folder: where the page (`README.md`), the files of `DATA` that have rows, and `figures/` go; existing
            files are replaced.
        wanted: the cells of a grid; those without a result are listed as not run.
    """
    data = [name for name in DATA if report.outcomes or name != "results.csv"]
    files = [name for name in report.files if name.removeprefix("data/") in data or name.endswith(".svg")]
    shutil.rmtree(folder / "figures", ignore_errors=True)
    for name in files:
        write_whole(folder / name.removeprefix("data/"), (report.folder / name).read_bytes())
    write_whole(folder / "README.md", _page(folder.name, report, wanted).encode())


def _page(name: str, report: RenderedReport, wanted: Sequence[Cell]) -> str:
    """Return the page in Markdown."""
    outcomes = report.outcomes
    parts = [f"# Results: {name}"]
    if outcomes:
        parts.append(
            f"{len(outcomes)} cells, written by `lks report --publish`. Every number is in "
            "[results.csv](results.csv), one row each, and all that\nwas measured on a cell in one row of "
            "[overview.csv](overview.csv). Percent, ± half of the 95 % interval, clustered by subject."
        )
    if "data/studies.csv" in report.files:
        parts.append(
            "Studies of unedited models, written by `lks report --publish`. Every mean over entities is in\n"
            "[studies.csv](studies.csv), one row each, with its 95 % interval, clustered by subject."
        )
    for stem in TABLES:
        shown = [measured(table) for table in report.tables.get(stem, ()) if table.readout in ("", *READOUTS)]
        parts += [formats.markdown([table]).strip() for table in shown if table.rows]
    drawn = [figure for figure in report.figures if isinstance(figure, Drawing)]
    parts += ["## Figures"] * bool(drawn)
    parts += [
        (
            f"![{_line(figure.alt)}](figures/{figure.name}.svg)\n\n**{_line(figure.title)}.** "
            f"{_line(figure.caption)}"
        )
        for figure in drawn
    ]
    parts += ["## Not run", _missing(outcomes, wanted)]
    rows = [
        f"| {one.what} | {'; '.join(_counted(value, count, len(outcomes)) for value, count in one.values)} |"
        for one in noted(outcomes)
    ]
    parts += ["## How it was made", "\n".join(["| | |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def measured(table: Table) -> Table:
    """Return a table without the parts in which nothing was measured (only published values)."""
    rows = [
        row
        for _, part in table.parts
        if any(isinstance(entry, Value) and entry.value is not None for row in part for entry in row.entries)
        for row in part
    ]
    return replace(table, rows=tuple(rows))


def _missing(outcomes: Sequence[Outcome], wanted: Sequence[Cell]) -> str:
    """Return the list of cells of a grid that have no result, and why."""
    known = {outcome.cell.id for outcome in outcomes}
    lacking: dict[tuple[str, str, int], list[str]] = {}
    for cell in wanted:
        if cell.id not in known:
            lacking.setdefault((cell.model, cell.dataset, cell.n_edits), []).append(
                " ".join([cell.method, *(f"{k}={v}" for k, v in cell.variant)])
            )
    lines = [
        f"- {model} on {dataset}, T = {n_edits:,}: {', '.join(methods)}"
        for (model, dataset, n_edits), methods in lacking.items()
    ]
    lines += [
        (
            f"- {failure.name} on {failure.outcome.cell.model}, T = {failure.outcome.cell.n_edits}: "
            f"{_line(failure.why)}"
        )
        for failure in failures(outcomes)
    ]
    return "\n".join(lines) or "Every cell that was asked for has a result."


def _counted(value: str, count: int, of: int) -> str:
    """Return a value, with the number of cells that have it if not all do."""
    return _line(value) if count == of else f"{_line(value)} ({count} cells)"


def _line(text: str) -> str:
    """Return a text on a single line, escaped for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
