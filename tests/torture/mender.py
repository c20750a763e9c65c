"""What a user or a service manager does to keep a grid on a work pool going: `lks up`, and the grid again."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

from tests.helpers.root import ROOT

ASK_EVERY_S = 1.0
PATIENCE_S = 900.0
"""Seconds in which something must get done: a cell, a kill or a round."""
GONE_S = 15.0
"""Seconds after which an operator whose grid does not run any more, though the server says so, calls `lks up`
again.
"""


class Operator:
    """Keeps services and grids going by the commands that users have.

    Args:
        folder: of everything.

    Attributes:
        ups: calls of `lks up` after the first.
        grids: grid runs started.
        state: folder of the services.
    """

    def __init__(self, folder: Path) -> None:
        from flows.services.processes import state_folder

        self._folder, self.state, self.ups, self.grids = folder, state_folder(), 0, 0
        self._port = _free_port()
        self._api = f"http://127.0.0.1:{self._port}/api"
        self._asked = self._seen = time.monotonic()
        self._up: subprocess.Popen[bytes] | None = None
        self._run: UUID | None = None

    def up(self) -> None:
        """Start `lks up`, unless it runs."""
        if self._up is None or self._up.poll() is not None:
            self._seen = time.monotonic()
            self._up = self._lks(
                "up", "--workers", "2", "--port", str(self._port), "--results", str(self._folder / "results")
            )

    def down(self) -> None:
        """End everything."""
        if self._up:
            self._up.wait(PATIENCE_S)
        self._lks("down").wait(PATIENCE_S)

    def _lks(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self._folder / "commands.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", "from cli.app import app; app()", *words],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def mend(self, living: Mapping[str, Sequence[object]]) -> None:
        """Call `lks up` where a service is missing, or where the grid's process is gone and its run is not
        over.
        """
        from flows.services.processes import services

        if living["grid flow"] or self._run is None:
            self._seen = time.monotonic()
        lost = time.monotonic() - self._seen > GONE_S
        if (len(services(self.state)) < 4 or lost) and (self._up is None or self._up.poll() is not None):
            self.ups += 1
            self.up()

    def drive(self, grid: str) -> bool:
        """Look after the run of a grid: start it if there is none, or the last one did not complete; whether
        it has completed.
        """
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.exceptions import PrefectException
        from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        if time.monotonic() - self._asked < ASK_EVERY_S:
            return False
        self._asked = time.monotonic()
        try:
            with (
                temporary_settings({PREFECT_API_URL: self._api, PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(sync_client=True) as client,
            ):
                state = client.read_flow_run(self._run).state if self._run else None
                if state and state.is_completed():
                    self._run = None
                    return True
                if state is None or state.is_final():
                    deployment = client.read_deployment_by_name("lks-grid/lks-grid").id
                    self._run = client.create_flow_run_from_deployment(
                        deployment, parameters={"grid": grid, "runner": "pool"}
                    ).id
                    self.grids += 1
        except (httpx.HTTPError, PrefectException, RuntimeError):
            pass  # the server is away, or has no deployment yet
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
