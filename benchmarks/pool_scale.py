"""Overhead per cell of server, work pool, workers and grid flow, measured on thousands of very short cells.

Cells are scope cells on the synthetic world with a few edits and take some hundredths of a second each: no
model is loaded and nothing is edited, so the measurement shows the orchestration. Everything is started as by
`lks up`, in a separate folder and on a separate port, and stopped afterwards.

Run: `python -m benchmarks.pool_scale [--cells 5000] [--workers 2]`
"""

import argparse
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import psutil
from rich.console import Console
from rich.table import Table

LOOK_EVERY_S = 5.0
SEEDS = 100
"""Number of seeds per T in the grid."""


def grid_of(cells: int) -> str:
    """Return the text of a grids file with a grid "scale" of about `cells` cells."""
    seeds = min(cells, SEEDS)
    counts = list(range(1, cells // seeds + 1))
    method = '{ method = "lks", scope = "exact" }'
    places = (
        f'models = ["micro-llama"]\ndatasets = ["world"]\nmethods = [{method}]\n'
        f"n_edits = {counts}\nseeds = {list(range(seeds))}\n"
    )
    return f'[scale]\ndescription = "many short cells"\nmeasure = "scope"\n{places}'


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished cell on disk: time of its outcome file and seconds of its own work."""

    at: float
    own_s: float


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """The state at one time.

    Attributes:
        done: cells on disk.
        memory: bytes in memory by role.
        seconds: processor seconds so far by role.
        load: load average of the machine.
    """

    done: int
    memory: dict[str, int]
    seconds: dict[str, float]
    load: float


@dataclass(slots=True)
class Watched:
    """Snapshots taken while the grid runs."""

    looks: list[PoolSnapshot] = field(default_factory=list)

    def look(self, results: Path, processes: Mapping[str, Sequence[psutil.Process]]) -> int:
        """Take a snapshot and return the number of cells on disk."""
        done = len(list((results / "cells").glob("*/outcome.json")))
        used = {name: [used_by(one) for one in some] for name, some in processes.items()}
        memory = {name: sum(one[0] for one in some) for name, some in used.items()}
        seconds = {name: sum(one[1] for one in some) for name, some in used.items()}
        self.looks.append(PoolSnapshot(done, memory, seconds, os.getloadavg()[0]))
        return done

    def at(self, done: float) -> PoolSnapshot:
        """Return the snapshot with the number of finished cells nearest to `done`."""
        return min(self.looks, key=lambda one: abs(one.done - done))


def used_by(process: psutil.Process) -> tuple[int, float]:
    """Return a process's bytes in memory and processor seconds; zeros if it has ended."""
    try:
        times = process.cpu_times()
        return int(process.memory_info().rss), float(times.user + times.system)
    except psutil.Error:
        return 0, 0.0


@contextmanager
def running(folder: Path, workers: int) -> Iterator[dict[str, str]]:
    """Run server and workers in a separate folder and yield the environment variables that point to them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (folder / "data").mkdir()  # empty, so that no ability tests with thousands of prompts are found
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {
        "PREFECT_HOME": str(folder / "home"),
        "LKS_DATA": str(folder / "data"),
        "LKS_GRIDS": str(folder / "grids.toml"),
    }
    environment.setdefault("OMP_NUM_THREADS", "1")
    lks = [sys.executable, "-c", "from cli.app import app; app()"]
    start = [*lks, "up", "--port", str(port), "--workers", str(workers), "--results", str(folder / "results")]
    try:
        subprocess.run(start, env=environment, check=True, stdout=subprocess.DEVNULL)
        yield {**environment, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    finally:
        subprocess.run([*lks, "down"], env=environment, check=False, stdout=subprocess.DEVNULL)


def processes(folder: Path, grid: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
    """Return the measured processes by role."""
    from flows.services.processes import marked

    found: dict[str, list[psutil.Process]] = {
        "grid flow": [psutil.Process(grid.pid)],
        "server": [],
        "worker": [],
        "child": [],
    }
    for process in marked(folder / "home" / "lks-grid" / socket.gethostname()):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        role = (
            "child"
            if "flows.worker_pool.child" in line
            else "worker"
            if "flows.worker" in line
            else "server"
            if "server" in line
            else ""
        )
        if "uvicorn" in line or role:
            found[role or "server"].append(process)
    return found


def run_grid(folder: Path, environment: Mapping[str, str], cells: int, console: Console) -> Watched:
    """Run the grid "scale" in pool mode, taking snapshots until it ends."""
    watched, results = Watched(), folder / "results"
    code = (
        "from flows.settings import calm_prefect; calm_prefect(False); "
        "from flows.grid import grid; print(grid('scale', runner='pool'))"
    )
    own = {**environment, "LKS_RESULTS": str(results)}
    with (
        (folder / "grid.log").open("wb") as log,
        subprocess.Popen([sys.executable, "-c", code], env=own, stdout=log, stderr=log) as grid,
        console.status("starting the grid") as status,
    ):
        while grid.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                grid.wait(LOOK_EVERY_S)
            if grid.poll() is None:
                done = watched.look(results, processes(folder, grid))
                status.update(f"{done:,} of {cells:,} cells")
    if grid.returncode:
        raise SystemExit(
            f"The grid ended with {grid.returncode}:\n{(folder / 'grid.log').read_text()[-3000:]}"
        )
    return watched


def finished(results: Path) -> list[Finished]:
    """Return all finished cells in the order in which they finished."""
    found = []
    for file in (results / "cells").glob("*/outcome.json"):
        costs = json.loads(file.read_text(encoding="utf-8"))["costs"]
        found.append(Finished(file.stat().st_mtime, costs["prepare_s"] + costs["edit_s"] + costs["ask_s"]))
    return sorted(found, key=lambda one: one.at)


def show(console: Console, cells: Sequence[Finished], watched: Watched, workers: int) -> None:
    """Print the overhead of the first, middle and last tenth of the cells, memory, and processor time."""
    part = max(len(cells) // 10, 2)
    middle = (len(cells) - part) // 2
    table = Table(
        "cells",
        "per second",
        "worker ms per cell",
        "own ms per cell",
        "overhead, ms",
        title="Overhead",
        box=None,
        title_justify="left",
    )
    for start in (0, middle, len(cells) - part):
        some = cells[start : start + part]
        each = (some[-1].at - some[0].at) / (len(some) - 1)
        own = mean(one.own_s for one in some)
        values = (1 / each, each * workers * 1e3, own * 1e3, (each * workers - own) * 1e3)
        table.add_row(
            f"{start + 1:,} to {start + part:,}",
            f"{values[0]:.2f}",
            *(f"{value:,.0f}" for value in values[1:]),
        )
    console.print(table)
    roles = list(watched.looks[-1].memory)
    memory = Table("cells on disk", *roles, title="Memory, MB", box=None, title_justify="left")
    for wanted in (0.1, 0.5, 1.0):
        look = watched.at(wanted * len(cells))
        memory.add_row(f"{look.done:,}", *(f"{look.memory.get(role, 0) / 1e6:,.0f}" for role in roles))
    console.print(memory)
    spent = Table(
        "cells on disk",
        *roles,
        "load of the machine",
        title="Processor milliseconds per cell",
        box=None,
        title_justify="left",
    )
    edges = [watched.at(part / 5 * len(cells)) for part in range(6)]
    for one, two in itertools.pairwise(edges):
        each = [
            1e3 * (two.seconds.get(role, 0) - one.seconds.get(role, 0)) / max(two.done - one.done, 1)
            for role in roles
        ]
        spent.add_row(
            f"{one.done:,} to {two.done:,}", *(f"{value:,.0f}" for value in each), f"{two.load:.1f}"
        )
    console.print(spent)


def main() -> None:
    """Start everything, run the grid and print its costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for a copy of all logs and results")
    asked = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="lks-scale-") as name:
        folder = Path(name)
        (folder / "grids.toml").write_text(grid_of(asked.cells), encoding="utf-8")
        with running(folder, asked.workers) as environment:
            since = time.monotonic()
            watched = run_grid(folder, environment, asked.cells, console)
            took = time.monotonic() - since
        cells = finished(folder / "results")
        show(console, cells, watched, asked.workers)
        database = sum(file.stat().st_size for file in (folder / "home").rglob("server.db*"))
        summary = (
            f"{len(cells):,} cells on {asked.workers} workers in {took:,.0f} s; "
            f"the server's database has {database / 1e6:,.0f} MB"
        )
        console.print(f"{summary}; load of the machine {os.getloadavg()[0]:.1f}.", highlight=False)
        if asked.keep:
            shutil.copytree(folder, asked.keep)


if __name__ == "__main__":
    main()
