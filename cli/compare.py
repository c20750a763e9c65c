"""Command `lks compare`: tests whether a change altered results."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

EXIT_DIFFERENT = 1
WIDTH = 100
"""Minimum width: on a narrower terminal wrapped lines read better than columns that are cut off."""

A = Annotated[
    Path,
    typer.Argument(
        help="Result store before the change: a results folder or its lks.duckdb.", show_default=False
    ),
]
B = Annotated[
    Path,
    typer.Argument(
        help="Result store after the change: a results folder or its lks.duckdb.", show_default=False
    ),
]
Readouts = Annotated[
    list[str] | None,
    typer.Option("--readout", help="Compare only this read-out; may be repeated.", metavar="NAME"),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Compare only this metric; may be repeated.", metavar="NAME"),
]
Only = Annotated[
    str,
    typer.Option(
        "--only",
        help="Compare only cells that match: key=value,... "
        "with the keys model, dataset, method, n_edits, seed.",
        metavar="FILTER",
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance",
        help="Equivalence margin in percentage points: a difference counts as unchanged "
        "if its whole confidence interval lies within it.",
        metavar="POINTS",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the full comparison to this file, as JSON.", metavar="FILE"),
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", help="Write all differences to this file, as CSV, one per line.", metavar="FILE"),
]
All = Annotated[bool, typer.Option("--all", help="Also show results that did not change.")]


def compare(
    a: A,
    b: B,
    readout: Readouts = None,
    metric: Metrics = None,
    only: Only = "",
    tolerance: Tolerance = 0.0,
    json: Json = None,
    csv: Csv = None,
    everything: All = False,
) -> None:
    """Compare two result stores item by item (paired tests): which answers changed, and do the scores differ?

    Exit code 0: identical, or no difference found. 1: different. 2: cannot be compared.

    [bold]Examples[/]

      lks compare results before/lks.duckdb

      lks compare golden results --only method=lks --tolerance 1 --json differences.json
    """
    from lks.errors import UserError
    from lks.io.atomic import write_whole
    from lks.runs.plan import parse_only
    from reports.compare.compare import compare as compared
    from reports.compare.compare import to_csv, to_json
    from reports.compare.text import text

    report = compared(a, b, readout or (), metric or (), parse_only(only), tolerance)
    Console(width=max(Console().width, WIDTH)).print(text(report, everything), highlight=False)
    for file, write in ((json, to_json), (csv, to_csv)):
        if file is not None:
            write_whole(file, write(report).encode())
    if report.verdict == "cannot be compared":
        reasons = "; ".join(sorted({match.why for match in report.matches}))
        raise UserError(f"Nothing could be compared: {reasons}.")
    if report.verdict == "different":
        raise typer.Exit(EXIT_DIFFERENT)
