"""Reports: tables and a page from a results folder. They read the store and never run a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from lks.shards import write_whole
from lks.store import Store
from reports import overview, page, scope, tables, terminal
from reports.results import load, query

ALWAYS = ("table1.csv", "table1.md", "table1.tex", "results.csv")


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Files of a report.

    Attributes:
        folder: where they are.
        page: one self-contained HTML page.
        table_csv, table_md, table_tex: Table 1 in the paper's layout.
        results_csv: every number, long form.
        others: what is written only where there is something to say: an overview of everything measured, comparisons with the best method,
            contexts, errors, fluency and abilities, texts before and after, what sequential methods keep, scope cells, development cells.
        warnings: damaged cells that were left out, one line each.
    """

    folder: Path
    page: Path
    table_csv: Path
    table_md: Path
    table_tex: Path
    results_csv: Path
    others: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


def render(results: Path) -> ReportPaths:
    """Write the report of a results folder into its `report/`. The same store gives the same bytes.

    Tables are of evaluated cases; what was edited for choosing settings is in files of its own.

    Raises:
        StoreError: the folder is not one of results, is in use, or cannot be written.
    """
    loaded = load(results)
    store = Store(results)
    samples, texts = page.samples(store), page.texts(store)
    folder = results / "report"
    evaluated, development = loaded.of("evaluation"), loaded.of("development")
    makers: dict[str, Callable[[], str | bytes] | None] = {
        "table1.csv": lambda: tables.table1_csv(evaluated),
        "table1.md": lambda: tables.table1_md(evaluated),
        "table1.tex": lambda: tables.table1_tex(evaluated),
        "results.csv": lambda: tables.results_csv(evaluated),
        "retention.csv": (lambda: tables.retention_csv(loaded)) if loaded.kept else None,
        "scope.csv": (lambda: scope.scope_csv(loaded)) if loaded.scope else None,
        "scope.svg": (lambda: scope.figure(loaded, "svg")) if scope.drawn(loaded) else None,
        "scope.png": (lambda: scope.figure(loaded, "png")) if scope.drawn(loaded) else None,
        "overview.csv": (lambda: overview.overview_csv(loaded.overview)) if loaded.overview else None,
        "comparisons.csv": (lambda: tables.comparisons_csv(loaded)) if loaded.comparisons else None,
        **{f"{name}.csv": _csv_of(store, name) for name in ("contexts", "errors", "fluency", "abilities", "generations")},
        "development.csv": (lambda: tables.results_csv(development)) if development.blocks else None,
        "development.md": (lambda: tables.table1_md(development, "Development cases, for choosing settings")) if development.blocks else None,
    }
    others = tuple(name for name, make in makers.items() if make and name not in ALWAYS)
    makers["index.html"] = lambda: page.html(loaded, samples, texts, others)
    for name, make in makers.items():
        if make:
            made = make()
            write_whole(folder / name, made.encode() if isinstance(made, str) else made)
        else:
            (folder / name).unlink(missing_ok=True)
    return ReportPaths(
        folder=folder,
        page=folder / "index.html",
        table_csv=folder / "table1.csv",
        table_md=folder / "table1.md",
        table_tex=folder / "table1.tex",
        results_csv=folder / "results.csv",
        others=tuple(folder / name for name in others),
        warnings=loaded.warnings,
    )


def _csv_of(store: Store, name: str) -> Callable[[], str] | None:
    """The rows of `sql/<name>.sql` as CSV, if there are any."""
    names, rows = store.table(query(name))
    return (lambda: overview.csv_text([names, *rows])) if rows else None


def terminal_table(results: Path) -> Group:
    """The compact tables for the end of a run: method x T with Rel, Gen, Loc and EP under TF and AR, what is kept, and edit scope.

    Raises:
        StoreError: the folder is not one of results, or is in use.
    """
    return terminal.tables(load(results))


__all__ = ["ReportPaths", "render", "terminal_table"]
