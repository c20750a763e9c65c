"""What is to be done, without Prefect: the cells of a grid and those that the store lacks."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
    from lks.results.remote import RemoteStore
    from lks.results.store import Store


@dataclass(frozen=True, slots=True)
class Work:
    """A grid compared with the store.

    Attributes:
        grid: what was asked for.
        cells: all its cells, in the order they are run.
        todo: those to run now.
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
        """What is measured beside the answers, as the cells are to be told."""
        return replace(self.grid.extras, retry_failed=self.retry_failed)

    def lacking(self, cell: Cell) -> tuple[str, ...]:
        """Stages that a stored cell lacks; all of a cell that is not stored."""
        stored = next(
            (_kept(o, self.retry_failed) for o in self.earlier if o.cell.id == cell.id and o.status == "ok"),
            frozenset[str](),
        )
        return tuple(stage for stage in self.grid.extras.stages(cell.measure) if stage not in stored)


def named_grid(name: str, file: Path) -> Grid:
    """One grid of the file.

    Raises:
        UserError: no grid of that name.
    """
    known = grids(file)
    if name not in known:
        raise unknown("grid", name, known)
    return known[name]


def cells_of(grid: Grid, only: str = "") -> list[Cell]:
    """The cells of a grid, all checked: names, presets, data, built models.

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
    """The store of a folder, or None where nothing was ever stored; makes no folder.

    Raises:
        StoreError: the folder cannot be used.
    """
    from lks.results.store import Store

    return Store(results) if (results / "cells").exists() or (results / "protocol.json").exists() else None


def compare(grid: Grid, cells: Sequence[Cell], store: "Store | None", retry_failed: bool = False) -> Work:
    """Which of the cells are to be run: those that the store lacks, or that ended in an error which may have been mended, and good ones
    that lack a stage which the grid asks for.

    Outcomes that a killed run wrote but did not record are recorded first.

    Args:
        grid: the cells' grid.
        cells: from `cells_of`.
        store: of the results folder, if there is one.
        retry_failed: whether cells that failed for good (out of memory, diverged, collapsed, too slow) are run again too, and such stages
            of good cells: these alone, on the patches that the cells have left.
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
    """Stages of a good cell that are not run again."""
    return outcome.written if retry_failed else outcome.stages


def revision_of_model(name: str) -> str:
    """Content hash of a local model, commit of one on the hub; with the number format where `LKS_DTYPE` chooses another than the default.

    Raises:
        UserError: unknown name, a testbed model that has not been built, or a number format that cannot be had; says what to do.
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
    """Revision and number of cases of a dataset.

    Raises:
        UserError: unknown name, or missing or bad data.
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
    """Number of outcomes by status."""
    return Counter(outcome.status for outcome in outcomes)


def await_writer(results: Path, wait_s: float) -> None:
    """Wait until no other grid writes to the folder, or the time is over; whether it may be written is then up to `only_writer`."""
    with suppress(OSError), (results / ".lock").open("a") as file:
        locked(file, wait_s)


@contextmanager
def only_writer(results: Path) -> Iterator[None]:
    """Hold the results folder for one grid run; the lock falls with the process, however it ends.

    Raises:
        StoreError: the folder cannot be written, or another run holds it.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(
            os.open(results / ".lock", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+"
        )  # never through a link
    except OSError as error:
        raise StoreError(
            f"Results folder {results} cannot be written: {error.strerror}. Use another with --results or LKS_RESULTS."
        ) from None
    with file:
        ours = locked(file)
        if ours is None:
            raise StoreError(
                f"{results} is on a file system without locks: two runs at once would spoil it. Use another with --results."
            )
        if not ours:
            raise StoreError(
                f"Another run (process {holder(file)}) is writing to {results}. Wait for it, or use another folder with --results."
            )
        sign(file)
        yield


def share_in_use(url: str = "") -> "RemoteStore | None":
    """The share by which cells are passed on: of the URL, else of the settings; None where there is none.

    Raises:
        UserError: it cannot be used.
    """
    if not (url := url or Settings().share):
        return None
    from lks.results.remote import RemoteStore

    return RemoteStore(url)


def exchange(
    results: Path,
    cell_ids: Collection[str] | None,
    share: "RemoteStore | None" = None,
    progress: Callable[[float], None] = lambda done: None,
) -> tuple[int, int]:
    """Bring folder and share to the same state, if there is a share.

    Args:
        results: the folder; made if it is not there.
        cell_ids: which cells; None: all that the share has, and nothing is sent.
        share: `LKS_SHARE` if not given.
        progress: told the fraction done.

    Returns:
        How many cells were taken from the share, and how many sent to it.

    Raises:
        UserError: the share cannot be used, or the folder not be written.
    """
    share = share or share_in_use()
    if share is None:
        return 0, 0
    from lks.results.store import Store

    Store(results)  # from here on it is a results folder, of this protocol
    return share.exchange(results, cell_ids, sending=cell_ids is not None, progress=progress)


def folder_of(results: Path | None) -> Path:
    """The results folder to use: as given, else from the settings."""
    return results or Settings().results
