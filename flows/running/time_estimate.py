"""Estimates of the duration of cells, based on finished cells."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import log

from lks.results.cells import ANSWERS, PREPARE, Cell, Outcome


class _Spent:
    """Seconds spent on similar cells, by part."""

    def __init__(self) -> None:
        self._cells: dict[str, Mapping[str, float]] = {}
        self._sums, self._counts = Counter[str](), Counter[str]()

    def put(self, cell_id: str, parts: Mapping[str, float]) -> None:
        """Store the seconds of a cell's parts, replacing earlier ones of the same cell."""
        before = self._cells.get(cell_id, {})
        self._sums.subtract(before)
        self._counts.subtract(before.keys())
        self._cells[cell_id] = parts
        self._sums.update(parts)
        self._counts.update(parts.keys())

    def lacking(self, cell_id: str) -> dict[str, float]:
        """Return the mean seconds of the parts that other cells have and this cell lacks."""
        own = self._cells.get(cell_id, {})
        return {
            part: self._sums[part] / count
            for part, count in self._counts.items()
            if count and part not in own
        }


class DurationEstimator:
    """Estimator of the duration of cells from finished ones.

    Cells of the same method, model and dataset are preferred, then less similar ones; among similar cells,
    those with the nearest T. Editing and asking grow in proportion to the number of edits; other stages do
    not grow. A preparation counts once for all cells that share it, and not at all if one of them is
    finished, since it is kept on disk. For a stored cell only those parts count that similar cells have
    and it lacks.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._spent: dict[tuple[object, ...], dict[int, _Spent]] = defaultdict(lambda: defaultdict(_Spent))
        self._prepared: set[tuple[object, ...]] = set()
        for outcome in outcomes:
            self.learn(outcome)

    def learn(self, outcome: Outcome) -> None:
        """Learn from a finished cell; failed ones say nothing about time."""
        if outcome.status == "ok":
            cell, costs = outcome.cell, outcome.costs
            parts = {PREPARE: costs.prepare_s, _EDIT_AND_ASK: costs.edit_s + costs.ask_s, **costs.stage_s}
            per_edit = {part: seconds / _units(part, cell) for part, seconds in parts.items()}
            for key in _likeness(cell):
                self._spent[key][cell.n_edits].put(cell.id, per_edit)
            self._prepared.add(_preparation(cell))

    def expect(self, cells: Iterable[Cell]) -> float | None:
        """Return the seconds for all of the cells together; None if nothing is known about one of them."""
        total, prepared = 0.0, set(self._prepared)
        for cell in cells:
            parts = next((parts for spent in self._alike(cell) if (parts := spent.lacking(cell.id))), None)
            if parts is None:
                return None
            total += sum(
                value * _units(part, cell)
                for part, value in parts.items()
                if part != PREPARE or _preparation(cell) not in prepared
            )
            prepared.add(_preparation(cell))
        return total

    def _alike(self, cell: Cell) -> Iterator[_Spent]:
        """Iterate over what cells like this one have taken, the most similar first."""
        for key in _likeness(cell):
            by_edits = self._spent.get(key, {})
            for n_edits in sorted(by_edits, key=lambda known: abs(log(known / cell.n_edits))):
                yield by_edits[n_edits]


_EDIT_AND_ASK = "edit and ask"


def _units(part: str, cell: Cell) -> int:
    """Return what a part's seconds are proportional to: the number of edits, or 1 if they do not grow."""
    return cell.n_edits * cell.draws if part == _EDIT_AND_ASK or part.startswith(ANSWERS) else 1


def _preparation(cell: Cell) -> tuple[object, ...]:
    """Return what cells with the same preparation share, as a rule."""
    return (cell.model, cell.dataset, cell.measure, cell.method, cell.variant, cell.seed)


def _likeness(cell: Cell) -> list[tuple[object, ...]]:
    """Return the keys of groups of cells that are alike but for T, the narrowest first."""
    method = (cell.measure, cell.method, cell.variant)
    return [(cell.model, cell.dataset, *method), (cell.model, *method), method, (cell.measure, cell.method)]
