"""A slot of mode "slots": a process that runs cells, one after the other, for the grid that started it.

`python -m flows.slot --results DIR --slot N` reads one JSON line per cell from its input and writes one per event to its output. It holds
`DIR/.slots/N.lock`, which falls with it however it ends, and ends within seconds when its parent is gone.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Literal

from pydantic import TypeAdapter

from flows.settings import calm_transformers
from lks.errors import UserError
from lks.grid import Cell, Extras, Outcome

LOCK_WAIT_S = 30.0
"""So long an earlier holder of the slot may take to notice that its own parent is gone."""


@dataclass(frozen=True, slots=True)
class Order:
    """To a slot: run this."""

    cell: Cell
    extras: Extras


@dataclass(frozen=True, slots=True)
class Event:
    """From a slot.

    Attributes:
        kind: what has happened: it "started" a cell, is in a "stage" of it, is "done" with it, or has "refused" it: something the user must mend.
        name: of the stage.
        fraction: of the stage that is done.
        outcome: of the cell.
        message: what is to be mended.
    """

    kind: Literal["started", "stage", "done", "refused"]
    name: str = ""
    fraction: float = 0.0
    outcome: Outcome | None = None
    message: str = ""


ORDER, EVENT = TypeAdapter(Order), TypeAdapter(Event)


def lock_of(results: Path, slot: int) -> Path:
    """The file that a slot holds; it names the process."""
    return results / ".slots" / f"{slot}.lock"


@contextmanager
def held(results: Path, slot: int) -> Iterator[None]:
    """Hold a slot.

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
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(f"Slot {slot} of {results} is held by process {file.read().strip() or 'unknown'}. End that process.")
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class _Parent:
    """The grid that started this slot."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output, self._stage = output, ("", "", -1.0)
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._id = os.getppid()

    def watch(self) -> None:
        """End this process as soon as the parent is gone: by a signal where there is one for it, else when its pipe closes."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; holds even while native code keeps the threads below from running
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._poll, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._orders.put(ORDER.validate_json(line))
        _leave()

    def _poll(self) -> None:
        while os.getppid() == self._id:
            time.sleep(1)
        _leave()

    def order(self) -> Order:
        """The next cell, waited for."""
        return self._orders.get()

    def tell(self, event: Event) -> None:
        """Send an event."""
        self._output.write(EVENT.dump_json(event) + b"\n")
        self._output.flush()

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Send progress, in steps of a hundredth."""
        if (step := (cell.id, name, round(fraction, 2))) != self._stage:
            self._stage = step
            self.tell(Event("stage", name, fraction))


def _leave() -> None:
    """End this process and all that it has started, at once: what is finished is on disk."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _serve(results: Path, slot: int, parent: _Parent) -> None:
    """Run cells for ever."""
    from baselines import methods
    from flows.runner_bench import Bench

    methods()  # imported before the first cell, whose time that is not
    with held(results, slot):
        bench = Bench(results, parent, Extras())
        calm_transformers()
        while True:
            order = parent.order()
            parent.tell(Event("started"))
            parent.tell(Event("done", outcome=bench.run(order.cell, order.extras)))


def main(arguments: list[str] | None = None) -> None:
    """Serve until the parent is gone; what it has started is ended with it."""
    parser = argparse.ArgumentParser(prog="python -m flows.slot", description="Run cells for a grid; started by it.")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    asked = parser.parse_args(arguments)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the events
    parent = _Parent(output)
    parent.watch()
    try:
        _serve(asked.results, asked.slot, parent)
    except UserError as error:
        parent.tell(Event("refused", message=str(error)))


if __name__ == "__main__":
    main()
