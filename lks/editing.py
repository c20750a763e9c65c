"""Making one draw's edits once: a finished patch is on disk with its cost and, for a sequential method, what was said after each edit."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import lks.patch
from lks.cost import measured
from lks.editor import Editor, unwatched
from lks.edits import Case
from lks.errors import UserError
from lks.grid import IMMEDIATE, Cell
from lks.lm import LM
from lks.patch import Patch
from lks.readout import Asking, ask
from lks.shards import Answer, read_answers, write_shard


@dataclass(frozen=True, slots=True)
class Made:
    """What editing one draw has brought.

    Attributes:
        patch: all its edits.
        immediate: answers to each case right after its edit; empty unless edits come one after the other.
        seconds: of editing alone.
        asked_s: of asking in between, seconds.
        peak_bytes: of both.
    """

    patch: Patch
    immediate: list[Answer]
    seconds: float
    asked_s: float
    peak_bytes: int


class _Watch:
    """Asks each case right after its edit, and knows how long that took."""

    def __init__(self, lm: LM, cases: Sequence[Case], draw: int) -> None:
        self._lm, self._cases, self._how = lm, cases, Asking(draw=draw, wild=False)
        self.answers: list[Answer] = []
        self.seconds = 0.0

    def __call__(self, number: int, patch: Patch) -> None:
        """The `After` of an edit."""
        start = _now()
        with patch.applied(self._lm):
            self.answers += ask(self._lm, [self._cases[number]], self._how)
        self.seconds += _now() - start


def _now() -> float:
    """Seconds, all earlier work on the GPU done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def edited(lm: LM, editor: Editor[object], cell: Cell, number: int, cases: Sequence[Case], folder: Path, progress: Callable[[float], None]) -> Made:
    """What a draw has become: from disk if an earlier run finished it, else made and saved, the record of its cost last."""
    watched = editor.regime == "sequential" and len(cases) > 1
    record, kept = folder / "cost.json", folder / f"{IMMEDIATE}.parquet"
    if record.exists():
        try:
            known = json.loads(record.read_text())
            immediate = read_answers(kept) if watched else []
            return Made(lks.patch.load(folder), immediate, float(known["seconds"]), float(known.get("asked_s", 0)), int(known["peak_bytes"]))
        except (UserError, KeyError, ValueError):
            shutil.rmtree(folder)  # damaged: made again below
    watch = _Watch(lm, cases, number)
    with measured() as meter:
        patch = editor.edit(lm, [case.edit for case in cases], cell.seed + number, progress, watch if watched else unwatched)
    patch.save(folder)
    if watched:
        write_shard(kept, cell.id, watch.answers)
    seconds = meter.seconds - watch.seconds
    record.write_text(json.dumps({"seconds": seconds, "asked_s": watch.seconds, "peak_bytes": meter.peak_bytes}))
    return Made(patch, watch.answers, seconds, watch.seconds, meter.peak_bytes)
