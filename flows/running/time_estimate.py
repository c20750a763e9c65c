"""How long cells may take, from cells that are finished."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from lks.results.cells import PREPARE, Cell, Outcome


class _Spent:
    """What cells that are alike have taken, part by part."""

    def __init__(self) -> None:
        self._cells: dict[str, Mapping[str, float]] = {}
        self._sums, self._counts = Counter[str](), Counter[str]()

    def put(self, cell_id: str, parts: Mapping[str, float]) -> None:
        """Take in a cell's parts and seconds, in place of those that it had before."""
        before = self._cells.get(cell_id, {})
        self._sums.subtract(before)
        self._counts.subtract(before.keys())
        self._cells[cell_id] = parts
        self._sums.update(parts)
        self._counts.update(parts.keys())

    def lacking(self, cell_id: str) -> dict[str, float]:
        """Mean seconds of the parts that others have and this cell lacks."""
        own = self._cells.get(cell_id, {})
        return {
            part: self._sums[part] / count
            for part, count in self._counts.items()
            if count and part not in own
        }


class DurationEstimator:
    """Expected seconds of cells, from cells that are finished: of the same method, T and model first, then of less alike ones.

    A preparation counts once for all cells that share it, and not at all where one of them is finished: it is kept on disk. Of a stored
    cell only the parts count that cells like it have and it lacks.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._spent: dict[tuple[object, ...], _Spent] = defaultdict(_Spent)  # by likeness
        self._prepared: set[tuple[object, ...]] = set()
        for outcome in outcomes:
            self.learn(outcome)

    def learn(self, outcome: Outcome) -> None:
        """Take a finished cell into account; failed ones say nothing about time."""
        if outcome.status == "ok":
            costs = outcome.costs
            parts = {PREPARE: costs.prepare_s, "edit and ask": costs.edit_s + costs.ask_s, **costs.stage_s}
            for key in _likeness(outcome.cell):
                self._spent[key].put(outcome.cell.id, parts)
            self._prepared.add(_preparation(outcome.cell))

    def expect(self, cells: Iterable[Cell]) -> float | None:
        """Seconds for all of the cells together; None if nothing is known about one of them."""
        total, prepared = 0.0, set(self._prepared)
        for cell in cells:
            parts = next(
                (parts for key in _likeness(cell) if (parts := self._spent[key].lacking(cell.id))), None
            )
            if parts is None:
                return None
            total += sum(
                value
                for part, value in parts.items()
                if part != PREPARE or _preparation(cell) not in prepared
            )
            prepared.add(_preparation(cell))
        return total


def _preparation(cell: Cell) -> tuple[object, ...]:
    """What cells with the same preparation share, as a rule."""
    return (cell.model, cell.dataset, cell.measure, cell.method, cell.variant, cell.seed)


def _likeness(cell: Cell) -> list[tuple[object, ...]]:
    method = (cell.measure, cell.method, cell.variant)
    own = (cell.model, cell.dataset, *method, cell.n_edits, cell.draws)
    return [
        own,
        (*method, cell.n_edits),
        (cell.measure, cell.method, cell.n_edits),
        (cell.measure, cell.method),
    ]
