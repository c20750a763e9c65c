"""Planning of a grid's cells, all checked before any work is done."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lks.errors import TooManyEdits, UserError, unknown
from lks.results.cells import UNEDITED, Cell
from lks.results.stages import check_further
from lks.runs.grid import Grid

if TYPE_CHECKING:  # torch is imported only when a plan is made
    from lks.editing.editor import Editor


def parse_only(text: str) -> dict[str, tuple[str, ...]]:
    """Parse a filter from the command line: "method=lks,model=micro-llama".

    A key that is given twice means either value.

    Raises:
        UserError: a part has no "=", or a key that cells do not have.
    """
    only: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UserError(
                f"--only: {part!r} is not of the form key=value, as in --only method=lks,model=micro-llama."
            )
        if key not in ("model", "dataset", "method", "n_edits", "seed"):
            raise unknown("key of --only", key, ("model", "dataset", "method", "n_edits", "seed"))
        only[key] = (*only.get(key, ()), value)
    return only


def plan(
    grid: Grid,
    *,
    methods: Mapping[str, type["Editor[object]"]],
    revision_of_model: Callable[[str], str],
    dataset_of: Callable[[str], tuple[str, int]],
    only: Mapping[str, Sequence[str]],
) -> list[Cell]:
    """Return the cells of a grid, all checked before any work is done.

    The unedited model's cells are kept whatever `only` says about methods. Cells come model by model, few
    edits first.

    Args:
        grid: the grid.
        methods: all methods by name.
        revision_of_model: content hash of a model by name; raises `UserError` for an unknown one.
        dataset_of: (revision, number of cases) of a dataset by name; raises `UserError` for an unknown one.
        only: key -> values to keep, from `parse_only`.

    Raises:
        UserError: a name or parameter is unknown, a preset file is wrong, or the filter fits nothing.
        TooManyEdits: draws * T exceeds the number of cases.
    """
    from lks.editing.preset_files import check_presets
    from lks.studies.registry import STUDIES  # here, not above: it brings torch

    check_further(grid.also)
    check_presets(methods)
    studies = grid.measure == "study"
    for method, _ in grid.entries():
        if method not in (STUDIES if studies else methods):
            raise unknown("study", method, STUDIES) if studies else unknown("method", method, methods)
    able = {
        model: [name for name, method in methods.items() if method.has_parameters(model)]
        for model, _ in grid.pairs()
    }
    every = {model: list(STUDIES) if studies else names for model, names in able.items()}
    _check_filter(grid, every, only)
    models = {
        m: revision_of_model(m)
        for m in sorted({m for m, d in grid.pairs() if _kept(only, model=m, dataset=d)})
    }
    data = {d: dataset_of(d) for d in sorted({d for m, d in grid.pairs() if _kept(only, model=m, dataset=d)})}
    cells: dict[str, Cell] = {}
    for bare in _bare_cells(grid, every, only):
        revision, size = data[bare.dataset]
        _check_size(f"Grid {grid.name!r}", bare, size)
        cell = _identified(bare, methods, models[bare.model], revision)
        cells.setdefault(cell.id, cell)
    return sorted(cells.values(), key=lambda c: (c.model, c.dataset, c.n_edits, c.method != UNEDITED, c))


def plan_cell(
    bare: Cell,
    *,
    methods: Mapping[str, type["Editor[object]"]],
    revision_of_model: Callable[[str], str],
    dataset_of: Callable[[str], tuple[str, int]],
) -> Cell:
    """Return one cell with its identity as it is on this machine, checked like the cells of a grid.

    Args:
        bare: its coordinates; parameters and revisions are not looked at.
        methods: all methods by name.
        revision_of_model: as for `plan`.
        dataset_of: as for `plan`.

    Raises:
        UserError: an unknown name or parameter.
        TooManyEdits: draws * T exceeds the cases there are.
    """
    from lks.studies.registry import STUDIES

    known = STUDIES if bare.measure == "study" else methods
    if bare.method not in known:
        raise unknown("study" if bare.measure == "study" else "method", bare.method, known)
    model = revision_of_model(bare.model)
    data, size = dataset_of(bare.dataset)
    _check_size("The cell", bare, size)
    return _identified(bare, methods, model, data)


def _identified(bare: Cell, methods: Mapping[str, type["Editor[object]"]], model: str, data: str) -> Cell:
    """Return the cell with its parameters and the revisions of its model and data."""
    from lks.editing.editor import canonical
    from lks.evaluation.scope_decisions import scope_params
    from lks.studies.registry import STUDIES

    method = (STUDIES if bare.measure == "study" else methods)[bare.method]
    params = method.for_model(bare.model, bare.dataset, bare.n_edits, dict(bare.variant)).params
    deciding = scope_params(bare.method, params) if bare.measure == "scope" else params
    return replace(bare, parameters=canonical(deciding), model_revision=model, data_revision=data)


def _bare_cells(
    grid: Grid, every: Mapping[str, Sequence[str]], only: Mapping[str, Sequence[str]]
) -> Iterator[Cell]:
    """Yield the cells before parameters and revisions are known."""
    for model, dataset in grid.pairs():
        for n_edits in grid.n_edits:
            for seed in grid.seeds:
                if not _kept(only, model=model, dataset=dataset, n_edits=str(n_edits), seed=str(seed)):
                    continue
                draws = grid.draws.get(n_edits, 1)
                for method, variant in grid.entries(every[model]):
                    if method == UNEDITED or _kept(only, method=method):
                        bare = Cell(
                            model,
                            dataset,
                            method,
                            n_edits,
                            seed,
                            draws,
                            variant,
                            records=grid.records,
                            split=grid.split,
                        )
                        yield replace(bare, measure=grid.measure)


def _kept(only: Mapping[str, Sequence[str]], **fields: str) -> bool:
    return all(value in only.get(key, (value,)) for key, value in fields.items())


def _check_filter(grid: Grid, every: Mapping[str, Sequence[str]], only: Mapping[str, Sequence[str]]) -> None:
    known = {
        "model": {model for model, _ in grid.pairs()},
        "dataset": set(grid.datasets),
        "method": {method for names in every.values() for method, _ in grid.entries(names)},
        "n_edits": {str(n) for n in grid.n_edits},
        "seed": {str(seed) for seed in grid.seeds},
    }
    for key, values in only.items():
        for value in values:
            if value not in known[key]:
                raise unknown(f"{key} of grid {grid.name!r}", value, known[key])


def _check_size(who: str, cell: Cell, size: int) -> None:
    if cell.records > size:
        raise TooManyEdits(
            f"{who} uses the first {cell.records} records of {cell.dataset!r}, which holds {size}. "
            "Lower `records`."
        )
    available = cell.available(size)
    if cell.n_edits * cell.draws > available:
        asked = f"{cell.draws} draws of T={cell.n_edits}" if cell.draws > 1 else f"T={cell.n_edits}"
        need = f"{cell.n_edits * cell.draws} records of dataset {cell.dataset!r}, which has {available}"
        kept = " for development (the last third)" if cell.split == "development" else ""
        raise TooManyEdits(
            f"{who} asks for {asked}: {need}{kept}. Lower n_edits or draws, or use a larger dataset."
        )
