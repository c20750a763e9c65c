"""Ways to run cells: order, slots and what kills them, runs on a work pool."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

import flows.running.slots
from flows.running.base import NEEDS_USER, Queue, lost_outcome, release_dependents
from flows.running.cell_runner import cell_lock, heartbeat, heartbeat_file
from flows.running.devices import gpus
from flows.running.planning import only_writer
from flows.running.pool import PoolRunner
from flows.running.pool_client import Runs
from flows.running.slot_child import lock_of
from flows.running.slots import SlotsRunner
from flows.running.time_estimate import DurationEstimator
from flows.settings import Settings
from lks.errors import StoreError, UserError
from lks.results.cells import Cell, Costs, Measurements, Outcome
from lks.results.shards import write_outcome
from lks.results.store import Store
from tests.flows.fake_pool import Notes, Server
from tests.helpers import fakes
from tests.helpers.root import ROOT


def cell(method: str, n_edits: int = 1, model: str = "m") -> Cell:
    return Cell(model, "world", method, n_edits, 0, 1)


def tiny(
    models: tuple[str, ...] = ("m",), methods: tuple[str, ...] = ("none", "ft"), most: int = 3
) -> list[Cell]:
    return [cell(method, n, model) for model in models for n in range(1, most + 1) for method in methods]


def until(what: str, holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


class TestQueue:
    def test_the_unedited_model_comes_first(self):
        queue = Queue([cell("ft"), cell("lks"), cell("none")], DurationEstimator([]))
        first = queue.pop()
        assert first == cell("none")
        assert queue.pop() is None
        queue.finish(first)
        assert {queue.pop(), queue.pop()} == {cell("ft"), cell("lks")}

    def test_a_cell_waits_only_for_its_own_cases(self):
        queue = Queue(tiny(most=2), DurationEstimator([]))
        assert queue.pop() == cell("none", 2)
        queue.finish(cell("none", 2))
        assert queue.pop() == cell("none", 1)
        assert queue.pop() == cell("ft", 2)
        assert queue.pop() is None

    def test_a_stored_unedited_cell_is_not_waited_for(self):
        assert Queue([cell("ft")], DurationEstimator([])).pop() == cell("ft")

    def test_scope_cells_wait_for_nothing(self):
        scope = replace(cell("ft"), measure="scope")
        queue = Queue([cell("none"), scope], DurationEstimator([]))
        assert {queue.pop(), queue.pop()} == {cell("none"), scope}

    @pytest.mark.parametrize("status", ["lost", "error"])
    def test_what_waits_for_a_cell_that_came_to_nothing_is_not_run_without_it(self, tmp_path, status):
        queue = Queue([cell("none"), cell("ft"), cell("ft", 2)], DurationEstimator([]))
        assert {queue.pop(), queue.pop()} == {cell("none"), cell("ft", 2)}
        nothing = lost_outcome(tmp_path, cell("none"), Measurements(), (status, "signal 9"))
        assert [(o.cell, o.status) for o in release_dependents(queue, nothing, tmp_path, Measurements())] == [
            (cell("none"), status),
            (cell("ft"), "lost"),
        ]
        assert queue.pop() is None

    def test_the_longest_come_first_and_the_unknown_before_them(self):
        known = [
            Outcome(cell(method, model="other"), "ok", "", (), Costs(edit_s=took), {})
            for method, took in (("ft", 1), ("lks", 9))
        ]
        queue = Queue([cell("ft"), cell("lks"), cell("rome"), cell("rome", 5)], DurationEstimator(known))
        assert [queue.pop() for _ in range(4)] == [cell("rome", 5), cell("rome"), cell("lks"), cell("ft")]

    def test_takers_keep_their_model_and_else_take_one_that_nobody_has(self):
        queue = Queue(
            [cell("a", model="x"), cell("b", model="x"), cell("a", model="y"), cell("b", model="y")],
            DurationEstimator([]),
        )
        first, second = queue.pop(), queue.pop()
        assert {first.model, second.model} == {"x", "y"}
        assert queue.pop(second.model).model == second.model
        assert queue.pop(second.model).model == first.model
        assert queue.pop() is None

    def test_a_cell_that_is_given_back_comes_next(self):
        queue = Queue([cell("none"), cell("none", 2)], DurationEstimator([]))
        queue.requeue(first := queue.pop())
        assert queue.pop() == first

    def test_it_stays_fast_with_many_cells(self):
        cells = [cell("none" if n % 2 else "ft", n) for n in range(5000)]
        queue, since = Queue(cells, DurationEstimator([])), time.process_time()
        for _ in cells:
            queue.finish(queue.pop())
        assert time.process_time() - since < 5


class TestDropped:
    def test_nothing_is_left_of_a_new_cell(self, tmp_path):
        lost = lost_outcome(tmp_path, cell("ft"), Measurements(), ("lost", "signal 9"))
        assert (lost.status, lost.reason, lost.shards) == ("lost", "signal 9", ())

    def test_a_stored_cell_keeps_what_it_had(self, tmp_path):
        shards = tuple(f"cells/{cell('ft').id}/{stage}.parquet" for stage in ("answers", "passages"))
        stored = Outcome(cell("ft"), "ok", "", shards, Costs(edit_s=3.0), {"title": "FT"})
        write_outcome(tmp_path, stored)
        wanted = Measurements(fluency=True, gates=True)
        late = lost_outcome(tmp_path, cell("ft"), wanted, ("timeout", "too long"), "generations")
        assert late == replace(stored, failed={"generations": "timeout: too long"})
        assert "generations" in late.stages and "decisions" not in late.stages
        lost = lost_outcome(tmp_path, cell("ft"), wanted, ("lost", "signal 9"), "generations")
        assert lost.failed == {"generations": "error: signal 9"} and "generations" not in lost.stages


def run_slots(results: Path, cells: list[Cell], notes: Notes | None = None) -> dict[str, Outcome]:
    return {
        outcome.cell.label: outcome
        for outcome in SlotsRunner(results, notes or Notes(), DurationEstimator([])).run(
            cells, Measurements()
        )
    }


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(flows.running.slots, "COMMAND", (sys.executable, fakes.__file__, "slot"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LKS_SLOTS", "2")
    monkeypatch.setenv("FAKE_WAIT", "0.05")
    return monkeypatch


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestSlots:
    def test_two_slots_run_every_cell_once_and_load_each_model_once(self, slots, tmp_path):
        notes, cells = Notes(), tiny(("m", "n"))
        outcomes = run_slots(tmp_path, cells, notes)
        assert sorted(outcomes) == sorted(c.label for c in cells) and {
            o.status for o in outcomes.values()
        } == {"ok"}
        assert sorted(fakes.calls(tmp_path, "start")) == sorted(c.id for c in cells)
        processes = {(process, label.split(" | ")[1]) for _, process, label in fakes.noted(tmp_path, "start")}
        assert len({process for process, _ in processes}) == 2
        starts = fakes.calls(tmp_path, "start")
        order = [line.split()[:2] for line in (tmp_path / "calls.log").read_text().splitlines()]
        for each in cells:
            if each.method != "none":
                assert order.index(["finish", each.unedited.id]) < order.index(["start", each.id])
        assert set(notes.started) == set(outcomes) and set(notes.stages) == {
            (label, "edit") for label in outcomes
        }
        assert len(starts) == len(cells)
        assert not any(alive(process) for process, _ in processes), "a child outlived its grid"

    def test_a_slot_keeps_to_its_model(self, slots, tmp_path):
        slots.setenv("LKS_SLOTS", "1")
        run_slots(tmp_path, tiny(("m", "n", "o"), most=2))
        models = [label.split(" | ")[1] for _, _, label in fakes.noted(tmp_path, "start")]
        assert sum(a != b for a, b in itertools.pairwise(models)) == 2

    def test_a_killed_child_costs_one_more_try(self, slots, tmp_path):
        slots.setenv("FAKE_KILL", "1:ft | m | world | T=2")
        outcomes = run_slots(tmp_path, tiny())
        assert {o.status for o in outcomes.values()} == {"ok"} and len(outcomes) == 6
        starts = fakes.calls(tmp_path, "start")
        assert starts.count(cell("ft", 2).id) == 2 and len(starts) == 7

    def test_a_cell_that_kills_twice_is_lost_and_the_others_are_done(self, slots, tmp_path):
        slots.setenv("FAKE_KILL", "2:none | m | world | T=2")
        outcomes = run_slots(tmp_path, tiny())
        compared = {
            label for label in outcomes if label.endswith("T=2")
        }  # they wait for the unedited model's cell
        assert {label for label, o in outcomes.items() if o.status != "ok"} == compared
        assert {o.status for label, o in outcomes.items() if label in compared} == {"lost"}
        assert (
            outcomes["none | m | world | T=2"].reason
            == "its process ended 2 times, last with signal 9, SIGKILL (in stage 'edit')"
        )
        assert len(outcomes) == 6 and "unedited model's cell" in outcomes["ft | m | world | T=2"].reason

    def test_a_cell_that_takes_too_long_is_ended(self, slots, tmp_path):
        slots.setenv("FAKE_HANG", "ft | m | world | T=1")
        slots.setenv("LKS_CELL_TIMEOUT_S", "5")
        outcomes = run_slots(tmp_path, tiny())
        late = outcomes["ft | m | world | T=1"]
        assert (late.status, late.reason) == ("timeout", "not finished within 5 s (in stage 'edit')")
        assert sum(o.status == "ok" for o in outcomes.values()) == 5
        assert not any(alive(process) for _, process, _ in fakes.noted(tmp_path, "start"))

    def test_what_must_be_mended_ends_the_grid(self, slots, tmp_path):
        slots.setenv("LKS_SLOTS", "1")
        lock_of(tmp_path, 0).mkdir(parents=True)
        with pytest.raises(UserError, match="Slot 0 cannot be taken"):
            run_slots(tmp_path, tiny())

    def test_a_closed_run_leaves_no_child(self, slots, tmp_path):
        slots.setenv("FAKE_HANG", "ft")
        running = SlotsRunner(tmp_path, Notes(), DurationEstimator([])).run(tiny(), Measurements())
        next(running)
        running.close()
        assert not any(alive(process) for _, process, _ in fakes.noted(tmp_path, "start"))

    def test_children_see_one_gpu_each(self, slots, tmp_path):
        slots.delenv("LKS_SLOTS")
        slots.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        made = SlotsRunner(tmp_path, Notes(), DurationEstimator([]))._slots(9)
        assert [slot._environment["CUDA_VISIBLE_DEVICES"] for slot in made] == ["3", "5"]


def test_named_gpus_are_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 7")
    assert gpus() == ["2", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []


def run_pool(server: Server, cells: list[Cell], notes: Notes | None = None) -> dict[str, Outcome]:
    running = PoolRunner(server.results, notes or Notes(), DurationEstimator([]), server).run(
        cells, Measurements()
    )
    return {outcome.cell.label: outcome for outcome in running}


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("flows.running.pool.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("flows.running.pool.APPEAR_S", 0.2)
    return monkeypatch


class TestPool:
    def test_every_cell_is_one_run_and_at_most_so_many_are_in_flight(self, hurry, tmp_path):
        server, notes, cells = Server(tmp_path), Notes(), tiny(most=10)
        server.online = 2
        assert {o.status for o in run_pool(server, cells, notes).values()} == {"ok"}
        assert len(server.runs) == 20 and server.most == 8
        assert sorted(notes.started) == sorted(c.label for c in cells)
        assert {run.name for run in server.runs.values()} == {c.label for c in cells}
        assert server.requests.count("look") < 30, "states are asked for one by one"

    def test_models_come_one_after_the_other(self, hurry, tmp_path):
        """Workers take runs in turn, and each keeps the model of its last one."""
        hurry.setenv("LKS_POOL_LIMIT", "2")
        server = Server(tmp_path)
        run_pool(server, tiny(("m", "n", "o"), methods=("none",)))
        models = [run.parameters["cell"]["model"] for run in server.runs.values()]
        assert [model for model, _ in itertools.groupby(models)] == ["m", "n", "o"]

    def test_the_limit_may_be_set(self, hurry, tmp_path):
        hurry.setenv("LKS_POOL_LIMIT", "3")
        server = Server(tmp_path)
        run_pool(server, tiny(most=5))
        assert server.most == 3

    @pytest.mark.parametrize("what", ["Crashed", "Failed", "Cancelled", "gone"])
    def test_a_run_that_dies_is_started_once_more(self, what, hurry, tmp_path):
        server = Server(tmp_path, ft=[what])
        outcomes = run_pool(server, tiny(most=1))
        assert outcomes["ft | m | world | T=1"].provenance == {"attempt": "2"}
        assert len(server.runs) == 3

    def test_one_that_dies_twice_is_lost(self, hurry, tmp_path):
        server = Server(tmp_path, ft=["Crashed", "Failed"])
        lost = run_pool(server, tiny(most=1))["ft | m | world | T=1"]
        assert (lost.status, lost.reason) == (
            "lost",
            "its run ended 2 times without an outcome, at last: Failed, process died",
        )

    def test_a_silent_run_is_ended_and_started_once_more(self, hurry, tmp_path):
        hurry.setenv("LKS_BEAT_S", "0.3")
        server = Server(tmp_path, ft=["silent"])
        assert run_pool(server, tiny(most=1))["ft | m | world | T=1"].provenance == {"attempt": "2"}
        assert [r.state.type for r in server.runs.values() if r.name.startswith("ft")] == [
            StateType.CANCELLED,
            StateType.COMPLETED,
        ]

    def test_a_run_that_beats_is_not_ended(self, hurry, tmp_path):
        hurry.setenv("LKS_BEAT_S", "0.3")
        hurry.setenv("LKS_CELL_TIMEOUT_S", "1.5")
        hurry.setattr("flows.running.cell_runner.BEAT_EVERY_S", 0.05)
        server = Server(tmp_path, ft=["silent"])
        with heartbeat(tmp_path, cell("ft").id):
            late = run_pool(server, tiny(most=1))["ft | m | world | T=1"]
        assert (late.status, late.reason) == ("timeout", "not finished within 1.5 s")
        assert len(server.runs) == 2, "a run that beats was started again"

    @pytest.mark.parametrize("off", [-30 * 365 * 86400, 30 * 365 * 86400])
    def test_a_workers_clock_may_be_off_by_years(self, off, hurry, tmp_path):
        hurry.setenv("LKS_BEAT_S", "0.3")
        hurry.setenv("LKS_CELL_TIMEOUT_S", "1.5")
        beat, over = heartbeat_file(tmp_path, cell("ft").id), threading.Event()
        beat.parent.mkdir(parents=True)
        beat.touch()

        def go_on():
            while not over.wait(0.05):
                os.utime(beat, (time.time() + off,) * 2)

        thread = threading.Thread(target=go_on)
        thread.start()
        server = Server(tmp_path, ft=["silent"])
        late = run_pool(server, tiny(most=1))["ft | m | world | T=1"]
        over.set()
        thread.join()
        assert late.status == "timeout" and len(server.runs) == 2, "a run that beats was started again"

    def test_a_cells_own_failure_is_its_outcome(self, hurry, tmp_path):
        server = Server(tmp_path, ft=["Oom"])
        oom = Outcome(cell("ft"), "oom", "no memory", (), Costs(), {})
        write_outcome(tmp_path, oom)
        assert run_pool(server, tiny(most=1))["ft | m | world | T=1"] == oom
        assert len(server.runs) == 2

    def test_an_old_outcome_is_not_taken_for_that_of_a_crashed_run(self, hurry, tmp_path):
        write_outcome(tmp_path, Outcome(cell("ft"), "oom", "no memory", (), Costs(), {}))
        assert run_pool(Server(tmp_path, ft=["Crashed"]), tiny(most=1))["ft | m | world | T=1"].status == "ok"

    def test_what_must_be_mended_ends_the_grid_and_the_runs(self, hurry, tmp_path):
        server = Server(tmp_path, none=[NEEDS_USER], lks=["silent"])
        with pytest.raises(UserError, match="process died"):
            run_pool(server, [*tiny(most=1), replace(cell("lks"), measure="scope")])
        assert all(
            run.state.is_final() or run.state.type == StateType.CANCELLING for run in server.runs.values()
        )

    def test_a_folder_that_is_not_shared_is_told(self, hurry, tmp_path):
        server = Server(tmp_path / "elsewhere")
        (lost,) = PoolRunner(tmp_path / "here", Notes(), DurationEstimator([]), server).run(
            [cell("none")], Measurements()
        )
        assert lost.status == "lost" and "do all machines have this folder, or LKS_SHARE?" in lost.reason

    def test_runs_in_flight_are_taken_on(self, hurry, tmp_path):
        server, cells = Server(tmp_path), tiny(most=2)
        earlier = Runs(server, tmp_path, 0)
        earlier.submit(cells[0], Measurements(), "an earlier grid's", 1)
        earlier.submit(cells[2], Measurements(fluency=True), "with other extras", 1)
        Runs(server, tmp_path / "other", 0).submit(cells[1], Measurements(), "of another folder", 1)
        assert len(run_pool(server, cells)) == 4
        assert len(server.runs) == 3 + 3
        assert [
            run.name
            for key, run in server.runs.items()
            if key == "an earlier grid's" and run.state.is_completed()
        ] == [cells[0].label]

    def test_an_absent_server_is_waited_for(self, hurry, tmp_path):
        hurry.setattr("time.sleep", lambda seconds: None)
        server = Server(tmp_path)
        running = PoolRunner(tmp_path, Notes(), DurationEstimator([]), server).run(tiny(), Measurements())
        first = next(running)
        server.away = 20
        assert len([first, *running]) == 6 and len(server.runs) == 6

    def test_one_that_stays_away_ends_the_grid(self, hurry, tmp_path):
        hurry.setenv("LKS_SERVER_WAIT_S", "0")
        server = Server(tmp_path)
        server.away = 10**9
        with pytest.raises(UserError, match="has not answered for 0 s"):
            run_pool(server, tiny())

    def test_a_server_without_the_deployment(self, hurry, tmp_path):
        server = Server(tmp_path)
        hurry.setattr(
            server, "read_deployment_by_name", lambda name: (_ for _ in ()).throw(ObjectNotFound(Exception()))
        )
        with pytest.raises(UserError, match="no deployment lks-cell/lks-cell"):
            run_pool(server, tiny())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_a_stopped_grid(how, slots, tmp_path, prefect_server):
    from prefect.settings import PREFECT_API_URL

    grids, results = tmp_path / "grids.toml", tmp_path / "r"
    grids.write_text(fakes.GRIDS)
    server = {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    environment = {
        **os.environ,
        **server,
        "LKS_GRIDS": str(grids),
        "LKS_GRID": "tiny",
        "LKS_RUNNER": "slots",
        "FAKE_HANG": "ft",
    }
    command = [sys.executable, fakes.__file__, "grid", "--results", str(results)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    ) as parent:
        until(
            "two cells that hang",
            lambda: parent.poll() is not None or len(fakes.calls(results, "start")) >= 4,
            150,
        )
        assert parent.poll() is None, parent.communicate()[0].decode()
        children = {process for _, process, _ in fakes.noted(results, "start")}
        assert all(alive(child) for child in children)
        parent.send_signal(how)
        output, _ = parent.communicate(timeout=60)
    until("the children's end", lambda: not any(alive(child) for child in children), 20)
    if how == signal.SIGINT:
        assert parent.returncode == 130 and b"Finished work is kept" in output, output.decode()
    finished = set(fakes.calls(results, "finish"))
    with only_writer(results):  # nothing holds the folder any more
        assert finished and Store(results).done() == finished


@pytest.mark.slow
def test_a_grid_on_a_work_pool(tmp_path, monkeypatch, prefect_server):
    """A server, a process worker and cells that are flow runs; one kills its process the first time."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL

    from flows.cell import cell as flow
    from flows.grid import grid

    (tmp_path / "grids.toml").write_text(fakes.GRIDS.replace("[1, 2, 3]", "[1]"))
    results, url = tmp_path / "r", str(PREFECT_API_URL.value())
    for name, value in {
        "LKS_GRIDS": str(tmp_path / "grids.toml"),
        "FAKE_KILL": "1:ft",
        "FAKE_WAIT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    fakes.install(fakes.Cells(), monkeypatch.setattr)
    environment = {
        **os.environ,
        "PREFECT_API_URL": url,
        "PYTHONPATH": str(ROOT),
        "PREFECT_LOGGING_LEVEL": "INFO",
    }
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="runners", type="process"))
        made = client.create_flow_from_name(flow.name)
        how = {"work_pool_name": "runners", "parameter_openapi_schema": flow.parameters.model_dump()}
        client.create_deployment(
            made,
            flow.name,
            entrypoint="tests.helpers.fakes.flow_cell",
            path=None,
            job_variables={"env": environment},
            **how,
        )
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "runners", "--type", "process"]
    with (
        (tmp_path / "worker.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0) as worker,
    ):
        try:
            assert grid("tiny", results, runner="pool") == {"stored": 0, "ok": 2}, (
                tmp_path / "worker.log"
            ).read_text()
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
    starts = [label for _, _, label in fakes.noted(results, "start")]
    assert starts == ["none | micro-fake | world | T=1", *["ft | micro-fake | world | T=1"] * 2]
    with get_client(sync_client=True) as client:
        runs = [
            (run.name, run.state.type)
            for run in client.read_flow_runs()
            if run.deployment_id and run.name in starts
        ]
    assert sorted(kind for name, kind in runs if name == starts[1]) == [
        StateType.COMPLETED,
        StateType.CRASHED,
    ]


class TestClaims:
    def test_a_second_run_waits_for_the_first(self, tmp_path):
        code = (
            "from flows.running.cell_runner import cell_lock; from pathlib import Path\n"
            f"with cell_lock(Path({str(tmp_path)!r}), 'c'): print('in', flush=True)"
        )
        with cell_lock(tmp_path, "c"):
            until("the first beat", heartbeat_file(tmp_path, "c").exists)
            second = subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
            )
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(3)
        assert second.communicate(timeout=60)[0] == b"in\n"
        assert not heartbeat_file(tmp_path, "c").exists()

    def test_a_holder_without_a_beat_is_not_waited_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr("flows.running.cell_runner.BEAT_EVERY_S", 0.1)
        import fcntl

        (tmp_path / "runs" / "c").mkdir(parents=True)
        with (tmp_path / "runs" / "c" / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            since = time.monotonic()
            with cell_lock(tmp_path, "c"):
                assert 0.3 <= time.monotonic() - since < 5


class TestTwoGrids:
    def test_the_second_waits_if_told_to(self, tmp_path):
        from flows.grid import await_writer

        code = "import sys, pathlib\nfrom flows.running.planning import only_writer\n"
        code += "with only_writer(pathlib.Path(sys.argv[1])): print(1, flush=True); input()"
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            first.stdout.readline()
            await_writer(tmp_path, 0.2)
            with pytest.raises(StoreError, match=f"process {first.pid}"), only_writer(tmp_path):
                pass
            first.stdin.write(b"\n")
            first.stdin.flush()
            await_writer(tmp_path, 60)
            with only_writer(tmp_path):
                pass


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LKS_SLOTS", "0", "LKS_SLOTS=0: Input should be greater"),
        ("LKS_RUNNER", "ray", "LKS_RUNNER=ray: Input should be 'here', 'slots' or 'pool'"),
    ],
)
def test_settings_that_make_no_sense(name, value, says, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        Settings()
