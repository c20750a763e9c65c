"""One cell of a grid: edit, then ask; raw answers in Parquet, the outcome last. A sequential method is asked after each edit too.

A scope cell edits and asks nothing: it stores decisions (`lks.scope_cell`).
"""

import contextlib
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

import lks.patch
from lks.cost import measured
from lks.datasets import load as load_dataset
from lks.decisions import Decision
from lks.editor import Editor, unwatched
from lks.edits import Case, Dataset, Edit
from lks.errors import StoreError, TooManyEdits, UserError
from lks.grid import Cell, Costs, Outcome, Status
from lks.lm import LM
from lks.patch import Patch
from lks.readout import ask
from lks.scope_cell import Indicator, asked, decide, scope_params
from lks.shards import IMMEDIATE, Answer, read_answers, write_answers, write_decisions, write_outcome, write_shard

Report = Callable[[str, float], None]
"""Called with the stage ("edit", "ask"; "scope" in a scope cell) and the fraction of it that is done."""


class Bench:
    """What cells of one process share: the model and the dataset loaded last."""

    def __init__(self) -> None:
        self._lm: LM | None = None
        self._dataset: Dataset | None = None

    def lm(self, name: str) -> LM:
        """The model, loaded unless it is the last one."""
        if self._lm is None or self._lm.name != name:
            self._lm = None
            self._lm = LM.load(name)
        return self._lm

    def dataset(self, name: str) -> Dataset:
        """The dataset, loaded unless it is the last one."""
        if self._dataset is None or self._dataset.name != name:
            self._dataset = load_dataset(name)
        return self._dataset


def _shuffled(cases: Sequence[Case], cell: Cell) -> list[Case]:
    """The cell's records in an order that depends on the seed alone."""
    pool = cases[: cell.records] if cell.records else cases
    return [pool[i] for i in torch.randperm(len(pool), generator=torch.Generator().manual_seed(cell.seed)).tolist()]


def unedited(cases: Sequence[Case], cell: Cell) -> list[Case]:
    """The cell's records that are in none of its draws, in an order that does not depend on T: those come first that are drawn last."""
    pool = _shuffled(cases, cell)
    if cell.split == "evaluation":
        pool = pool[::-1]
    return pool[: len(pool) - cell.n_edits * cell.draws]


def draws(cases: Sequence[Case], cell: Cell) -> list[list[Case]]:
    """The cell's disjoint sets of T cases: consecutive pieces of one seeded shuffle.

    The shuffle does not depend on T or on the method, so all methods of a grid edit the same cases. A development cell's pieces
    come from its end, last case first, and never from beyond the last third, which `held_out` reserves.

    Raises:
        TooManyEdits: the dataset is too small.
    """
    pool = _shuffled(cases, cell)
    kept = ""
    if cell.split == "development":
        pool, kept = pool[::-1][: cell.available(len(cases))], " for development (the last third)"
    needed = cell.n_edits * cell.draws
    if needed > len(pool):
        have = f"{cell.dataset} has {len(pool)}{kept}"
        raise TooManyEdits(f"{cell.label} with {cell.draws} draws needs {needed} cases, {have}. Lower n_edits or draws.")
    return [pool[d * cell.n_edits : (d + 1) * cell.n_edits] for d in range(cell.draws)]


def held_out(cases: Sequence[Case], cell: Cell) -> list[Edit]:
    """Edits to meta-train on and to tune with: none of them, nor an edit of the same subject, is evaluated by the cell.

    The last third of the shuffle, where the draws leave it alone, so that cells of every such T share one training set;
    then the records beyond `cell.records`, which the model need not know. A development cell, which draws from the end of that
    third, has the rest of it.
    """
    pool = _shuffled(cases, cell)
    start, end, needed = len(pool) - len(pool) // 3, len(pool), cell.n_edits * cell.draws
    if cell.split == "development":
        end -= needed
    elif needed > start:
        start = end
    subjects = {case.edit.subject for case in (*pool[:start], *pool[end:])}
    spare = [*pool[start:end], *(cases[cell.records :] if cell.records else ())]
    return [case.edit for case in spare if case.edit.subject not in subjects]


def run(cell: Cell, method: type[Editor[object]], results: Path, report: Report, bench: Bench | None = None) -> Outcome:
    """Edit and ask, or decide; never raises for what is the cell's own failure.

    Patches that an interrupted run has left are used again.

    Raises:
        UserError: something the user must mend; nothing was recorded.
        KeyboardInterrupt: the cell is dropped; finished patches stay.
    """
    bench = bench or Bench()
    status: Status = "ok"
    reason = ""
    shards: tuple[str, ...] = ()
    costs = Costs()
    work = _run if cell.measure == "answers" else _run_scope
    with _failures() as failure:
        shards, costs = work(cell, method, results, report, bench)
    if failure:
        status, reason = failure[0]
    outcome = Outcome(cell, status, reason, shards, costs, {"title": method.title, "regime": method.regime, **provenance()})
    write_outcome(results, outcome)
    return outcome


@contextlib.contextmanager
def _failures() -> Iterator[list[tuple[Status, str]]]:
    """The one place where a cell's failure becomes data: status and one line, instead of an exception."""
    found: list[tuple[Status, str]] = []
    try:
        yield found
    except UserError:
        raise
    except torch.OutOfMemoryError as error:
        found.append(("oom", str(error).splitlines()[0]))
        torch.cuda.empty_cache()
    except FloatingPointError as error:
        found.append(("diverged", str(error)))
    except OSError as error:
        raise StoreError(f"Cannot write results: {error}. Free space or choose another folder with --results.") from error
    except Exception as error:  # noqa: BLE001  the one task border
        found.append(("error", f"{type(error).__name__}: {error}".splitlines()[0]))


def _run(cell: Cell, method: type[Editor[object]], results: Path, report: Report, bench: Bench) -> tuple[tuple[str, ...], Costs]:
    lm = bench.lm(cell.model)
    known = bench.dataset(cell.dataset).cases
    sets = draws(known, cell)
    editor = method.for_model(cell.model, cell.dataset, cell.n_edits, dict(cell.variant))
    with measured() as preparing:
        prepare_s = editor.prepare(lm, held_out(known, cell), lambda done: report("prepare", done))
    folder = results / "runs" / cell.id / "patch"
    seconds, ask_s, peak, nbytes = 0.0, 0.0, preparing.peak_bytes, 0
    answers: list[Answer] = []
    immediate: list[Answer] = []
    for number, cases in enumerate(sets):
        made = _edited(lm, editor, cell, number, cases, folder / str(number), _scaled(report, "edit", number, len(sets)))
        immediate += made.immediate
        with measured() as asking, made.patch.applied(lm):
            grows = made.patch.context_tokens(lm)
            answers += ask(lm, cases, number, progress=_scaled(report, "ask", number, len(sets)), context=grows)
        seconds, ask_s, nbytes = seconds + made.seconds, ask_s + made.asked_s + asking.seconds, nbytes + made.patch.nbytes
        peak = max(peak, made.peak_bytes, asking.peak_bytes)
    bad = sum(1 for a in answers if a.answer_logprob != a.answer_logprob)
    if bad:
        raise FloatingPointError(f"{bad} of {len(answers)} probes have no finite likelihood after editing")
    shards = [write_answers(results, cell.id, "answers", answers)]
    if immediate:
        shards.append(write_answers(results, cell.id, IMMEDIATE, immediate))
    return tuple(shards), Costs(max(prepare_s, preparing.seconds), seconds, ask_s, peak, nbytes // len(sets))


def _run_scope(cell: Cell, method: type[Editor[object]], results: Path, report: Report, bench: Bench) -> tuple[tuple[str, ...], Costs]:
    """Decisions of all draws; a model is loaded only for a gate."""
    known = bench.dataset(cell.dataset).cases
    sets, spare = draws(known, cell), unedited(known, cell)
    params = scope_params(cell.method, method.for_model(cell.model, cell.dataset, cell.n_edits, dict(cell.variant)).params)
    lm = None if params.gate == "none" else bench.lm(cell.model)
    made: list[Decision] = []
    prepare_s, ask_s, peak = 0.0, 0.0, 0
    for number, cases in enumerate(sets):
        with measured() as making:
            indicator = Indicator([case.edit for case in cases], params, lm, cell.seed + number)
        with measured() as asking:
            made += decide(indicator, number, asked(cases, spare, params.probes), _scaled(report, "scope", number, len(sets)))
        prepare_s, ask_s, peak = prepare_s + making.seconds, ask_s + asking.seconds, max(peak, making.peak_bytes, asking.peak_bytes)
    return (write_decisions(results, cell.id, made),), Costs(prepare_s=prepare_s, ask_s=ask_s, peak_bytes=peak)


@dataclass(frozen=True, slots=True)
class _Made:
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
        self._lm, self._cases, self._draw = lm, cases, draw
        self.answers: list[Answer] = []
        self.seconds = 0.0

    def __call__(self, number: int, patch: Patch) -> None:
        """The `After` of an edit."""
        start = _now()
        with patch.applied(self._lm):
            self.answers += ask(self._lm, [self._cases[number]], self._draw)
        self.seconds += _now() - start


def _now() -> float:
    """Seconds, all earlier work on the GPU done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _edited(lm: LM, editor: Editor[object], cell: Cell, number: int, cases: Sequence[Case], folder: Path, progress: Callable[[float], None]) -> _Made:
    """What a draw has become: from disk if an earlier run finished it, else made and saved, the record of its cost last."""
    watched = editor.regime == "sequential" and len(cases) > 1
    record, kept = folder / "cost.json", folder / f"{IMMEDIATE}.parquet"
    if record.exists():
        try:
            known = json.loads(record.read_text())
            immediate = read_answers(kept) if watched else []
            return _Made(lks.patch.load(folder), immediate, float(known["seconds"]), float(known.get("asked_s", 0)), int(known["peak_bytes"]))
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
    return _Made(patch, watch.answers, seconds, watch.seconds, meter.peak_bytes)


def _scaled(report: Report, stage: str, number: int, total: int) -> Callable[[float], None]:
    """Progress of one draw as progress of the stage."""
    return lambda done: report(stage, (number + done) / total)


PACKAGES = ("lks-grid", "torch", "transformers", "duckdb", "prefect", "lm-eval", "ahocorasick-rs")


def provenance() -> dict[str, str]:
    """What produced a number: versions, device, time."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {**versions, "python": platform.python_version(), "device": device, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
