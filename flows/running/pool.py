"""Mode "pool": each cell is a flow run of `lks-cell/lks-cell` on a work pool.

Workers share the results folder or exchange cells through a share. A cell's outcome is read from the results
folder; the server only reports that a run is over. A run whose process is gone or whose heartbeat
(`runs/<id>/beat`) stops is started once more. A restarted grid adopts the runs that are still in flight.
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
from flows.running.cell_runner import BEAT_EVERY_S, beat_time, heartbeat_file
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
"""Seconds between two polls of the server while nothing happens; after an event the first poll is ten times
sooner.
"""
COUNT_EVERY_S = 30.0
"""Seconds between two counts of the workers."""
PER_WORKER = 4
"""Runs in flight per worker: one running and some ready, as a busy server may take seconds to create a new
one.
"""
AT_ONCE = 16
"""Runs in flight if no worker is known."""
APPEAR_S = 30.0
"""Seconds until the outcome of a finished cell must be visible here."""
OUTCOMES = {status.capitalize() for status in get_args(Status)}
"""Names of the final states that a cell's flow run sets itself."""


@dataclass(slots=True)
class Flight:
    """A cell run in flight.

    Attributes:
        cell: the cell.
        run: its flow run on the server.
        before: outcome that the cell already had in the place where workers leave outcomes, if any.
        state: state when last polled.
        since: time when the state changed, on the monotonic clock.
        beat: modification time of the heartbeat file when last polled; only changes count, so clocks need not
            agree.
        alive: time of the last sign of life, on the monotonic clock.
    """

    cell: Cell
    run: CellRun
    before: Outcome | None
    state: StateType = StateType.SCHEDULED
    since: float = field(default_factory=time.monotonic)
    beat: int = 0
    alive: float = field(default_factory=time.monotonic)

    def see(self, state: StateType, beat: int) -> None:
        """Update from the current state and heartbeat."""
        if state != self.state:
            self.state, self.since, self.alive = state, time.monotonic(), time.monotonic()
        if beat != self.beat:
            self.beat, self.alive = beat, time.monotonic()


class PoolRunner:
    """Runs cells on a work pool.

    Args:
        results: folder of all results.
        watch: receives the start of each cell.
        clock: source of time estimates.
        client: client of the server; None for the server in Prefect's settings.
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
        self._model = (
            ""  # of the run started last: workers take runs in turn, each keeps the model of its last run
        )

    def run(self, cells: Sequence[Cell], extras: Measurements) -> Generator[Outcome, None, None]:
        """Yield the outcomes of all cells; closing the iterator early ends the runs in flight."""
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
        """Adopt the runs in flight of an earlier grid and return the number of attempts by cell."""
        known = runs.unfinished()
        attempts = Counter[str]()
        for cell in cells if known else ():
            if found := runs.in_flight(cell, extras, known):
                attempts[cell.id] = found.attempt
                self._fly(cell, found)
        return attempts

    def _fly(self, cell: Cell, run: CellRun) -> None:
        before = self._share.outcome(cell.id) or stored_outcome(self._results, cell.id)
        self._flights[run.id] = Flight(cell, run, before, beat=self._beat(cell))

    def _hand_out(self, queue: Queue, runs: Runs, extras: Measurements, attempts: Counter[str]) -> bool:
        """Start runs as long as there is room and return whether one is in flight."""
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
        """Poll all runs in flight and return the outcomes of those that are over."""
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
        """Return a run's outcome, or how it ended without one; None while it is running.

        Raises:
            UserError: something must be fixed.
        """
        if state is None:
            return "the server does not know it any more"
        if state.is_final():
            if state.name == NEEDS_USER:
                raise UserError(
                    state.message or "a worker reports that something must be fixed, without saying what"
                )
            told = state.is_completed() or state.name in OUTCOMES
            stored = self._stored(flight.cell)
            if stored is not None and (told or stored != flight.before):
                return stored
            if told:  # on a shared folder others' files may appear late
                if time.monotonic() - flight.since <= APPEAR_S:
                    return None
                where = self._share.url or self._results
                return (
                    f"{state.name}, but {where} shows no outcome of it; "
                    "do all machines have this folder, or LKS_SHARE?"
                )
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
        """Cancel all runs in flight, as far as the server can be reached."""
        runs.patience_s = 0.0
        for flight in self._flights.values():
            with contextlib.suppress(Exception):
                runs.cancel(flight.run.id, running=flight.state == StateType.RUNNING)
        self._flights.clear()

    def _stored(self, cell: Cell) -> Outcome | None:
        """Return the current outcome of a cell, fetched from the share where it has it."""
        self._share.take(self._results, cell.id)
        return stored_outcome(self._results, cell.id)

    def _listen(self) -> None:
        """Read the heartbeats from the share, hardly more often than they change."""
        if time.monotonic() - self._asked > min(BEAT_EVERY_S, self._settings.beat_s / 4):
            self._beats, self._asked = (
                self._share.beats([flight.cell.id for flight in self._flights.values()]),
                time.monotonic(),
            )

    def _beat(self, cell: Cell) -> int:
        """Return a number that changes with the heartbeat in the folder, and with that on the share."""
        return self._beats.get(cell.id, 0) + beat_time(heartbeat_file(self._results, cell.id))
