"""What a piece of work costs: seconds and peak memory."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lks.generation import positions
from lks.lm import LM
from lks.patch import Patch


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


BATCHES = (1, 32)
"""Batch sizes at which overhead is measured."""
ROUNDS, PASSES = 5, 4


@torch.no_grad()
def overheads(lm: LM, patch: Patch, prompts: Sequence[str]) -> dict[int, float]:
    """How much longer a prefill takes with a patch in force than without, in percent, by batch size.

    Rounds with and without the patch alternate, and the fastest passes are compared, as what else the machine does only slows them. A small
    model on a busy machine gives a rough number all the same: `benchmarks/inference_overhead.py` measures with care.

    Args:
        lm: the unedited model; the same on return.
        patch: whose overhead.
        prompts: asked in turn; repeated where they are too few.
    """
    rows = [encoded.ids for encoded in lm.encode(prompts[: max(BATCHES)], [""] * min(len(prompts), max(BATCHES)))]
    found: dict[int, float] = {}
    for size in BATCHES:
        ids, mask = lm.pad([rows[i % len(rows)] for i in range(size)], side="left")
        plain, patched = list[float](), list[float]()
        for _ in range(ROUNDS):
            plain += _timed(lm, ids, mask)
            with patch.applied(lm):
                patched += _timed(lm, ids, mask)
        found[size] = 100 * (min(patched) / min(plain) - 1)
    return found


def _timed(lm: LM, ids: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """Seconds of some prefills; the first, which warms up, is not among them."""
    taken = []
    for _ in range(PASSES):
        start = _now()
        lm.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
        taken.append(_now() - start)
    return taken[1:]


def _now() -> float:
    """Seconds, all earlier work on the GPU done; without a GPU of processor time, which other work on the machine does not lengthen."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
