"""How the cells of a grid are run. The grid flow hands over cells and gets outcomes, as they come; it alone records them.

Mode "here": in the flow's own process, one after the other (`flows.running.here`). Mode "slots": in long-lived child processes, one per GPU
(`flows.running.slots`). Mode "pool": each cell a flow run on a work pool (`flows.running.pool`).
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from flows.running.progress import Watch
from flows.running.time_estimate import DurationEstimator
from flows.settings import Mode
from lks.results.cells import FINAL, UNEDITED, Cell, Costs, Measurements, Outcome, Status
from lks.results.shards import stored_outcome

ATTEMPTS = 2
"""So often is a cell started whose process dies or vanishes; then it is "lost"."""

NEEDS_USER = "NeedsUserAction"
"""Name of the state of a cell's flow run that ended because the user must mend something."""


class Runner(Protocol):
    """A way to run cells."""

    def run(self, cells: Sequence[Cell], extras: Measurements) -> Generator[Outcome, None, None]:
        """Outcomes of all the cells, as they come. Close the iterator to end what is still running.

        Raises:
            UserError: something the user must mend; nothing was recorded of the cells in hand.
        """


def runner(mode: Mode, results: Path, watch: Watch, earlier: Iterable[Outcome]) -> Runner:
    """The runner of a mode.

    Args:
        mode: of `flows.settings`.
        results: folder of all results.
        watch: told what starts and how far it is; not what is finished, which is the grid flow's to tell.
        earlier: stored outcomes, for estimates of time.
    """
    if mode == "pool":
        from flows.running.pool import PoolRunner

        return PoolRunner(results, watch, DurationEstimator(earlier))
    if mode == "slots":
        from flows.running.slots import SlotsRunner

        return SlotsRunner(results, watch, DurationEstimator(earlier))
    from flows.running.here import HereRunner

    return HereRunner(results, watch)


class Queue:
    """The cells that are still to be started, where several run at once.

    No cell comes before the unedited model's cell on the same cases, whose stored answers it compares with and takes over. Within a
    model the longest come first, so that none is alone at the end; those of which nothing is known count as long.

    Args:
        cells: all that are to be run.
        clock: for estimates of time.
        taken: ids of those that are being run already.
    """

    def __init__(
        self, cells: Sequence[Cell], clock: DurationEstimator, taken: Set[str] = frozenset()
    ) -> None:
        self._ready: dict[str, list[tuple[tuple[bool, bool, float, int], int, Cell]]] = defaultdict(list)
        self._waiting: dict[str, list[tuple[int, Cell]]] = defaultdict(list)
        self._busy = Counter[str]()
        self._clock = clock
        ids = {cell.id for cell in cells}
        for place, cell in enumerate(cells):
            needed = baseline_id(cell)
            if cell.id in taken:
                self._busy[cell.model] += 1
            elif needed in ids:
                self._waiting[needed].append((place, cell))
            else:
                self._push(place, cell)

    def _push(self, place: int, cell: Cell) -> None:
        expected = self._clock.expect([cell])
        urgency = (
            cell.method != UNEDITED,
            expected is not None,
            -(expected or 0.0),
            -cell.n_edits * cell.draws,
        )
        heapq.heappush(self._ready[cell.model], (urgency, place, cell))

    def pop(self, loaded: str = "") -> Cell | None:
        """The next cell, None if there is none that may start now: of the model that is loaded, else of one that nobody has, else of any.

        Args:
            loaded: model that the taker has.
        """
        models = [model for model, ready in self._ready.items() if ready]
        if not models:
            return None
        model = min(models, key=lambda m: (m != loaded, self._busy[m]))
        self._busy[model] += 1
        return heapq.heappop(self._ready[model])[2]

    def requeue(self, cell: Cell) -> None:
        """A cell that was taken is to be started again, before all others of its model."""
        self._busy[cell.model] -= 1
        heapq.heappush(self._ready[cell.model], ((False, False, -float("inf"), 0), -1, cell))

    def finish(self, cell: Cell) -> None:
        """A cell that was taken is finished and stored: what waits for it may start."""
        self._busy[cell.model] -= 1
        for place, waiting in self._waiting.pop(cell.id, []):
            self._push(place, waiting)

    def abandon(self, cell: Cell) -> list[Cell]:
        """A cell that was taken has come to nothing: what waits for it, which is not to be run without it."""
        self._busy[cell.model] -= 1
        return [waiting for _, waiting in self._waiting.pop(cell.id, [])]


def release_dependents(queue: Queue, outcome: Outcome, results: Path, extras: Measurements) -> list[Outcome]:
    """Tell the queue of an outcome; with it those of the cells that cannot be run now.

    A cell of the unedited model that was lost or ended in an error is run by the next grid. Cells that are compared with it wait for that:
    run without it, they would lack the comparison for good.
    """
    if outcome.status in FINAL:
        queue.finish(outcome.cell)
        return [outcome]
    return [
        outcome,
        *(not_run(results, cell, extras, outcome.status) for cell in queue.abandon(outcome.cell)),
    ]


def not_run(results: Path, cell: Cell, extras: Measurements, status: Status) -> Outcome:
    """The outcome of a cell that was left out as the unedited model's has come to nothing.

    Args:
        results: folder of all results.
        cell: which.
        extras: what was wanted of it.
        status: what the unedited model's cell has come to.
    """
    reason = f"not run: the unedited model's cell, which it is compared with, {'was lost' if status == 'lost' else 'ended in an error'}"
    return lost_outcome(results, cell, extras, ("lost", reason))


def baseline_id(cell: Cell) -> str:
    """Id of the cell whose stored answers this one reads; "" if it reads none."""
    return cell.unedited.id if cell.measure == "answers" and cell.method != UNEDITED else ""


def input_ids(cell: Cell) -> list[str]:
    """Ids of the cells of which a run of this one reads what is stored: itself, and the one it is compared with."""
    return [cell.id, *filter(None, [baseline_id(cell)])]


def lost_outcome(
    results: Path, cell: Cell, extras: Measurements, failure: tuple[Status, str], stage: str = ""
) -> Outcome:
    """The outcome of a cell that did not live to tell.

    Of a stored cell, from which only further stages were wanted, everything is kept that it had: the failure is then these stages'.

    Args:
        results: folder of all results.
        cell: which.
        extras: what was wanted of it.
        failure: status and reason.
        stage: in which it was, if that is known.
    """
    stored = stored_outcome(results, cell.id)
    if stored is None or stored.status != "ok":
        return Outcome(
            cell,
            failure[0],
            failure[1],
            (),
            Costs(),
            {"finished": datetime.now(UTC).isoformat(timespec="seconds")},
        )
    lacking = [
        name
        for name in extras.stages(cell.measure)
        if name not in (stored.written if extras.retry_failed else stored.stages)
    ]
    failed = [stage] if stage in lacking else lacking
    final = failure[0] == "timeout" and failed == [stage]  # an "error" is tried again, like a lost cell
    return replace(
        stored,
        failed={**stored.failed, **dict.fromkeys(failed, f"{'timeout' if final else 'error'}: {failure[1]}")},
    )
