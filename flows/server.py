"""A temporary Prefect server for one command.

Prefect starts one by itself where none is configured, but that one falls to the same Ctrl-C as the grid, before the grid can say
what became of its run, and a killed grid leaves it running for ever. This one ignores the terminal and leaves with its parent.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from lks.errors import UserError

PATIENCE_S = 180.0


@contextmanager
def temporary_server() -> Iterator[None]:
    """A server for the `with`, unless one is configured (`PREFECT_API_URL`, a profile, a running flow).

    Raises:
        UserError: it did not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    port = _free_port()
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "flows.server", str(port)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        try:
            if not _answers(f"http://127.0.0.1:{port}/api/health", server):
                log.seek(0)
                last = (log.read().strip().splitlines() or ["no output"])[-1]
                raise UserError(f"Prefect's temporary server did not start: {last}. Start one (prefect server start) and set PREFECT_API_URL.")
            with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
                yield
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; False if it ended or took too long."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve on the port given as the only argument: `python -m flows.server PORT`."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(ephemeral=True), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
