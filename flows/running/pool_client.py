"""Client for cell runs on a Prefect server: starts, polls and cancels them, waiting for a server that is
away.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling

from lks.errors import UserError
from lks.io.retry import Retries
from lks.results.cells import Cell, Measurements

DEPLOYMENT = "lks-cell/lks-cell"
PAGE = 200
"""Maximum number of flow runs that a server returns per request."""
AWAY = (502, 503, 504)
"""HTTP status codes with which a proxy answers for a server that is away."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CellRun:
    """The flow run of a cell on the server."""

    id: UUID
    cell_id: str
    attempt: int


class Runs:
    """The cell runs of one results folder.

    Args:
        client: client of the server.
        results: folder of all results, as workers see it.
        patience_s: seconds to wait for a server that does not answer.
        share: URL of the share that workers use; "" for none.

    Attributes:
        patience_s: seconds to wait for a server that does not answer.

    Raises:
        UserError: there is no deployment for cells, or no server.
    """

    def __init__(self, client: SyncPrefectClient, results: Path, patience_s: float, share: str = "") -> None:
        self._client, self._results, self.patience_s, self._share = client, results, patience_s, share
        self._tag = f"lks-results-{sha256(str(results).encode()).hexdigest()[:12]}"
        try:
            self._deployment = self._patiently(lambda: client.read_deployment_by_name(DEPLOYMENT))
        except ObjectNotFound:
            raise UserError(
                f"The Prefect server at {client.api_url} has no deployment {DEPLOYMENT}. "
                "Create it with: lks up"
            ) from None

    def submit(self, cell: Cell, extras: Measurements, key: str, attempt: int) -> CellRun:
        """Start a cell's run; calls with the same key start one run."""
        tags = [self._tag, f"cell-{cell.id}", f"attempt-{attempt}"]
        wanted = parameters_of(cell, extras, self._results, self._share)
        create = self._client.create_flow_run_from_deployment
        made = self._patiently(
            lambda: create(
                self._deployment.id, parameters=wanted, name=cell.label, tags=tags, idempotency_key=key
            )
        )
        return CellRun(made.id, cell.id, attempt)

    def in_flight(self, cell: Cell, extras: Measurements, known: Collection[FlowRun]) -> CellRun | None:
        """Return the run that an earlier grid started for a cell, if it does what is wanted now."""
        wanted = parameters_of(cell, extras, self._results, self._share)
        for run in known:
            if (
                f"cell-{cell.id}" in run.tags
                and {name: run.parameters.get(name) for name in wanted} == wanted
            ):
                attempts = [
                    int(tag.removeprefix("attempt-")) for tag in run.tags if tag.startswith("attempt-")
                ]
                return CellRun(run.id, cell.id, max(attempts, default=1))
        return None

    def unfinished(self) -> list[FlowRun]:
        """Return all runs of this results folder that are scheduled, pending or running."""
        types = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=types))
        return self._read(FlowRunFilter(tags=FlowRunFilterTags(all_=[self._tag]), state=state))

    def look(self, runs: Collection[UUID]) -> dict[UUID, State[object]]:
        """Return the states of runs; a run that the server does not know is missing."""
        found = self._read(FlowRunFilter(id=FlowRunFilterId(any_=list(runs)))) if runs else []
        return {run.id: run.state for run in found if run.state}

    def _read(self, which: FlowRunFilter) -> list[FlowRun]:
        found: list[FlowRun] = []
        deployment = DeploymentFilter(id=DeploymentFilterId(any_=[self._deployment.id]))
        while True:
            start = len(found)
            found += self._patiently(
                partial(
                    self._client.read_flow_runs,
                    flow_run_filter=which,
                    deployment_filter=deployment,
                    limit=PAGE,
                    offset=start,
                )
            )
            if len(found) < start + PAGE:
                return found

    def cancel(self, run: UUID, running: bool) -> None:
        """Have a run cancelled; the worker ends the process of a running one."""
        state: State[object] = Cancelling() if running else Cancelled()
        self._patiently(lambda: self._client.set_flow_run_state(run, state, force=not running))

    def workers(self) -> int:
        """Return the number of online workers of the pool."""
        pool = self._deployment.work_pool_name
        if not pool:
            return 0
        return sum(
            worker.status == WorkerStatus.ONLINE
            for worker in self._patiently(lambda: self._client.read_workers_for_work_pool(pool))
        )

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call the server, retrying with growing pauses while it is away.

        Raises:
            UserError: the server is away for too long.
        """
        retries = Retries(self.patience_s, first_s=0.5, longest_s=10.0)
        while True:
            try:
                return call()
            except (httpx.TransportError, PrefectHTTPStatusError) as error:
                if isinstance(error, PrefectHTTPStatusError) and error.response.status_code not in AWAY:
                    raise
                if not retries.pause():
                    away = f"has not answered for {self.patience_s:g} s ({type(error).__name__})"
                    raise UserError(
                        f"The Prefect server at {self._client.api_url} {away}. Running cells continue; start "
                        "the server, then start the grid again."
                    ) from None


def parameters_of(cell: Cell, extras: Measurements, results: Path, share: str = "") -> dict[str, object]:
    """Return the parameters of flow `lks-cell` for a cell, as JSON has them."""
    values = {"cell": asdict(cell), "extras": asdict(extras), "results": str(results), "share": share}
    return cast(dict[str, object], json.loads(json.dumps(values)))
