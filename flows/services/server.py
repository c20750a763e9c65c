"""The Prefect server of `lks up`: it listens on this machine only, and is not started if another is
configured.
"""

import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows.services.processes import (
    SERVER,
    BackgroundService,
    end,
    forget,
    log_of,
    process_of,
    services,
    start,
    tail,
)
from lks.errors import UserError
from lks.io.atomic import write_whole

PORT = 4200
PATIENCE_S = 180.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def ensure_server(state: Path, port: int | None, configured: str | None) -> str:
    """Make sure that a server answers, starting one if necessary.

    Args:
        state: state folder.
        port: port to listen on; None: the last one used, else 4200.
        configured: address of the server in Prefect's settings, if any.

    Returns:
        Address of the server.

    Raises:
        UserError: the server already runs on another port, another program uses this port, or there is no
            answer.
    """
    from flows.services.temporary_server import answers

    own = services(state).get(SERVER)
    wanted = port or _port_before(state) or PORT
    api = f"http://127.0.0.1:{wanted}/api"
    if own and own.note != api:
        raise UserError(f"The server of lks up runs at {own.note}. End it first (lks down), or omit --port.")
    if not own and configured and (not _same(configured, api) or answers(configured, lambda: False)):
        return _configured(configured)
    if not own:
        if _listens(wanted):
            raise UserError(f"Port {wanted} is in use by {_who(wanted)}. {_what_to_do(state, api)}")
        own = _start_server(state, wanted, api)
    if not answers(api, lambda: process_of(own) is not None, PATIENCE_S):
        end([p for p in [process_of(own)] if p], 20.0)
        forget(state, SERVER)
        log = log_of(state, SERVER)
        raise UserError(
            f"The server did not answer at {api}. Fix what its log says and start again. "
            f"End of {log}:\n{tail(log)}"
        )
    write_whole(state / "port", str(wanted).encode())
    return api


def _port_before(state: Path) -> int | None:
    """Return the port that the server used last, which terminals may still name in PREFECT_API_URL."""
    try:
        return int((state / "port").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _configured(api: str) -> str:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True) as client,
    ):
        problem = client.api_healthcheck()
    if problem:
        raise UserError(
            f"PREFECT_API_URL or a Prefect profile names the server {api}, but: {problem}. "
            "Start it, or unset PREFECT_API_URL."
        )
    return api


def _start_server(state: Path, port: int, api: str) -> BackgroundService:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    if not os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL") and not os.environ.get(
        "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    ):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{state / 'server.db'}"
    # If leases were kept in memory, the place of a killed run would stay occupied for many minutes.
    environment.setdefault(
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect.server.concurrency.lease_storage.filesystem"
    )
    return start(state, SERVER, command, environment, api)


def _same(one: str, other: str) -> bool:
    """Return whether two addresses name the same port of this machine."""
    first, second = urlsplit(one), urlsplit(other)
    return first.port == second.port and first.hostname in LOOPBACK and second.hostname in LOOPBACK


def _listens(port: int) -> bool:
    """Return whether the port is in use, on this machine's loopback or on all its addresses."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # so that the port of a server that has just ended counts as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _who(port: int) -> str:
    """Describe the process that listens on a port, as far as this user may see it."""
    try:
        pids = {
            c.pid
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid
        }
        names = [f"process {pid} ({psutil.Process(pid).name()})" for pid in sorted(pids)]
    except psutil.Error:
        names = []
    return ", ".join(names) or "another program"


def _what_to_do(state: Path, api: str) -> str:
    """Return advice for a port in use by a lost process of `lks up`, another Prefect server or another
    program.
    """
    from flows.services.processes import marked
    from flows.services.temporary_server import answers

    if any(_mine(process, urlsplit(api).port or 0) for process in marked(state)):
        return "It is a server that lks up started and lost track of: lks down ends it."
    if answers(api, lambda: False):
        return f"It is a Prefect server: use it with PREFECT_API_URL={api}, or start another with --port."
    return "Choose another port with --port, or end that program."


def _mine(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            connection.laddr and connection.laddr.port == port
            for connection in process.net_connections("tcp")
        )
    except psutil.Error:
        return False
