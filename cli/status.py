"""Command `lks status`: what is stored, what failed and where to look, what a grid lacks, what is running
now.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from flows.services.processes import SERVER, log_of, record, results_of, services, state_folder

if TYPE_CHECKING:
    from lks.results.cells import Outcome
    from lks.results.store import Store

EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class RunningFlow:
    """A flow run on the server.

    Attributes:
        name: name of the run; for a cell its label.
        state: "Running", "Pending", "Scheduled".
        for_s: seconds since it started to run.
        is_cell: whether it is a run of `lks-cell`.
    """

    name: str
    state: str
    for_s: float
    is_cell: bool


def status(
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            help="Name of a grid (see [bold]lks list grids[/]). Default: $LKS_GRID or first.",
            metavar="NAME",
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            help="Folder of all results. Default: $LKS_RESULTS, else the folder of lks up, else results.",
        ),
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="List each stored cell and where its time went.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Keep updating until Ctrl-C, or until the grid is complete."),
    ] = False,
) -> None:
    """Show what is stored, what failed and where to look, what a grid still lacks, and what is running now.

    [bold]Examples[/]

      lks status --grid mini

      lks status --cells

      lks status --watch
    """
    from flows.settings import Settings, calm_prefect

    calm_prefect(quiet=True)
    name, folder = grid or Settings().grid, folder_in_use(results)
    console = Console(soft_wrap=not watch, highlight=False)
    if not watch:
        console.print(_page(name, folder, cells)[0])
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            shown, missing = _page(name, folder, cells)
            live.update(shown, refresh=True)
            if not missing:
                return
            time.sleep(EVERY_S)


def folder_in_use(results: Path | None) -> Path:
    """Return the results folder to show: as given, else `LKS_RESULTS`, else that of a running `lks up`, else
    `results`.
    """
    from flows.running.planning import folder_of

    state = state_folder()
    if results is None and not os.environ.get("LKS_RESULTS") and services(state):
        return results_of(state) or folder_of(None)
    return folder_of(results)


def _page(grid: str, folder: Path, cells: bool = False) -> tuple[RenderableType, int]:
    """Return everything that is shown, and the number of missing cells."""
    from flows.running.planning import existing

    runs, lines = _runs()
    lines = [*_machine(), *lines]
    store = existing(folder)
    stored = (
        [Text(f"No results in {folder} yet. Run: lks grid")]
        if store is None
        else _stored(folder, store.outcomes(), cells)
    )
    left, missing = _left(grid, store, sum(run.is_cell and run.state == "Running" for run in runs))
    return Group(*lines, *stored, left, *_now(runs)), missing


def _machine() -> list[Text]:
    """Describe the services of `lks up` on this machine: running ones, and those that ended unexpectedly."""
    from flows.running.progress import duration

    state = state_folder()
    running, lines = services(state), []
    for file in sorted(state.glob("*.json")):
        service = running.get(file.stem)
        if service:
            since = time.strftime("%F %T", time.localtime(service.started))
            lines.append(
                Text(
                    f"{service.name}: up since {since} "
                    f"({duration(time.time() - service.started)}), {service.note}"
                )
            )
        elif record(state, file.stem):
            lines.append(
                Text(
                    f"{file.stem}: down; reason: end of {log_of(state, file.stem)}; "
                    "start it again with: lks up",
                    style="red",
                )
            )
    return lines


def _runs() -> tuple[list[RunningFlow], list[Text]]:
    """Return the unfinished runs on the server, and a message if it does not answer."""
    own = services(state_folder()).get(SERVER)
    if not own and not os.environ.get("PREFECT_API_URL"):
        return [], []
    import httpx
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    api = os.environ.get("PREFECT_API_URL") or (own.note if own else "")
    with temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}):
        try:
            return _unfinished(), []
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            return [], [
                Text(
                    f"The server at {api} does not answer ({type(error).__name__}); "
                    "what is running is unknown.",
                    style="red",
                )
            ]


def _unfinished() -> list[RunningFlow]:
    """Return the unfinished flow runs of this project, running ones first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    types = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.CANCELLING]
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    names = ["lks-grid", "lks-cell", "lks-data", "lks-report"]
    with get_client(sync_client=True) as client:
        flows = {
            flow.id: flow.name
            for flow in client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=names)))
        }
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=names)), flow_run_filter=unfinished, limit=200
        )
    runs = []
    for run in found:
        name = flows.get(run.flow_id, "")
        is_cell = name == "lks-cell"
        label = run.name if is_cell or run.name.startswith(name) else f"{name} ({run.name})"
        runs.append(
            RunningFlow(label, run.state_name or "?", run.estimated_run_time.total_seconds(), is_cell)
        )
    return sorted(runs, key=lambda run: (run.state != "Running", run.is_cell, run.name))


def _now(runs: list[RunningFlow]) -> list[Text]:
    """Describe what is running, and how much is waiting."""
    from flows.running.progress import duration

    running = [run for run in runs if run.state == "Running"]
    waiting = [run for run in runs if run.state != "Running"]
    lines = [Text(f"Running: {run.name}, for {duration(run.for_s)}") for run in running]
    if waiting:
        some = ", ".join(run.name for run in waiting[:3]) + (", ..." if len(waiting) > 3 else "")
        lines.append(Text(f"Waiting for a worker: {len(waiting)} ({some})"))
    return lines


def _stored(folder: Path, outcomes: "list[Outcome]", cells: bool = False) -> list[Text]:
    """Describe cells by status and failures with reasons; with `cells` also what each cell spent its time
    on.
    """
    from flows.running.planning import tally
    from flows.running.progress import duration

    counts = ", ".join(f"{number} {state}" for state, number in tally(outcomes).items()) or "nothing"
    lines = [
        Text(f"{folder}: {counts}; {duration(sum(outcome.costs.seconds for outcome in outcomes))} of work")
    ]
    for outcome in outcomes if cells else ():
        parts = ", ".join(
            f"{part} {spent:.1f} s" + _cached(outcome, part)
            for part, spent in outcome.costs.parts.items()
            if spent >= 0.05
        )
        lines.append(
            Text(
                f"  {outcome.cell.label}: {duration(outcome.costs.seconds)}"
                + (f" ({parts})" if parts else "")
            )
        )
    for outcome in outcomes:
        failed = {"": f"{outcome.status}: {outcome.reason}"} if outcome.status != "ok" else outcome.failed
        for stage, why in failed.items():
            what = f"{outcome.cell.label}, {stage}" if stage else outcome.cell.label
            lines.append(Text(f"  {what}: {why}", style="red"))
        if failed:
            lines.append(Text(f"    look at {failure_file(folder, outcome)}"))
    return lines


def _cached(outcome: "Outcome", part: str) -> str:
    """Return a remark on a preparation that came from the cache, whose seconds were spent earlier."""
    from lks.results.cells import CACHED, PREPARATION, PREPARE

    return " earlier" if part == PREPARE and outcome.provenance.get(PREPARATION) == CACHED else ""


def _left(grid: str, store: "Store | None", at_once: int) -> tuple[Text, int]:
    """Describe what the grid lacks, and return it with the number of missing cells."""
    from flows.running.planning import cells_of, compare, named_grid
    from flows.running.progress import duration
    from flows.running.time_estimate import DurationEstimator
    from flows.settings import Settings

    asked = named_grid(grid, Settings().grids)
    work = compare(asked, cells_of(asked), store)
    left = DurationEstimator(work.earlier).expect(work.todo)
    text = f"Grid {asked.name!r}: {len(work.cells) - len(work.todo)} of {len(work.cells)} cells done"
    if work.todo:
        text += f", {len(work.todo)} to run" + (
            "" if left is None else f", about {duration(left / max(at_once, 1))}"
        )
    return Text(text), len(work.todo)


def failure_file(folder: Path, outcome: "Outcome") -> Path:
    """Return the most informative file about a failure: a kept traceback, else the cell's stored outcome."""
    traces = sorted((folder / "runs" / outcome.cell.id).glob("failure*.txt"))
    return traces[-1] if traces else folder / "cells" / outcome.cell.id / "outcome.json"
