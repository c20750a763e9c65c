"""Mode "slots": cells are run by long-lived child processes, each with its own model.

There is one child per GPU, or as many as requested. When a child dies, its cell is run once more in a new
child. A cell that exceeds the time limit is ended together with its child.
"""

import os
import selectors
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

from flows.running.base import ATTEMPTS, Queue, lost_outcome, release_dependents
from flows.running.child_process import ChildProcess
from flows.running.devices import devices
from flows.running.progress import Watch
from flows.running.slot_child import EVENT, ORDER, Event, SlotTask, lock_of
from flows.running.time_estimate import DurationEstimator
from flows.settings import Settings
from lks.errors import UserError
from lks.results.cells import Cell, Measurements, Outcome

CPU_SLOTS = 2
"""Default number of child processes without a GPU: much of a small model's work keeps a single core busy,
however many threads there are."""
COMMAND = (sys.executable, "-m", "flows.running.slot_child")


class ChildSlot:
    """A slot, which holds one child process at a time.

    Attributes:
        cell: the running cell; None while the slot is free.
        model: the model that the child has loaded.
        stage: the stage that the cell is in.
        deadline: time on the monotonic clock by which the cell must be finished.
    """

    def __init__(self, number: int, results: Path, environment: dict[str, str]) -> None:
        self._command = [*COMMAND, "--results", str(results), "--slot", str(number)]
        self._environment, self._log = (
            {**os.environ, **environment},
            lock_of(results, number).with_suffix(".log"),
        )
        self._child: ChildProcess | None = None
        self.cell: Cell | None = None
        self.model, self.stage, self.deadline = "", "", float("inf")

    def start(self, order: SlotTask, selector: selectors.BaseSelector) -> None:
        """Run a cell in the existing child, or in a new one."""
        self.cell, self.model, self.stage, self.deadline = order.cell, order.cell.model, "load", float("inf")
        if self._child is None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._child = ChildProcess(self._command, self._environment, log)
            selector.register(self._child, selectors.EVENT_READ, self)
        self._child.send(ORDER.dump_json(order))

    def read(self) -> list[Event] | None:
        """Return the events that have arrived, or None at the end of the child's output."""
        assert self._child
        lines = self._child.read()
        return None if lines is None else [EVENT.validate_json(line) for line in lines]

    def died(self, selector: selectors.BaseSelector) -> str:
        """Clean up after a child whose output has ended, and describe how it ended."""
        assert self._child
        code = self._child.wait(10)  # takes longer only if it has closed its output and is still running
        self.end(selector)
        if code is None:
            return "no sign of life"
        return f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self, selector: selectors.BaseSelector) -> None:
        """End the child, if there is one, and everything it has started."""
        child, self._child, self.cell, self.model = self._child, None, None, ""
        if child:
            selector.unregister(child)
            child.end()


class SlotsRunner:
    """Runs cells in slots.

    Args:
        results: folder of all results.
        watch: receives the start and the progress of each cell.
        clock: source of time estimates.
    """

    def __init__(self, results: Path, watch: Watch, clock: DurationEstimator) -> None:
        self._results, self._watch, self._clock, self._settings = results.absolute(), watch, clock, Settings()
        self._deaths = Counter[str]()

    def run(self, cells: Sequence[Cell], extras: Measurements) -> Generator[Outcome, None, None]:
        """Yield the outcomes of all cells."""
        queue, slots = Queue(cells, self._clock), self._slots(len(cells))
        with selectors.DefaultSelector() as selector:
            try:
                while self._hand_out(queue, slots, extras, selector):
                    heard = self._hear(queue, slots, extras, selector)
                    outcomes = [
                        outcome
                        for found in heard
                        for outcome in release_dependents(queue, found, self._results, extras)
                    ]
                    if outcomes:
                        self._hand_out(
                            queue, slots, extras, selector
                        )  # before the outcomes are recorded, so that no slot waits for that
                    yield from outcomes
            finally:
                for slot in slots:
                    slot.end(selector)

    def _slots(self, most: int) -> list[ChildSlot]:
        on_cpu = min(CPU_SLOTS, os.cpu_count() or 1)
        return [
            ChildSlot(number, self._results, device.environment)
            for number, device in enumerate(devices(self._settings.slots, on_cpu, max(most, 1)))
        ]

    def _hand_out(
        self, queue: Queue, slots: Sequence[ChildSlot], extras: Measurements, selector: selectors.BaseSelector
    ) -> bool:
        """Give cells to the free slots and return whether a slot is busy."""
        for slot in slots:
            if slot.cell is None and (cell := queue.pop(slot.model)):
                self._watch.start(cell)
                slot.start(SlotTask(cell, extras), selector)
        return any(slot.cell for slot in slots)

    def _hear(
        self, queue: Queue, slots: Sequence[ChildSlot], extras: Measurements, selector: selectors.BaseSelector
    ) -> list[Outcome]:
        """Wait for events or for a cell's deadline, and return the outcomes of cells that have ended."""
        outcomes: list[Outcome] = []
        wait = min(slot.deadline for slot in slots) - time.monotonic()
        for key, _ in selector.select(None if wait == float("inf") else max(wait, 0.0)):
            slot: ChildSlot = key.data
            events = slot.read()
            outcomes += [outcome for event in events or () if (outcome := self._take(slot, event))]
            if events is None and (dead := self._bury(slot, queue, extras, selector)):
                outcomes.append(dead)
        for slot in slots:
            if slot.cell and time.monotonic() >= slot.deadline:
                reason = f"not finished within {self._settings.cell_timeout_s:g} s (in stage {slot.stage!r})"
                outcomes.append(
                    lost_outcome(self._results, slot.cell, extras, ("timeout", reason), slot.stage)
                )
                slot.end(selector)
                slot.deadline = float("inf")
        return outcomes

    def _take(self, slot: ChildSlot, event: Event) -> Outcome | None:
        """Handle an event and return the outcome that it carries, if any.

        Raises:
            UserError: the user must fix something.
        """
        if event.kind == "refused":
            raise UserError(event.message)
        if event.kind == "started" and self._settings.cell_timeout_s:
            slot.deadline = time.monotonic() + self._settings.cell_timeout_s
        if event.kind == "stage" and slot.cell:
            slot.stage = event.name
            self._watch.stage(slot.cell, event.name, event.fraction)
        if event.kind == "done":
            slot.cell, slot.deadline = None, float("inf")
        return event.outcome

    def _bury(
        self, slot: ChildSlot, queue: Queue, extras: Measurements, selector: selectors.BaseSelector
    ) -> Outcome | None:
        """Handle the death of a child: queue its cell again, or return it as lost."""
        cell, stage = slot.cell, slot.stage
        how = slot.died(selector)
        slot.deadline = float("inf")
        if cell is None:
            return None
        self._deaths[cell.id] += 1
        if self._deaths[cell.id] < ATTEMPTS:
            queue.requeue(cell)
            return None
        reason = f"its process ended {ATTEMPTS} times, last with {how} (in stage {stage!r})"
        return lost_outcome(self._results, cell, extras, ("lost", reason), stage)
