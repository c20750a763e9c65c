"""Edits of one draw, made once and saved as a patch with its cost.

For a sequential method, the answers right after each edit are saved too.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lks.editing.patch
from lks.editing.editor import Editor, no_callback
from lks.editing.patch import Patch, check_finite
from lks.edits import Case
from lks.errors import UserError
from lks.evaluation.profiling import measured, now
from lks.evaluation.readouts import Asking, ask
from lks.io.atomic import write_whole
from lks.io.untrusted import content_of, parse_json
from lks.models.lm import LM
from lks.progress import Progress
from lks.results.answers import Answer
from lks.results.cells import IMMEDIATE, Cell
from lks.results.shards import read_answers, write_shard


@dataclass(frozen=True, slots=True)
class EditResult:
    """Result of editing one draw.

    Attributes:
        patch: all edits of the draw.
        immediate: answers to each case right after its edit; empty unless edits come one after the other.
        seconds: seconds of editing alone.
        asked_s: seconds of asking in between.
        peak_bytes: peak memory of both.
    """

    patch: Patch
    immediate: list[Answer]
    seconds: float
    asked_s: float
    peak_bytes: int


class _Watch:
    """Callback that asks each case right after its edit, and measures how long that takes."""

    def __init__(self, lm: LM, cases: Sequence[Case], draw: int) -> None:
        self._lm, self._cases, self._how = lm, cases, Asking(draw=draw, wild=False)
        self.answers: list[Answer] = []
        self.seconds = 0.0

    def __call__(self, number: int, patch: Patch) -> None:
        """Ask the case of the edit that was just made; this is the editor's `After`."""
        start = now("wall")
        with patch.applied(self._lm):
            self.answers += ask(self._lm, [self._cases[number]], self._how)
        self.seconds += now("wall") - start


def asks_after_each_edit(editor: Editor[object], cases: Sequence[Case]) -> bool:
    """Return whether each case is asked right after its edit: where edits come one after the other."""
    return editor.regime == "sequential" and len(cases) > 1


def load_finished(folder: Path, watched: bool) -> EditResult | None:
    """Return a draw's edits as an earlier run saved them; None if there is nothing complete.

    What is damaged is removed.

    Args:
        folder: folder of the draw's patch.
        watched: whether each case was asked right after its edit.
    """
    record = folder / "cost.json"
    if not record.exists():
        return None
    try:
        known = cast(dict[str, Any], parse_json(content_of(record)))
        if known.get("sha256", kept := _digest(folder)) != kept:
            raise ValueError("the patch is not the one that was saved")
        immediate = read_answers(folder / f"{IMMEDIATE}.parquet") if watched else []
        return EditResult(
            lks.editing.patch.load(folder),
            immediate,
            float(known["seconds"]),
            float(known.get("asked_s", 0)),
            int(known["peak_bytes"]),
        )
    except (UserError, OSError, KeyError, TypeError, ValueError):
        shutil.rmtree(folder)
        return None


def run_edit(
    lm: LM,
    editor: Editor[object],
    cell: Cell,
    number: int,
    cases: Sequence[Case],
    folder: Path,
    progress: Progress,
) -> EditResult:
    """Make a draw's edits with a prepared editor and save them, the record of their cost last.

    Raises:
        FloatingPointError: the edits hold NaN or infinity.
        OSError: they cannot be saved.
    """
    watched = asks_after_each_edit(editor, cases)
    watch = _Watch(lm, cases, number)
    with measured() as meter:
        patch = editor.edit(
            lm, [case.edit for case in cases], cell.seed + number, progress, watch if watched else no_callback
        )
    check_finite(patch)
    patch.save(folder)
    if watched:
        write_shard(folder / f"{IMMEDIATE}.parquet", cell.id, watch.answers)
    seconds = max(0.0, meter.seconds - watch.seconds)
    costs = {
        "seconds": seconds,
        "asked_s": watch.seconds,
        "peak_bytes": meter.peak_bytes,
        "sha256": _digest(folder),
    }
    write_whole(folder / "cost.json", json.dumps(costs).encode())
    return EditResult(patch, watch.answers, seconds, watch.seconds, meter.peak_bytes)


def _digest(folder: Path) -> str:
    """Return a hash of a saved patch's tensors, in which a flipped bit would show nowhere else."""
    with (folder / "patch.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
