"""Atomic writes: a file or folder is seen whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lks.errors import StoreError
from lks.io.untrusted import one_line

CACHE_ADVICE = "Free space, or set LKS_CACHE to another folder."
"""What to do about a cache that cannot be written."""


def write_whole(path: Path, content: bytes, advice: str = "") -> None:
    """Write a file atomically: readers see it whole or not at all, whatever happens on the way.

    Args:
        path: the file.
        content: its content.
        advice: what the user can do if it fails; by default what helps with a results folder.

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
            move_synced(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = f"{error}. {advice}" if advice else f"{_advice(error)}."
        raise StoreError(f"Cannot write {path}: {reason}") from None


def move_synced(part: Path, path: Path) -> None:
    """Move a finished file to its final name, where it is whole even after a power cut."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the given one on leaving without an error.

    Raises:
        OSError: it cannot be written; the given folder is as before.
    """
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("part", "old"))
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
    finally:
        if old.exists() and not folder.exists():
            old.replace(folder)
        for rest in (new, old):
            shutil.rmtree(rest, ignore_errors=True)


def _advice(error: OSError) -> str:
    """Return the reason of a failed write, with what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left; free some, then start again (finished cells are kept)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; use another folder with --results"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file is in the way; use another folder with --results"
    return one_line(error)
