"""Run one cell of a grid by its index, for job arrays: `python -m flows.array --grid NAME --index I`.

`--count` prints the number of cells. Indices count all cells of the grid, not only the missing ones, so they
stay the same while other jobs of the array finish cells. A stored cell is not run again. Only the cell's own
files are written; the next `lks grid` or `lks report` records them.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.running.base import input_ids
from flows.running.cell_runner import CellRunner
from flows.running.planning import cells_of, folder_of, named_grid, share_in_use
from flows.running.progress import LineProgress
from flows.settings import Settings, calm_prefect
from lks.errors import UserError
from lks.results.cells import FINAL, UNEDITED, Outcome
from lks.results.shards import stored_outcome
from lks.runs.grid import Grid

logger = logging.getLogger("lks.array")

OK, CELL_FAILED, NEEDS_USER = 0, 1, 2
"""Exit codes of the process; a failed cell is stored like any other."""


def run(grid: Grid, index: int, results: Path, only: str = "") -> Outcome:
    """Run the cell at an index, unless it is stored.

    Args:
        grid: grid of the cell.
        index: index among the grid's cells, from 0.
        results: folder of all results.
        only: filter of cells; it must be the same for all jobs of an array.

    Raises:
        UserError: the index is out of range, the unedited model's cell must be run first, or the cell cannot
            be run.
    """
    cells = cells_of(grid, only)
    if not 0 <= index < len(cells):
        raise UserError(f"Grid {grid.name!r} has cells 0 to {len(cells) - 1}, no {index}. See --count.")
    cell = cells[index]
    share = share_in_use()
    share.exchange(results, input_ids(cell))
    stored = stored_outcome(results, cell.id)
    if (
        stored
        and stored.status in FINAL
        and (stored.status != "ok" or set(grid.extras.stages(cell.measure)) <= stored.stages)
    ):
        logger.info("%s is stored: %s", cell.label, stored.status)
        return stored
    if (
        cell.measure == "answers"
        and cell.method != UNEDITED
        and not stored_outcome(results, cell.unedited.id)
    ):
        raise UserError(
            f"{cell.label} is compared with the unedited model, whose cell is not stored. "
            f"Run that first: --only method={UNEDITED}"
        )
    return CellRunner(results, LineProgress(logger.info), grid.extras, share).run(cell)


def main(words: Sequence[str] | None = None) -> int:
    """Run one cell, or print the number of cells.

    Args:
        words: command line arguments; None for those of the process.

    Returns:
        0 on success, 1 for a failed cell, 2 if the user must fix something.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.array", description="Run one cell of a grid by its index, for job arrays."
    )
    parser.add_argument("--grid", required=True, help="name of the grid (see `lks list grids`)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--index", type=int, help="index of the cell to run, from 0")
    what.add_argument("--count", action="store_true", help="print the number of cells and exit")
    parser.add_argument(
        "--results", type=Path, help="folder of all results (default: $LKS_RESULTS or results)"
    )
    parser.add_argument("--only", default="", help="run only cells that match this filter: key=value,...")
    asked = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    calm_prefect(quiet=True)
    try:
        grid = named_grid(asked.grid, Settings().grids)
        if asked.count:
            sys.stdout.write(f"{len(cells_of(grid, asked.only))}\n")
            return OK
        outcome = run(grid, asked.index, folder_of(asked.results), asked.only)
    except UserError as error:
        logger.error("error: %s", error)
        return NEEDS_USER
    logger.info("%s: %s %s", outcome.cell.label, outcome.status, outcome.reason)
    return OK if outcome.status == "ok" else CELL_FAILED


if __name__ == "__main__":
    sys.exit(main())
