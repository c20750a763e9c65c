"""Named grids and their cells: what is to be run, decided and checked before any work."""

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lks.errors import TooManyEdits, UserError, unknown

if TYPE_CHECKING:  # reports and the store read this module and must start without torch
    from lks.editor import Editor

PROTOCOL = 1
"""Version of the evaluation protocol; part of every `Cell.id` and of the results folder."""

UNEDITED = "none"
"""The method that edits nothing. Locality is a join with its answers, so every plan holds its cells."""

Status = Literal["ok", "oom", "collapsed", "diverged", "error"]
Count = Annotated[int, Field(ge=1)]
Overrides = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One point of a grid: a method makes T edits on a model, in `draws` disjoint sets, each edited and scored alone.

    Attributes:
        model, dataset, method: registry names.
        n_edits: T, edits per draw.
        seed: of the order of cases and of all training randomness.
        draws: number of disjoint edit sets; their answers are pooled.
        variant: overridden parameters as ((name, text), ...), sorted; empty for the preset.
        parameters: the resolved parameters as canonical JSON (`lks.editor.canonical`).
        model_revision, data_revision: content hashes.
        records: only the dataset's first so many cases are used; 0 means all.
    """

    model: str
    dataset: str
    method: str
    n_edits: int
    seed: int
    draws: int
    variant: Overrides = ()
    parameters: str = "{}"
    model_revision: str = ""
    data_revision: str = ""
    records: int = 0

    @property
    def id(self) -> str:
        """Sixteen hex digits of a hash over all that decides the result, the protocol version included."""
        fields = [PROTOCOL, self.model, self.dataset, self.method, self.n_edits, self.seed, self.draws]
        fields += [self.parameters, self.model_revision, self.data_revision, self.records]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """How people read it: "lks | micro-llama | world | T=100"."""
        variant = "".join(f" {k}={v}" for k, v in self.variant)
        return f"{self.method}{variant} | {self.model} | {self.dataset} | T={self.n_edits}"


@dataclass(frozen=True, slots=True)
class Costs:
    """What a cell cost.

    Attributes:
        prepare_s: one-off preparation (covariance, meta-training), seconds.
        edit_s: all edits of all draws, seconds.
        ask_s: read-outs, seconds.
        peak_bytes: peak memory: allocated on the GPU, else resident set of the process.
        patch_bytes: tensors of the patch of one draw (mean).
    """

    prepare_s: float = 0.0
    edit_s: float = 0.0
    ask_s: float = 0.0
    peak_bytes: int = 0
    patch_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: which one.
        status: "ok", or how it failed.
        reason: one line for people; empty when ok.
        shards: Parquet files of raw answers, relative to the results folder.
        costs: seconds and bytes.
        provenance: code and package versions, device, host kind, time (ISO 8601): text -> text.
    """

    cell: Cell
    status: Status
    reason: str
    shards: tuple[str, ...]
    costs: Costs
    provenance: dict[str, str]


class Grid(BaseModel):
    """What a named grid asks for, as `flows/grids.toml` says it.

    Attributes:
        name: its table in the file.
        description: one line for `lks list grids`.
        models, datasets: registry names; every model is run on every dataset.
        models_for: dataset -> models, where a dataset has models of its own.
        methods: a name, or a table with `method` and overridden parameters: `{method = "lks", hypernetwork = "free"}`.
        n_edits: the values of T.
        draws: T -> number of disjoint edit sets; 1 where absent.
        seeds: each is a cell of its own.
        records: only the first so many cases of each dataset are used; 0 means all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    description: str = ""
    models: list[str] = []
    datasets: Annotated[list[str], Field(min_length=1)]
    models_for: dict[str, list[str]] = {}
    methods: Annotated[list[str | dict[str, str | int | float | bool]], Field(min_length=1)]
    n_edits: Annotated[list[Count], Field(min_length=1)]
    draws: dict[Annotated[int, Field(strict=False, ge=1)], Count] = {}
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    records: Annotated[int, Field(ge=0)] = 0

    def entries(self) -> list[tuple[str, Overrides]]:
        """Methods with their overrides as text; the unedited model first, whether it is listed or not."""
        entries: dict[tuple[str, Overrides], None] = {(UNEDITED, ()): None}
        for method in self.methods:
            if isinstance(method, str):
                entries[method, ()] = None
            else:
                changes = tuple(sorted((k, _text(v)) for k, v in method.items() if k != "method"))
                entries[str(method["method"]), changes] = None
        return list(entries)

    def pairs(self) -> list[tuple[str, str]]:
        """(model, dataset) of all its cells."""
        return [(model, dataset) for dataset in self.datasets for model in self.models_for.get(dataset, self.models)]


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def grids(path: Path) -> dict[str, Grid]:
    """All grids of a TOML file by name.

    Raises:
        UserError: the file is missing, is not TOML, or a grid of it is wrong; names file, grid and key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the grids in {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from None
    return {name: _grid(path, name, table) for name, table in document.items()}


def _grid(path: Path, name: str, table: object) -> Grid:
    where = f"{path}, grid {name!r}"
    if not isinstance(table, dict):
        raise UserError(f"{where}: not a table; write [{name}] and its keys below.")
    known = set(Grid.model_fields) - {"name"}
    for key in sorted(set(table) - known):
        raise UserError(f"{where}: {unknown('key', key, known)}")
    try:
        grid = Grid.model_validate({"name": name, **table})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("dict[", "union", "constrained")))
        raise UserError(f"{where}, {place or 'grid'}: {first['msg']} (found {first['input']!r}).") from None
    if any(not isinstance(method, str) and not isinstance(method.get("method"), str) for method in grid.methods):
        raise UserError(f'{where}, methods: a table needs the method\'s name, as in {{method = "lks", hypernetwork = "free"}}.')
    for n_edits in sorted(set(grid.draws) - set(grid.n_edits)):
        raise UserError(f"{where}, draws: T={n_edits} is not among n_edits {grid.n_edits}.")
    for dataset in sorted(set(grid.models_for) - set(grid.datasets)):
        raise UserError(f"{where}, models_for: {unknown('dataset', dataset, grid.datasets)}")
    for dataset in grid.datasets:
        if not grid.models_for.get(dataset, grid.models):
            raise UserError(f"{where}: no models for dataset {dataset!r}; give models, or models_for.{dataset}.")
    return grid


def parse_only(text: str) -> dict[str, tuple[str, ...]]:
    """A filter from the command line: "method=lks,model=micro-llama"; a key given twice means either value.

    Raises:
        UserError: a part without "=", or a key that cells do not have.
    """
    only: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UserError(f"--only: {part!r} is not of the form key=value, as in --only method=lks,model=micro-llama.")
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
    """The cells of a grid, all checked, before any work is done.

    The unedited model's cells are kept whatever `only` says of methods. Cells come model by model, few edits first.

    Args:
        grid: what is asked for.
        methods: all methods by name.
        revision_of_model: content hash of a model by name; raises `UserError` for an unknown one.
        dataset_of: (revision, number of cases) of a dataset by name; raises `UserError` for an unknown one.
        only: key -> values to keep, from `parse_only`.

    Raises:
        UserError: an unknown name or parameter, or a filter that fits nothing.
        TooManyEdits: draws * T exceeds the cases there are.
    """
    from lks.editor import canonical  # here, not above: it brings torch

    for method, _ in grid.entries():
        if method not in methods:
            raise unknown("method", method, methods)
    _check_filter(grid, only)
    models = {m: revision_of_model(m) for m in sorted({m for m, d in grid.pairs() if _kept(only, model=m, dataset=d)})}
    data = {d: dataset_of(d) for d in sorted({d for m, d in grid.pairs() if _kept(only, model=m, dataset=d)})}
    cells: dict[str, Cell] = {}
    for bare in _bare_cells(grid, only):
        revision, size = data[bare.dataset]
        _check_size(grid, bare, size)
        editor = methods[bare.method].for_model(bare.model, bare.dataset, bare.n_edits, dict(bare.variant))
        cell = replace(bare, parameters=canonical(editor.params), model_revision=models[bare.model], data_revision=revision)
        cells.setdefault(cell.id, cell)
    return sorted(cells.values(), key=lambda c: (c.model, c.dataset, c.n_edits, c.method != UNEDITED, c))


def _bare_cells(grid: Grid, only: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Cells before parameters and revisions are known."""
    return [
        Cell(model, dataset, method, n_edits, seed, grid.draws.get(n_edits, 1), variant, records=grid.records)
        for model, dataset in grid.pairs()
        for n_edits in grid.n_edits
        for seed in grid.seeds
        for method, variant in grid.entries()
        if _kept(only, model=model, dataset=dataset, n_edits=str(n_edits), seed=str(seed))
        if method == UNEDITED or _kept(only, method=method)
    ]


def _kept(only: Mapping[str, Sequence[str]], **fields: str) -> bool:
    return all(value in only.get(key, (value,)) for key, value in fields.items())


def _check_filter(grid: Grid, only: Mapping[str, Sequence[str]]) -> None:
    known = {
        "model": {model for model, _ in grid.pairs()},
        "dataset": set(grid.datasets),
        "method": {method for method, _ in grid.entries()},
        "n_edits": {str(n) for n in grid.n_edits},
        "seed": {str(seed) for seed in grid.seeds},
    }
    for key, values in only.items():
        for value in values:
            if value not in known[key]:
                raise unknown(f"{key} of grid {grid.name!r}", value, known[key])


def _check_size(grid: Grid, cell: Cell, size: int) -> None:
    if grid.records > size:
        raise TooManyEdits(f"Grid {grid.name!r} uses the first {grid.records} records of {cell.dataset!r}, which holds {size}. Lower `records`.")
    available = grid.records or size
    if cell.n_edits * cell.draws > available:
        asked = f"{cell.draws} draws of T={cell.n_edits}" if cell.draws > 1 else f"T={cell.n_edits}"
        need = f"{cell.n_edits * cell.draws} records of dataset {cell.dataset!r}, which has {available}"
        raise TooManyEdits(f"Grid {grid.name!r} asks for {asked}: {need}. Lower n_edits or draws, or use a larger dataset.")
