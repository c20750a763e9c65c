"""Placement of large tensors (device, host memory or a file), and retries when memory does not suffice.

No result depends on how many rows are computed at a time. So a step that runs out of memory is run once more
with half the batch: code that sizes batches by tokens, rows or bytes calls `scale_batch`
(`lks.models.frozen_prefix.batches` does). Batches that are part of a method, as its optimiser sees them, stay
as they are.
"""

import errno
import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import Tensor

import lks.io.cache

SHARE = 0.5
"""Share of the free memory that one tensor may take; the rest is for activations and other processes."""

_SHORTAGE = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator", "std::bad_alloc")
"""Texts of a RuntimeError for lack of memory: CUDA, cuBLAS, PyTorch's allocator for the CPU, C++."""

_DIVISOR: ContextVar[int] = ContextVar("divisor", default=1)
_ResultT = TypeVar("_ResultT")


def scale_batch(count: int) -> int:
    """Return how many rows, tokens or bytes to process at a time; at least 1.

    It is `count`, or half of it inside `half_batches`.
    """
    return max(1, count // _DIVISOR.get())


@contextmanager
def half_batches() -> Iterator[None]:
    """Halve batches inside the `with`."""
    token = _DIVISOR.set(2 * _DIVISOR.get())
    try:
        yield
    finally:
        _DIVISOR.reset(token)


def is_shortage(error: BaseException) -> bool:
    """Return whether an exception says that memory, of the GPU or of the machine, did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORTAGE)


class OomRetry:
    """Runs the stages of a cell; a stage that runs out of memory runs with half the batch from then on.

    Args:
        halved: stages that are known to need it; those that turn out to need it are added as they occur.
    """

    def __init__(self, halved: list[str]) -> None:
        self.halved = halved

    def run(self, stage: str, step: Callable[[], _ResultT]) -> _ResultT:
        """Run a step and return its result.

        Args:
            stage: stage that the step is part of; the steps of a stage, one per draw, are halved together.
            step: function that has no effect when it fails, or only one that running it again corrects.
        """
        if stage not in self.halved:
            try:
                return step()
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
            # here the exception is gone, and with it the tensors that its frames held
            self.halved.append(stage)
            release()
        with half_batches():
            return step()


def release() -> None:
    """Free memory that is no longer referenced."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device now, or in the machine for a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialised tensor on the device, in pinned host memory, or in a file of the cache.

    The file is deleted with the tensor.
    """
    nbytes = prod(shape) * dtype.itemsize
    if nbytes <= scale_batch(int(SHARE * free_bytes(device))):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    if device.type != "cpu" and nbytes <= scale_batch(int(SHARE * free_bytes(torch.device("cpu")))):
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
    return _mapped(shape, dtype, nbytes)


def _mapped(shape: Sequence[int], dtype: torch.dtype, nbytes: int) -> Tensor:
    """Return a tensor in an unlinked file, which is deleted with the tensor however the process ends.

    Raises:
        OSError: the disk has no room for it.
    """
    folder = lks.io.cache.folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".states") as file:
        _reserve(file.fileno(), max(1, nbytes))
        flat = torch.from_file(str(Path(file.name)), shared=True, size=prod(shape), dtype=dtype)
    return flat.reshape(tuple(shape))


def _reserve(file: int, nbytes: int) -> None:
    """Reserve the space now: a process that writes to a mapped file on a full disk is killed."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, nbytes)
        return
    room = os.fstatvfs(file)
    if nbytes > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(file, nbytes)


def gibibytes(nbytes: float) -> str:
    """Format bytes for messages: "6.5 GiB", "12 MiB"."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**29 else f"{nbytes / 2**20:.0f} MiB"
