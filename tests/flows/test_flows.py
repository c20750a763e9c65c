import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from flows.running.planning import build_command, only_writer
from flows.running.progress import LineProgress, duration
from flows.running.time_estimate import DurationEstimator
from lks.errors import StoreError, UserError
from lks.results.cells import Cell, Costs, Outcome
from lks.results.store import Store
from tests.helpers import fakes
from tests.helpers.root import ROOT


@pytest.fixture
def grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "grids.toml"
    file.write_text(fakes.GRIDS)
    monkeypatch.setenv("LKS_GRIDS", str(file))
    monkeypatch.setenv("LKS_GRID", "tiny")
    return file


def use(monkeypatch: pytest.MonkeyPatch, **how) -> fakes.Cells:
    cells = fakes.Cells(**how)
    fakes.install(cells, monkeypatch.setattr)
    return cells


def run(results: Path, **parameters) -> dict[str, int]:
    from flows.grid import grid

    return grid("tiny", results, **parameters)


@pytest.mark.usefixtures("prefect_server", "grids")
class TestGridFlow:
    def test_a_second_run_does_nothing(self, tmp_path, monkeypatch):
        cells = use(monkeypatch)
        assert run(tmp_path / "r") == {"stored": 0, "ok": 6}
        assert len(cells.ran) == 6
        assert run(tmp_path / "r") == {"stored": 6}
        assert len(cells.ran) == 6

    def test_a_failed_cell_is_a_row_and_the_grid_goes_on(self, tmp_path, monkeypatch):
        cells = use(monkeypatch, fail="ft | micro-fake | world | T=2")
        assert run(tmp_path / "r") == {"stored": 0, "ok": 5, "oom": 1}
        assert len(cells.ran) == 6
        stored = [o for o in Store(tmp_path / "r").outcomes() if o.status != "ok"]
        assert [(o.cell.label, o.status, o.reason) for o in stored] == [
            ("ft | micro-fake | world | T=2", "oom", "out of memory at block 3")
        ]

    def test_failed_cells_are_run_again_only_when_asked(self, tmp_path, monkeypatch):
        use(monkeypatch, fail="ft | micro-fake | world | T=2")
        run(tmp_path / "r")
        cells = use(monkeypatch)
        assert run(tmp_path / "r") == {"stored": 6}
        assert run(tmp_path / "r", retry_failed=True) == {"stored": 5, "ok": 1}
        assert cells.ran == ["ft | micro-fake | world | T=2"]

    def test_what_is_compared_with_an_erroneous_cell_waits_for_the_next_grid(self, tmp_path, monkeypatch):
        cells = use(monkeypatch, fail="none | micro-fake | world | T=2", status="error")
        assert run(tmp_path / "r") == {"stored": 0, "ok": 4, "error": 1, "lost": 1}
        assert "ft | micro-fake | world | T=2" not in cells.ran
        cells = use(monkeypatch)
        assert run(tmp_path / "r") == {"stored": 4, "ok": 2}
        assert cells.ran == ["none | micro-fake | world | T=2", "ft | micro-fake | world | T=2"]

    @pytest.mark.parametrize("stop", [UserError, KeyboardInterrupt])
    def test_what_ends_a_grid_keeps_the_finished_cells(self, stop, tmp_path, monkeypatch):
        use(monkeypatch, fail="none | micro-fake | world | T=2", raises=stop("stop here"))
        with pytest.raises(stop) as caught:
            run(tmp_path / "r")
        traceback.clear_frames(caught.tb)  # they hold DuckDB's objects, which complain at exit
        assert len(Store(tmp_path / "r").outcomes()) == 2
        cells = use(monkeypatch)
        assert run(tmp_path / "r") == {"stored": 2, "ok": 4}
        assert len(cells.ran) == 4

    def test_a_filter_keeps_the_unedited_model(self, tmp_path, monkeypatch):
        cells = use(monkeypatch)
        run(tmp_path / "r", only="method=ft,n_edits=1")
        assert cells.ran == ["none | micro-fake | world | T=1", "ft | micro-fake | world | T=1"]

    def test_an_outcome_that_was_not_recorded_is_not_run_again(self, tmp_path, monkeypatch):
        cells = use(monkeypatch)
        run(tmp_path / "r")
        (tmp_path / "r" / "lks.duckdb").unlink()
        assert run(tmp_path / "r") == {"stored": 6}
        assert len(cells.ran) == 6

    def test_one_cell_by_its_coordinates(self, tmp_path, monkeypatch):
        from flows.cell import cell

        cells = use(monkeypatch)
        one, results = (
            {"model": "micro-fake", "dataset": "world", "method": "ft", "n_edits": 5},
            tmp_path / "r",
        )
        assert cell(one, results=results)[0].endswith("/answers.parquet")
        assert len(cell(one | {"split": "development"}, results=results)) == 2
        assert cells.ran == ["ft | micro-fake | world | T=5", "ft | micro-fake | world | T=5 | development"]

    def test_parameters_are_validated(self):
        from prefect.exceptions import ParameterTypeError

        from flows.cell import cell

        with pytest.raises(ParameterTypeError, match="n_edits"):
            cell({"model": "micro-fake", "dataset": "world", "method": "ft", "n_edits": 0})


@pytest.mark.slow
def test_a_killed_grid_goes_on_where_it_was(tmp_path, grids, prefect_server):
    from prefect.settings import PREFECT_API_URL

    results = tmp_path / "results"
    command = [sys.executable, str(Path(fakes.__file__)), "grid", "--results", str(results)]
    environment = {
        **os.environ,
        "FAKE_WAIT": "0.7",
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PYTHONPATH": str(ROOT),
    }
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 200
    while len(fakes.calls(results, "start")) < 4 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    output, _ = first.communicate()
    finished = fakes.calls(results, "finish")
    assert 3 <= len(finished) < 6, output.decode()
    written = {path: path.stat().st_mtime_ns for path in results.glob("cells/*/outcome.json")}

    second = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert second.returncode == 0, second.stderr
    starts = fakes.calls(results, "start")
    assert len(set(starts)) == 6
    assert all(starts.count(cell) == 1 for cell in finished), "a finished cell was run again"
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items()), (
        "a finished cell was written again"
    )
    assert {o.cell.id for o in Store(results).outcomes()} == set(starts)
    assert "the result table" in second.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_temporary_server_leaves_with_its_parent():
    command = "[sys.executable, '-m', 'flows.services.temporary_server', '0']"
    code = f"import subprocess, sys; p = subprocess.Popen({command}); print(p.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        server = int(parent.stdout.readline())
        time.sleep(1)
        assert Path(f"/proc/{server}").exists()
        parent.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _alive(server):
        time.sleep(0.1)
    assert not _alive(server)


def _alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def outcome(
    method: str, n_edits: int, took: float, status: str = "ok", model: str = "m", **more: object
) -> Outcome:
    return Outcome(
        Cell(model, "world", method, n_edits, 0, 1), status, "", (), Costs(edit_s=took, **more), {}
    )  # type: ignore[arg-type]


def wanted(n_edits: int, model: str = "m", seed: int = 1) -> Cell:
    return Cell(model, "world", "lks", n_edits, seed, 1)


class TestClock:
    def test_like_cells_count_first(self):
        clock = DurationEstimator(
            [outcome("lks", 1, 10), outcome("lks", 1, 30, model="n"), outcome("lks", 100, 50)]
        )
        assert clock.expect([wanted(1)]) == 10
        assert clock.expect([wanted(1, "other")]) == 20

    def test_seconds_grow_with_the_edits_of_the_nearest_t(self):
        clock = DurationEstimator([outcome("lks", 1, 10), outcome("lks", 100, 50, stage_s={"passages": 3.0})])
        assert clock.expect([wanted(7)]) == pytest.approx(70)
        assert clock.expect([wanted(1000)]) == pytest.approx(503)
        assert clock.expect([replace(wanted(1), draws=4)]) == pytest.approx(40)
        assert clock.expect([wanted(1000, "other")]) == pytest.approx(503)

    def test_a_preparation_counts_once(self):
        clock = DurationEstimator(
            [outcome("lks", 1, 10, prepare_s=100.0), outcome("lks", 5, 30, prepare_s=100.0)]
        )
        assert clock.expect([wanted(1)]) == 110
        assert clock.expect([wanted(1), wanted(5)]) == 140
        assert clock.expect([wanted(1), wanted(1, "other")]) == 220
        assert clock.expect([wanted(7, seed=0)]) == pytest.approx(
            42
        )  # a cell with the same preparation is finished

    def test_of_a_stored_cell_only_what_it_lacks_counts(self):
        stored, whole = (
            outcome("lks", 1, 10),
            outcome("lks", 1, 12, model="n", stage_s={"passages": 2.0, "generations": 4.0}),
        )
        clock = DurationEstimator([stored])
        assert clock.expect([stored.cell]) is None
        clock.learn(whole)
        assert clock.expect([stored.cell]) == 6
        clock.learn(replace(stored, costs=replace(stored.costs, stage_s={"passages": 1.0})))
        assert clock.expect([stored.cell]) == 4

    def test_scope_cells_say_nothing_of_editing(self):
        clock = DurationEstimator([outcome("lks", 1, 10)])
        assert clock.expect([replace(outcome("lks", 1, 0).cell, measure="scope")]) is None

    def test_nothing_is_expected_of_an_unknown_method(self):
        clock = DurationEstimator([outcome("lks", 1, 10), outcome("ft", 1, 2, status="oom")])
        assert clock.expect([outcome("lks", 1, 0).cell, outcome("ft", 1, 0).cell]) is None
        assert clock.expect([]) == 0

    def test_a_cell_that_is_learnt_again_counts_once(self):
        clock = DurationEstimator(
            [outcome("lks", 1, 10), outcome("lks", 1, 30, model="n"), outcome("lks", 1, 20)]
        )
        assert clock.expect([wanted(1, "other")]) == 25

    def test_it_stays_fast_with_many_cells(self):
        outcomes = [
            replace(outcome("lks", 1 + n % 5, 2.0), cell=wanted(1 + n % 5, seed=n)) for n in range(4000)
        ]
        lines, since = LineProgress(lambda text: None), time.process_time()
        lines.begin([one.cell for one in outcomes], 0, [])
        for one in outcomes:
            lines.finish(one)
        assert lines.left == 0.0
        assert time.process_time() - since < 10


def test_lines_say_what_became_of_each_cell():
    said: list[str] = []
    lines = LineProgress(said.append)
    cells = [outcome("ft", 1, 0).cell, outcome("ft", 2, 0).cell]
    lines.begin(cells, 3, [])
    for result in (outcome("ft", 1, 2), Outcome(cells[1], "oom", "no memory", (), Costs(), {})):
        lines.start(result.cell)
        lines.finish(result)
    assert said == [
        "2 cells to run, 3 already stored, time ?",
        "[1/2] ft | m | world | T=1: ok, 2.0 s, left 4 s",
        "[2/2] ft | m | world | T=2: OOM (no memory), 0.0 s, left 0 s",
    ]


@pytest.mark.parametrize(("value", "text"), [(None, "?"), (8.2, "8 s"), (200, "3 min"), (7500, "2 h 05 min")])
def test_durations(value, text):
    assert duration(value) == text


def test_one_writer_at_a_time(tmp_path):
    with (
        only_writer(tmp_path / "r"),
        pytest.raises(StoreError, match=f"process {os.getpid()}"),
        only_writer(tmp_path / "r"),
    ):
        pass
    with only_writer(tmp_path / "r"):
        pass


@pytest.mark.parametrize(
    ("model", "command"),
    [
        ("mini-zsre-1000", "lks testbed build --dataset zsre --records 1000"),
        ("mini-zsre", "lks testbed build --dataset zsre"),
        ("micro-llama", "lks testbed build micro-llama"),
    ],
)
def test_the_command_that_builds_a_model(model, command):
    assert build_command(model) == command


def test_every_deployment_names_a_flow():
    from importlib import import_module

    from flows.services.deployments import POOLS, definitions

    for deployment in definitions():
        file, _, function = deployment["entrypoint"].partition(":")
        flow = getattr(import_module(file.removesuffix(".py").replace("/", ".")), function)
        assert flow.name == deployment["name"] and deployment["work_pool"]["name"] in POOLS
        assert set(deployment.get("parameters", {})) <= set(
            json.loads(flow.parameters.model_dump_json())["properties"]
        )


def test_without_definitions_nothing_is_deployed(tmp_path, monkeypatch):
    from flows.services import deployments

    monkeypatch.setattr(deployments, "DEFINITIONS", tmp_path / "prefect.yaml")
    with pytest.raises(UserError, match="Install lks-grid from a checkout"):
        deployments.definitions()
