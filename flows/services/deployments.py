"""Work pools and deployments on a Prefect server; every machine with this package installed can run them."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Crashed

from flows.settings import Settings

FLOWS_POOL, CELLS_POOL = "lks", "gpu"
"""Separate work pools: a grid flow waits for its cells, so it must not occupy a cell's place."""

POOLS = {
    FLOWS_POOL: "Grid, data and report flows of lks-grid; they need no GPU.",
    CELLS_POOL: "Cells of lks-grid; one worker per GPU, one cell at a time.",
}
FLOWS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Deployment:
    """A flow that the server can start.

    Attributes:
        flow: the flow to run.
        entrypoint: its module path, so that neither a checkout nor a working folder is needed.
        pool: work pool that it runs on.
        parameters: default parameters in the server's form.
        at_once: maximum number of concurrent runs; None: as many as the workers take.
    """

    flow: Flow[..., Any]
    entrypoint: str
    pool: str
    parameters: dict[str, str]
    at_once: int | None = None

    @property
    def name(self) -> str:
        """The deployment's name, as in `prefect deployment run NAME/NAME`."""
        return self.flow.name


def deployments(results: Path) -> tuple[Deployment, ...]:
    """Return the deployments of the four flows.

    Args:
        results: absolute path of the results folder, the same on every machine that has workers.
    """
    from flows.cell import cell
    from flows.data import data
    from flows.grid import grid
    from flows.report import report

    folder = {"results": str(results)}
    asked = {"grid": Settings().grid, "runner": "pool", **folder}
    return (
        Deployment(grid, "flows.grid.grid", FLOWS_POOL, asked, at_once=1),
        Deployment(cell, "flows.cell.cell", CELLS_POOL, folder),
        Deployment(data, "flows.data.data", FLOWS_POOL, {}),
        Deployment(report, "flows.report.report", FLOWS_POOL, folder, at_once=1),
    )


def apply(results: Path) -> tuple[str, ...]:
    """Create missing work pools and create or update the deployments, on the server of Prefect's settings.

    Returns:
        Names of the deployments.
    """
    made = deployments(results)
    with get_client(sync_client=True) as client:
        for pool, description in POOLS.items():
            _make_pool(client, pool, description)
        for deployment in made:
            _deploy(client, deployment)
    return tuple(deployment.name for deployment in made)


def _make_pool(client: SyncPrefectClient, name: str, description: str) -> None:
    limit = (
        FLOWS_AT_ONCE if name == FLOWS_POOL else None
    )  # no limit for cells: as many as there are workers, each of which takes one at a time
    try:
        client.create_work_pool(
            WorkPoolCreate(name=name, type="process", description=description, concurrency_limit=limit)
        )
    except ObjectAlreadyExists:
        client.update_work_pool(name, WorkPoolUpdate(description=description, is_paused=False))


def _deploy(client: SyncPrefectClient, deployment: Deployment) -> None:
    schema = deployment.flow.parameters
    client.create_deployment(
        flow_id=client.create_flow(deployment.flow),
        name=deployment.name,
        work_pool_name=deployment.pool,
        entrypoint=deployment.entrypoint,
        description=deployment.flow.description,
        parameters={
            name: value for name, value in deployment.parameters.items() if name in schema.properties
        },
        parameter_openapi_schema=schema.model_dump_for_openapi(),
        enforce_parameter_schema=True,
        concurrency_limit=deployment.at_once,
        job_variables={"stream_output": True},
    )


def heard_of(pool: str) -> dict[str, float]:
    """Return the time of each worker's last heartbeat in a pool, in seconds since the epoch, by worker name.

    Workers that are long gone are included.
    """
    with get_client(sync_client=True) as client:
        found = client.read_workers_for_work_pool(pool)
    return {
        worker.name: worker.last_heartbeat_time.timestamp() for worker in found if worker.last_heartbeat_time
    }


def report_ended(runs: Collection[str]) -> None:
    """Report flow runs whose processes have been ended as crashed, unless the server knows that they are
    over.

    Otherwise a grid would keep its place.
    """
    with get_client(sync_client=True) as client:
        for run in runs:
            with contextlib.suppress(ObjectNotFound):
                state = client.read_flow_run(UUID(run)).state
                if state is None or not state.is_final():
                    client.set_flow_run_state(UUID(run), Crashed(message="Ended by lks down."), force=True)


def report_gone(worker: str, since: float, living: Collection[str]) -> list[str]:
    """Report runs of the flows worker as crashed whose process died unnoticed or never started.

    A killed worker reports nothing, and one whose server is away gives up. Such runs would occupy a place of
    the grid and of the pool indefinitely.

    Args:
        worker: full name of the worker that runs now.
        since: when it was started, in seconds since the epoch.
        living: ids of the flow runs that have a process.

    Returns:
        Names of the reported runs.
    """
    alone = set(heard_of(FLOWS_POOL)) <= {
        worker
    }  # a worker killed right after taking a run has not yet labelled that run as its own
    types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[FLOWS_POOL]))
    gone = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished, work_pool_filter=pool):
            owner = run.labels.get("prefect.worker.name", worker if alone else "")
            if owner != worker or str(run.id) in living:
                continue
            state = client.read_flow_run(run.id).state  # the run may have ended normally in the meantime
            if (
                state
                and not state.is_final()
                and (not state.is_pending() or state.timestamp.timestamp() < since)
            ):
                client.set_flow_run_state(
                    run.id, Crashed(message="Its process is gone; detected by lks up."), force=True
                )
                gone.append(run.name)
    return gone
