"""Where a cell stands in a report: part, line and T; and rows of queries put there."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lks.results.cells import Outcome
from reports.results import Results, why
from reports.tables.model import Entry, TableRow, Value


class OfCell(Protocol):
    """A row of a query that says of which cell it is."""

    @property
    def cell_id(self) -> str:
        """The cell's."""


Key = tuple[str, str, str, int]
"""Dataset, model, method and T, as published values are kept."""
FoundT = TypeVar("FoundT", bound=OfCell)


@dataclass(frozen=True, slots=True)
class CellRow:
    """A cell with answers, as tables show it.

    Attributes:
        part: "micro-llama on world".
        name: of the method, with its overrides.
        outcome: what became of it.
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
        """As which published values are kept; no method where parameters are overridden."""
        cell = self.outcome.cell
        return cell.dataset, cell.model, "" if cell.variant else cell.method, cell.n_edits


@dataclass(frozen=True, slots=True)
class MissingStage:
    """What a line of a cell has that was not measured.

    Attributes:
        stage: of the cell, that would have measured it.
        keys: columns behind T and method that say what is measured.
        values: columns behind those.
    """

    stage: str
    keys: int
    values: int


def places(results: Results) -> list[CellRow]:
    """All cells of the results, part by part, T by T, in the order of lines."""
    return [
        CellRow(block.title, row.name, row.cells[n])
        for block in results.blocks
        for n in sorted({n for row in block.rows for n in row.cells})
        for row in block.rows
        if n in row.cells
    ]


def device(places: Iterable[CellRow]) -> str:
    """On what cells were made: all names, once each."""
    return "; ".join(sorted({device_of(place.outcome) for place in places if place.outcome.status == "ok"}))


def device_of(outcome: Outcome) -> str:
    """Return on what a cell was made, with what is out of the ordinary in its model's weights: a chosen number format, a quantised file."""
    noted, cell = outcome.provenance, outcome.cell
    device, dtype, quantisation = (noted.get(key, "") for key in ("device", "dtype", "quantisation"))
    chosen = [f"in {dtype}"] if dtype and cell.model_revision.endswith(f"-{dtype}") else []
    weights = (
        [f"weights of {cell.model} dequantised from a GGUF file ({quantisation})"] if quantisation else []
    )
    return ", ".join([device or "a device that was not noted", *chosen, *weights])


def by_cell(rows: Iterable[FoundT]) -> dict[str, list[FoundT]]:
    """Rows of a query by cell, in their order."""
    found: dict[str, list[FoundT]] = {}
    for row in rows:
        found.setdefault(row.cell_id, []).append(row)
    return found


def shown(results: Results, found: Mapping[str, object], published: Collection[Key] = ()) -> list[CellRow]:
    """The cells of each part in which at least one has something, or was run as in a paper that prints something."""
    everywhere = places(results)
    parts = {place.part for place in everywhere if place.outcome.cell.id in found or place.key in published}
    return [place for place in everywhere if place.part in parts]


def lines(
    shown: Sequence[CellRow],
    found: Mapping[str, Sequence[FoundT]],
    entries: Callable[[CellRow, FoundT], Sequence[Entry]],
    lack: MissingStage,
) -> tuple[TableRow, ...]:
    """Rows of a table that starts with T and method: one for each row found of a cell, or one that says why there is none."""
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
    """Why a cell has nothing of a kind: how it failed, how the stage failed that measures it, or that it was not measured."""
    failed = next(
        (text for name, text in sorted(outcome.failed.items()) if stage and name.startswith(stage)), ""
    )
    return why(outcome) or failed or "not measured"
