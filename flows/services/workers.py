"""Workers of `lks up`: one per GPU (or one on the CPU) for cells, and one for flows that only wait and
write.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.running.devices import CellDevice
from flows.services.processes import log_of, services, start, tail
from lks.errors import UserError
from lks.io.retry import Retries

PATIENCE_S = 180.0
FLOWS_WORKER, CELLS_WORKER = "worker-lks", "worker-gpu"
PATHS = (
    "LKS_GRIDS",
    "LKS_DATA",
    "LKS_CACHE",
    "LKS_METHODS",
    "LKS_PRESETS",
    "LKS_FACTS",
    "LKS_TRAINING_PROMPTS",
)
"""Environment variables made absolute, since flow runs work in their own folders."""


def ensure_workers(state: Path, api: str, devices: Sequence[CellDevice]) -> None:
    """Start the missing workers, and wait until the server knows all of them.

    Raises:
        UserError: a worker did not start; the message contains the end of its log.
    """
    from flows.services.deployments import CELLS_POOL, FLOWS_AT_ONCE, FLOWS_POOL

    environment = {**os.environ, "PREFECT_API_URL": api}
    environment |= {
        name: str(Path(os.environ[name]).expanduser().absolute()) for name in PATHS if os.environ.get(name)
    }
    running = services(state)
    if FLOWS_WORKER not in running:
        _start_worker(
            state, FLOWS_WORKER, (FLOWS_POOL, FLOWS_AT_ONCE), environment, "grid, data and report flows"
        )
    cells = {f"{CELLS_WORKER}-{index}": device for index, device in enumerate(devices)}
    for name, device in cells.items():
        if name not in running:
            _start_worker(state, name, (CELLS_POOL, 1), environment | device.environment, _note(device))
    _await(state, {FLOWS_WORKER, *cells})


def _note(device: CellDevice) -> str:
    """Return a short description of a worker for cells."""
    if device.gpu is not None:
        return f"cells, GPU {device.gpu}"
    return "cells, CPU" if device.threads is None else f"cells, CPU, {device.threads} threads"


def _await(state: Path, wanted: set[str]) -> None:
    """Wait until every worker has sent the server a heartbeat since it was started.

    Raises:
        UserError: a worker did not start; the message contains the end of its log.
    """
    from flows.services.deployments import CELLS_POOL, FLOWS_POOL, heard_of

    retries = Retries(PATIENCE_S, first_s=0.5)
    while True:
        running = services(state)
        heard = heard_of(FLOWS_POOL) | heard_of(CELLS_POOL)
        missing = {
            name
            for name in wanted & running.keys()
            if heard.get(_full_name(name), 0.0) < running[name].started
        }
        dead = wanted - running.keys()
        if not missing and not dead:
            return
        if dead or not retries.pause():
            names = sorted(dead or missing)
            log = log_of(state, names[0])
            raise UserError(
                f"{', '.join(names)} did not start. Fix what the log says and start again. "
                f"End of {log}:\n{tail(log)}"
            )


def _full_name(name: str) -> str:
    """Return a worker's name on the server, which may have workers of many machines."""
    return f"{name}@{socket.gethostname()}"


def _start_worker(
    state: Path, name: str, pool: tuple[str, int], environment: Mapping[str, str], note: str
) -> None:
    """Start a worker on a pool; `pool` is its name and the maximum number of concurrent flow runs.

    Cells share a process and its model; each other flow run gets a process of its own.
    """
    from flows.services.deployments import CELLS_POOL

    own = (
        ["flows.worker"]
        if pool[0] == CELLS_POOL
        else ["prefect", "worker", "start", "--type", "process", "--install-policy", "never"]
    )
    command = [
        sys.executable,
        "-m",
        *own,
        "--pool",
        pool[0],
        "--name",
        _full_name(name),
        "--limit",
        str(pool[1]),
    ]
    start(state, name, command, environment, note)
