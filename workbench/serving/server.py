"""The server's life: it listens, ends gracefully, and frees the model."""

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from lks.errors import UserError
from workbench.serving.app import make_app
from workbench.serving.service import ModelService

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_KEY = 8
CLOSING_S = 2
"""Seconds that connections get once their answers are written or cut off."""
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that no request meets a connection that is just being closed."""

log = logging.getLogger("lks.serve")


class GracefulServer(uvicorn.Server):
    """Ends in two steps: first nothing new is let in, and what is under way goes on for a while; then it stops.

    Args:
        service: what is served.
        host, port: where; port 0 takes any that is free.
        grace: seconds that answers under way get.
        ready: called once it listens, with its address.
    """

    def __init__(
        self,
        service: ModelService,
        host: str,
        port: int,
        grace: float = 30.0,
        ready: Callable[[str], None] | None = None,
    ) -> None:
        settings = uvicorn.Config(
            make_app(service),
            host,
            port,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSING_S,
        )
        super().__init__(settings)
        self.service, self.grace, self.ready = service, grace, ready
        self.address = ""
        self._until: float | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            found = self.servers[0].sockets[0].getsockname()
            host = f"[{found[0]}]" if ":" in found[0] else found[0]
            self.address = f"http://{host}:{found[1]}"
            if self.ready is not None:
                self.ready(self.address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or Ctrl-C: once to end when all is answered, twice to end now."""
        if self._until is not None:
            self.should_exit = self.force_exit = True
            return
        self.begin_end()

    def begin_end(self) -> None:
        """Let nothing new in; stop when all is answered or the time is up."""
        self.service.engine.close()
        self._until = time.monotonic() + self.grace

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._until is not None and not self.should_exit:
            late = time.monotonic() > self._until
            if late:
                log.warning("%d answers are cut off", self.service.engine.load)
            if late or not self.service.engine.load:
                self.service.engine.end()
                self.should_exit = True
        return await super().on_tick(counter)

    def run_with_engine(self) -> None:
        """Serve until it is ended; then the engine has stopped too."""
        self.service.engine.start()
        try:
            self.run()
        finally:
            self.service.engine.end()
            self.service.reader.shutdown(cancel_futures=True)


def api_key(file: Path | None) -> str | None:
    """The key from a file, else from $LKS_API_KEY; None where there is neither.

    Raises:
        UserError: the file cannot be read, others may read it, or a key too short to keep anybody out.
    """
    key, source = os.environ.get("LKS_API_KEY", ""), "LKS_API_KEY"
    if file is not None:
        source = str(file)
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise UserError(f"{file} can be read by others. Keep the key to yourself: chmod 600 {file}")
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"The API key cannot be read from {file}: {getattr(error, 'strerror', None) or 'it is not text'}."
            ) from None
    elif not key:
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"The API key in {source} is not usable: at least {SHORTEST_KEY} printable ASCII characters without spaces."
        )
    return key


def check_host(host: str, key: str | None) -> frozenset[str]:
    """Names by which clients may call the server.

    Raises:
        UserError: others could reach a server without a key.
    """
    if host in LOOPBACK:
        return frozenset(LOOPBACK)
    if key is None:
        raise UserError(
            f"Others could use the server at {host}. Set a key in LKS_API_KEY or --api-key-file, or leave --host out."
        )
    return frozenset()
