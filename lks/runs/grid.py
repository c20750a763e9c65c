"""Named grids as a TOML file defines them; `lks.runs.plan` makes a grid's cells."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lks.errors import UserError, unknown
from lks.results.cells import (
    UNEDITED,
    Count,
    Measure,
    Measurements,
    Overrides,
    Split,
)

EVERY = "*"
"""In a grid's methods: every method that has a preset for the model, or a rule for untuned models."""


class Grid(BaseModel):
    """A named grid, as defined in `flows/grids.toml`.

    Attributes:
        name: its table in the file.
        description: one line for `lks list grids`.
        models, datasets: registry names; every model is run on every dataset.
        models_for: dataset -> models, where a dataset has separate models.
        methods: a name, or a table with `method` and overridden parameters: `{method = "lks", hypernetwork =
            "free"}`, or "*" for every method that has a preset for the model, or a rule for untuned models.
        n_edits: the values of T.
        draws: T -> number of disjoint edit sets; 1 where absent.
        seeds: random seeds; each makes a separate cell.
        records: number of first cases of each dataset that are used; 0 means all.
        split: "development" edits cases that no grid of the same seed and records evaluates, as long as its
            draws leave the last third alone.
        measure: "scope" stores what the methods' edit scope indicators decide instead of answers; there is no
            unedited model then. "study": methods are names of studies (`lks.studies.registry`), n_edits the
            number of entities; there is no unedited model either.
        contexts, fluency, gates, ability, documents, overhead, also: what is measured in addition to the
            answers (`Measurements`).
        otherwise: the grid that is run if this one was not asked for by name and one of its models is
            unavailable.
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
    split: Split = "evaluation"
    measure: Measure = "answers"
    contexts: list[Literal["qa", "chat"]] = []
    fluency: bool = False
    gates: bool = False
    ability: list[str] = []
    documents: Annotated[int, Field(ge=0)] = 0
    overhead: bool = False
    also: list[str] = []
    otherwise: str = ""

    @property
    def extras(self) -> Measurements:
        """What the grid's cells are measured on in addition to the answers."""
        return Measurements(
            tuple(self.contexts),
            self.fluency,
            self.gates,
            tuple(self.ability),
            self.documents,
            overhead=self.overhead,
            also=tuple(self.also),
        )

    def entries(self, every: Iterable[str] = ()) -> list[tuple[str, Overrides]]:
        """Return the methods with their overrides as text.

        Where answers are stored, the unedited model comes first, whether it is listed or not.

        Args:
            every: the methods that "*" means.
        """
        entries: dict[tuple[str, Overrides], None] = (
            {(UNEDITED, ()): None} if self.measure == "answers" else {}
        )
        for method in self.methods:
            if isinstance(method, str):
                entries |= {(name, ()): None for name in (every if method == EVERY else (method,))}
            else:
                changes = tuple(sorted((k, _text(v)) for k, v in method.items() if k != "method"))
                entries[str(method["method"]), changes] = None
        return list(entries)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the (model, dataset) pairs of all its cells."""
        return [
            (model, dataset)
            for dataset in self.datasets
            for model in self.models_for.get(dataset, self.models)
        ]


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def grids(path: Path) -> dict[str, Grid]:
    """Read all grids of a TOML file, by name.

    Raises:
        UserError: the file is missing, is not TOML, or one of its grids is wrong; names file, grid and key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the grids in {path}: {error.strerror}.") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # not TOML, not UTF-8, a number of thousands of digits, nested too deeply
        raise UserError(f"{path} is not valid TOML: {error}.") from None
    found = {name: _grid(path, name, table) for name, table in document.items()}
    for name, grid in found.items():
        if grid.otherwise and grid.otherwise not in found:
            raise UserError(f"{path}, grid {name!r}, otherwise: {unknown('grid', grid.otherwise, found)}")
    return found


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
        place = ".".join(
            str(part) for part in first["loc"] if not str(part).startswith(("dict[", "union", "constrained"))
        )
        raise UserError(f"{where}, {place or 'grid'}: {first['msg']} (found {first['input']!r}).") from None
    if any(
        not isinstance(method, str) and not isinstance(method.get("method"), str) for method in grid.methods
    ):
        raise UserError(
            f"{where}, methods: a table needs the method's name, "
            'as in {method = "lks", hypernetwork = "free"}.'
        )
    for n_edits in sorted(set(grid.draws) - set(grid.n_edits)):
        raise UserError(f"{where}, draws: T={n_edits} is not among n_edits {grid.n_edits}.")
    for dataset in sorted(set(grid.models_for) - set(grid.datasets)):
        raise UserError(f"{where}, models_for: {unknown('dataset', dataset, grid.datasets)}")
    for dataset in grid.datasets:
        if not grid.models_for.get(dataset, grid.models):
            raise UserError(
                f"{where}: no models for dataset {dataset!r}; give models, or models_for.{dataset}."
            )
    return grid
