"""A cache on disk for tensors that are made once, named by the hash of all they depend on."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lks.errors import StoreError
from lks.io.atomic import CACHE_ADVICE, write_whole
from lks.io.checkpoint import Checkpoint, Stopwatch, write
from lks.io.locks import locked

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Return the folder of models, data and preparations: `LKS_CACHE`, else ~/.cache/lks-grid."""
    return Path(os.environ.get("LKS_CACHE") or "~/.cache/lks-grid").expanduser()


@dataclass(frozen=True, slots=True)
class CachedTensors:
    """Tensors from the cache.

    Attributes:
        tensors: the tensors by name.
        seconds: time it took to make them, whenever that was.
    """

    tensors: dict[str, Tensor]
    seconds: float


class Making:
    """A cache entry while it is being made; checkpoints let the next attempt resume if this one is killed.

    Args:
        path: file of the entry.
        key: everything the entry depends on, as JSON.

    Attributes:
        clock: seconds of work, including earlier attempts.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key, self.clock = path, key, Stopwatch()

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the checkpoint of a named step."""
        return Checkpoint(self._path.with_suffix(f".{name}.state"), self._key, self.clock)

    def step(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the result of a whole step, without repeating it where an earlier attempt finished it."""
        kept = self.checkpoint(name)
        if (state := kept.load()) is not None:
            return cast(dict[str, Tensor], state)
        tensors = make()
        kept.save(tensors)
        return tensors


def made(kind: str, depends_on: object, make: Callable[[Making], dict[str, Tensor]]) -> CachedTensors:
    """Return tensors from disk, or make them now and store them.

    Of several processes that want the same tensors at once, one makes them and the others wait.

    Args:
        kind: readable first part of the file name ("moments").
        depends_on: everything that decides the result, JSON-serialisable; the file is named by its hash.
            Tensors whose content does not match (a truncated file, a colliding name) are made again.
        make: makes the tensors.

    Raises:
        StoreError: the cache folder cannot be written.
    """
    path, key = _named(kind, depends_on)
    if there := _read(path, key):
        return there
    with making(kind, depends_on) as work:
        if there := _read(path, key):  # another process made it while this one waited
            return there
        tensors = make(work)
        there = CachedTensors(tensors, work.clock.read())
        write(path, tensors)
        about = json.dumps({"seconds": there.seconds, "depends_on": json.loads(key)})
        write_whole(path.with_suffix(".json"), about.encode(), CACHE_ADVICE)
    return there


def known(kind: str, depends_on: object) -> CachedTensors | None:
    """Return the tensors that `made` would take from disk; None if they are not there."""
    return _read(*_named(kind, depends_on))


@contextmanager
def making(kind: str, depends_on: object) -> Iterator[Making]:
    """Make an entry alone: another process that wants the same waits until this one is finished or gone.

    Checkpoints of the entry are removed at the end, unless that is an error. Where the file system has no
    locks, processes make the entry independently of each other, with the same result.

    Raises:
        StoreError: the cache folder cannot be written.
    """
    path, key = _named(kind, depends_on)
    lock = path.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise StoreError(f"Cannot write the cache {path.parent}: {error}. {CACHE_ADVICE}") from error
    with file:
        if _locked(file, path):
            for part in path.parent.glob(f"{path.stem}.*.part"):  # left by a process killed while writing
                shutil.rmtree(part, ignore_errors=True)
        yield Making(path, key)
        for state in path.parent.glob(f"{path.stem}.*.state"):
            with suppress(OSError):
                state.unlink()
        lock.unlink(missing_ok=True)  # a process that waits for it, or creates it again, finds the entry


def _named(kind: str, depends_on: object) -> tuple[Path, str]:
    """Return the file and the key of an entry."""
    key = json.dumps(depends_on, sort_keys=True)
    return folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors", key


def _locked(file: IO[str], path: Path) -> bool:
    """Wait for the lock, which is released when its process ends; return False where there are no locks."""
    ours = locked(file)
    if ours is False:
        logger.warning("Another process is making %s; waiting for it.", path)
        ours = locked(file, math.inf)
    return bool(ours)


def _read(path: Path, key: str) -> CachedTensors | None:
    """Return an entry from disk; None where it is missing, damaged or of another key."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        return (
            CachedTensors(load_file(path), float(about["seconds"]))
            if about["depends_on"] == json.loads(key)
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None  # missing or incomplete
