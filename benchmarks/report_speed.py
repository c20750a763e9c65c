"""Time and memory of cataloguing a large store of synthetic answers and rendering its report.

Run: `python -m benchmarks.report_speed [--edits 10000] [--methods 6]`
"""

import argparse
import tempfile
import time
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from lks.edits import ProbeKind
from lks.evaluation.scope_benchmark import resident
from lks.results.answers import Answer
from lks.results.cells import ANSWERS, DECISIONS, PASSAGES, UNEDITED, Cell, Costs, Outcome
from lks.results.decisions import Decision
from lks.results.rows import Passage
from lks.results.shards import write_outcome, write_stage
from lks.results.store import Store

KINDS: tuple[ProbeKind, ...] = ("edit", "paraphrase", "locality", "neighbour")
WORDS = ("Paris", "Rome", "the violin", "1984", "a painter", "Lake Como")


def answers(cell: Cell, right: float) -> list[Answer]:
    """Return a cell's answers, one of each kind per edit, of which a share `right` is right."""
    rng = Random(f"{cell.method} {cell.n_edits}")
    made = []
    for number in range(cell.n_edits):
        subject = f"Subject {number}"
        for kind in KINDS:
            wanted, said = (1, number % 50, 3), WORDS[number % len(WORDS)]
            good = rng.random() < right or kind in ("locality", "neighbour")
            given, text = (wanted, said) if good else ((1, 0, 0), rng.choice(WORDS))
            made.append(
                Answer(
                    *(
                        0,
                        f"case-{number}",
                        subject,
                        kind,
                        0,
                        f"{kind} of {subject} is",
                        said,
                        wanted,
                        given,
                        given,
                        text,
                        -rng.random(),
                    ),
                    stratum="same_relation" if kind == "neighbour" else "",
                    rival=WORDS[(number + 1) % len(WORDS)],
                    rival_tokens=3,
                    rival_logprob=-5.0,
                    kl=rng.random() if kind in ("locality", "neighbour") else None,
                    wild_text=f" {text}. It is said that",
                    wild_tokens=9,
                )
            )
    return made


def make(results: Path, n_edits: int, methods: int) -> int:
    """Create a store with the unedited model and `methods` methods at one T; return its number of answers."""
    Store(results)
    total = 0
    for number in range(methods + 1):
        name = f"method{number}" if number else UNEDITED
        cell = Cell("micro-made", "zsre", name, n_edits, 0, 1)
        rows = answers(cell, number / (methods + 1))
        fired = [
            Decision(0, "edit", i, f"case-{i}", (f"Subject {i}",), f"Subject {i}")
            for i in range(min(n_edits, 500))
        ]
        passages = [Passage(0, i, 100, -300.0 - number) for i in range(50)]
        shards = tuple(
            write_stage(results, cell.id, stage, made)
            for stage, made in ((ANSWERS, rows), (DECISIONS, fired), (PASSAGES, passages))
        )
        write_outcome(
            results,
            Outcome(
                cell,
                "ok",
                "",
                shards,
                Costs(1.0, 60.0 * number, 9.0, 10**9, 10**6),
                {"title": name, "device": "made up"},
            ),
        )
        total += len(rows)
    return total


def main() -> None:
    """Create the store, catalogue it, render it twice, and print how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--methods", type=int, default=6)
    asked = parser.parse_args()
    from reports import render

    table = Table(
        "step",
        "seconds",
        "memory, MB",
        title=f"{asked.methods + 1} cells of T = {asked.edits:,}",
        title_justify="left",
        box=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        total = make(results, asked.edits, asked.methods)
        for what, step in (
            ("cataloguing", Store(results).sync),
            ("report", lambda: render(results)),
            ("report again", lambda: render(results)),
        ):
            start = time.perf_counter()
            step()
            table.add_row(what, f"{time.perf_counter() - start:.1f}", f"{resident() / 1e6:,.0f}")
        size = sum(path.stat().st_size for path in (results / "report").iterdir())
        page = (results / "report" / "index.html").stat().st_size
    console = Console()
    console.print(table)
    console.print(
        f"{total:,} answers; the report has {size / 1e6:.1f} MB, of which the page {page / 1e6:.2f} MB.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
