"""Checkpoints of long computations: nested states in one file of JSON and tensors, without pickle."""

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lks.errors import StoreError
from lks.io.atomic import CACHE_ADVICE, move_synced
from lks.io.untrusted import parse_json

EVERY_S = 30.0
"""Least number of seconds between two checkpoints of a computation; 0 saves at every opportunity."""
SHARE = 0.02
"""Largest share of a computation's time that may go into saving checkpoints."""
VERSION = "2"
"""Increased when what is computed, or how it is saved, changes: states of another version are not used."""

logger = logging.getLogger(__name__)


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
    """

    def __init__(self, path: Path, identity: str, clock: Stopwatch | None = None) -> None:
        self.path, self._clock = path, clock or Stopwatch()
        self._about = {"version": VERSION, "identity": identity}
        self._last, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Return whether to save now.

        Saving takes at most `SHARE` of the time, however large the state and however slow the disk.
        """
        return not EVERY_S or time.monotonic() - self._last >= max(self._cost / SHARE, EVERY_S)

    def save(self, state: object) -> None:
        """Replace the saved state; a computation whose state cannot be saved continues without.

        Args:
            state: dictionaries, lists, tensors, numbers, texts and None, nested as they like.
        """
        start = time.monotonic()
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_packed(state, tensors))
        try:
            write(self.path, tensors, self._about | {"seconds": repr(self._clock.read()), "state": tree})
        except StoreError as error:
            logger.warning("%s The computation continues, and starts over if it is killed.", error)
        self._last = time.monotonic()
        self._cost = self._last - start

    def load(self) -> Any:
        """Return the saved state, and set the clock to its reading; None if it is damaged or of another kind.

        Tuples come back as lists, tensors on the CPU.
        """
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                if {key: about.get(key) for key in self._about} != self._about:
                    raise ValueError("of another version")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = _unpacked(parse_json(about["state"]), tensors)
            self._clock.go_on(float(about["seconds"]))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
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

    def remove(self) -> None:
        """Delete the saved state."""
        self.path.unlink(missing_ok=True)


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file, which is never seen unfinished, even after a power cut.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a folder, because `save_file` may put its own temporary file next to the part
        with tempfile.TemporaryDirectory(
            ".part", f"{path.name.partition('.')[0]}.", path.parent, ignore_cleanup_errors=True
        ) as folder:
            part = Path(folder) / path.name
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
                part,
                dict(about or {}),
            )
            move_synced(part, path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"Cannot write {path}: {error}. {CACHE_ADVICE}") from error


def _packed(value: object, tensors: dict[str, Tensor]) -> object:
    """Return a value as JSON data, with its tensors moved to a dictionary."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # a copy, because tied weights share memory, which the format cannot express
        tensors[name] = value.detach().to("cpu", copy=True)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"keys": list(value), "values": [_packed(inner, tensors) for inner in value.values()]}
    return [_packed(inner, tensors) for inner in value] if isinstance(value, list | tuple) else value


def _unpacked(value: object, tensors: dict[str, Tensor]) -> object:
    """Return the value that `_packed` was given, from its JSON data and its tensors."""
    if isinstance(value, list):
        return [_unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return dict(zip(value["keys"], _unpacked(value["values"], tensors), strict=True))  # type: ignore[call-overload]
