"""A child process of mode "slots", which runs cells one after the other for the grid that started it.

`python -m flows.running.slot_child --results DIR --slot N` reads one JSON line per cell from its input and
writes one per event to its output. It holds `DIR/.slots/N.lock`, which is released when it ends for whatever
reason, and it ends within seconds of its parent.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from flows.running.child_process import Parent
from flows.settings import calm_transformers
from lks.errors import UserError
from lks.io.locks import holder, locked, sign
from lks.results.cells import Cell, Measurements, Outcome

LOCK_WAIT_S = 30.0
"""Seconds that an earlier holder of the slot may take to notice that its own parent is gone."""


@dataclass(frozen=True, slots=True)
class SlotTask:
    """Order to a slot to run a cell."""

    cell: Cell
    extras: Measurements


@dataclass(frozen=True, slots=True)
class Event:
    """Message from a slot.

    Attributes:
        kind: what has happened: the slot has "started" a cell, is in a "stage" of it, is "done" with it, or
            has "refused" it because the user must fix something.
        name: name of the stage.
        fraction: fraction of the stage that is done.
        outcome: outcome of the cell.
        message: what the user must fix.
    """

    kind: Literal["started", "stage", "done", "refused"]
    name: str = ""
    fraction: float = 0.0
    outcome: Outcome | None = None
    message: str = ""


ORDER, EVENT = TypeAdapter(SlotTask), TypeAdapter(Event)


def lock_of(results: Path, slot: int) -> Path:
    """Return the path of a slot's lock file, which names the process that holds it."""
    return results / ".slots" / f"{slot}.lock"


@contextmanager
def held(results: Path, slot: int) -> Iterator[None]:
    """Hold the lock of a slot.

    Raises:
        UserError: another process holds it and does not end, or the folder cannot be written.
    """
    path = lock_of(results, slot)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"Slot {slot} cannot be taken: {path}: {error.strerror}.") from None
    with file:
        if locked(file, LOCK_WAIT_S) is False:
            raise UserError(f"Slot {slot} of {results} is held by process {holder(file)}. End that process.")
        sign(file)
        yield


class _Grid(Parent[SlotTask, Event]):
    """Connection to the grid that started this slot."""

    def __init__(self) -> None:
        super().__init__(ORDER, EVENT)
        self._stage = ("", "", -1.0)

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Send progress, in steps of one percent."""
        if (step := (cell.id, name, round(fraction, 2))) != self._stage:
            self._stage = step
            self.tell(Event("stage", name, fraction))


def _serve(results: Path, slot: int, grid: _Grid) -> None:
    """Run cells until the process is ended."""
    from baselines import methods
    from flows.running.cell_runner import CellRunner
    from flows.running.planning import share_in_use

    methods()  # imported before the first cell, so that its time does not include this
    with held(results, slot):
        bench = CellRunner(results, grid, Measurements(), share_in_use())
        calm_transformers()
        while True:
            order = grid.order()
            grid.tell(Event("started"))
            grid.tell(Event("done", outcome=bench.run(order.cell, order.extras)))


def main(arguments: list[str] | None = None) -> None:
    """Serve until the parent is gone; everything this process has started ends with it."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.running.slot_child",
        description="Run cells for the grid that started this process.",
    )
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    asked = parser.parse_args(arguments)
    grid = _Grid()
    try:
        _serve(asked.results, asked.slot, grid)
    except UserError as error:
        grid.tell(Event("refused", message=str(error)))


if __name__ == "__main__":
    main()
