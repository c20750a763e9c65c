"""Mode "here": cells are run in this process, one after the other, each as a Prefect task."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.running.base import baseline_id, not_run
from flows.running.cell_runner import CellRunner
from flows.running.planning import share_in_use
from flows.running.progress import Watch
from lks.results.cells import FINAL, Cell, Measurements, Outcome, Status


@task(name="cell", task_run_name="{cell.label}", cache_policy=NO_CACHE, persist_result=False)
def cell_task(cell: Cell, bench: CellRunner) -> State[Outcome]:
    """Run one cell. A failed cell is a failed task and is stored; it never ends the grid."""
    outcome = bench.run(cell)
    if outcome.status == "ok":
        return Completed(data=outcome)
    return Failed(name=outcome.status.capitalize(), message=outcome.reason, data=outcome)


class HereRunner:
    """Runs cells in the given order, few edits first, so that results come early."""

    def __init__(self, results: Path, watch: Watch) -> None:
        self._results, self._watch = results, watch

    def run(self, cells: Sequence[Cell], extras: Measurements) -> Generator[Outcome, None, None]:
        """Yield the outcomes of all cells."""
        bench = CellRunner(self._results, self._watch, extras, share_in_use())
        missed: dict[str, Status] = {}
        for cell in cells:
            if status := missed.get(baseline_id(cell)):
                yield not_run(self._results, cell, extras, status)
                continue
            self._watch.start(cell)
            outcome = _outcome(cell_task(cell, bench, return_state=True))
            if outcome.status not in FINAL:
                missed[cell.id] = outcome.status
            yield outcome


def _outcome(state: object) -> Outcome:
    """Return the outcome of a finished task, or raise its exception."""
    result = cast(State[Outcome | BaseException], state).result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result
