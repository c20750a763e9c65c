"""What is made once and kept on disk: tensors named by the hash of all they depend on."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lks.errors import StoreError


def folder() -> Path:
    """Where models, data and preparations are kept: `LKS_CACHE`, else ~/.cache/lks-grid."""
    return Path(os.environ.get("LKS_CACHE") or "~/.cache/lks-grid").expanduser()


@dataclass(frozen=True, slots=True)
class Made:
    """Tensors from the cache.

    Attributes:
        tensors: by name.
        seconds: what making them cost, whenever that was.
    """

    tensors: dict[str, Tensor]
    seconds: float


def made(kind: str, depends_on: object, make: Callable[[], dict[str, Tensor]]) -> Made:
    """Tensors from disk, or made now and put there.

    Args:
        kind: readable first part of the file name ("moments").
        depends_on: everything that decides the result, JSON-serialisable; the file is named by its hash and a mismatch
            of content (a truncated file, a colliding name) makes it anew.
        make: makes the tensors.

    Raises:
        StoreError: the cache folder cannot be written.
    """
    key = json.dumps(depends_on, sort_keys=True)
    path = folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    about = path.with_suffix(".json")
    try:
        known = json.loads(about.read_text())
        if known["depends_on"] == json.loads(key):
            return Made(load_file(path), float(known["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        pass  # not there, or not whole
    start = time.perf_counter()
    tensors = make()
    seconds = time.perf_counter() - start
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, part)
        part.replace(path)
        part.write_text(json.dumps({"seconds": seconds, "depends_on": json.loads(key)}))
        part.replace(about)
    except OSError as error:
        raise StoreError(f"Cannot write the cache {path.parent}: {error}. Free space, or set LKS_CACHE to another folder.") from error
    return Made(tensors, seconds)
