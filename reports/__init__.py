"""Reports: tables and a page from a results folder. They read the store and never run a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rich.table

from lks.shards import write_whole
from lks.store import Store
from reports import page, tables
from reports.results import Results, load


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Files of a report.

    Attributes:
        folder: where they are.
        page: one self-contained HTML page.
        table_csv, table_md, table_tex: Table 1 in the paper's layout.
        results_csv: every number, long form.
        warnings: damaged cells that were left out, one line each.
    """

    folder: Path
    page: Path
    table_csv: Path
    table_md: Path
    table_tex: Path
    results_csv: Path
    warnings: tuple[str, ...] = ()


def render(results: Path) -> ReportPaths:
    """Write the report of a results folder into its `report/`. The same store gives the same bytes.

    Raises:
        StoreError: the folder is not one of results, is in use, or cannot be written.
    """
    loaded = load(results)
    samples = page.samples(Store(results))
    folder = results / "report"
    makers: dict[str, Callable[[Results], str]] = {
        "table1.csv": tables.table1_csv,
        "table1.md": tables.table1_md,
        "table1.tex": tables.table1_tex,
        "results.csv": tables.results_csv,
        "index.html": lambda r: page.html(r, samples),
    }
    for name, make in makers.items():
        write_whole(folder / name, make(loaded).encode())
    return ReportPaths(
        folder=folder,
        page=folder / "index.html",
        table_csv=folder / "table1.csv",
        table_md=folder / "table1.md",
        table_tex=folder / "table1.tex",
        results_csv=folder / "results.csv",
        warnings=loaded.warnings,
    )


def terminal_table(results: Path) -> rich.table.Table:
    """The compact table for the end of a run: method x T with Rel, Gen, Loc and EP under TF and AR.

    Raises:
        StoreError: the folder is not one of results, or is in use.
    """
    return tables.terminal_table(load(results))


__all__ = ["ReportPaths", "render", "terminal_table"]
