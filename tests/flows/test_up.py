"""`lks up`, `lks down` and `lks status` on a home and a port of their own, and what they are made of."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from flows.running.devices import CellDevice, devices
from flows.services import processes
from flows.services import server as up_server
from flows.services.processes import BackgroundService, services, state_folder
from lks.errors import UserError
from tests.helpers import fakes
from tests.helpers.root import ROOT

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
)


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of a home of its own; whatever was started in it is ended."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name in (
        "PREFECT_API_URL",
        "PREFECT_API_DATABASE_CONNECTION_URL",
        "LKS_RESULTS",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    folder = state_folder()
    folder.mkdir(parents=True)
    yield folder
    processes.end(processes.marked(folder), 5)
    assert not processes.marked(folder)


def begun(state: Path, name: str = "server", command: tuple[str, ...] = SLEEPER) -> BackgroundService:
    return processes.start(state, name, command, os.environ, "http://127.0.0.1:1/api")


class TestProcesses:
    def test_what_was_started_is_found_again(self, state):
        service = begun(state)
        assert services(state) == {"server": service}
        assert [process.pid for process in processes.marked(state)] == [service.pid]

    def test_what_has_ended_is_not_running(self, state):
        process = psutil.Process(begun(state).pid)
        process.kill()
        process.wait(10)
        assert services(state) == {}
        assert processes.record(state, "server")

    @pytest.mark.parametrize("change", [{"started": 1.0}, {"command": ("another", "program")}])
    def test_a_process_id_in_use_by_another_process_is_stale(self, state, change):
        service = replace(begun(state), **change)
        (state / "server.json").write_text(json.dumps(asdict(service)))
        assert services(state) == {}

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "server"}', '{"pid": "x"}'])
    def test_a_damaged_record_is_no_record(self, state, text):
        (state / "server.json").write_text(text)
        assert services(state) == {}

    def test_one_at_a_time(self, state):
        with processes.alone(state), pytest.raises(UserError, match="Another lks up"), processes.alone(state):
            pass

    def test_the_end_of_a_long_log(self, tmp_path):
        log = tmp_path / "log"
        log.write_text("\n".join(f"line {i}" for i in range(10_000)))
        assert processes.tail(log, 2) == "line 9998\nline 9999"
        assert processes.tail(tmp_path / "none") == "(empty)"


class TestDown:
    def test_all_is_ended_even_what_lost_its_parent_and_what_does_not_listen(self, state, monkeypatch):
        monkeypatch.setattr("cli.up.END_S", 1.0)
        server, deaf = begun(state), begun(state, "worker-lks", STUBBORN)
        deadline = time.monotonic() + 30
        while (
            "deaf" not in processes.log_of(state, "worker-lks").read_text().splitlines()
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        code = (
            f"import subprocess; print(subprocess.Popen({list(SLEEPER)}, stdin=-3, stdout=-3, stderr=-3).pid)"
        )
        environment = {**os.environ, processes.MARK: str(state)}
        orphan = int(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
        result = lks("down")
        assert result.exit_code == 0, result.output
        assert f"server (process {server.pid}): ended" in result.output
        assert f"worker-lks (process {deaf.pid}): killed" in result.output
        assert f"flow run (process {orphan}): ended" in result.output
        assert not any(_runs(pid) for pid in (server.pid, deaf.pid, orphan))
        assert "Nothing started by lks up is running here" in lks("down").output

    def test_others_are_left_alone(self, state):
        with subprocess.Popen(SLEEPER) as other:
            (state / "server.json").write_text(
                json.dumps(asdict(BackgroundService("server", other.pid, 1.0, SLEEPER)))
            )
            lks("down")
            assert other.poll() is None
            other.kill()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestSlots:
    def test_a_worker_per_gpu(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-ab")
        assert [device.gpu for device in devices(None)] == ["1", "GPU-ab"]
        assert [device.gpu for device in devices(3)] == ["1", "GPU-ab", "1"]
        assert devices(0) == []

    @pytest.mark.parametrize("visible", ["", "-1"])
    def test_one_on_the_cpu_or_shares_of_it(self, monkeypatch, visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        assert devices(None) == [CellDevice()]
        assert [device.threads for device in devices(2)] == [4, 4]
        assert len(devices(None, on_cpu=2)) == 2 and len(devices(None, on_cpu=2, most=1)) == 1


class TestServer:
    def test_a_port_in_use(self, state):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(UserError, match=rf"Port {port} is in use by process {os.getpid()}.*--port"):
                up_server.ensure_server(state, port, None)
        assert services(state) == {}

    def test_a_server_that_does_not_start_shows_its_log(self, state, monkeypatch):
        monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense://nowhere")
        with pytest.raises(UserError) as caught:
            up_server.ensure_server(state, free_port(), None)
        assert "did not answer" in str(caught.value)
        assert str(processes.log_of(state, "server")) in str(caught.value)
        assert "nonsense" in str(caught.value)
        assert services(state) == {}
        assert not processes.marked(state)

    def test_a_named_server_that_is_away(self, state):
        with pytest.raises(UserError, match=r"PREFECT_API_URL.*unset"):
            up_server.ensure_server(state, None, f"http://127.0.0.1:{free_port()}/api")

    def test_a_server_on_another_port_runs_already(self, state):
        begun(state)
        with pytest.raises(UserError, match="lks down"):
            up_server.ensure_server(state, 2, None)

    @pytest.mark.parametrize("kept", ["", "no number"])
    def test_the_port_of_a_server_that_was_ended_is_used_again(self, state, monkeypatch, kept):
        asked = []
        service = begun(state)
        monkeypatch.setattr(up_server, "services", lambda state: {})
        monkeypatch.setattr(
            up_server, "_start_server", lambda state, port, api: asked.append(port) or service
        )
        monkeypatch.setattr("flows.services.temporary_server.answers", lambda *_: True)
        free = free_port()
        up_server.ensure_server(state, free, None)
        up_server.ensure_server(state, None, None)
        assert asked == [free, free]
        (state / "port").write_text(kept)
        monkeypatch.setattr(up_server, "_listens", lambda port: False)
        up_server.ensure_server(state, None, None)
        assert asked[-1] == up_server.PORT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what processes listen on")
def test_up_twice_status_and_down(state, tmp_path, monkeypatch):
    port = free_port()
    grids = tmp_path / "grids.toml"
    grids.write_text(fakes.GRIDS)
    monkeypatch.setenv("LKS_GRIDS", str(grids))
    first = _command("up", "--port", port, "--results", tmp_path / "r")
    assert f"export PREFECT_API_URL=http://127.0.0.1:{port}/api" in first
    running = services(state)
    assert set(running) == {"server", "worker-lks", "worker-gpu-0"}
    listening = _listening(state)
    assert f"127.0.0.1:{port}" in listening
    assert {address.rpartition(":")[0] for address in listening} == {"127.0.0.1"}
    assert _deployed(port) == {"lks-grid": "lks", "lks-cell": "gpu", "lks-data": "lks", "lks-report": "lks"}

    psutil.Process(running["worker-gpu-0"].pid).kill()
    assert "worker-gpu-0: down" in _command("status", "--grid", "tiny")
    _command("up")
    again = services(state)
    assert {name for name in again if again[name] == running[name]} == {"server", "worker-lks"}
    assert again["worker-gpu-0"].pid != running["worker-gpu-0"].pid
    shown = _command("status", "--grid", "tiny")
    assert all(f"{name}: up since" in shown for name in again)
    assert f"No results in {tmp_path / 'r'}" in shown

    ended = _command("down")
    assert all(f"{name} (process {service.pid}): ended" in ended for name, service in again.items())
    assert not any(_runs(service.pid) for service in again.values())
    assert not processes.marked(state)


def _command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, fakes.__file__, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _listening(state: Path) -> set[str]:
    """What the processes of a state folder listen on."""
    found = set()
    for process in processes.marked(state):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(f"{connection.laddr.ip}:{connection.laddr.port}")
    return found


def _deployed(port: int) -> dict[str, str]:
    """Deployments and their pools, as the server says."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
        get_client(sync_client=True) as client,
    ):
        return {deployment.name: str(deployment.work_pool_name) for deployment in client.read_deployments()}
