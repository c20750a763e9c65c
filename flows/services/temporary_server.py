"""A temporary Prefect server for one command, and a function that waits for any server to answer.

Prefect starts a temporary server by itself if none is configured, but the same Ctrl-C that stops the grid
ends that one before the grid can report the state of its run, and a killed grid leaves it running
indefinitely. This one ignores the terminal and ends with its parent.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lks.errors import UserError
from lks.io.retry import Retries

PATIENCE_S = 180.0


@contextmanager
def temporary_server() -> Iterator[None]:
    """Run a server inside the `with` block, unless one is configured (`PREFECT_API_URL`, a profile, a running
    flow).

    Raises:
        UserError: the server did not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    port = _free_port()
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "flows.services.temporary_server", str(port)]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        try:
            if not answers(f"http://127.0.0.1:{port}/api", lambda: server.poll() is None):
                log.seek(0)
                last = (log.read().strip().splitlines() or ["no output"])[-1]
                raise UserError(
                    f"Prefect's temporary server did not start: {last}. "
                    "Start one (prefect server start) and set PREFECT_API_URL."
                )
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


def answers(api: str, alive: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Wait until a server answers.

    Args:
        api: address of the server, such as "http://127.0.0.1:4200/api".
        alive: returns whether waiting still makes sense.
        patience_s: maximum number of seconds to wait.

    Returns:
        True if it answered, False if it ended or took too long.
    """
    retries = Retries(patience_s, first_s=0.2)
    while True:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (OSError, ValueError, http.client.HTTPException):  # refused, too slow, or of another kind
            if not alive() or not retries.pause():
                return False


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve on the port given as the only argument: `python -m flows.services.temporary_server PORT`."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(ephemeral=True), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
