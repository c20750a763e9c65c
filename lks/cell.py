"""One cell of a grid: edit, then measure stage by stage; raw rows in Parquet, the outcome last.

A stored cell that lacks a stage is measured on the patches that it has left. A scope cell edits and asks nothing: it stores decisions
(`lks.scope_cell`). A study cell measures the unedited model (`lks.study`).
"""

import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from lks.ability import Battery
from lks.cost import measured, overheads
from lks.datasets import load as load_dataset
from lks.draws import draws, held_out, unedited
from lks.editing import Made, edited
from lks.editor import Editor
from lks.edits import Case, Dataset
from lks.errors import DataError, StoreError, UserError
from lks.grid import ANSWERS, DECISIONS, IMMEDIATE, STUDY, UNEDITED, Cell, Costs, Extras, Outcome, Status
from lks.lm import LM
from lks.neighbours import with_neighbours
from lks.readout import Asking, ask
from lks.scope_cell import decisions_of
from lks.shards import Answer, read_check, read_outcome, write_outcome, write_stage
from lks.stages import Collapsed, Edited, Unedited, measure
from lks.stages import answers as bare_answers
from lks.study import findings_of
from lks.study_kinds import Study

Report = Callable[[str, float], None]
"""Called with the stage ("prepare", "edit", "answers", ...) and the fraction of it that is done."""

Method = type[Editor[object]] | type[Study[object]]
"""What a cell is about: an editor, or for a study cell the study."""


class Bench:
    """What cells of one process share: the model, the dataset and the tests of abilities loaded last."""

    def __init__(self) -> None:
        self._lm: LM | None = None
        self._dataset: Dataset | None = None
        self._battery: tuple[Extras, Battery] | None = None

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

    def battery(self, extras: Extras) -> Battery | None:
        """The tests of abilities, loaded unless they are the last ones; None if none are asked for."""
        if not extras.ability:
            return None
        if self._battery is None or self._battery[0] != extras:
            self._battery = extras, Battery(extras.ability, extras.documents or None)
        return self._battery[1]


def run(cell: Cell, method: Method, results: Path, report: Report, bench: Bench | None = None, extras: Extras | None = None) -> Outcome:
    """Edit and measure, or decide; never raises for what is the cell's own failure.

    Patches that an interrupted run has left are used again, and so are the stages of a stored cell.

    Raises:
        UserError: something the user must mend; nothing was recorded.
        KeyboardInterrupt: the cell is dropped; finished patches stay.
    """
    work = _Work(cell, method, results, report, bench or Bench(), extras or Extras())
    with _failures() as failure:
        {"answers": work.answers, "scope": work.decisions, "study": work.findings}[cell.measure]()
    status, reason = failure[0] if failure else ("ok", "")
    if status == "ok":
        work.further()
    shards = tuple(work.shards.values()) if status == "ok" else ()
    origin = {"title": method.title, **({"regime": method.regime} if issubclass(method, Editor) else {}), **work.notes, **provenance()}
    outcome = Outcome(cell, status, reason, shards, work.costs, origin, work.failed)
    write_outcome(results, outcome)
    return outcome


@contextlib.contextmanager
def _failures() -> Iterator[list[tuple[Status, str]]]:
    """The one place where a failure becomes data: status and one line, instead of an exception."""
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
    except Collapsed as error:
        found.append(("collapsed", str(error)))
    except OSError as error:
        raise StoreError(f"Cannot write results: {error}. Free space or choose another folder with --results.") from error
    except Exception as error:  # noqa: BLE001  the one task border
        found.append(("error", f"{type(error).__name__}: {error}".splitlines()[0]))


class _Work:
    """A cell on its way.

    Attributes:
        shards: stage -> its shard.
        costs: so far.
        failed: further stage -> why it failed.
        notes: what was noticed, for the provenance.
    """

    def __init__(self, cell: Cell, method: Method, results: Path, report: Report, bench: Bench, extras: Extras) -> None:
        self._cell, self._method, self._results, self._report = cell, method, results, report
        self._bench, self._extras = bench, extras
        bench.battery(extras)  # a test that does not exist or lacks its data is told before any work
        self.shards: dict[str, str] = {}
        self.costs, self.failed, self.notes = Costs(), dict[str, str](), dict[str, str]()
        with contextlib.suppress(DataError):
            stored = read_outcome(results, cell.id)
            if stored.status == "ok":
                for shard in stored.shards:
                    read_check(results / shard)
                self.shards, self.costs = {Path(shard).stem: shard for shard in stored.shards}, stored.costs
                self.failed = {stage: why for stage, why in stored.failed.items() if stage in stored.stages}

    @cached_property
    def _lm(self) -> LM:
        return self._bench.lm(self._cell.model)

    @cached_property
    def _known(self) -> Sequence[Case]:
        return self._bench.dataset(self._cell.dataset).cases

    @cached_property
    def _sets(self) -> list[list[Case]]:
        return draws(self._known, self._cell)

    @cached_property
    def _spare(self) -> list[Case]:
        return unedited(self._known, self._cell)

    @cached_property
    def _editor(self) -> Editor[object]:
        cell = self._cell
        return cast(type[Editor[object]], self._method).for_model(cell.model, cell.dataset, cell.n_edits, dict(cell.variant))

    @cached_property
    def _unedited(self) -> Unedited:
        cell = self._cell
        return Unedited(None if cell.method == UNEDITED else self._results / "cells" / cell.unedited.id)

    def _progress(self, stage: str, number: int) -> Callable[[float], None]:
        """Progress of one draw as progress of the stage."""
        return lambda done: self._report(stage, (number + done) / len(self._sets))

    def _made(self, number: int) -> Made:
        """A draw's edits: new, or as an earlier run left them."""
        folder = self._results / "runs" / self._cell.id / "patch" / str(number)
        return edited(self._lm, self._editor, self._cell, number, self._sets[number], folder, self._progress("edit", number))

    def _edited(self, number: int, made: Made) -> Edited:
        """The edited model, and what it is asked."""
        cases = with_neighbours(self._sets[number], self._spare, self._cell.seed + number)
        battery = self._bench.battery(self._extras)
        return Edited(self._lm, made.patch, cases, self._spare, number, len(self._sets), self._cell.seed, self._unedited, battery, self.notes)

    def _write(self, stage: str, rows: Sequence[object]) -> None:
        self.shards[stage] = write_stage(self._results, self._cell.id, stage, rows)

    def answers(self) -> None:
        """Edit all draws, and ask.

        Raises:
            FloatingPointError: the edited model gives no likelihoods.
        """
        if ANSWERS in self.shards:
            return
        with measured() as preparing:
            spare = held_out(self._known, self._cell)
            prepare_s = self._editor.prepare(self._lm, spare, lambda done: self._report("prepare", done))
        seconds, ask_s, peak, nbytes = 0.0, 0.0, preparing.peak_bytes, 0
        answers: list[Answer] = []
        immediate: list[Answer] = []
        overhead: dict[int, float] = {}
        for number, cases in enumerate(self._sets):
            made = self._made(number)
            immediate += made.immediate
            with measured() as asking:
                answers += bare_answers(self._edited(number, made), self._progress(ANSWERS, number))
            overhead = overhead or overheads(self._lm, made.patch, [probe.prompt for case in cases for probe in case.probes])
            seconds, ask_s, nbytes = seconds + made.seconds, ask_s + made.asked_s + asking.seconds, nbytes + made.patch.nbytes
            peak = max(peak, made.peak_bytes, asking.peak_bytes)
        bad = sum(1 for a in answers if a.answer_logprob != a.answer_logprob)
        if bad:
            raise FloatingPointError(f"{bad} of {len(answers)} probes have no finite likelihood after editing")
        self.costs = Costs(max(prepare_s, preparing.seconds), seconds, ask_s, peak, nbytes // len(self._sets), overhead=overhead)
        self._write(ANSWERS, answers)
        if immediate:
            self._write(IMMEDIATE, immediate)
        if self._cell.method == UNEDITED:
            self._what_it_knows()

    def _what_it_knows(self) -> None:
        """Of the unedited model: whether it answers portability questions with the edited fact in front."""
        asking = [Asking(draw=number, context="given", kinds=("portability",)) for number in range(len(self._sets))]
        answers = [answer for cases, how in zip(self._sets, asking, strict=True) for answer in ask(self._lm, cases, how)]
        if answers:
            self._write(f"{ANSWERS}-given", answers)

    def further(self) -> None:
        """The further stages, each a failure of its own."""
        for stage in self._extras.stages(self._cell.measure):
            if stage in self.shards or stage in self.failed:
                continue
            rows: list[object] = []
            with measured() as taking, _failures() as failure:
                for number in range(len(self._sets)):
                    rows += measure(stage, self._edited(number, self._made(number)), self._progress(stage, number))
            if failure:
                self.failed[stage] = ": ".join(failure[0])
            else:
                self._write(stage, rows)
            self.costs = replace(self.costs, stage_s={**self.costs.stage_s, stage: taking.seconds})

    def decisions(self) -> None:
        """What a scope indicator decides in all draws; a model is loaded only for a gate."""
        if DECISIONS in self.shards:
            return
        params = self._editor.params
        made, self.costs = decisions_of(self._cell, params, self._sets, self._spare, lambda: self._lm, self._progress)
        self._write(DECISIONS, made)

    def findings(self) -> None:
        """What a study finds about the entities of all draws."""
        if STUDY in self.shards:
            return
        cell = self._cell
        study = cast(type[Study[object]], self._method).for_model(cell.model, cell.dataset, cell.n_edits, dict(cell.variant))
        made, self.costs, notes = findings_of(cell, study, self._sets, self._spare, self._lm, self._progress)
        self.notes.update(notes)
        self._write(STUDY, made)


PACKAGES = ("lks-grid", "torch", "transformers", "duckdb", "prefect", "lm-eval", "ahocorasick-rs")


def provenance() -> dict[str, str]:
    """What produced a number: versions, device, time."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {**versions, "python": platform.python_version(), "device": device, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
