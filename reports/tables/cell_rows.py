"""The position of a cell in a report (part, row and T), and the rows of query results at these positions."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lks.results.cells import Outcome
from reports.results import Results, cached_note, why
from reports.tables.model import Entry, TableRow, Value


class OfCell(Protocol):
    """A row of a query that names its cell."""

    @property
    def cell_id(self) -> str:
        """Id of the cell."""


Key = tuple[str, str, str, int]
"""Dataset, model, method and T: the key of published values."""
FoundT = TypeVar("FoundT", bound=OfCell)


@dataclass(frozen=True, slots=True)
class CellRow:
    """A cell with answers, as tables show it.

    Attributes:
        part: title of its part, such as "micro-llama on world".
        name: name of the method, with its overrides.
        outcome: outcome of the cell.
    """

    part: str
    name: str
    outcome: Outcome

    @property
    def n_edits(self) -> str:
        """T as tables print it."""
        return f"{self.outcome.cell.n_edits:,}"

    @property
    def key(self) -> Key:
        """Key of published values; the method is empty if parameters are overridden."""
        cell = self.outcome.cell
        return cell.dataset, cell.model, "" if cell.variant else cell.method, cell.n_edits


@dataclass(frozen=True, slots=True)
class MissingStage:
    """The shape of a row for a cell in which a stage was not measured.

    Attributes:
        stage: the stage of the cell that would have measured it.
        keys: number of columns after T and method that say what is measured.
        values: number of columns after those.
    """

    stage: str
    keys: int
    values: int


def places(results: Results) -> list[CellRow]:
    """Return all cells of the results, by part, T and row."""
    return [
        CellRow(block.title, row.name, row.cells[n])
        for block in results.blocks
        for n in sorted({n for row in block.rows for n in row.cells})
        for row in block.rows
        if n in row.cells
    ]


def device(places: Iterable[CellRow]) -> str:
    """Return the names of all devices that cells were run on, once each."""
    return "; ".join(sorted({device_of(place.outcome) for place in places if place.outcome.status == "ok"}))


def cached(places: Iterable[CellRow]) -> str:
    """Return the caption's sentence about preparation from the cache, after a space; empty if none was."""
    note = cached_note(place.outcome for place in places)
    return f" {note}" if note else ""


def device_of(outcome: Outcome) -> str:
    """Return the device of a cell, with what is unusual about its model's weights.

    That is a chosen dtype or a quantised file.
    """
    noted, cell = outcome.provenance, outcome.cell
    device, dtype, quantisation = (noted.get(key, "") for key in ("device", "dtype", "quantisation"))
    chosen = [f"in {dtype}"] if dtype and cell.model_revision.endswith(f"-{dtype}") else []
    weights = (
        [f"weights of {cell.model} dequantised from a GGUF file ({quantisation})"] if quantisation else []
    )
    return ", ".join([device or "a device that was not noted", *chosen, *weights])


def by_cell(rows: Iterable[FoundT]) -> dict[str, list[FoundT]]:
    """Group the rows of a query by cell, in their order."""
    found: dict[str, list[FoundT]] = {}
    for row in rows:
        found.setdefault(row.cell_id, []).append(row)
    return found


def shown(results: Results, found: Mapping[str, object], published: Collection[Key] = ()) -> list[CellRow]:
    """Return the cells of each part in which any cell has a row or matches a published value."""
    everywhere = places(results)
    parts = {place.part for place in everywhere if place.outcome.cell.id in found or place.key in published}
    return [place for place in everywhere if place.part in parts]


def lines(
    shown: Sequence[CellRow],
    found: Mapping[str, Sequence[FoundT]],
    entries: Callable[[CellRow, FoundT], Sequence[Entry]],
    lack: MissingStage,
) -> tuple[TableRow, ...]:
    """Return the rows of a table that starts with T and method.

    A cell has one row for each row found, or a single row that says why there is none.
    """
    made = []
    for place in shown:
        start = (place.n_edits, place.name)
        rows = found.get(place.outcome.cell.id, ())
        made += [TableRow((*start, *entries(place, row)), place.part) for row in rows]
        if not rows:
            reason = missing(place.outcome, lack.stage)
            made.append(
                TableRow((*start, *(["all"] * lack.keys), *[Value(why=reason)] * lack.values), place.part)
            )
    return tuple(made)


def missing(outcome: Outcome, stage: str = "") -> str:
    """Return why a cell lacks a measurement: the cell failed, the stage failed, or it was not measured."""
    failed = next(
        (text for name, text in sorted(outcome.failed.items()) if stage and name.startswith(stage)), ""
    )
    return why(outcome) or failed or "not measured"
