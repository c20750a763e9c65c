"""Time and peak memory of a piece of work, and inference overhead of a patch."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from lks.editing.patch import Patch
from lks.models.generation import positions
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.rows import Timing


def now(without_gpu: Literal["wall", "processor"]) -> float:
    """Return the time in seconds once all queued work of the GPU is done; only differences mean something.

    With a GPU it is wall time, which includes what the GPU has done since the last call.

    Args:
        without_gpu: what to measure on a machine without one: "wall" time, which a user waits for and which
            includes waiting for disks and other processes, or the "processor" time of this process, all of
            its threads together, which other work on the machine does not lengthen.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif without_gpu == "processor":
        return time.process_time()
    return time.perf_counter()


@dataclass(slots=True)
class Meter:
    """Measurements that are filled in when `measured` exits.

    Attributes:
        seconds: wall time.
        peak_bytes: peak memory: allocated on the GPU if there is one, else the process's resident set.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Meter]:
    """Measure time and peak memory of what runs inside the `with`."""
    meter = Meter()
    _reset_peak()
    start = now("wall")
    try:
        yield meter
    finally:
        meter.seconds = now("wall") - start
        meter.peak_bytes = peak_bytes()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that of the process
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak memory since the last reset (on a GPU or on Linux), else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


BATCHES = (1, 32)
"""Batch sizes at which overhead is measured."""
SECONDS = 20.0
"""Time limit of the measurement for any model. A prefill that needs more than a share of it is not
measured."""
FEWEST, MOST = 4, 30
"""Pairs of prefills of one batch size: fewer are not informative, more are not needed."""
_BETWEEN = 8
"""A batch size that is tried once before the largest, to predict how long that takes."""


@torch.no_grad()
def overheads(
    lm: LM,
    patch: Patch,
    prompts: Sequence[str],
    draw: int = 0,
    seconds: float = SECONDS,
    progress: Progress = no_progress,
) -> list[Timing]:
    """Time prefills without and with a patch in force, in pairs of alternating order.

    The number of pairs depends on how long they take. A batch size of which fewer than `FEWEST` pairs fit
    into the time gets none; this is predicted from smaller sizes before it starts.
    `benchmarks/inference_overhead.py` measures more carefully.

    Args:
        lm: the unedited model; unchanged on return.
        patch: patch whose overhead is measured.
        prompts: prompts used in turn; repeated where they are too few.
        draw: number of the draw, stored with each pair.
        seconds: time limit for everything; a single prefill may take longer.
        progress: called with the fraction done.
    """
    rows = [
        encoded.ids for encoded in lm.encode(prompts[: max(BATCHES)], [""] * min(len(prompts), max(BATCHES)))
    ]
    began = time.monotonic()
    found: list[Timing] = []
    longest, before = 0.0, 1
    for size, share, most in ((BATCHES[0], 0.25, MOST), (_BETWEEN, 1.0, 0), (BATCHES[1], 1.0, MOST)):
        until = began + share * seconds
        if time.monotonic() + (1 + FEWEST if most else 1) * longest * size / before > until:
            break
        ids, mask = lm.pad([rows[i % len(rows)] for i in range(size)], side="left")
        pairs, longest = _pairs(
            lm,
            patch,
            partial(_prefill, lm, ids, mask),
            (until, most),
            lambda: progress((time.monotonic() - began) / seconds),
        )
        before = size
        found += (
            [Timing(draw, size, number, *pair) for number, pair in enumerate(pairs)]
            if len(pairs) >= FEWEST
            else []
        )
    progress(1.0)
    return found


def _pairs(
    lm: LM, patch: Patch, prefill: Callable[[], float], limits: tuple[float, int], tell: Callable[[], None]
) -> tuple[list[tuple[float, float]], float]:
    """Time pairs until a deadline or a maximum number of pairs, after one that warms up.

    Returns:
        Seconds without and with the patch of each pair but the first, and the seconds that the longest pair
            took in total.
    """
    until, most = limits
    pairs: list[tuple[float, float]] = []
    longest = 0.0
    while len(pairs) <= most and (not pairs or time.monotonic() + longest < until):
        start = time.monotonic()
        plain = prefill() if len(pairs) % 2 else None
        with patch.applied(lm):
            patched = prefill()
        pairs.append((prefill() if plain is None else plain, patched))
        longest = max(longest, time.monotonic() - start) if len(pairs) > 2 else time.monotonic() - start
        tell()
    return pairs[1:], longest


def _prefill(lm: LM, ids: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the seconds of one prefill: without a GPU processor time, since pairs are compared."""
    start = now("processor")
    lm.model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
    )
    return now("processor") - start
