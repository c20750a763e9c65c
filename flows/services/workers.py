"""Workers of `lks up`: one per GPU (or one on the CPU) for cells, and one for flows that only wait and
write.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.services.processes import log_of, services, start, tail
from lks.errors import UserError

PATIENCE_S = 180.0
FLOWS_WORKER, CELLS_WORKER = "worker-lks", "worker-gpu"
PATHS = ("LKS_GRIDS", "LKS_DATA", "LKS_CACHE", "LKS_METHODS", "LKS_FACTS", "LKS_TRAINING_PROMPTS")
"""Environment variables made absolute, since flow runs work in their own folders."""


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """Place where a worker for cells runs.

    Attributes:
        index: index of the worker.
        device: GPU as in `CUDA_VISIBLE_DEVICES`; None for the CPU.
        threads: number of threads for each of several workers that share the CPU's cores; None leaves it to
            torch.
    """

    index: int
    device: str | None = None
    threads: int | None = None

    @property
    def worker(self) -> str:
        """Name of the worker."""
        return f"{CELLS_WORKER}-{self.index}"

    @property
    def note(self) -> str:
        """Short description for display."""
        if self.device is not None:
            return f"cells, GPU {self.device}"
        return "cells, CPU" if self.threads is None else f"cells, CPU, {self.threads} threads"


def slots_of(workers: int | None) -> list[WorkerSlot]:
    """Return a slot per worker: the GPUs in turn, else equal shares of the CPU.

    Args:
        workers: number of workers; 0 if other machines run the cells; None: one per GPU, or one without a
            GPU.
    """
    devices = gpus()
    number = (len(devices) or 1) if workers is None else workers
    if devices:
        return [WorkerSlot(index, devices[index % len(devices)]) for index in range(number)]
    threads = max((os.cpu_count() or 1) // number, 1) if number > 1 else None
    return [WorkerSlot(index, None, threads) for index in range(number)]


def gpus() -> list[str]:
    """Return the NVIDIA GPUs usable by this process as `CUDA_VISIBLE_DEVICES` names them, without loading
    torch.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return asked.stdout.split()


def ensure_workers(state: Path, api: str, slots: list[WorkerSlot]) -> None:
    """Start the missing workers and wait until the server knows all of them.

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
    for slot in slots:
        if slot.worker not in running:
            own = {} if slot.device is None else {"CUDA_VISIBLE_DEVICES": slot.device}
            own |= (
                {}
                if slot.threads is None
                else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(slot.threads)}
            )
            _start_worker(state, slot.worker, (CELLS_POOL, 1), environment | own, slot.note)
    _await(state, {FLOWS_WORKER, *(slot.worker for slot in slots)})


def _await(state: Path, wanted: set[str]) -> None:
    """Wait until every worker has sent the server a heartbeat since it was started.

    Raises:
        UserError: a worker did not start; the message contains the end of its log.
    """
    from flows.services.deployments import CELLS_POOL, FLOWS_POOL, heard_of

    deadline = time.monotonic() + PATIENCE_S
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
        if dead or time.monotonic() >= deadline:
            names = sorted(dead or missing)
            log = log_of(state, names[0])
            raise UserError(
                f"{', '.join(names)} did not start. Fix what the log says and start again. "
                f"End of {log}:\n{tail(log)}"
            )
        time.sleep(0.5)


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
