"""Progress of a running grid: a live display on a terminal, one line per finished cell elsewhere."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from flows.running.time_estimate import DurationEstimator
from lks.results.cells import Cell, Outcome


class Watch(Protocol):
    """Receiver of the events of a grid run: `begin`, then per cell `start`, `stage`..., `finish`.

    Several cells may run at once, and one may start again after its process has died.
    """

    def begin(self, cells: Sequence[Cell], kept: int, earlier: Sequence[Outcome]) -> None:
        """Receive the cells to run and the number of others that are stored already."""

    def start(self, cell: Cell) -> None:
        """Receive the start of a cell."""

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Receive the stage that a running cell is in and the fraction of it that is done."""

    def finish(self, outcome: Outcome) -> None:
        """Receive the outcome of a cell that is finished and stored."""


def duration(value: float | None) -> str:
    """Format seconds for display: "8 s", "3 min", "2 h 05 min"; "?" for None."""
    if value is None:
        return "?"
    if value < 90:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


QUICK_S, SHARE = 0.01, 0.05
"""An estimate slower than QUICK_S, as with thousands of cells, is repeated only so rarely that estimates take
at most this share of the time."""


class _Count:
    """Cells to run, finished and failed, and the time the rest may take."""

    def __init__(self) -> None:
        self.rest: dict[str, Cell] = {}
        self._estimated, self._took = -1.0, 0.0
        self.total = self.done = self.failed = self.kept = 0
        self.clock = DurationEstimator([])
        self.expected: float | None = None
        self.running: dict[str, float] = {}
        """Start time by cell id."""

    def begin(self, cells: Sequence[Cell], kept: int, earlier: Sequence[Outcome]) -> None:
        self.rest, self.total, self.kept = {cell.id: cell for cell in cells}, len(cells), kept
        self.clock = DurationEstimator(earlier)
        self._estimate()

    def start(self, cell: Cell) -> None:
        self.running[cell.id] = time.monotonic()

    def finish(self, outcome: Outcome) -> None:
        self.running.pop(outcome.cell.id, None)
        self.rest.pop(outcome.cell.id, None)
        self.clock.learn(outcome)
        if not self.rest or self._took < QUICK_S or time.monotonic() - self._estimated >= self._took / SHARE:
            self._estimate()
        self.done += outcome.status == "ok"
        self.failed += outcome.status != "ok"

    def _estimate(self) -> None:
        since = time.monotonic()
        self.expected = self.clock.expect(self.rest.values())
        self._estimated = time.monotonic()
        self._took = self._estimated - since

    def left(self) -> float | None:
        """Return the estimated seconds for the unfinished cells, at the present number of parallel cells."""
        if self.expected is None:
            return None
        spent = sum(time.monotonic() - since for since in self.running.values())
        return max(self.expected - spent, 0.0) / max(len(self.running), 1)


class LineProgress:
    """One plain line per finished cell, for logs and pipes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._count = _Count()

    @property
    def left(self) -> float | None:
        """Estimated seconds for the unfinished cells."""
        return self._count.left()

    def begin(self, cells: Sequence[Cell], kept: int, earlier: Sequence[Outcome]) -> None:
        """Report how much there is to do."""
        self._count.begin(cells, kept, earlier)
        self._say(f"{len(cells)} cells to run, {kept} already stored, time {duration(self._count.left())}")

    def start(self, cell: Cell) -> None:
        """Note the start of a cell, without a line."""
        self._count.start(cell)

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Ignore stages, which are for the live display."""

    def finish(self, outcome: Outcome) -> None:
        """Report the outcome of a cell and what is left."""
        count = self._count
        count.finish(outcome)
        what = outcome.status if outcome.status == "ok" else f"{outcome.status.upper()} ({outcome.reason})"
        self._say(
            f"[{count.done + count.failed}/{count.total}] {outcome.cell.label}: {what}, "
            f"{outcome.costs.seconds:.1f} s, left {duration(count.left())}"
        )


class Screen:
    """Live display with one line for the grid and one per running cell; failures are printed above it.

    Use it as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = _Count()
        self._grid = Progress(
            TextColumn("[bold]cells"),
            BarColumn(24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=console,
        )
        self._cell = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(16),
            TextColumn("{task.fields[stage]}"),
            console=console,
        )
        self._grid_task = self._grid.add_task("cells", total=1)
        self._lines: dict[str, TaskID] = {}
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=5, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _render(self) -> Group:
        count = self._count
        failed = f"[red]{count.failed} failed[/]" if count.failed else "0 failed"
        kept = f", {count.kept} from earlier runs" if count.kept else ""
        line = Text.from_markup(
            f"      {count.done} done, {len(count.running)} running, {failed}{kept}, "
            f"time left {duration(count.left())}"
        )
        return Group(self._grid, line, self._cell)

    def begin(self, cells: Sequence[Cell], kept: int, earlier: Sequence[Outcome]) -> None:
        """Show how much there is to do."""
        self._count.begin(cells, kept, earlier)
        self._grid.update(self._grid_task, total=len(cells))

    def start(self, cell: Cell) -> None:
        """Show a running cell."""
        self._count.start(cell)
        if cell.id in self._lines:
            self._cell.reset(self._lines[cell.id], stage="load")
        else:
            self._lines[cell.id] = self._cell.add_task(cell.label, total=1, stage="load")

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Show the progress of a running cell."""
        if cell.id in self._lines:
            self._cell.update(self._lines[cell.id], completed=fraction, stage=name)

    def finish(self, outcome: Outcome) -> None:
        """Count a finished cell and print the reason of a failure above the display."""
        self._count.finish(outcome)
        self._grid.advance(self._grid_task)
        if outcome.cell.id in self._lines:
            self._cell.remove_task(self._lines.pop(outcome.cell.id))
        if outcome.status != "ok":
            self._console.print(
                f"[red]{outcome.status.upper()}[/] {outcome.cell.label}: {outcome.reason}", highlight=False
            )
