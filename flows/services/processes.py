"""Background processes that outlive the command which started them: their records, logs and termination."""

import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from lks.errors import UserError
from lks.io.atomic import write_whole
from lks.io.locks import locked

MARK = "LKS_UP"
"""Environment variable of all processes of `lks up` and their children; its value is the state folder."""

SERVER = "server"
CLOCK_S = 5.0
"""Tolerance in seconds for a process's start time, which shifts when the machine's clock is set."""


@dataclass(frozen=True, slots=True)
class BackgroundService:
    """A process that `lks up` has started.

    Attributes:
        name: "server", "worker-lks", "worker-gpu-0".
        pid: process id.
        started: start time in seconds since the epoch, as reported by the system.
        command: command line of the process.
        note: what users should know about it.
    """

    name: str
    pid: int
    started: float
    command: tuple[str, ...]
    note: str = ""


def state_folder() -> Path:
    """Return the folder of logs, process ids and the server's database.

    There is one per machine, as several machines may share a home folder.
    """
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    return home.absolute() / "lks-grid" / socket.gethostname()


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Lock the state folder against other commands that start services; the lock is released with the
    process.

    Raises:
        UserError: another command holds the lock, or the folder cannot be written.
    """
    with _open(state, ".lock") as file:
        if not locked(file):
            raise UserError(f"Another lks up is at work in {state}. Wait for it.")
        yield


def results_of(state: Path) -> Path | None:
    """Return the results folder last given to `lks up`, or None."""
    try:
        return Path((state / "results").read_text(encoding="utf-8").strip() or ".")
    except OSError:
        return None


def keep_results(state: Path, results: Path) -> None:
    """Remember the results folder for commands that name none."""
    write_whole(state / "results", str(results).encode())


def log_of(state: Path, name: str) -> Path:
    """Return the path of a service's log."""
    return state / f"{name}.log"


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 10_000, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    return "\n".join(text.strip().splitlines()[-lines:]) or "(empty)"


def services(state: Path) -> dict[str, BackgroundService]:
    """Return the services that are running, by name.

    Records of processes that have ended are left out, even if their process id now belongs to another
    process.
    """
    found = {}
    for file in sorted(state.glob("*.json")):
        service = record(state, file.stem)
        if service and process_of(service):
            found[service.name] = service
    return found


def process_of(service: BackgroundService) -> psutil.Process | None:
    """Return the process of a service, or None if it has ended, even if its process id is in use again."""
    try:
        process = psutil.Process(service.pid)
        same = (
            abs(process.create_time() - service.started) < CLOCK_S
            and tuple(process.cmdline()) == service.command
        )
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def start(
    state: Path, name: str, command: Sequence[str], environment: Mapping[str, str], note: str = ""
) -> BackgroundService:
    """Start a service that outlives this process and its terminal, with its output going to its log.

    Raises:
        UserError: the state folder cannot be written.
    """
    with _open(state, log_of(state, name).name) as log:
        log.write(f"\n{time.strftime('%F %T')} {shlex.join(command)}\n")
        log.flush()
        carried = {**environment, MARK: str(state)}
        child = subprocess.Popen(
            command,
            env=carried,
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        service = BackgroundService(
            name, child.pid, psutil.Process(child.pid).create_time(), tuple(command), note
        )
    except psutil.NoSuchProcess:
        service = BackgroundService(name, child.pid, time.time(), tuple(command), note)
    write_whole(state / f"{name}.json", json.dumps(asdict(service)).encode())
    return service


def _open(state: Path, name: str) -> IO[str]:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (state / name).open("a")
    except OSError as error:
        raise UserError(
            f"{state} cannot be written: {error.strerror}. Set PREFECT_HOME to a folder that can be."
        ) from None


def record(state: Path, name: str) -> BackgroundService | None:
    """Return the record of a service, whether or not it is running; None if there is no record."""
    try:
        raw = json.loads((state / f"{name}.json").read_text(encoding="utf-8"))
        return BackgroundService(
            str(raw["name"]),
            int(raw["pid"]),
            float(raw["started"]),
            tuple(map(str, raw["command"])),
            str(raw["note"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def marked(state: Path) -> list[psutil.Process]:
    """Return all processes of this user that descend from a service of this state folder.

    Processes whose parents have ended are included.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(MARK) == str(state)
                and process.status() != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def flow_runs(processes: Iterable[psutil.Process]) -> list[str]:
    """Return the ids of the flow runs that processes belong to."""
    found = set()
    for process in processes:
        with suppress(psutil.Error, OSError):
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
    return sorted(found - {""})


def end(processes: Iterable[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Ask processes to terminate, wait, and kill those that do not.

    Returns:
        Processes that had to be killed.
    """
    asked = list(processes)
    for process in asked:
        _signal(process, kill=False)
    left = _await_end(asked, patience_s)
    for process in left:
        _signal(process, kill=True)
    _await_end(left, patience_s)
    return left


def _await_end(processes: Iterable[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Return the processes still running after the time limit.

    A zombie that nobody reaps, as in containers without an init process, counts as ended.
    """
    deadline = time.monotonic() + patience_s
    while True:
        _, processes = psutil.wait_procs(processes, timeout=0.1)
        processes = [process for process in processes if not has_ended(process)]
        if not processes or time.monotonic() >= deadline:
            return processes


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _signal(process: psutil.Process, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass


def forget(state: Path, name: str) -> None:
    """Delete the record of a service that has ended; its log stays."""
    (state / f"{name}.json").unlink(missing_ok=True)
