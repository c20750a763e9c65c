"""Artifacts that the server's pages show for a flow run: progress, cells, the result table and the report's
path.

Artifacts are for users only: one that cannot be written is a line in the log and never ends a grid.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.running.planning import tally
from flows.running.progress import LineProgress, duration
from lks.errors import UserError
from lks.results.cells import Cell, Outcome

EVERY_S = 2.0
"""Minimum seconds between two progress updates: a grid may have thousands of short cells."""

MAIN_TABLE = "table1"


class GridArtifacts:
    """The artifacts of one run of a grid; call `begin`, then `update` after each cell, then `finish`."""

    def __init__(self, grid: str, results: Path) -> None:
        """Remember what the artifacts are for; nothing is written yet.

        Args:
            grid: name of the grid.
            results: folder of all results.
        """
        self._key, self._grid, self._results = f"lks-{_key(grid)}", grid, results
        self._progress: UUID | None = None
        self._total, self._sent = 0, 0.0

    def begin(self, todo: int, kept: int) -> None:
        """Show a progress bar for the cells to run.

        Args:
            todo: number of cells to run.
            kept: number of cells that were stored before.
        """
        self._total = todo
        try:
            made = create_progress_artifact(
                100.0 if not todo else 0.0,
                f"{self._key}-progress",
                f"{self._grid}: {todo} cells to run, {kept} stored",
            )
            self._progress = made if isinstance(made, UUID) else None
        except (PrefectException, httpx.HTTPError) as error:
            _say(error)

    def update(self, outcomes: Sequence[Outcome], left_s: float | None) -> None:
        """Move the progress bar.

        Args:
            outcomes: outcomes of the finished cells.
            left_s: estimated seconds for the rest, if known.
        """
        if self._progress is None or (
            time.monotonic() - self._sent < EVERY_S and len(outcomes) < self._total
        ):
            return
        self._sent = time.monotonic()
        counts = ", ".join(f"{number} {status}" for status, number in tally(outcomes).items())
        text = (
            f"{self._grid}: {len(outcomes)} of {self._total} cells ({counts}), time left {duration(left_s)}"
        )
        try:
            update_progress_artifact(self._progress, 100.0 * len(outcomes) / max(self._total, 1), text)
        except (PrefectException, httpx.HTTPError) as error:
            _say(error)

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """List the outcome of each cell, failures first.

        Args:
            outcomes: outcomes of the cells of this run.
        """
        self._sent = 0.0
        self.update(outcomes, 0.0)
        write_markdown(
            f"{self._key}-cells", cells_markdown(self._grid, outcomes), f"Cells of {self._grid} that were run"
        )


class Shown:
    """Display of a deployed grid: lines in its log, artifacts on the server's pages, and the report at the
    end.

    A grid started from a terminal uses another `Watch` and writes the report itself.
    """

    def __init__(self, lines: LineProgress, artifacts: GridArtifacts) -> None:
        self._lines, self._artifacts = lines, artifacts
        self._outcomes: list[Outcome] = []

    def begin(self, cells: Sequence[Cell], kept: int, earlier: Sequence[Outcome]) -> None:
        """Report how much there is to do."""
        self._lines.begin(cells, kept, earlier)
        self._artifacts.begin(len(cells), kept)

    def start(self, cell: Cell) -> None:
        """Log that a cell starts."""
        self._lines.start(cell)

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Ignore stages, which are for a live display."""

    def finish(self, outcome: Outcome) -> None:
        """Report the outcome of a cell and what is left."""
        self._lines.finish(outcome)
        self._outcomes.append(outcome)
        self._artifacts.update(self._outcomes, self._lines.left)

    def end(self, results: Path) -> None:
        """List all cells and write the report.

        Args:
            results: folder of all results.
        """
        from reports import render

        self._artifacts.finish(self._outcomes)
        try:
            report_artifact(results, render(results).page)
        except UserError as error:  # the cells are stored; `lks report` raises the same error again
            _say(error)


def report_artifact(results: Path, page: Path) -> None:
    """Write an artifact with the result table of a report and the path of its page.

    Args:
        results: folder of all results.
        page: `index.html` of the report.
    """
    table = page.parent / "tables" / f"{MAIN_TABLE}.md"
    text = table.read_text(encoding="utf-8") if table.exists() else "No results of evaluated cases yet."
    where = f"Report: [{page}]({page.absolute().as_uri()}) (open it on a machine that sees this folder)"
    write_markdown("lks-report", f"{where}\n\n{text}", f"Results in {results}")


def cells_markdown(grid: str, outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of cells with their status, failures first."""
    rows = sorted(outcomes, key=lambda outcome: (outcome.status == "ok", outcome.cell))
    lines = [
        f"| {_entry(o.cell.label)} | {o.status} | {duration(o.costs.seconds)} | {_entry(o.reason)} |"
        for o in rows
    ]
    head = [f"# {grid}: {len(rows)} cells run", "", "| cell | status | time | reason |", "|---|---|---|---|"]
    return "\n".join([*head, *lines]) if rows else f"# {grid}\n\nNothing to do: all cells are stored."


def write_markdown(key: str, text: str, description: str) -> None:
    """Write a Markdown artifact of the running flow.

    Args:
        key: lower-case letters, digits and dashes.
        text: Markdown.
        description: one line.
    """
    try:
        create_markdown_artifact(text, key, description)
    except (PrefectException, httpx.HTTPError) as error:
        _say(error)


def _entry(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _key(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _say(error: Exception) -> None:
    from prefect import get_run_logger

    get_run_logger().warning("An artifact or the report could not be written: %s", error)
