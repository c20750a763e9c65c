"""Work pools and deployments on a Prefect server; every machine with this package installed can run them."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
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
from prefect.flows import load_flow_from_entrypoint
from prefect.states import Crashed

from flows.settings import Settings
from lks.errors import UserError

FLOWS_POOL, CELLS_POOL = "lks", "gpu"
"""Separate work pools: a grid flow waits for its cells, so it must not occupy a cell's place."""

POOLS = {
    FLOWS_POOL: "Grid, data and report flows of lks-grid; they need no GPU.",
    CELLS_POOL: "Cells of lks-grid; one worker per GPU, one cell at a time.",
}
FLOWS_AT_ONCE = 4

DEFINITIONS = Path(__file__).parents[2] / "prefect.yaml"


def definitions() -> list[dict[str, Any]]:
    """Return the deployments of `prefect.yaml` as it has them.

    Raises:
        UserError: there is no such file.
    """
    import yaml

    try:
        return list(yaml.safe_load(DEFINITIONS.read_text(encoding="utf-8"))["deployments"])
    except OSError:
        raise UserError(
            f"{DEFINITIONS}, which defines the deployments, is missing. "
            "Install lks-grid from a checkout: pip install -e FOLDER"
        ) from None


def apply(deployments: Sequence[Mapping[str, Any]], results: Path) -> tuple[str, ...]:
    """Create missing work pools and create or update the deployments, on the server of Prefect's settings.

    Args:
        deployments: their definitions.
        results: absolute path of the results folder, the same on every machine that has workers.

    Returns:
        Names of the deployments, as in `prefect deployment run NAME/NAME`.
    """
    with get_client(sync_client=True) as client:
        for pool, description in POOLS.items():
            _make_pool(client, pool, description)
        for definition in deployments:
            _deploy(client, definition, results)
    return tuple(definition["name"] for definition in deployments)


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


def _deploy(client: SyncPrefectClient, definition: Mapping[str, Any], results: Path) -> None:
    """Create or update a deployment.

    Its entry point is a module, so that a flow run needs no working folder. Its environment is that of the
    worker.
    """
    entrypoint = definition["entrypoint"].replace("/", ".").replace(".py:", ".")
    flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    pool = definition["work_pool"]
    given = {**definition.get("parameters", {}), "grid": Settings().grid, "results": str(results)}
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=definition["name"],
        work_pool_name=pool["name"],
        entrypoint=entrypoint,
        description=flow.description,
        parameters={name: value for name, value in given.items() if name in flow.parameters.properties},
        parameter_openapi_schema=flow.parameters.model_dump_for_openapi(),
        enforce_parameter_schema=True,
        concurrency_limit=definition.get("concurrency_limit"),
        job_variables={name: value for name, value in pool["job_variables"].items() if name != "env"},
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
