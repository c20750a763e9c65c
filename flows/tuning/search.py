"""A search for a method's parameters: its trials are cells on development cases, run here and stored."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flows.running.cell_runner import CellRunner
from flows.running.planning import cells_of, dataset_of
from flows.tuning.halving import Rung, Trial, distinct, halve, rungs
from flows.tuning.objective import OBJECTIVES, Objective, score
from lks.editing.editor import canonical
from lks.editing.search_space import SearchSpace, configurations, space_of
from lks.errors import TooManyEdits
from lks.models.registry import shape_of
from lks.results.cells import FINAL, TUNING_S, UNEDITED, Cell, Measurements, Outcome, Overrides
from lks.results.store import Store
from lks.runs.grid import Grid

if TYPE_CHECKING:
    from lks.editing.editor import Editor


class TrialListener(Protocol):
    """Receiver of the events of a search."""

    def begin(self, variant: Overrides, rung: int) -> None:
        """Receive the start of a trial, or the look-up of a stored one."""

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Receive the stage that a trial's cell is in and the fraction of it that is done."""

    def finish(self, trial: Trial, stored: bool) -> None:
        """Receive a finished trial, and whether it was stored before."""


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        method: class of the method.
        model, dataset: registry names.
        n_edits: T.
        objective: name of an entry of `OBJECTIVES`.
        seed: random seed of the cases, of all training and of the configurations.
        records: number of first cases of the dataset that are used; 0 means all.
    """

    method: "type[Editor[object]]"
    model: str
    dataset: str
    n_edits: int
    objective: str
    seed: int = 0
    records: int = 0

    @property
    def aim(self) -> Objective:
        """The objective."""
        return OBJECTIVES[self.objective]

    @property
    def name(self) -> str:
        """Name of its folder and files."""
        parts = (self.method.registry_name(), self.model, self.dataset, f"T{self.n_edits}", self.objective)
        return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in part) for part in parts)

    @cached_property
    def space(self) -> SearchSpace:
        """The dimensions.

        Raises:
            UserError: the method declares none, or wrong ones.
        """
        return space_of(self.method.title, self.method.params_type)

    @cached_property
    def rungs(self) -> list[Rung]:
        """The rungs.

        Raises:
            UserError: the dataset is unknown, or its data are missing.
            TooManyEdits: it has too few development cases.
        """
        bare = Cell(
            self.model, self.dataset, UNEDITED, self.n_edits, records=self.records, split="development"
        )
        available = bare.available(dataset_of(self.dataset)[1])
        if available < self.n_edits:
            raise TooManyEdits(
                f"--edits {self.n_edits}: dataset {self.dataset!r} has {available} cases for development "
                "(the last third). Lower --edits, or use a larger dataset."
            )
        return rungs(self.n_edits, available)

    def resolved(self, variant: Overrides, n_edits: int | None = None) -> object:
        """Return a configuration's parameters for T edits, by default the T that is searched for."""
        made = self.method.for_model(self.model, self.dataset, n_edits or self.n_edits, dict(variant))
        return made.params

    def configurations(self) -> Iterator[Overrides]:
        """Yield the default, then points of the space that differ from all before."""
        points = configurations(self.space, shape_of(self.model)[0], self.seed)
        return distinct(
            canonical(self.resolved(())),
            ((canonical(self.resolved(variant)), variant) for variant in points),
        )

    def cells(self, variant: Overrides, rung: int) -> tuple[Cell, Cell]:
        """Return the unedited model's cell and the trial's on a rung, planned and checked.

        Raises:
            UserError: something is unknown, missing or too small.
        """
        asked = self.rungs[rung]
        grid = Grid(
            name="tune",
            models=[self.model],
            datasets=[self.dataset],
            methods=[{"method": self.method.registry_name(), **dict(variant)}],
            n_edits=[asked.n_edits],
            draws={asked.n_edits: asked.draws},
            seeds=[self.seed],
            records=self.records,
            split="development",
        )
        unedited, cell = cells_of(grid)
        return unedited, cell


class Trials:
    """Runs the trials of a search, and finds those that are stored.

    Args:
        search: what is searched.
        store: store of the results folder, which is locked.
        listener: receives starts, progress and ends.
    """

    def __init__(self, search: Search, store: Store, listener: TrialListener) -> None:
        self._search, self._store, self._listener = search, store, listener
        done = store.done()
        self._stored = {o.cell.id: o for o in store.outcomes() if o.cell.id in done}
        self._runner = CellRunner(store.results, listener, Measurements())
        self._asked = set[str]()

    def run(self, budget_s: float) -> list[Trial]:
        """Search for so many seconds, those of stored trials included, and return all trials.

        Raises:
            UserError: something must be fixed first; finished trials are stored.
        """
        search = self._search
        return halve(search.configurations(), search.rungs, self._trial, budget_s)

    def _trial(self, variant: Overrides, rung: int) -> Trial:
        """Run a configuration on a rung, the unedited model first."""
        self._listener.begin(variant, rung)
        unedited, cell = self._search.cells(variant, rung)
        stored = cell.id in self._stored
        seconds = 0.0
        for needed in (unedited, cell):
            outcome = self._stored.get(needed.id) or self._run(needed)
            if needed.id not in self._asked:
                seconds += seconds_of(outcome)
                self._asked.add(needed.id)
            if needed is unedited and outcome.status != "ok":
                cell = unedited  # nothing can be compared with it: the trial has failed for this reason
                break
        ok = outcome.status == "ok"
        value: float | None = None
        finer = 0.0
        if ok:
            value, finer = score(self._store, cell.id, self._search.aim, self._search.dataset)
        trial = Trial(
            variant, rung, cell.id, outcome.status, outcome.reason, value, finer, seconds, outcome.costs
        )
        self._listener.finish(trial, stored)
        return trial

    def _run(self, cell: Cell) -> Outcome:
        """Run and record a cell; its patch is deleted, since many patches need much space."""
        began = time.monotonic()
        outcome = self._runner.run(cell)
        spent = {TUNING_S: f"{time.monotonic() - began:.2f}"}
        outcome = replace(outcome, provenance={**outcome.provenance, **spent})
        self._store.record(outcome)
        shutil.rmtree(self._store.results / "runs" / cell.id / "patch", ignore_errors=True)
        if outcome.status in FINAL:
            self._stored[cell.id] = outcome
        return outcome


def seconds_of(outcome: Outcome) -> float:
    """Return the seconds that a trial took; for a cell of a grid, those of its parts."""
    try:
        return float(outcome.provenance.get(TUNING_S, ""))
    except ValueError:
        return outcome.costs.seconds


def folder_of_search(results: Path, search: Search) -> Path:
    """Return the folder for the outputs of a search."""
    return results / "tuning" / search.name
