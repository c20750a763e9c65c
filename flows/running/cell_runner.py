"""Runs one cell in this process. All modes use it: the same code, a lock against a second run, and a
heartbeat.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from flows.running.base import input_ids
from flows.running.process_cache import PROCESS_CACHE
from lks.errors import UserError
from lks.io.locks import locked
from lks.progress import StageProgress
from lks.results.cells import Cell, Measurements, Outcome
from lks.results.remote import NO_EXCHANGE, CellExchange

BEAT_EVERY_S = 10.0
"""Seconds between two heartbeats (`runs/<id>/beat` is touched) while a cell is run."""


class Listener(Protocol):
    """Receiver of the progress of a cell."""

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Receive the stage that a cell is in and the fraction of it that is done."""


class CellRunner:
    """Runs cells in this process; the model stays loaded between them.

    Args:
        results: folder of all results.
        listener: receives the progress of the running cell.
        extras: what is measured in addition to the answers.
        share: where cells are taken from and sent to.
    """

    def __init__(
        self, results: Path, listener: Listener, extras: Measurements, share: CellExchange = NO_EXCHANGE
    ) -> None:
        from lks.runs.cell import LoadedResources as Shared

        kept = PROCESS_CACHE.get()
        self._results, self._listener, self._extras, self._shared = (
            results,
            listener,
            extras,
            kept.resources if kept else Shared(),
        )
        self._share = share

    def run(self, cell: Cell, extras: Measurements | None = None) -> Outcome:
        """Run one cell and return its outcome.

        Raises:
            UserError: the user must fix something.
        """
        import lks.runs.cell
        from baselines import methods
        from lks.studies.registry import STUDIES

        method = STUDIES[cell.method] if cell.measure == "study" else methods()[cell.method]
        with cell_lock(self._results, cell.id, self._share):
            self._share.exchange(self._results, input_ids(cell))
            outcome = lks.runs.cell.run(
                cell, method, self._results, self._report(cell), self._shared, extras or self._extras
            )
            self._share.send(self._results, cell.id)
        return outcome

    def _report(self, cell: Cell) -> StageProgress:
        """Return a progress callback; at each new stage it sends the finished ones to the share, if that
        answers.
        """
        begun = set[str]()

        def report(stage: str, done: float) -> None:
            if stage not in begun:
                begun.add(stage)
                with suppress(UserError):
                    self._share.send(self._results, cell.id, patience_s=0.0)
            self._listener.stage(cell, stage, done)

        return report


def heartbeat_file(results: Path, cell_id: str) -> Path:
    """Return the path of the heartbeat file, which is touched while a cell is run and removed afterwards."""
    return results / "runs" / cell_id / "beat"


@contextmanager
def heartbeat(results: Path, cell_id: str, share: CellExchange = NO_EXCHANGE) -> Iterator[None]:
    """Touch the cell's heartbeat file from a thread inside the `with` block, and that on the share."""
    beat, over = heartbeat_file(results, cell_id), threading.Event()

    def go_on() -> None:
        while not over.is_set():
            try:
                beat.parent.mkdir(parents=True, exist_ok=True)
                beat.touch()
            except OSError:
                pass  # a full or missing disk is reported by the cell itself
            share.beat(cell_id)
            over.wait(BEAT_EVERY_S)

    thread = threading.Thread(target=go_on, name=f"beat of {cell_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        beat.unlink(missing_ok=True)
        share.clear_heartbeat(cell_id)


@contextmanager
def cell_lock(results: Path, cell_id: str, share: CellExchange = NO_EXCHANGE) -> Iterator[None]:
    """Hold `runs/<id>/lock` with a heartbeat, waiting for another holder as long as its heartbeat goes on.

    Two runs of one cell do no harm, since each file is written atomically; the work is only done twice. So a
    file system without locks is no obstacle.
    """
    path = results / "runs" / cell_id / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError:
        yield  # the cell itself reports what is wrong with the folder
        return
    with lock:
        _wait_for(lock, heartbeat_file(results, cell_id))
        with heartbeat(results, cell_id, share):
            yield


def _wait_for(lock: IO[str], beat: Path) -> None:
    """Take the lock, or give up if its holder's heartbeat is older than three intervals. Clocks are not
    compared.
    """
    seen, since = beat_time(beat), time.monotonic()
    while locked(lock) is False:
        if (now := beat_time(beat)) != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > 3 * BEAT_EVERY_S:
            return
        time.sleep(0.2)


def beat_time(beat: Path) -> int:
    """Return when a heartbeat file was touched, in nanoseconds; 0 if there is none."""
    try:
        return beat.stat().st_mtime_ns
    except OSError:
        return 0
