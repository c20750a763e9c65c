"""One cell of a grid: edit, then measure stage by stage; raw rows in Parquet, the outcome last.

A stored cell that lacks a stage is measured on the patches that it has left. A scope cell edits nothing and
asks nothing: it stores decisions (`lks.evaluation.scope_decisions`). A study cell measures the unedited model
(`lks.studies.registry`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

from lks.data.datasets import load as load_dataset
from lks.data.neighborhood import with_neighbours
from lks.editing.editor import Editor, canonical
from lks.editing.preset_files import ORIGIN
from lks.edits import Case, Context, Dataset
from lks.errors import DataError, StoreError, Unsuited, UserError
from lks.evaluation import record_checks
from lks.evaluation.ability import TaskSuite
from lks.evaluation.profiling import Meter, measured
from lks.evaluation.readouts import Asking, ask_draws
from lks.evaluation.scope_decisions import decisions_of, scope_params
from lks.evaluation.stages import EditedDraw, UneditedAnswers, answers_of_draws, measure
from lks.models.lm import LM
from lks.models.memory import OomRetry, release
from lks.progress import Progress, StageProgress
from lks.results.answers import Answer
from lks.results.cells import (
    ANSWERS,
    CACHED,
    DECISIONS,
    IMMEDIATE,
    PARAMETERS,
    PREPARATION,
    RULE,
    STUDY,
    UNEDITED,
    Cell,
    Costs,
    Measurements,
    Outcome,
)
from lks.runs.draws import draws, held_out, unedited
from lks.runs.edit_draw import EditResult, asks_after_each_edit, load_finished, run_edit
from lks.runs.failures import failures
from lks.runs.journal import CellJournal
from lks.studies.base import Study
from lks.studies.registry import findings_of

Method = type[Editor[object]] | type[Study[object]]
"""Class that a cell is about: an editor, or for a study cell the study."""

DATASETS_KEPT = 2
"""Number of datasets that a process keeps, so that a grid of two reads each once."""


class LoadedResources:
    """What cells of one process share: the model, the datasets and the tests of abilities loaded last."""

    def __init__(self) -> None:
        self._lm: LM | None = None
        self._datasets: dict[str, Dataset] = {}
        self._battery: tuple[tuple[tuple[str, ...], int], TaskSuite] | None = None
        self._model = ("", "")

    def prepare_for(self, cell: Cell) -> None:
        """Drop the model unless it is the cell's, and what has changed on disk since it was loaded."""
        if (cell.model, cell.model_revision) != self._model:
            self._lm, self._model = None, (cell.model, cell.model_revision)
        loaded = self._datasets.get(cell.dataset)
        if loaded and cell.data_revision and loaded.revision != cell.data_revision:
            del self._datasets[cell.dataset]

    def lm(self, name: str) -> LM:
        """Return the model, loaded unless it is the last one."""
        if self._lm is None or self._lm.name != name:
            self._lm = None
            self._lm = LM.load(name)
        return self._lm

    def dataset(self, name: str) -> Dataset:
        """Return the dataset, loaded unless it is one of the last two."""
        found = self._datasets.pop(name, None) or load_dataset(name)
        self._datasets[name] = found
        if len(self._datasets) > DATASETS_KEPT:
            del self._datasets[next(iter(self._datasets))]
        return found

    def battery(self, extras: Measurements) -> TaskSuite | None:
        """Return the ability tests, loading them unless they are the last ones; None if none are wanted."""
        if not extras.ability:
            return None
        asked = extras.ability, extras.documents
        if self._battery is None or self._battery[0] != asked:
            self._battery = asked, TaskSuite(extras.ability, extras.documents or None)
        return self._battery[1]


def run(
    cell: Cell,
    method: Method,
    results: Path,
    report: StageProgress,
    resources: LoadedResources | None = None,
    extras: Measurements | None = None,
) -> Outcome:
    """Edit and measure, or decide; the cell's own failures are never raised.

    The outcome is written after each stage. If it is killed at any moment, a cell resumes from what is
    complete: the patches of finished draws and the stored stages.

    Raises:
        UserError: something that the user must fix; what is finished is kept.
        KeyboardInterrupt: the stage in progress is dropped; finished patches and stages stay.
    """
    work = _Work(cell, method, results, report, resources or LoadedResources(), extras or Measurements())
    with failures() as found:
        {"answers": work.answers, "scope": work.decisions, "study": work.findings}[cell.measure]()
    if found:
        release()
    outcome = work.journal.commit(next(iter(found), None))
    for stage in work.missing_stages() if outcome.status == "ok" else ():
        work.run_stage(stage)
        outcome = work.journal.commit()
    return outcome


def _notes(method: Method, cell: Cell) -> dict[str, str]:
    """Return what tables say about an editor in addition to its title.

    This is its regime, and whether its parameters come from its rule for untuned models or a preset file.
    """
    if not issubclass(method, Editor):
        return {}
    stored = method.preset_file(cell.model, cell.n_edits)
    origin = {ORIGIN: stored.path.name} if stored else {}
    rule = {PARAMETERS: RULE} if method.by_rule(cell.model) else {}
    return {"regime": method.regime, **rule, **origin}


@contextmanager
def _on_this_model() -> Iterator[None]:
    """Turn errors that keep a method from editing the model into the cell's own failure.

    A folder or data that cannot be used are still the user's to fix.
    """
    try:
        yield
    except (StoreError, DataError):
        raise
    except UserError as error:
        raise Unsuited(str(error)) from error


ROWS_TOGETHER, DRAWS_TOGETHER = 256, 16
"""Maximum number of questions, and of draws, that are asked together; a draw with more questions is asked
by itself. The patches of all these draws are in memory at once."""


def together(questions: Sequence[int]) -> list[range]:
    """Group consecutive draws that are asked together.

    Args:
        questions: number of questions of each draw.
    """
    groups: list[range] = []
    room = 0
    for number, count in enumerate(questions):
        if groups and count <= room and len(groups[-1]) < DRAWS_TOGETHER:
            groups[-1] = range(groups[-1].start, number + 1)
        else:
            groups.append(range(number, number + 1))
            room = ROWS_TOGETHER
        room -= count
    return groups


class _Work:
    """Work on one cell; the journal holds its results so far."""

    def __init__(
        self,
        cell: Cell,
        method: Method,
        results: Path,
        report: StageProgress,
        resources: LoadedResources,
        extras: Measurements,
    ) -> None:
        self._cell, self._method, self._results, self._report = cell, method, results, report
        self._resources, self._extras = resources, extras
        resources.prepare_for(cell)
        resources.battery(extras)  # a test that does not exist or lacks its data raises before any work
        self.journal = CellJournal(cell, results, extras)
        self.journal.notes.update({"title": method.title, **_notes(method, cell)})
        self._oom_retry = OomRetry(self.journal.halved)

    @cached_property
    def _lm(self) -> LM:
        lm = self._resources.lm(self._cell.model)
        self.journal.notes.update(lm.provenance)
        return lm

    @cached_property
    def _known(self) -> Sequence[Case]:
        return self._resources.dataset(self._cell.dataset).cases

    @cached_property
    def _sets(self) -> list[list[Case]]:
        return draws(self._known, self._cell)

    @cached_property
    def _spare(self) -> list[Case]:
        return unedited(self._known, self._cell)

    @cached_property
    def _editor(self) -> Editor[object]:
        cell = self._cell
        editor = cast(type[Editor[object]], self._method).for_model(
            cell.model, cell.dataset, cell.n_edits, dict(cell.variant)
        )
        deciding = scope_params(cell.method, editor.params) if cell.measure == "scope" else editor.params
        here = canonical(deciding)
        if cell.is_planned and here not in (
            cell.parameters,
            "{}",
        ):  # {}: an existing patch is scored
            raise UserError(
                f"{cell.label} was planned with parameters {cell.parameters}, but the program's are {here} "
                "now: one of both is another version. Start the grid again."
            )
        return editor

    @cached_property
    def _unedited(self) -> UneditedAnswers:
        cell = self._cell
        return UneditedAnswers(
            None if cell.method == UNEDITED else self._results / "cells" / cell.unedited.id
        )

    def _progress(self, stage: str, number: int) -> Progress:
        """Return a callback that reports progress of one draw as progress of the stage."""
        return lambda done: self._report(stage, (number + done) / len(self._sets))

    def _edit_result(self, number: int) -> EditResult:
        """Return a draw's edits as an earlier run left them, or make them.

        A patch that was deleted is made again even long after its answers were taken.
        """
        folder = self._results / "runs" / self._cell.id / "patch" / str(number)
        cases, progress = self._sets[number], self._progress("edit", number)
        known = load_finished(folder, asks_after_each_edit(self._editor, cases))
        if known is not None:
            return known
        editor = self._prepared[0]
        with _on_this_model():
            return self._oom_retry.run(
                "edit", lambda: run_edit(self._lm, editor, self._cell, number, cases, folder, progress)
            )

    def _edited_draw(self, number: int, made: EditResult) -> EditedDraw:
        """Return the edited model of a draw, and what it is asked."""
        cases = with_neighbours(self._sets[number], self._spare, self._cell.seed + number)
        battery = self._resources.battery(self._extras)
        return EditedDraw(
            self._lm,
            made.patch,
            cases,
            self._spare,
            number,
            len(self._sets),
            self._cell.seed,
            self._unedited,
            battery,
            self.journal.notes,
        )

    def answers(self) -> None:
        """Edit all draws and ask their probes.

        Raises:
            BadRecord: a record cannot be asked; nothing was edited.
            FloatingPointError: the edited model gives no likelihoods.
        """
        if ANSWERS in self.journal.shards:
            return
        record_checks.check(self._lm, self._cell.dataset, self._sets)
        _, prepare_s, peak = self._prepared
        seconds, ask_s, nbytes = 0.0, 0.0, 0
        answers: list[Answer] = []
        immediate: list[Answer] = []
        for numbers in self._together:
            made = {number: self._edit_result(number) for number in numbers}
            asking, rows = self._oom_retry.run(ANSWERS, partial(self._ask, made))
            answers += rows
            ask_s, peak = ask_s + asking.seconds, max(peak, asking.peak_bytes)
            for one in made.values():
                immediate += one.immediate
                seconds, ask_s, nbytes = seconds + one.seconds, ask_s + one.asked_s, nbytes + one.patch.nbytes
                peak = max(peak, one.peak_bytes)
        bad = sum(1 for a in answers if a.answer_logprob != a.answer_logprob)
        if bad:
            raise FloatingPointError(
                f"{bad} of {len(answers)} probes have no finite likelihood after editing"
            )
        self.journal.costs = Costs(prepare_s, seconds, ask_s, peak, nbytes // len(self._sets))
        self.journal.write(ANSWERS, answers)
        if immediate:
            self.journal.write(IMMEDIATE, immediate)
        if self._cell.method == UNEDITED:
            self._ask_with_fact_in_context()

    @cached_property
    def _prepared(self) -> tuple[Editor[object], float, int]:
        """The prepared editor, its preparation time in seconds, and the peak memory of preparing."""
        return (self._editor, *self._oom_retry.run("prepare", self._prepare))

    def _prepare(self) -> tuple[float, int]:
        """Prepare the method; return its cost in seconds, whenever it was spent, and its peak memory now."""
        with measured() as meter, _on_this_model():
            told = self._editor.prepare(
                self._lm, held_out(self._known, self._cell), lambda done: self._report("prepare", done)
            )
        self.journal.notes.update(self._editor.notes)
        if told > meter.seconds:
            self.journal.notes[PREPARATION] = CACHED
        return max(told, meter.seconds), meter.peak_bytes

    @cached_property
    def _together(self) -> list[range]:
        """The draws in groups that are asked together."""
        return together([sum(len(case.probes) for case in cases) for cases in self._sets])

    def _ask(
        self, made: Mapping[int, EditResult], stage: str = ANSWERS, context: Context = "bare"
    ) -> tuple[Meter, list[Answer]]:
        """Ask some draws, given by their numbers; return what that cost, and the answers."""
        done, share = min(made), len(made)
        self._report(stage, done / len(self._sets))
        with measured() as meter:
            edited = [self._edited_draw(number, one) for number, one in made.items()]
            rows = answers_of_draws(
                edited, lambda part: self._report(stage, (done + share * part) / len(self._sets)), context
            )
        return meter, rows

    def _ask_with_fact_in_context(self) -> None:
        """Ask the unedited model portability questions with the edited fact in front."""
        asking = Asking(context="given", kinds=("portability",))
        answers: list[Answer] = []
        for numbers in self._together:
            cases = {number: self._sets[number] for number in numbers}
            answers += self._oom_retry.run(ANSWERS, partial(ask_draws, self._lm, cases, asking))
        if answers:
            self.journal.write(f"{ANSWERS}-given", answers)

    def missing_stages(self) -> tuple[str, ...]:
        """Return the further stages that are still to be run."""
        return tuple(
            stage
            for stage in self._extras.stages(self._cell.measure)
            if stage not in self.journal.shards and stage not in self.journal.failed
        )

    def run_stage(self, stage: str) -> None:
        """Run a further stage; its failure is recorded for that stage alone."""
        rows: list[object] = []
        self._report(stage, 0.0)
        with measured() as taking, failures() as found:
            kind, _, context = stage.partition("-")
            if kind == ANSWERS:
                for numbers in self._together:
                    made = {number: self._edit_result(number) for number in numbers}
                    rows += self._oom_retry.run(
                        stage, partial(self._ask, made, stage, cast(Context, context))
                    )[1]
            else:
                for number in range(len(self._sets)):
                    rows += self._oom_retry.run(stage, partial(self._measure, stage, number))
        if found:
            release()
            self.journal.fail(stage, found[0])
        else:
            self.journal.write(stage, rows)
        self.journal.costs = replace(
            self.journal.costs, stage_s={**self.journal.costs.stage_s, stage: taking.seconds}
        )

    def _measure(self, stage: str, number: int) -> Sequence[object]:
        """Return a draw's rows of a further stage."""
        return measure(
            stage, self._edited_draw(number, self._edit_result(number)), self._progress(stage, number)
        )

    def decisions(self) -> None:
        """Store what a scope indicator decides in all draws; a model is loaded only for a gate."""
        if DECISIONS in self.journal.shards:
            return
        params = self._editor.params
        step = partial(
            decisions_of, self._cell, params, self._sets, self._spare, lambda: self._lm, self._progress
        )
        made, self.journal.costs = self._oom_retry.run("scope", step)
        self.journal.write(DECISIONS, made)

    def findings(self) -> None:
        """Store what a study finds about the entities of all draws."""
        if STUDY in self.journal.shards:
            return
        cell = self._cell
        study = cast(type[Study[object]], self._method).for_model(
            cell.model, cell.dataset, cell.n_edits, dict(cell.variant)
        )
        step = partial(findings_of, cell, study, self._sets, self._spare, self._lm, self._progress)
        made, self.journal.costs, notes = self._oom_retry.run(STUDY, step)
        self.journal.notes.update(notes)
        self.journal.write(STUDY, made)
