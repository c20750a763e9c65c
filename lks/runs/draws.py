"""Selection of the cases that a cell edits, leaves alone, or may train on, all from one seeded order."""

from collections.abc import Sequence

import torch

from lks.edits import Case, Edit
from lks.errors import TooManyEdits
from lks.results.cells import Cell


def _shuffled(cases: Sequence[Case], cell: Cell) -> list[Case]:
    """Return the cell's records in an order that depends on the seed alone."""
    pool = cases[: cell.records] if cell.records else cases
    return [
        pool[i]
        for i in torch.randperm(len(pool), generator=torch.Generator().manual_seed(cell.seed)).tolist()
    ]


def unedited(cases: Sequence[Case], cell: Cell) -> list[Case]:
    """Return the cell's records that are in none of its draws.

    Their order does not depend on T: records that would be drawn last come first.
    """
    pool = _shuffled(cases, cell)
    if cell.split == "evaluation":
        pool = pool[::-1]
    return pool[: len(pool) - cell.n_edits * cell.draws]


def draws(cases: Sequence[Case], cell: Cell) -> list[list[Case]]:
    """Return the cell's disjoint sets of T cases: consecutive pieces of one seeded shuffle.

    The shuffle does not depend on T or on the method, so all methods of a grid edit the same cases. A
    development cell's pieces come from the end of the shuffle, last case first, and never from outside the
    last third, which `held_out` reserves.

    Raises:
        TooManyEdits: the dataset is too small.
    """
    pool = _shuffled(cases, cell)
    kept = ""
    if cell.split == "development":
        pool, kept = pool[::-1][: cell.available(len(cases))], " for development (the last third)"
    needed = cell.n_edits * cell.draws
    if needed > len(pool):
        have = f"{cell.dataset} has {len(pool)}{kept}"
        raise TooManyEdits(
            f"{cell.label} with {cell.draws} draws needs {needed} cases, {have}. Lower n_edits or draws."
        )
    return [pool[d * cell.n_edits : (d + 1) * cell.n_edits] for d in range(cell.draws)]


def held_out(cases: Sequence[Case], cell: Cell) -> list[Edit]:
    """Return the edits to meta-train on and to tune with.

    The cell evaluates none of them, nor an edit of the same subject. They are the last third of the shuffle,
    where the draws leave it alone, so that cells of every such T share one training set; then the records
    beyond `cell.records`, which the model need not know. A development cell, which draws from the end of that
    third, has the rest of it.
    """
    pool = _shuffled(cases, cell)
    start, end, needed = len(pool) - len(pool) // 3, len(pool), cell.n_edits * cell.draws
    if cell.split == "development":
        end -= needed
    elif needed > start:
        start = end
    subjects = {case.edit.subject for case in (*pool[:start], *pool[end:])}
    spare = [*pool[start:end], *(cases[cell.records :] if cell.records else ())]
    return [case.edit for case in spare if case.edit.subject not in subjects]
