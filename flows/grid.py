"""Flow `lks-grid`: runs the cells that the store lacks, in a mode of `flows.running.modes`, and records them.

It is the only writer of the store.
"""

import contextlib
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from flows.running.artifacts import GridArtifacts, Shown
from flows.running.modes import make_runner
from flows.running.planning import (
    await_writer,
    cells_of,
    compare,
    folder_of,
    named_grid,
    only_writer,
    share_in_use,
    tally,
)
from flows.running.progress import LineProgress, Watch
from flows.settings import Mode, Settings
from lks.results.cells import Cell, Outcome
from lks.runs.grid import Grid

__all__ = ["PLAN", "WATCH", "grid"]

WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)
"""Receiver of the events of the flow run; if unset, they go to the run's log."""

PLAN: ContextVar[tuple[Grid, list[Cell]] | None] = ContextVar("plan", default=None)
"""The grid and its cells if the caller has planned them already, so that data and weights are read once."""


Wait = Annotated[float, Field(ge=0)]


@flow(name="lks-grid", flow_run_name="lks-grid-{grid}", persist_result=False)
def grid(
    grid: str = "first",
    results: Path | None = None,
    only: str = "",
    retry_failed: bool = False,
    runner: Mode | None = None,
    wait_s: Wait | None = None,
) -> dict[str, int]:
    """Run the missing cells of a named grid.

    Args:
        grid: Name of a grid in `grids.toml` (`lks list grids`).
        results: Folder of all results. Default: `LKS_RESULTS`, else `results`.
        only: Run only cells that match this filter, such as "method=lks,model=micro-llama".
        retry_failed: Whether cells that failed for good (out of memory, diverged, timeout) are run again.
        runner: How cells are run: "here" in this process, "slots" in child processes, one per GPU, "pool" as
            runs of lks-cell on a work pool. Default: `LKS_RUNNER`, else "here".
        wait_s: Seconds to wait for another grid that is writing to the folder. Default: `LKS_WAIT_S`, else 0,
            which means that this grid is refused at once.

    Returns:
        Number of cells of this run by status, and the number of cells that were `stored` before.

    Raises:
        UserError: something must be fixed first; nothing, or only complete cells, have been recorded.
    """
    from lks.results.store import Store

    folder, settings = folder_of(results), Settings()
    watch = WATCH.get() or Shown(LineProgress(get_run_logger().info), GridArtifacts(grid, folder))
    asked, plan = PLAN.get() or _planned(grid, only, settings)
    await_writer(folder, settings.wait_s if wait_s is None else wait_s)
    with only_writer(folder):
        share_in_use().exchange(folder, {cell.id for cell in plan})
        store = Store(folder)
        work = compare(asked, plan, store, retry_failed)
        kept = len(work.cells) - len(work.todo)
        watch.begin(work.todo, kept, work.earlier)
        outcomes: list[Outcome] = []
        with contextlib.closing(
            make_runner(runner or settings.runner, folder, watch, work.earlier).run(work.todo, work.extras)
        ) as running:
            for outcome in running:
                store.record(outcome)
                outcomes.append(outcome)
                watch.finish(outcome)
    if isinstance(watch, Shown):
        watch.end(folder)
    return {"stored": kept, **tally(outcomes)}


def _planned(name: str, only: str, settings: Settings) -> tuple[Grid, list[Cell]]:
    """Return a named grid and those of its cells that the filter keeps."""
    asked = named_grid(name, settings.grids)
    return asked, cells_of(asked, only)
