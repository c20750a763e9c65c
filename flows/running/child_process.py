"""A child process's end of the connection: one line per order in, one line per event out.

A child does not outlive its parent.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from queue import SimpleQueue


class Parent:
    """Connection to the parent process: orders come from the standard input, events go to the standard
    output.

    Create it before anything else: from then on the input is empty and printed text goes to the error output,
    so that no library interferes with orders and events.
    """

    def __init__(self) -> None:
        self._id = os.getppid()
        self._input, self._output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        self._orders: SimpleQueue[bytes] = SimpleQueue()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    def watch(self) -> None:
        """End this process as soon as the parent is gone: by a signal where available, else when its pipe
        closes.
        """
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(
                1, signal.SIGKILL
            )  # PR_SET_PDEATHSIG; works even while native code keeps the threads below from running
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._poll, daemon=True).start()

    def _read(self) -> None:
        for line in self._input:
            self._orders.put(line)
        _leave()

    def _poll(self) -> None:
        while os.getppid() == self._id:
            time.sleep(1)
        _leave()

    def order(self) -> bytes:
        """Wait for the next order and return it."""
        return self._orders.get()

    def tell(self, event: bytes) -> None:
        """Send an event, which is a single line."""
        self._output.write(event + b"\n")
        self._output.flush()


def _leave() -> None:
    """End this process and everything it has started, at once: finished work is already on disk."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
