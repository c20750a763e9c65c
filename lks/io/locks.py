"""Locks on files, between processes of one machine or of a shared folder; the system takes a lock back when its process ends, however it ends."""

import fcntl
import os
import time
from typing import IO, Any

EVERY_S = 0.1
"""Seconds between two tries."""


def locked(file: IO[Any], wait_s: float = 0.0) -> bool | None:
    """Take a file's lock; it is held until the file is closed.

    Args:
        file: open.
        wait_s: seconds to wait for another process that has it.

    Returns:
        False where another process still has it; None where the file system has no locks.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        except OSError:
            return None
        if time.monotonic() >= deadline:
            return False
        time.sleep(EVERY_S)


def sign(file: IO[str]) -> None:
    """Leave this process's number in a locked file, for those who find it locked."""
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def holder(file: IO[str]) -> str:
    """The process that has signed a file; "unknown" where none has."""
    file.seek(0)
    return file.read().strip() or "unknown"
