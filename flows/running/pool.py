"""Mode "pool": each cell is a flow run of `lks-cell/lks-cell` on a work pool, run by workers that share
the results folder, or pass cells on by a share.

What a cell has come to is read from the results folder; the server only says that it is over. A run whose process is gone, or that gives no
sign of life (`runs/<id>/beat`), is started once more. A grid that is started again takes on the runs that are still in flight.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from uuid import UUID, uuid4

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType

from flows.running.base import ATTEMPTS, NEEDS_USER, Queue, lost_outcome, release_dependents
from flows.running.cell_runner import BEAT_EVERY_S, heartbeat_file
from flows.running.http_retry import client_settings
from flows.running.planning import share_in_use
from flows.running.pool_client import CellRun, Runs
from flows.running.progress import Watch
from flows.running.time_estimate import DurationEstimator
from flows.settings import Settings
from lks.errors import UserError
from lks.results.cells import Cell, Measurements, Outcome, Status
from lks.results.shards import stored_outcome

LOOK_EVERY_S = 1.0
"""Seconds between two looks at the server where nothing happens; after something has, the first comes ten times sooner."""
COUNT_EVERY_S = 30.0
"""Seconds between two counts of the workers."""
PER_WORKER = 4
"""Runs in flight for each worker: one that runs and some at hand, as a busy server may take seconds to make a new one."""
AT_ONCE = 16
"""Runs in flight where no worker is known."""
APPEAR_S = 30.0
"""Seconds that a finished cell's outcome may take to be seen here."""
OUTCOMES = {status.capitalize() for status in get_args(Status)}
"""Names of states that a cell's flow run ends in of its own accord."""


@dataclass(slots=True)
class Flight:
    """A cell run in flight.

    Attributes:
        cell: which.
        run: on the server.
        before: the outcome that the cell had before where workers leave theirs, if any.
        state: as last seen.
        since: when the state changed, on the monotonic clock.
        beat: time of the beat file as last seen; only its changes count, so clocks need not agree.
        alive: when there was a sign of life last, on the monotonic clock.
    """

    cell: Cell
    run: CellRun
    before: Outcome | None
    state: StateType = StateType.SCHEDULED
    since: float = field(default_factory=time.monotonic)
    beat: int = 0
    alive: float = field(default_factory=time.monotonic)

    def see(self, state: StateType, beat: int) -> None:
        """Take in what is seen now."""
        if state != self.state:
            self.state, self.since, self.alive = state, time.monotonic(), time.monotonic()
        if beat != self.beat:
            self.beat, self.alive = beat, time.monotonic()


class PoolRunner:
    """Runs cells on a work pool.

    Args:
        results: folder of all results.
        watch: told what starts.
        clock: for estimates of time.
        client: of the server; Prefect's settings say which if it is not given.
    """

    def __init__(
        self, results: Path, watch: Watch, clock: DurationEstimator, client: SyncPrefectClient | None = None
    ) -> None:
        self._results, self._watch, self._clock, self._client = results.absolute(), watch, clock, client
        self._settings, self._token = Settings(), uuid4().hex[:8]
        self._share = share_in_use(self._settings.share)
        self._beats: Mapping[str, int] = {}  # on the share
        self._asked = -BEAT_EVERY_S
        self._flights: dict[UUID, Flight] = {}
        self._workers, self._counted = 0, -COUNT_EVERY_S
        self._model = ""  # of the run that was started last: workers take runs in turn, and each keeps the model of its last one

    def run(self, cells: Sequence[Cell], extras: Measurements) -> Generator[Outcome, None, None]:
        """Outcomes of all the cells; closed early, it has the runs in flight ended."""
        with contextlib.ExitStack() as stack:
            client = self._client or stack.enter_context(get_client(client_settings(), sync_client=True))
            runs = Runs(
                client,
                self._settings.pool_results or self._results,
                self._settings.server_wait_s,
                self._settings.share,
            )
            attempts = self._adopt(runs, cells, extras)
            queue, pause = Queue(cells, self._clock, taken=set(attempts)), LOOK_EVERY_S
            try:
                while self._hand_out(queue, runs, extras, attempts):
                    seen = self._look(queue, runs, extras)
                    outcomes = [
                        outcome
                        for found in seen
                        for outcome in release_dependents(queue, found, self._results, extras)
                    ]
                    self._hand_out(queue, runs, extras, attempts)
                    yield from outcomes
                    pause = LOOK_EVERY_S / 10 if outcomes else min(1.5 * pause, LOOK_EVERY_S)
                    time.sleep(pause)
            finally:
                self._end(runs)

    def _adopt(self, runs: Runs, cells: Sequence[Cell], extras: Measurements) -> Counter[str]:
        """Take on the runs in flight of an earlier grid; attempts by cell."""
        known = runs.unfinished()
        attempts = Counter[str]()
        for cell in cells if known else ():
            if found := runs.in_flight(cell, extras, known):
                attempts[cell.id] = found.attempt
                self._fly(cell, found)
        return attempts

    def _fly(self, cell: Cell, run: CellRun) -> None:
        before = self._share.outcome(cell.id) if self._share else self._stored(cell)
        self._flights[run.id] = Flight(cell, run, before, beat=self._beat(cell))

    def _hand_out(self, queue: Queue, runs: Runs, extras: Measurements, attempts: Counter[str]) -> bool:
        """Start runs as long as there is room; whether one is in flight."""
        while len(self._flights) < self._limit(runs) and (cell := queue.pop(self._model)):
            self._model = cell.model
            attempts[cell.id] += 1
            self._fly(
                cell,
                runs.submit(cell, extras, f"{cell.id}-{attempts[cell.id]}-{self._token}", attempts[cell.id]),
            )
        return bool(self._flights)

    def _limit(self, runs: Runs) -> int:
        if self._settings.pool_limit:
            return self._settings.pool_limit
        if time.monotonic() - self._counted > COUNT_EVERY_S:
            self._workers, self._counted = runs.workers(), time.monotonic()
        return PER_WORKER * self._workers or AT_ONCE

    def _look(self, queue: Queue, runs: Runs, extras: Measurements) -> list[Outcome]:
        """Look at all runs in flight; outcomes of those that are over."""
        outcomes = []
        states = runs.look(self._flights)
        self._listen()
        for flight in list(self._flights.values()):
            state = states.get(flight.run.id)
            before = flight.state
            if state:
                flight.see(state.type, self._beat(flight.cell))
            if flight.state == StateType.RUNNING != before:
                self._watch.start(flight.cell)
            if ended := self._ended(flight, state, runs, extras):
                del self._flights[flight.run.id]
                if isinstance(ended, Outcome):
                    outcomes.append(ended)
                elif flight.run.attempt < ATTEMPTS:
                    queue.requeue(flight.cell)
                else:
                    reason = f"its run ended {ATTEMPTS} times without an outcome, at last: {ended}"
                    outcomes.append(lost_outcome(self._results, flight.cell, extras, ("lost", reason)))
        return outcomes

    def _ended(
        self, flight: Flight, state: State[object] | None, runs: Runs, extras: Measurements
    ) -> Outcome | str | None:
        """A run's outcome, or how it ended without one; None while it goes on.

        Raises:
            UserError: something must be mended.
        """
        if state is None:
            return "the server does not know it any more"
        if state.is_final():
            if state.name == NEEDS_USER:
                raise UserError(
                    state.message or "a worker reports that something must be mended, and not what"
                )
            told = state.is_completed() or state.name in OUTCOMES
            stored = self._stored(flight.cell)
            if stored is not None and (told or stored != flight.before):
                return stored
            if told:  # on a shared folder others' files may appear late
                if time.monotonic() - flight.since <= APPEAR_S:
                    return None
                where = self._share.url if self._share else self._results
                return f"{state.name}, but {where} shows no outcome of it; do all machines have this folder, or LKS_SHARE?"
            return f"{state.name}, {state.message}" if state.message else str(state.name)
        now, limit = time.monotonic(), self._settings.beat_s
        if 0 < self._settings.cell_timeout_s < now - flight.since and flight.state == StateType.RUNNING:
            runs.cancel(flight.run.id, running=True)
            reason = f"not finished within {self._settings.cell_timeout_s:g} s"
            return lost_outcome(self._results, flight.cell, extras, ("timeout", reason))
        silent = {StateType.RUNNING: limit, StateType.PENDING: 3 * limit}.get(flight.state)
        if silent is not None and now - flight.alive > silent:
            runs.cancel(flight.run.id, running=False)
            return f"no sign of life for {silent:g} s"
        return None

    def _end(self, runs: Runs) -> None:
        """Have all runs in flight ended, as far as the server can be told."""
        runs.patience_s = 0.0
        for flight in self._flights.values():
            with contextlib.suppress(Exception):
                runs.cancel(flight.run.id, running=flight.state == StateType.RUNNING)
        self._flights.clear()

    def _stored(self, cell: Cell) -> Outcome | None:
        """What has become of a cell up to now."""
        if self._share:
            self._share.take(self._results, cell.id)
        return stored_outcome(self._results, cell.id)

    def _listen(self) -> None:
        """Ask the share, if there is one, for signs of life; hardly more often than there are new ones."""
        if self._share and time.monotonic() - self._asked > min(BEAT_EVERY_S, self._settings.beat_s / 4):
            self._beats, self._asked = (
                self._share.beats([flight.cell.id for flight in self._flights.values()]),
                time.monotonic(),
            )

    def _beat(self, cell: Cell) -> int:
        if self._share:
            return self._beats.get(cell.id, 0)
        with contextlib.suppress(OSError):
            return heartbeat_file(self._results, cell.id).stat().st_mtime_ns
        return 0
