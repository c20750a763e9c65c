"""Atomic file writes: a file is seen whole or not at all."""

import errno
import os
from pathlib import Path

from lks.errors import StoreError
from lks.io.untrusted import one_line


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see it whole or not at all, whatever happens on the way.

    Raises:
        StoreError: no space, no permission, or another reason to fail.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # left by a killed process with the same id
        try:
            with part.open("xb") as file:  # never follows a link
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {_advice(error)}.") from None


def _advice(error: OSError) -> str:
    """Return the reason of a failed write, with what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left; free some, then start again (finished cells are kept)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; use another folder with --results"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file is in the way; use another folder with --results"
    return one_line(error)
