"""Commands `lks up` and `lks down`: Prefect server, work pools, deployments and workers in the background."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from flows.services.processes import (
    SERVER,
    BackgroundService,
    alone,
    end,
    flow_runs,
    forget,
    keep_results,
    marked,
    process_of,
    services,
    state_folder,
)
from lks.errors import UserError

END_S = 20.0


Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Number of workers for cells on this machine. Default: one per GPU, else one.",
        metavar="N",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=1,
        max=65535,
        help="Port of the server, which listens on this machine only. Default: 4200.",
    ),
]
Results = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of all results. Default: $LKS_RESULTS or results.", metavar="DIR"),
]


def up(
    workers: Workers = None,
    port: Port = None,
    results: Results = None,
) -> None:
    """Start a Prefect server, work pools, deployments and workers in the background; only what is missing.

    If PREFECT_API_URL (or a Prefect profile) names a server, only its workers are started here, and no
    server.

    [bold]Examples[/]

      lks up

      lks up --results /shared/results --workers 2
    """
    from cli.status import folder_in_use
    from flows.running.devices import devices
    from flows.services.server import ensure_server
    from flows.services.workers import ensure_workers
    from flows.settings import calm_prefect

    calm_prefect(quiet=False)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.services.deployments import apply, definitions

    deployments = definitions()  # before anything is started: the file may be missing
    console = Console(soft_wrap=True, highlight=False)
    state, folder = state_folder(), folder_in_use(results).absolute()
    with alone(state):
        with console.status("starting the server"):
            api = ensure_server(state, port, PREFECT_API_URL.value())
        with temporary_settings({PREFECT_API_URL: api}):
            with console.status("applying the deployments"):
                names = apply(deployments, folder)
                keep_results(state, folder)
            with console.status("starting workers"):
                ensure_workers(state, api, devices(workers))
            gone = _report_gone(state)
    for run in gone:
        console.print(f"{run}: its process was gone; this was reported to the server")
    _show(console, state, api, names, folder)


def down() -> None:
    """Stop the workers, the cells they run, and the server that `lks up` has started on this machine.

    Finished cells are kept.
    """
    console = Console(soft_wrap=True, highlight=False)
    state = state_folder()
    running = services(state)
    names = {service.pid: name for name, service in running.items()}
    server = _family(running.get(SERVER))
    others = [process for process in marked(state) if process not in server]
    if not others and not server:
        console.print("Nothing started by lks up is running here.")
    runs = flow_runs(others)
    _end(console, others, names, "flow run")
    if runs:
        _report(console, runs, running.get(SERVER))
    _end(console, server, names, "part of the server")
    end(marked(state), END_S)  # processes started in the meantime
    left = marked(state)
    for file in state.glob("*.json"):
        forget(state, file.stem)
    if left:
        raise UserError(
            f"Processes {', '.join(str(process.pid) for process in left)} do not end, not even when killed: "
            "is a disk gone?"
        )


def _end(console: Console, processes: list[psutil.Process], names: Mapping[int, str], what: str) -> None:
    """End processes and report each.

    Args:
        console: where they are reported.
        processes: processes to end.
        names: names of those that are services, by process id.
        what: description of the others.
    """
    with console.status(f"ending {len(processes)} processes"):
        killed = {process.pid for process in end(processes, END_S)}
    for process in processes:
        how = f"killed, as it did not end within {END_S:.0f} s" if process.pid in killed else "ended"
        console.print(f"{names.get(process.pid, what)} (process {process.pid}): {how}")


def _report(console: Console, runs: list[str], server: BackgroundService | None) -> None:
    """Report to the server which flow runs are over."""
    from flows.settings import calm_prefect

    calm_prefect(quiet=True)
    import httpx
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows.services.deployments import report_ended

    api = server.note if server else PREFECT_API_URL.value()
    if api is None:
        return
    try:
        with temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}):
            report_ended(runs)
    except (httpx.HTTPError, PrefectException) as error:
        console.print(
            f"The server at {api} could not be notified which runs are over ({type(error).__name__}); "
            "it notices after some minutes."
        )


def _report_gone(state: Path) -> list[str]:
    """Report flow runs that died unnoticed to the server and return their names."""
    from flows.services.deployments import report_gone
    from flows.services.workers import FLOWS_WORKER

    worker = services(state).get(FLOWS_WORKER)
    if worker is None:
        return []
    return report_gone(
        worker.command[worker.command.index("--name") + 1], worker.started, flow_runs(marked(state))
    )


def _family(service: BackgroundService | None) -> list[psutil.Process]:
    """Return a service's process and its children."""
    process = process_of(service) if service else None
    if process is None:
        return []
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _show(console: Console, state: Path, api: str, names: tuple[str, ...], results: Path) -> None:
    """Print what is running, and what to do next."""
    from flows.running.progress import duration

    table = Table("running", "process", "for", "what", box=None, header_style="bold")
    for name, service in services(state).items():
        table.add_row(name, str(service.pid), duration(time.time() - service.started), service.note)
    console.print(table)
    console.print(f"Logs: {state}/*.log")
    console.print(f"Results: {results}")
    console.print(f"Deployments: {', '.join(f'{name}/{name}' for name in names)}")
    console.print(
        f"Pages: {api.removesuffix('/api')}\n\nNext, in any terminal:\n  export PREFECT_API_URL={api}"
    )
    console.print(
        f"  prefect deployment run {names[0]}/{names[0]} --param grid=micro --watch\n"
        f"  lks status --results {results}\n  lks down"
    )
