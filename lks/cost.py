"""What a piece of work costs: seconds and peak memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(slots=True)
class Meter:
    """Filled in when `measured` is left.

    Attributes:
        seconds: wall time.
        peak_bytes: most memory held: allocated on the GPU if there is one, else the process's resident set.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Meter]:
    """Measure what runs inside the `with`."""
    meter = Meter()
    _reset_peak()
    start = time.perf_counter()
    try:
        yield meter
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        meter.seconds = time.perf_counter() - start
        meter.peak_bytes = peak_bytes()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that of the process
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Peak memory since the last reset (on a GPU or on Linux), else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
