"""The torture test, small: kills at random, and results as if nothing had happened. `make torture` is the
long one.
"""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lks.results.cells import Cell
from lks.results.store import Store
from tests.helpers.root import ROOT
from tests.helpers.stores import answers_of, fill, put
from tests.torture.same_results import differences, leftovers
from tests.torture.victims import DECK, KINDS, Killer

KILLS = 21
PATIENCE_S = 900


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills by what /proc says")
def test_killed_at_random_a_grid_on_a_pool_comes_to_the_same(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "LKS_"))
    }
    command = [
        sys.executable,
        "-m",
        "tests.torture",
        "--kills",
        str(KILLS),
        "--every",
        "1.5",
        "--folder",
        str(tmp_path / "t"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    kills = {
        kind: int(number)
        for kind, number in re.findall(rf"^\s*({'|'.join(KINDS)})\s+(\d+)\s*$", done.stdout, re.MULTILINE)
    }
    assert set(kills) == set(KINDS) and sum(kills.values()) >= KILLS, done.stdout


class Victim:
    def __init__(self, pid: int) -> None:
        self.pid = pid


def test_the_order_of_kills_is_the_seeds_and_no_kind_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda pid, signal: None)
    living = {kind: [Victim(1), Victim(2)] for kind in KINDS}
    orders = [
        [killer.kill(living) for _ in range(2 * len(DECK))] for killer in (Killer(1), Killer(1), Killer(2))
    ]  # type: ignore[arg-type]
    assert orders[0] == orders[1] != orders[2]
    assert all(Counter(order) == Counter(DECK * 2) for order in orders)


def test_a_kind_that_does_not_live_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda pid, signal: None)
    killer, nobody = Killer(1), {kind: [] for kind in KINDS}
    servers = nobody | {"server": [Victim(1)]}
    assert [killer.kill(servers), killer.kill(servers), killer.kill(nobody)] == ["server", "", ""]  # type: ignore[arg-type]


def test_equal_results_have_no_differences_and_others_have(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    fill(one)
    fill(other)
    assert differences(one.results, other.results) == []
    cell = Cell("micro-llama", "world", "ft", 1, 0, 2)
    put(other, cell, "FT-M", answers_of(cell, {"paraphrase": 1}))
    (found,) = [line for line in differences(one.results, other.results) if line.startswith("table answers")]
    assert "2 rows" in found and "2 missing" in found
    put(other, Cell("micro-llama", "world", "ft", 2, 0, 1), "FT-M", [])
    assert any("one of the two alone" in line for line in differences(one.results, other.results))


def test_what_is_left_over_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    fill(store)
    assert leftovers(store.results) == []
    cell = random.Random(1).choice(sorted((store.results / "cells").iterdir()))
    (cell / ".outcome.json.1.part").write_bytes(b"")
    (store.results / "runs" / cell.name).mkdir(parents=True)
    (store.results / "runs" / cell.name / "beat").touch()
    found = "\n".join(leftovers(store.results))
    assert ".outcome.json.1.part" in found and "beat" in found


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_server_is_told_of_flows_that_died_unseen(tmp_path: Path) -> None:
    """Of a worker's runs: one lives, one is dead, one was taken and never begun, one is about to begin, one
    is another machine's.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Pending, Running

    from flows.report import report
    from flows.services.deployments import FLOWS_POOL, _deploy, _make_pool, definitions, report_gone

    worker, long_ago, soon = "worker-lks@here", 0.0, 4e9
    with get_client(sync_client=True) as client:
        _make_pool(client, FLOWS_POOL, "")
        [one] = [one for one in definitions() if one["name"] == report.name]
        _deploy(client, one, tmp_path)
        deployment = client.read_deployment_by_name(f"{report.name}/{report.name}").id
        runs = {}
        for name, state, owner in (
            ("living", Running(), worker),
            ("dead", Running(), worker),
            ("taken", Pending(), worker),
            ("elsewhere", Running(), "worker-lks@there"),
        ):
            runs[name] = client.create_flow_run_from_deployment(deployment, name=name).id
            client.set_flow_run_state(runs[name], state, force=True)
            client.update_flow_run_labels(runs[name], {"prefect.worker.name": owner})
        living = [str(runs["living"])]
        assert report_gone(worker, long_ago, living) == ["dead"]
        assert report_gone(worker, soon, living) == ["taken"]
        assert report_gone(worker, soon, living) == []
        states = {name: client.read_flow_run(run).state_name for name, run in runs.items()}
    assert states == {"living": "Running", "dead": "Crashed", "taken": "Crashed", "elsewhere": "Running"}
