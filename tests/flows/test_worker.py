"""Workers that keep their process and its model between cells: one load for many cells, and what happens when
something dies.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from flows.cell import cell as flow
from flows.grid import grid
from flows.running.planning import cells_of
from lks.results.cells import Cell
from lks.results.shards import read_outcome
from lks.runs.grid import Grid
from tests.helpers import fakes
from tests.helpers.root import ROOT

POOL = "workers"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


def until(what: str, holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


class Pool:
    """A work pool with the deployment `lks-cell/lks-cell`, and cells that are started by hand."""

    def __init__(self, client: SyncPrefectClient, results: Path) -> None:
        self.client, self.results = client, results
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))

    def deploy(self, entrypoint: str, **environment: str) -> None:
        """Say what cells do; the variables are the deployment's, not the worker's."""
        made = self.client.create_flow_from_name(flow.name)
        schema = flow.parameters.model_dump()
        environment["LKS_RESULTS"] = str(self.results)
        self.deployment = self.client.create_deployment(
            made,
            flow.name,
            work_pool_name=POOL,
            entrypoint=entrypoint,
            parameter_openapi_schema=schema,
            job_variables={"env": environment},
        )

    def start(self, cell: Cell | None = None, **coordinates: object) -> UUID:
        """A cell's run: as planned, or by its coordinates, for which all data are read again."""
        by_name = {"model": "micro-llama", "dataset": "world", "method": "none", "n_edits": 1, **coordinates}
        asked = json.loads(json.dumps(asdict(cell))) if cell else by_name
        parameters = {"cell": asked, "results": str(self.results)}
        return self.client.create_flow_run_from_deployment(self.deployment, parameters=parameters).id

    def run(self, number: UUID) -> FlowRun:
        return self.client.read_flow_run(number)

    def is_over(self, number: UUID) -> bool:
        state = self.run(number).state
        return state is not None and state.is_final()

    @staticmethod
    def told(folder: Path) -> str:
        return (folder / "worker.log").read_text()

    def logs(self, number: UUID) -> str:
        found = self.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[number])))
        return "\n".join(line.message for line in found)


@pytest.fixture
def pool(prefect_server: None, tmp_path: Path) -> Iterator[Pool]:
    (tmp_path / "r").mkdir()
    with get_client(sync_client=True) as client:
        yield Pool(client, tmp_path / "r")


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool, ended hard with its children."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PYTHONPATH": str(ROOT),
    }
    environment |= {
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "flows.worker", "--pool", POOL, "--name", "one"]
    with (
        (folder / "worker.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_cells_share_a_process_and_a_model(pool, tmp_path):
    """And what they say reaches the server and the worker's log. Another environment is another process."""
    cells = cells_of(
        Grid(
            name="g", models=["micro-llama"], datasets=["world"], methods=["none"], n_edits=[1], seeds=[0, 1]
        )
    )
    pool.deploy("tests.flows.counted_loads.flow_cell")
    with worker(tmp_path):
        runs = [pool.start(cell) for cell in cells]
        until("two cells", lambda: all(map(pool.is_over, runs)), 120)
        assert [pool.run(run).state.type for run in runs] == [StateType.COMPLETED] * 2, pool.told(tmp_path)
        first, second = (pool.run(run).infrastructure_pid for run in runs)
        assert (pool.results / "loads.log").read_text() == f"{first} micro-llama\n"
        assert first == second
        until(
            "logs on the server",
            lambda: all("Finished in state Completed()" in pool.logs(run) for run in runs),
        )
        assert pool.told(tmp_path).count("Finished in state Completed()") == 2

        pool.deploy("tests.flows.counted_loads.flow_cell", LKS_SLOTS="3")
        by_name = pool.start(method="lks", variant=[["scope", "exact"]], measure="scope")
        until("a cell in another environment", lambda: pool.is_over(by_name), 120)
        assert pool.run(by_name).state.type == StateType.COMPLETED, pool.told(tmp_path)
        assert pool.run(by_name).infrastructure_pid != first and not alive(int(first))
    done = [read_outcome(pool.results, folder.name) for folder in (pool.results / "cells").iterdir()]
    assert sorted((outcome.status, outcome.cell.method) for outcome in done) == [
        ("ok", "lks"),
        ("ok", "none"),
        ("ok", "none"),
    ]


def test_a_killed_child_costs_one_more_try(pool, tmp_path, monkeypatch):
    """As does one that was short of memory: it is replaced before the next cell."""
    (tmp_path / "grids.toml").write_text(fakes.GRIDS.replace("[1, 2, 3]", "[1, 2]"))
    monkeypatch.setenv("LKS_GRIDS", str(tmp_path / "grids.toml"))
    fakes.install(fakes.Cells(), monkeypatch.setattr)
    pool.deploy(
        "tests.helpers.fakes.flow_cell",
        FAKE_KILL="1:ft | micro-fake | world | T=2",
        FAKE_FAIL="ft | micro-fake | world | T=1",
        FAKE_WAIT="0",
    )
    with worker(tmp_path):
        done = grid("tiny", pool.results, runner="pool")
    assert done == {"stored": 0, "ok": 3, "oom": 1}, pool.told(tmp_path)
    starts = [(label, process) for _, process, label in fakes.noted(pool.results, "start")]
    assert sorted(label.replace(" | micro-fake | world", "") for label, _ in starts) == [
        "ft | T=1",
        "ft | T=2",
        "ft | T=2",
        "none | T=1",
        "none | T=2",
    ]
    dies = next(place for place, (label, _) in enumerate(starts) if label == "ft | micro-fake | world | T=2")
    for place, (before, after) in enumerate(itertools.pairwise(starts)):
        # the first try of T=2 dies, T=1 is out of memory: each is a child's last, whichever comes first
        last = place == dies or before[0] == "ft | micro-fake | world | T=1"
        assert (before[1] == after[1]) == (not last)
    named = [
        run
        for run in pool.client.read_flow_runs()
        if run.deployment_id == pool.deployment and run.name == "ft | micro-fake | world | T=2"
    ]
    assert sorted(run.state.type for run in named if str(pool.results) == run.parameters["results"]) == [
        StateType.COMPLETED,
        StateType.CRASHED,
    ]


def test_a_run_is_cancelled_and_a_worker_asked_to_end(pool, tmp_path):
    pool.deploy("tests.helpers.fakes.flow_cell", FAKE_HANG="T=3", FAKE_WAIT="0")
    with worker(tmp_path) as process:
        first, child = hanging(pool)
        pool.client.set_flow_run_state(first, Cancelling())
        until("its end", lambda: pool.is_over(first), 30)
        assert pool.run(first).state.type == StateType.CANCELLED
        until("its process's end", lambda: not alive(child), 10)

        after = pool.start(n_edits=1)
        until("the next cell", lambda: pool.is_over(after))
        assert pool.run(after).state.type == StateType.COMPLETED, pool.told(tmp_path)

        last, child = hanging(pool)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not alive(child)
    assert "stopped" in pool.told(tmp_path)
    assert pool.run(last).state.type == StateType.CRASHED


def test_no_child_outlives_a_killed_worker(pool, tmp_path):
    pool.deploy("tests.helpers.fakes.flow_cell", FAKE_HANG="T=3", FAKE_WAIT="0")
    with worker(tmp_path) as process:
        _, child = hanging(pool)
        process.kill()
        until("the child's end", lambda: not alive(child), 10)


def hanging(pool: Pool) -> tuple[UUID, int]:
    """A run that has started and does not end, and its process."""
    before = len(fakes.calls(pool.results, "start"))
    run = pool.start(n_edits=3)
    until("a cell that hangs", lambda: len(fakes.calls(pool.results, "start")) > before)
    return run, fakes.noted(pool.results, "start")[-1][1]
