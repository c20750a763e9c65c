"""One cell of a grid: edit, then ask; raw answers in Parquet, the outcome last."""

import contextlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

import lks.patch
from lks.cost import measured
from lks.datasets import load as load_dataset
from lks.editor import Editor
from lks.edits import Case, Dataset, Edit
from lks.errors import StoreError, TooManyEdits, UserError
from lks.grid import Cell, Costs, Outcome, Status
from lks.lm import LM
from lks.patch import Patch
from lks.readout import ask
from lks.shards import Answer, write_answers, write_outcome

Report = Callable[[str, float], None]
"""Called with the stage ("edit", "ask") and the fraction of it that is done."""


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


def draws(cases: Sequence[Case], cell: Cell) -> list[list[Case]]:
    """The cell's disjoint sets of T cases: consecutive pieces of one seeded shuffle.

    The shuffle does not depend on T or on the method, so all methods of a grid edit the same cases.

    Raises:
        TooManyEdits: the dataset is too small.
    """
    pool = _shuffled(cases, cell)
    needed = cell.n_edits * cell.draws
    if needed > len(pool):
        raise TooManyEdits(f"{cell.label} with {cell.draws} draws needs {needed} cases, {cell.dataset} has {len(pool)}. Lower n_edits or draws.")
    return [pool[d * cell.n_edits : (d + 1) * cell.n_edits] for d in range(cell.draws)]


def held_out(cases: Sequence[Case], cell: Cell) -> list[Edit]:
    """Edits to meta-train on and to tune with: none of them, nor an edit of the same subject, is evaluated by the cell.

    The last third of the shuffle, where the draws leave it alone, so that cells of every such T share one training set;
    then the records beyond `cell.records`, which the model need not know.
    """
    pool = _shuffled(cases, cell)
    start = len(pool) - len(pool) // 3
    evaluated = pool[:start] if cell.n_edits * cell.draws <= start else pool
    subjects = {case.edit.subject for case in evaluated}
    spare = [*pool[len(evaluated) :], *(cases[cell.records :] if cell.records else ())]
    return [case.edit for case in spare if case.edit.subject not in subjects]


def run(cell: Cell, method: type[Editor[object]], results: Path, report: Report, bench: Bench | None = None) -> Outcome:
    """Edit and ask; never raises for what is the cell's own failure.

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
    with _failures() as failure:
        shards, costs = _run(cell, method, results, report, bench)
    if failure:
        status, reason = failure[0]
    outcome = Outcome(cell, status, reason, shards, costs, {"title": method.title, **provenance()})
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
    seconds, peak, nbytes = 0.0, preparing.peak_bytes, 0
    answers: list[Answer] = []
    ask_s = 0.0
    for number, cases in enumerate(sets):
        patch, cost = _edited(lm, editor, cases, cell.seed + number, folder / str(number), _scaled(report, "edit", number, len(sets)))
        seconds, peak, nbytes = seconds + cost.seconds, max(peak, cost.peak), nbytes + patch.nbytes
        with measured() as asking, patch.applied(lm):
            answers += ask(lm, cases, number, progress=_scaled(report, "ask", number, len(sets)))
        ask_s, peak = ask_s + asking.seconds, max(peak, asking.peak_bytes)
    bad = sum(1 for a in answers if a.answer_logprob != a.answer_logprob)
    if bad:
        raise FloatingPointError(f"{bad} of {len(answers)} probes have no finite likelihood after editing")
    shard = write_answers(results, cell.id, "answers", answers)
    return (shard,), Costs(max(prepare_s, preparing.seconds), seconds, ask_s, peak, nbytes // len(sets))


class _EditCost:
    """Seconds and peak bytes of one draw's editing, kept beside its patch."""

    def __init__(self, seconds: float, peak: int) -> None:
        self.seconds, self.peak = seconds, peak


def _edited(
    lm: LM, editor: Editor[object], cases: Sequence[Case], seed: int, folder: Path, progress: Callable[[float], None]
) -> tuple[Patch, _EditCost]:
    """The draw's patch and its cost: from disk if an earlier run finished it, else made and saved."""
    record = folder / "cost.json"
    if record.exists():
        try:
            known = json.loads(record.read_text())
            return lks.patch.load(folder), _EditCost(float(known["seconds"]), int(known["peak_bytes"]))
        except (UserError, KeyError, ValueError):
            shutil.rmtree(folder)  # damaged: made again below
    with measured() as meter:
        patch = editor.edit(lm, [case.edit for case in cases], seed, progress)
    patch.save(folder)
    record.write_text(json.dumps({"seconds": meter.seconds, "peak_bytes": meter.peak_bytes}))
    return patch, _EditCost(meter.seconds, meter.peak_bytes)


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
