"""Checkpoints of long computations: tensors and a text in one file, without pickle."""

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
"""Largest share of a computation's time that may go into saving checkpoints."""
VERSION = "1"
"""Increased when what is computed, or how it is saved, changes: states of another version are not used."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """A saved state.

    Attributes:
        tensors: the tensors by name, on the CPU.
        text: any text, for example JSON.
    """

    tensors: dict[str, Tensor]
    text: str


class Stopwatch:
    """Seconds of work: earlier attempts count, but not the work that was lost when they ended."""

    def __init__(self) -> None:
        self._earlier, self._start = 0.0, time.perf_counter()

    def read(self) -> float:
        """Return the seconds so far."""
        return self._earlier + time.perf_counter() - self._start

    def go_on(self, seconds: float) -> None:
        """Continue from a number of seconds, the reading when the state that is resumed from was saved."""
        self._earlier, self._start = seconds, time.perf_counter()


class Checkpoint:
    """A file that holds the state of an unfinished computation.

    Args:
        path: the file.
        identity: names the computation; a state of another one is not used.
        clock: stopwatch whose reading is saved too.
        every_s: least number of seconds between two saves, unless something got better; 0 saves at every
            call.
    """

    def __init__(self, path: Path, identity: str, clock: Stopwatch, every_s: float) -> None:
        self.path, self._clock, self._every_s = path, clock, every_s
        self._about = {"version": VERSION, "identity": identity}
        self._last, self._cost = time.monotonic(), 0.0

    def due(self, better: bool = False) -> bool:
        """Return whether to save now.

        Saving takes at most `SHARE` of the time, however large the state and however slow the disk.
        """
        rest = self._cost / SHARE
        return not self._every_s or time.monotonic() - self._last >= (
            rest if better else max(rest, self._every_s)
        )

    def save(self, tensors: Mapping[str, Tensor], text: str = "") -> None:
        """Replace the saved state; a computation whose state cannot be saved continues without."""
        start = time.monotonic()
        try:
            write(self.path, tensors, self._about | {"seconds": repr(self._clock.read()), "text": text})
        except StoreError as error:
            logger.warning("%s The computation continues, and starts over if it is killed.", error)
        self._last = time.monotonic()
        self._cost = self._last - start

    def load(self) -> State | None:
        """Return the saved state if it is whole and of this computation, and set the clock to its reading."""
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
        """Log that the saved state is not used, and why."""
        logger.warning(
            "The checkpoint %s of an unfinished computation is not used (%s); it starts over.",
            self.path,
            error,
        )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to; the target is never seen unfinished, even after a power cut.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder, because the code that writes the part may put its own temporary files next to it
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
    """Write tensors to a file.

    Raises:
        StoreError: it cannot be written.
    """
    with whole(path) as part:
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            part,
            dict(about or {}),
        )
