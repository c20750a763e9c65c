"""HTTP server of patched models: it listens, ends gracefully and frees the model."""

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
"""Seconds that connections get after their answers are written or cut off."""
KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that no request meets a
connection that is being closed."""

log = logging.getLogger("lks.serve")


class GracefulServer(uvicorn.Server):
    """Server that ends in two steps: it first accepts nothing new while answers in progress continue, then
    stops.

    Args:
        service: the service to run.
        host, port: address to listen on; port 0 takes any free one.
        grace: seconds that answers in progress get.
        ready: called with the address once the server listens.
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
        """Start to listen and report the address."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            found = self.servers[0].sockets[0].getsockname()
            host = f"[{found[0]}]" if ":" in found[0] else found[0]
            self.address = f"http://{host}:{found[1]}"
            if self.ready is not None:
                self.ready(self.address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or Ctrl-C: the first ends once all is answered, the second ends at once."""
        if self._until is not None:
            self.should_exit = self.force_exit = True
            return
        self.begin_end()

    def begin_end(self) -> None:
        """Accept nothing new; stop when all is answered or the time is up."""
        self.service.engine.close()
        self._until = time.monotonic() + self.grace

    async def on_tick(self, counter: int) -> bool:
        """Check, ten times a second, whether the server is to stop."""
        if self._until is not None and not self.should_exit:
            late = time.monotonic() > self._until
            if late:
                log.warning("%d answers are cut off", self.service.engine.load)
            if late or not self.service.engine.load:
                self.service.engine.end()
                self.should_exit = True
        return await super().on_tick(counter)

    def run_with_engine(self) -> None:
        """Serve until the server is ended; then the engine has stopped, too."""
        self.service.engine.start()
        try:
            self.run()
        finally:
            self.service.engine.end()
            self.service.reader.shutdown(cancel_futures=True)


def api_key(file: Path | None) -> str | None:
    """Return the key from a file, else from $LKS_API_KEY, or None if there is neither.

    Raises:
        UserError: the file cannot be read, other users may read it, or the key is too short to be secure.
    """
    key, source = os.environ.get("LKS_API_KEY", ""), "LKS_API_KEY"
    if file is not None:
        source = str(file)
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise UserError(
                    f"{file} can be read by others. Make it readable only by yourself: chmod 600 {file}"
                )
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"The API key cannot be read from {file}: "
                f"{getattr(error, 'strerror', None) or 'it is not text'}."
            ) from None
    elif not key:
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"The API key in {source} is not usable: "
            f"at least {SHORTEST_KEY} printable ASCII characters without spaces are required."
        )
    return key


def check_host(host: str, key: str | None) -> frozenset[str]:
    """Return the names by which clients may address the server; empty for any.

    Raises:
        UserError: others could reach a server without a key.
    """
    if host in LOOPBACK:
        return frozenset(LOOPBACK)
    if key is None:
        raise UserError(
            f"Others could use the server at {host}. "
            "Set a key in LKS_API_KEY or --api-key-file, or omit --host."
        )
    return frozenset()
