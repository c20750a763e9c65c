"""Planning without Prefect: the cells of a grid and those that the store lacks."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from flows.running.process_cache import PROCESS_CACHE
from flows.settings import Settings
from lks.errors import StoreError, UserError, unknown
from lks.io.locks import holder, locked, sign
from lks.models.testbed_models import build_command
from lks.results.cells import Cell, Measure, Measurements, Outcome
from lks.runs.grid import Grid, grids
from lks.runs.plan import parse_only, plan, plan_cell

if TYPE_CHECKING:
    from lks.edits import Dataset
    from lks.results.remote import CellExchange
    from lks.results.store import Store


@dataclass(frozen=True, slots=True)
class Work:
    """A grid compared with the store.

    Attributes:
        grid: the requested grid.
        cells: all its cells, in the order in which they are run.
        todo: cells to run now.
        earlier: outcomes of all cells in the store, of this grid or not.
        retry_failed: whether cells and stages that failed for good are run again.
    """

    grid: Grid
    cells: tuple[Cell, ...]
    todo: tuple[Cell, ...]
    earlier: tuple[Outcome, ...]
    retry_failed: bool = False

    @property
    def extras(self) -> Measurements:
        """Measurements requested in addition to the answers, with `retry_failed` applied."""
        return replace(self.grid.extras, retry_failed=self.retry_failed)

    def lacking(self, cell: Cell) -> tuple[str, ...]:
        """Return the stages that a stored cell lacks; all stages if the cell is not stored."""
        stored = next(
            (_kept(o, self.retry_failed) for o in self.earlier if o.cell.id == cell.id and o.status == "ok"),
            frozenset[str](),
        )
        return tuple(stage for stage in self.grid.extras.stages(cell.measure) if stage not in stored)


def named_grid(name: str, file: Path) -> Grid:
    """Return the grid of this name in the file.

    Raises:
        UserError: no grid has that name.
    """
    known = grids(file)
    if name not in known:
        raise unknown("grid", name, known)
    return known[name]


def cells_of(grid: Grid, only: str = "") -> list[Cell]:
    """Return the cells of a grid after checking names, presets, data and built models.

    Raises:
        UserError: something is unknown, missing or too small.
    """
    from baselines import methods

    return plan(
        grid,
        methods=methods(),
        revision_of_model=revision_of_model,
        dataset_of=dataset_of,
        only=parse_only(only),
    )


def planned_cell(cell: Cell) -> Cell:
    """Return one cell with its identity as it is on this machine, checked as those of a grid are.

    Raises:
        UserError: something is unknown, missing or too small.
    """
    from baselines import methods

    return plan_cell(cell, methods=methods(), revision_of_model=revision_of_model, dataset_of=dataset_of)


def existing(results: Path) -> "Store | None":
    """Return the store of a folder, or None if nothing was ever stored there; no folder is created.

    Raises:
        StoreError: the folder cannot be used.
    """
    from lks.results.store import Store

    return Store(results) if (results / "cells").exists() or (results / "protocol.json").exists() else None


def compare(grid: Grid, cells: Sequence[Cell], store: "Store | None", retry_failed: bool = False) -> Work:
    """Determine which of the cells to run.

    These are cells that the store lacks, cells that ended in an error which may have been fixed, and good
    cells that lack a stage which the grid asks for. Outcomes that a killed run wrote but did not record are
    recorded first.

    Args:
        grid: grid of the cells.
        cells: cells from `cells_of`.
        store: store of the results folder, if there is one.
        retry_failed: whether to run cells again that failed for good (out of memory, diverged, collapsed, too
            slow), and such stages of good cells: only these stages, on the patches that the cells have left.
    """
    if store is None:
        return Work(grid, tuple(cells), tuple(cells), (), retry_failed)
    done = store.done()
    earlier = tuple(store.outcomes())
    if retry_failed:
        done = done - {o.cell.id for o in earlier if o.status != "ok"}
    wanted = {measure: set(grid.extras.stages(measure)) for measure in get_args(Measure)}
    whole = {
        o.cell.id for o in earlier if o.status != "ok" or wanted[o.cell.measure] <= _kept(o, retry_failed)
    }
    return Work(
        grid, tuple(cells), tuple(c for c in cells if c.id not in done & whole), earlier, retry_failed
    )


def _kept(outcome: Outcome, retry_failed: bool) -> frozenset[str]:
    """Return the stages of a good cell that are not run again."""
    return outcome.written if retry_failed else outcome.stages


def revision_of_model(name: str) -> str:
    """Return the content hash of a local model or the commit of one on the hub.

    The number format is included if `LKS_DTYPE` selects another than the default.

    Raises:
        UserError: the name is unknown, a testbed model has not been built, or the number format is not
            available; the message says what to do.
    """
    from lks.models import precision

    device = precision.default_device()
    return precision.revision_in(_weights_of(name), precision.chosen(device), device)


def _weights_of(name: str) -> str:
    from lks.models.lm import weights_hash
    from lks.models.registry import check_name, found, kind_of, revision_of

    check_name(name)
    if revision := revision_of(name):
        return revision
    here, kept = found(name), PROCESS_CACHE.get()
    if here is None:
        raise UserError(f"Model {name!r} is not built yet. Build it with: {build_command(name)}")
    if any(here.folder.glob("*.safetensors")):
        return kept.weights_hash(here.folder) if kept else weights_hash(here.folder)
    raise UserError(
        f"Model {'folder' if kind_of(name) == 'folder' else repr(name)} {name} holds no *.safetensors file."
    )


def dataset_of(name: str) -> tuple[str, int]:
    """Return revision and number of cases of a dataset.

    Raises:
        UserError: the name is unknown, or data are missing or malformed.
    """
    dataset = loaded_dataset(name)
    return dataset.revision, len(dataset.cases)


def loaded_dataset(name: str) -> "Dataset":
    """Return a dataset, read once by a process that keeps what it has loaded.

    Raises:
        UserError: unknown name, or missing or bad data.
    """
    from lks.data.datasets import load

    kept = PROCESS_CACHE.get()
    return kept.resources.dataset(name) if kept else load(name)


def tally(outcomes: Iterable[Outcome]) -> Mapping[str, int]:
    """Count outcomes by status."""
    return Counter(outcome.status for outcome in outcomes)


def await_writer(results: Path, wait_s: float) -> None:
    """Wait until no other grid writes to the folder, or the time is over; `only_writer` then decides."""
    with suppress(OSError), (results / ".lock").open("a") as file:
        locked(file, wait_s)


@contextmanager
def only_writer(results: Path) -> Iterator[None]:
    """Lock the results folder for one grid run; the lock is released when the process ends, however it ends.

    Raises:
        StoreError: the folder cannot be written, or another run holds it.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(
            os.open(results / ".lock", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+"
        )  # never follows a symbolic link
    except OSError as error:
        raise StoreError(
            f"Results folder {results} cannot be written: {error.strerror}. "
            "Use another with --results or LKS_RESULTS."
        ) from None
    with file:
        ours = locked(file)
        if ours is None:
            raise StoreError(
                f"{results} is on a file system without locks: two runs at once would corrupt it. "
                "Use another with --results."
            )
        if not ours:
            raise StoreError(
                f"Another run (process {holder(file)}) is writing to {results}. "
                "Wait for it, or use another folder with --results."
            )
        sign(file)
        yield


def share_in_use(url: str = "") -> "CellExchange":
    """Return the share through which machines exchange cells; if there is none, nothing is exchanged.

    Args:
        url: URL of the share; the one in the settings if empty.

    Raises:
        UserError: the share cannot be used.
    """
    from lks.results.remote import NO_EXCHANGE, RemoteStore

    return RemoteStore(url) if (url := url or Settings().share) else NO_EXCHANGE


def folder_of(results: Path | None) -> Path:
    """Return the results folder to use: the given one, else that of the settings."""
    return results or Settings().results
