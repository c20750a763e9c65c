"""File locks between processes of one machine or a shared folder; the system releases them.

A lock is released when its process ends, however it ends.
"""

import fcntl
import os
from typing import IO, Any

from lks.io.retry import Retries


def locked(file: IO[Any], wait_s: float = 0.0) -> bool | None:
    """Lock a file; the lock is held until the file is closed.

    Args:
        file: an open file.
        wait_s: seconds to wait for another process that holds the lock.

    Returns:
        True once the lock is held, False where another process still holds it, None where the file system has
        no locks.
    """
    retries = Retries(wait_s, first_s=0.1)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not retries.pause():
                return False
        except OSError:
            return None


def sign(file: IO[str]) -> None:
    """Write this process's id to a locked file, for those who find it locked."""
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()


def holder(file: IO[str]) -> str:
    """Return the id of the process that signed a file; "unknown" where none has."""
    file.seek(0)
    return file.read().strip() or "unknown"
