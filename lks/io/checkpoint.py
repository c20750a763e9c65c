"""How far a long computation is, kept in one file so that a killed one goes on: tensors and a text, no pickle."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lks.errors import StoreError

SHARE = 0.02
"""Of a computation's time that may go into keeping it."""
VERSION = "1"
"""Raised when what is computed, or how it is kept, changes: states of another version are not used."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """What was kept.

    Attributes:
        tensors: by name, on the CPU.
        text: for example JSON.
    """

    tensors: dict[str, Tensor]
    text: str


class Stopwatch:
    """Seconds of work, earlier attempts' included but not what was lost when these ended."""

    def __init__(self) -> None:
        self._earlier, self._start = 0.0, time.perf_counter()

    def read(self) -> float:
        """Seconds so far."""
        return self._earlier + time.perf_counter() - self._start

    def go_on(self, seconds: float) -> None:
        """It was so many seconds when the state was kept that is gone on from now."""
        self._earlier, self._start = seconds, time.perf_counter()


class Checkpoint:
    """A file that keeps how far a computation is.

    Args:
        path: of the file.
        identity: of the computation; a state of another one is not used.
        clock: whose seconds are kept too.
        every_s: seconds between two savings at least, unless something got better; 0 saves whenever it is asked.
    """

    def __init__(self, path: Path, identity: str, clock: Stopwatch, every_s: float) -> None:
        self.path, self._clock, self._every_s = path, clock, every_s
        self._about = {"version": VERSION, "identity": identity}
        self._last, self._cost = time.monotonic(), 0.0

    def due(self, better: bool = False) -> bool:
        """Whether to save now. Saving takes at most `SHARE` of the time, however large the state and however slow the disk."""
        rest = self._cost / SHARE
        return not self._every_s or time.monotonic() - self._last >= (
            rest if better else max(rest, self._every_s)
        )

    def save(self, tensors: Mapping[str, Tensor], text: str = "") -> None:
        """Replace what is kept. A computation whose state cannot be kept goes on without."""
        start = time.monotonic()
        try:
            write(self.path, tensors, self._about | {"seconds": repr(self._clock.read()), "text": text})
        except StoreError as error:
            logger.warning("%s It goes on, and starts anew if it is killed.", error)
        self._last = time.monotonic()
        self._cost = self._last - start

    def load(self) -> State | None:
        """What is kept, if it is whole and of this computation; the clock goes on from there."""
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                if {key: about.get(key) for key in self._about} != self._about:
                    raise ValueError("of another version")
                state = State({name: file.get_tensor(name) for name in file.keys()}, about["text"])  # noqa: SIM118
            self._clock.go_on(float(about["seconds"]))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            self.ignore(error)
            return None
        return state

    def ignore(self, error: Exception) -> None:
        """Say that what is kept is not used."""
        logger.warning(
            "What an unfinished computation left in %s is not used (%s); it starts anew.", self.path, error
        )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is never seen unfinished, even after a power cut.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder, because what writes the part may have temporary files of its own beside it
        with tempfile.TemporaryDirectory(
            ".part", f"{path.name.partition('.')[0]}.", path.parent, ignore_cleanup_errors=True
        ) as folder:
            part = Path(folder) / path.name
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"Cannot write {path}: {error}. Free space, or set LKS_CACHE to another folder."
        ) from error


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Put tensors into a file.

    Raises:
        StoreError: it cannot be written.
    """
    with whole(path) as part:
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            part,
            dict(about or {}),
        )
