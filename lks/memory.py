"""Where large tensors are kept: on the device while they fit, else in host memory, else in a file."""

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import psutil
import torch
from torch import Tensor

import lks.cache

SHARE = 0.5
"""Of the free memory, what one tensor may take; the rest is for activations and for others."""


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now, or in the machine for a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor on the device, in pinned host memory, or in a file of the cache that goes with the tensor."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes <= SHARE * free_bytes(device):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    if device.type != "cpu" and nbytes <= SHARE * free_bytes(torch.device("cpu")):
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
    return _mapped(shape, dtype, nbytes)


def _mapped(shape: Sequence[int], dtype: torch.dtype, nbytes: int) -> Tensor:
    """A tensor in a file that has no name any more, so that it is gone with the tensor, however the process ends."""
    folder = lks.cache.folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".states") as file:
        file.truncate(max(1, nbytes))
        flat = torch.from_file(str(Path(file.name)), shared=True, size=prod(shape), dtype=dtype)
    return flat.reshape(tuple(shape))


def gibibytes(nbytes: float) -> str:
    """For people: "6.5 GiB", "12 MiB"."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**29 else f"{nbytes / 2**20:.0f} MiB"
