"""Data shared by all figures of a report: its results and the style of each method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import TypeVar

from lks.results.cells import UNEDITED, Outcome
from lks.results.reader import Reader
from reports.figures.style import MANY, MethodStyle, looks
from reports.results import Block, Results, query, trains_end

EXACT, PAPERS = "ar_exact", "tf_token"
"""The read-out that figures show, and the paper's."""

RowT = TypeVar("RowT")
PartT = TypeVar("PartT")

FEW = 3
"""Tables with fewer methods are left out of figures that compare methods, if another table has more."""


@dataclass(frozen=True)
class ReportData:
    """The data of a report.

    Attributes:
        results: results on evaluation cases.
        store: reader of the store they come from.
    """

    results: Results
    store: Reader

    @cached_property
    def names(self) -> dict[str, str]:
        """Cell id -> displayed name of its method."""
        return {
            outcome.cell.id: row.name
            for block in self.results.blocks
            for row in block.rows
            for outcome in row.cells.values()
        }

    @cached_property
    def unedited(self) -> frozenset[str]:
        """Displayed names of the unedited model."""
        return frozenset(
            row.name for block in self.results.blocks for row in block.rows if row.method == UNEDITED
        )

    @cached_property
    def looks(self) -> dict[str, MethodStyle]:
        """Style of each method, the best first.

        Methods are ranked by their mean relative rank (0 to 1) in edit performance at each T of each table.
        """
        places: dict[str, list[float]] = {
            row.name: [] for block in self.results.blocks for row in block.rows if row.method != UNEDITED
        }
        for block in self.results.blocks:
            for n_edits in block.n_edits:
                values = sorted(
                    (
                        (self.performance(row.cells.get(n_edits)) or 0.0, row.name)
                        for row in block.rows
                        if row.name in places
                    ),
                    reverse=True,
                )
                for place, (_, name) in enumerate(values):
                    places[name].append(place / len(values))
        return looks(sorted(places, key=lambda name: (mean(places[name]), name)))

    def performance(self, outcome: Outcome | None) -> float | None:
        """Return edit performance (AR exact), in percent."""
        score = self.results.score(outcome, EXACT, "edit_performance") if outcome else None
        return score.value if score else None

    def order(self, names: set[str]) -> list[str]:
        """Return the methods without the unedited model, the best first."""
        return [name for name in self.looks if name in names]

    def strong(self, names: Sequence[str]) -> list[str]:
        """Return the methods drawn in colour: all, or the first six of many; `names` are in order."""
        return list(names) if len(names) <= MANY else list(names[:6])

    def said(self, names: Sequence[str]) -> str:
        """Return the caption's sentence about colours; empty if all methods are in colour."""
        if len(names) <= MANY:
            return ""
        return (
            f" In colour: the {len(self.strong(names))} best of {len(names)} methods by edit performance "
            "over all tables; the others are grey."
        )

    def ended(self) -> str:
        """Return the caption's sentence about training the end of answers; empty if no method did."""
        names = dict.fromkeys(
            row.name
            for block in self.results.blocks
            for row in block.rows
            if any(trains_end(outcome) for outcome in row.cells.values())
        )
        return f" Trained with the end of each answer: {', '.join(names)}." if names else ""

    def widest(self, block: Block, values: dict[tuple[str, int], float]) -> int:
        """Return the T at which most methods have a value, the largest if there are several.

        `values` is keyed by method and T.
        """
        counted = {
            n_edits: sum(at == n_edits and name not in self.unedited for name, at in values)
            for n_edits in block.n_edits
        }
        return max(counted, key=lambda n_edits: (counted[n_edits], n_edits))

    def rows(self, kind: type[RowT], name: str, params: Sequence[object] = ()) -> list[RowT]:
        """Return the rows of `sql/<name>.sql`."""
        return self.store.rows(kind, query(name), params)


def compared(
    drawn: Sequence[tuple[Block, PartT]], methods: Callable[[PartT], int]
) -> list[tuple[Block, PartT]]:
    """Return the tables with at least `FEW` methods to compare, or all if there are none."""
    return [(block, part) for block, part in drawn if methods(part) >= FEW] or list(drawn)
