"""What a runner of cells is, and what the runners of all modes (`flows.running.modes`) share.

The grid flow hands over cells, gets outcomes as they come and records them.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from flows.running.time_estimate import DurationEstimator
from lks.results.cells import FINAL, UNEDITED, Cell, Costs, Measurements, Outcome, Status
from lks.results.shards import stored_outcome

ATTEMPTS = 2
"""How often a cell whose process dies or vanishes is started before it counts as "lost"."""

NEEDS_USER = "NeedsUserAction"
"""Name of the final state of a cell's flow run that ended because the user must fix something."""


class Runner(Protocol):
    """A way to run cells."""

    def run(self, cells: Sequence[Cell], extras: Measurements) -> Generator[Outcome, None, None]:
        """Yield the outcomes of all cells as they come. Closing the iterator ends what is still running.

        Raises:
            UserError: the user must fix something; nothing was recorded for the cells in progress.
        """


class Queue:
    """Cells still to be started, when several run at once.

    No cell is started before the unedited model's cell on the same cases, whose stored answers it reuses and
    is compared with. Within a model the longest cells come first, so that none is left running alone at the
    end; cells of unknown duration count as long.

    Args:
        cells: all cells to run.
        clock: source of time estimates.
        taken: ids of cells that are already running.
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
        """Return the next cell that may start now, or None.

        Cells of the loaded model are preferred, then cells of the model that the fewest others are running.

        Args:
            loaded: model that the caller has loaded.
        """
        models = [model for model, ready in self._ready.items() if ready]
        if not models:
            return None
        model = min(models, key=lambda m: (m != loaded, self._busy[m]))
        self._busy[model] += 1
        return heapq.heappop(self._ready[model])[2]

    def requeue(self, cell: Cell) -> None:
        """Put a cell that was taken back in the queue, ahead of all others of its model."""
        self._busy[cell.model] -= 1
        heapq.heappush(self._ready[cell.model], ((False, False, -float("inf"), 0), -1, cell))

    def finish(self, cell: Cell) -> None:
        """Mark a cell that was taken as finished and stored, so that cells waiting for it may start."""
        self._busy[cell.model] -= 1
        for place, waiting in self._waiting.pop(cell.id, []):
            self._push(place, waiting)

    def abandon(self, cell: Cell) -> list[Cell]:
        """Give up a cell that was taken and return the cells waiting for it, which must not run without
        it.
        """
        self._busy[cell.model] -= 1
        return [waiting for _, waiting in self._waiting.pop(cell.id, [])]


def release_dependents(queue: Queue, outcome: Outcome, results: Path, extras: Measurements) -> list[Outcome]:
    """Pass an outcome to the queue and return it, followed by outcomes of cells that cannot run because of
    it.

    If an unedited model's cell was lost or ended in an error, the next grid runs it again. The cells that are
    compared with it wait for that: run without it, they would lack the comparison permanently.
    """
    if outcome.status in FINAL:
        queue.finish(outcome.cell)
        return [outcome]
    return [
        outcome,
        *(not_run(results, cell, extras, outcome.status) for cell in queue.abandon(outcome.cell)),
    ]


def not_run(results: Path, cell: Cell, extras: Measurements, status: Status) -> Outcome:
    """Return the outcome of a cell that was skipped because the unedited model's cell failed.

    Args:
        results: folder of all results.
        cell: the skipped cell.
        extras: measurements requested for it.
        status: status of the unedited model's cell.
    """
    reason = (
        "not run: the unedited model's cell, which it is compared with, "
        f"{'was lost' if status == 'lost' else 'ended in an error'}"
    )
    return lost_outcome(results, cell, extras, ("lost", reason))


def baseline_id(cell: Cell) -> str:
    """Return the id of the cell whose stored answers this one reads, or "" if it reads none."""
    return cell.unedited.id if cell.measure == "answers" and cell.method != UNEDITED else ""


def input_ids(cell: Cell) -> list[str]:
    """Return the ids of the cells whose stored results a run of this one reads: itself and its baseline."""
    return [cell.id, *filter(None, [baseline_id(cell)])]


def lost_outcome(
    results: Path, cell: Cell, extras: Measurements, failure: tuple[Status, str], stage: str = ""
) -> Outcome:
    """Return the outcome of a cell whose run ended without reporting one.

    If the cell was already stored and only further stages were requested, everything it had is kept and the
    failure is recorded for those stages.

    Args:
        results: folder of all results.
        cell: the lost cell.
        extras: measurements requested for it.
        failure: status and reason.
        stage: stage that it was in, if known.
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
