"""Flow `lks-grid`: the cells that the store lacks are run, one task each, and recorded. It is the only writer of the store."""

from contextvars import ContextVar
from pathlib import Path
from typing import cast

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.planning import cells_of, compare, folder_of, named_grid, only_writer, tally
from flows.progress import Lines, Watch
from flows.settings import Settings
from lks.grid import Cell, Extras, Outcome

WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)
"""Who is told what happens in the flow run; the run's log where nobody asks."""


class Bench:
    """Runs cells in this process; the model stays loaded between them."""

    def __init__(self, results: Path, watch: Watch, extras: Extras) -> None:
        from lks.cell import Bench as Shared

        self._results, self._watch, self._extras, self._shared = results, watch, extras, Shared()

    def run(self, cell: Cell) -> Outcome:
        """One cell, to its outcome."""
        import lks.cell
        from baselines import methods
        from lks.study import STUDIES

        method = STUDIES[cell.method] if cell.measure == "study" else methods()[cell.method]
        return lks.cell.run(cell, method, self._results, self._watch.stage, self._shared, self._extras)


@task(name="cell", task_run_name="{cell.label}", cache_policy=NO_CACHE, persist_result=False)
def cell_task(cell: Cell, bench: Bench) -> State[Outcome]:
    """One cell. A failed one is a failed task and a row of the store, never the end of the grid."""
    outcome = bench.run(cell)
    if outcome.status == "ok":
        return Completed(data=outcome)
    return Failed(name=outcome.status.capitalize(), message=outcome.reason, data=outcome)


def _outcome(state: object) -> Outcome:
    """What a finished task brought; its exception is raised here."""
    result = cast(State[Outcome | BaseException], state).result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result


@flow(name="lks-grid", flow_run_name="lks-grid-{grid}", persist_result=False)
def grid(grid: str = "micro", results: Path | None = None, only: str = "", retry_failed: bool = False) -> dict[str, int]:
    """Run what is missing of a named grid.

    Args:
        grid: a name of `grids.toml`.
        results: folder of all results; `LKS_RESULTS`, else `results`, if not given.
        only: a filter like "method=lks,model=micro-llama".
        retry_failed: whether cells that failed are run again.

    Returns:
        Number of cells by status of this run, and those that were `stored` before.

    Raises:
        UserError: something must be mended first; nothing, or only whole cells, have been recorded.
    """
    from lks.store import Store

    folder = folder_of(results)
    watch = WATCH.get() or Lines(get_run_logger().info)
    plan = cells_of(asked := named_grid(grid, Settings().grids), only)
    with only_writer(folder):
        store = Store(folder)
        work = compare(asked, plan, store, retry_failed)
        kept = len(work.cells) - len(work.todo)
        watch.begin(work.todo, kept, work.earlier)
        bench = Bench(folder, watch, asked.extras)
        outcomes = []
        for cell in work.todo:
            watch.start(cell)
            outcome = _outcome(cell_task(cell, bench, return_state=True))
            store.record(outcome)
            outcomes.append(outcome)
            watch.finish(outcome)
    return {"stored": kept, **tally(outcomes)}
