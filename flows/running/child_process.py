"""Both ends of a connection to a child process: one JSON line per order in, one per event out.

A child does not outlive its parent.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import IO, Generic, TypeVar

from pydantic import TypeAdapter

OrderT = TypeVar("OrderT")
EventT = TypeVar("EventT")


class ChildProcess:
    """A child process as its parent sees it.

    It has its own process group: Ctrl-C on the terminal goes to the parent, which ends the child and its
    descendants.

    Args:
        command: command line of the child, which creates a `Parent`.
        environment: all of its environment variables.
        log: its error output; that of this process if not given.

    Attributes:
        pid: process id.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes] | None = None
    ) -> None:
        pipe = subprocess.PIPE
        self.environment, self._rest = environment, b""
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, env=environment, process_group=0
        )
        self.pid = self._process.pid

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to `read`."""
        assert self._process.stdout
        return self._process.stdout.fileno()

    def send(self, order: bytes) -> None:
        """Send an order, which is a single line; a child that has died is noticed when its output ends."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(order + b"\n")
            self._process.stdin.flush()

    def read(self) -> list[bytes] | None:
        """Return the events that have arrived, waiting for some input; None at the end of the output."""
        content = os.read(self.fileno(), 1 << 16)
        if not content:
            return None
        *lines, self._rest = (self._rest + content).split(b"\n")
        return lines

    def wait(self, patience_s: float) -> int | None:
        """Return the exit code, negative for a signal; None if the child is still running after that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience_s)
        return None

    def kill(self) -> None:
        """Kill the child and everything it has started, without waiting; its output ends."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """End the child and everything it has started, and return its exit code."""
        self.kill()
        with contextlib.suppress(BrokenPipeError), self._process:  # closes the pipes and waits
            pass
        return self._process.wait()


class Parent(Generic[OrderT, EventT]):
    """Connection to the parent process: orders come from the standard input, events go to the standard
    output.

    Create it before anything else: from then on the input is empty and printed text goes to the error output,
    so that no library interferes with orders and events. This process ends as soon as the parent is gone: by
    a signal where available, else when its pipe closes.
    """

    def __init__(self, orders: TypeAdapter[OrderT], events: TypeAdapter[EventT]) -> None:
        self._order, self._event, self._id = orders, events, os.getppid()
        self._input, self._output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(
                1, signal.SIGKILL
            )  # PR_SET_PDEATHSIG; works even while native code keeps the threads below from running
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._poll, daemon=True).start()

    def _read(self) -> None:
        for line in self._input:
            self._lines.put(line)
        _leave()

    def _poll(self) -> None:
        while os.getppid() == self._id:
            time.sleep(1)
        _leave()

    def order(self) -> OrderT:
        """Wait for the next order and return it."""
        return self._order.validate_json(self._lines.get())

    def tell(self, event: EventT) -> None:
        """Send an event."""
        self._output.write(self._event.dump_json(event) + b"\n")
        self._output.flush()


def _leave() -> None:
    """End this process and everything it has started, at once: finished work is already on disk."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
