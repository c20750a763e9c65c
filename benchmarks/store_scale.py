"""Speed of a results folder of thousands of small cells: cataloguing all, some more, one more; the report.

Run: `python -m benchmarks.store_scale [--cells 5000]`
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.report_speed import answers
from lks.evaluation.scope_benchmark import resident
from lks.results.cells import ANSWERS, PASSAGES, UNEDITED, Cell, Costs, Outcome
from lks.results.rows import Passage
from lks.results.shards import write_outcome, write_stage
from lks.results.store import Store

MODELS = ("llama-2-7b-chat", "mistral-7b-instruct")
DATASETS = ("zsre", "counterfact")
METHODS = (UNEDITED, "ft", "rome", "memit", "alphaedit", "grace", "wise", "mend", "serac", "lks")
N_EDITS = (1, 2, 3, 5, 8)


def cells(number: int) -> Iterator[Cell]:
    """Iterate over `number` cells, spread over models, datasets, methods and T, then over seeds."""
    places = list(itertools.product(N_EDITS, METHODS, DATASETS, MODELS))
    for place in range(number):
        n_edits, method, dataset, model = places[place % len(places)]
        yield Cell(model, dataset, method, n_edits, place // len(places), 1)


def write(results: Path, cell: Cell) -> Outcome:
    """Write a finished cell to disk as a run does: two shards and an outcome."""
    rows = answers(cell, METHODS.index(cell.method) / len(METHODS))
    passages = [Passage(0, i, 100, -300.0) for i in range(20)]
    shards = tuple(
        write_stage(results, cell.id, stage, made) for stage, made in ((ANSWERS, rows), (PASSAGES, passages))
    )
    outcome = Outcome(
        cell,
        "ok",
        "",
        shards,
        Costs(1.0, 2.0, 3.0, 10**9, 10**6),
        {"title": cell.method, "device": "made up"},
    )
    write_outcome(results, outcome)
    return outcome


def write_all(results: Path, made: Sequence[Cell], what: str) -> list[Outcome]:
    """Write many cells, with a progress bar on a terminal."""
    return [write(results, cell) for cell in track(made, what, console=Console(stderr=True), transient=True)]


def timed(step: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and processor seconds of a step."""
    wall, own = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - own


def main() -> None:
    """Write cells, catalogue them, report them, and print how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--more", type=int, default=500)
    asked = parser.parse_args()
    from reports import render

    made = list(cells(asked.cells + asked.more + 1))
    progress = Console(stderr=True)
    table = Table(
        "step",
        "seconds",
        "processor seconds",
        "memory, MB",
        title=f"{asked.cells:,} cells, {2 * asked.cells:,} shards",
        box=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        store = Store(results)
        write_all(results, made[: asked.cells], "writing")
        steps: list[tuple[str, Callable[[], object]]] = [
            ("cataloguing all", store.sync),
            ("checking again", store.sync),
        ]
        steps.append(
            (
                f"writing {asked.more:,} more",
                lambda: write_all(results, made[asked.cells : -1], "writing more"),
            )
        )
        steps.append((f"cataloguing {asked.more:,} more", store.sync))
        steps.append(("recording one", lambda: store.record(write(results, made[-1]))))
        steps += [
            ("reading outcomes", store.outcomes),
            ("report", lambda: render(results)),
            ("report again", lambda: render(results)),
        ]
        for what, step in steps:
            progress.print(f"{what} ...", highlight=False)
            wall, own = timed(step)
            table.add_row(what, f"{wall:.2f}", f"{own:.2f}", f"{resident() / 1e6:,.0f}")
        found = len(store.done())
        size = sum(file.stat().st_size for file in (results / "report").rglob("*") if file.is_file())
        catalogue = (results / "lks.duckdb").stat().st_size
    console = Console()
    console.print(table)
    summary = (
        f"{found:,} cells are stored, the catalogue has {catalogue / 1e6:.0f} MB "
        f"and the report {size / 1e6:.1f} MB"
    )
    console.print(f"{summary}; load of the machine {os.getloadavg()[0]:.1f}.", highlight=False)


if __name__ == "__main__":
    main()
