"""Reports (tables, figures, a page) made from a results folder; they read the store and never run a model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group

from lks.errors import StoreError
from lks.io.atomic import write_whole
from lks.io.untrusted import check_inside
from lks.progress import no_progress
from lks.results.cells import Outcome
from lks.results.reader import Reader
from lks.results.store import Store
from reports.figures.drawing import KINDS, Absent, Drawing
from reports.results import Results, load
from reports.tables import terminal
from reports.tables.model import Table

TOLD_TO = Callable[[str], None]
"""Progress callback, called with a short text that says what is being made."""


@dataclass(frozen=True, slots=True)
class RenderedReport:
    """A report as it was written.

    Attributes:
        folder: folder of the report.
        page: path of the self-contained HTML page.
        files: everything except the page, relative to the folder: `tables/` (CSV, Markdown, LaTeX),
            `figures/` (SVG, PDF, PNG), and the long CSVs.
        warnings: damaged cells that were left out, one line each.
        terminal: the compact tables for the end of a run.
        figures: the figures with their captions, including those that cannot be drawn.
        outcomes: the evaluated cells that the report shows.
        tables: tables by the stem of their file names.
    """

    folder: Path
    page: Path
    files: tuple[str, ...]
    warnings: tuple[str, ...]
    terminal: Group = field(repr=False)
    figures: tuple[Drawing | Absent, ...] = field(default=(), repr=False)
    outcomes: tuple[Outcome, ...] = field(default=(), repr=False)
    tables: Mapping[str, Sequence[Table]] = field(default_factory=dict, repr=False)


def render(results: Path, tell: TOLD_TO = no_progress) -> RenderedReport:
    """Write the report of a results folder into its `report/` subfolder.

    The same store gives the same bytes. The tables show evaluation cases; results on development cases, which
    serve to choose settings, go into separate files.

    Args:
        results: the results folder.
        tell: progress callback.

    Raises:
        StoreError: the folder is not a results folder, is in use, or cannot be written.
    """
    from reports.figures import all as figures
    from reports.page import page
    from reports.tables import all as tables

    tell("reading what is stored")
    if not any((results / name).exists() for name in ("protocol.json", "cells")):
        raise StoreError(
            f"{results} holds no results. Run `lks grid` first, or name another folder with --results."
        )
    store = Store(results)
    warnings = store.sync()
    folder = results / "report"
    for part in (folder, *folder.rglob("*")):
        check_inside(results, part)
    with store.copy() as copy:
        loaded = load(copy, warnings)
        tell("tables")
        made = tables.tables(loaded, copy)
        if loaded.of("development").blocks:
            made["development"] = tables.development(loaded)
        written = {name: text.encode() for name, text in _texts(loaded, copy, made).items()}
        tell("figures")
        drawn = figures.figures(loaded, copy)
        written |= _images(folder, drawn)
        tell("page")
        written["index.html"] = page.html(loaded, copy, made, drawn, tuple(written)).encode()
    for name, content in written.items():
        write_whole(folder / name, content)
    _remove_others(folder, written)
    files_of = tuple(name for name in written if name != "index.html")
    shown = loaded.of("evaluation").outcomes
    return RenderedReport(
        folder,
        folder / "index.html",
        files_of,
        loaded.warnings,
        terminal.tables(loaded),
        tuple(drawn),
        shown,
        made,
    )


def _texts(loaded: Results, copy: Reader, made: Mapping[str, Sequence[Table]]) -> dict[str, str]:
    """Return the tables in all formats, and the long CSVs, by their paths in the report."""
    from reports.tables import formats, long_csv

    files = {
        f"tables/{stem}.{ending}": form(of_stem)
        for stem, of_stem in made.items()
        if of_stem
        for ending, form in formats.FORMS.items()
    }
    return files | {f"data/{name}": text for name, text in long_csv.files(loaded, copy).items()}


def _images(folder: Path, figures: Sequence[Drawing | Absent]) -> dict[str, bytes]:
    """Return the contents of the figure files by name.

    Where the SVG on disk is unchanged, the PDF and PNG next to it are reused instead of being drawn again.
    """
    made: dict[str, bytes] = {}
    for figure in figures:
        if isinstance(figure, Absent):
            continue
        names = {kind: f"figures/{figure.name}.{kind}" for kind in KINDS}
        svg = figure.file("svg")
        same = (
            all((folder / name).is_file() for name in names.values())
            and (folder / names["svg"]).read_bytes() == svg
        )
        made |= {
            name: svg if kind == "svg" else (folder / name).read_bytes() if same else figure.file(kind)
            for kind, name in names.items()
        }
    return made


def _remove_others(folder: Path, written: Collection[str]) -> None:
    """Delete files of an earlier report that this one does not have."""
    for old in sorted(folder.rglob("*"), reverse=True):
        if old.is_file() and old.relative_to(folder).as_posix() not in written:
            old.unlink()


__all__ = ["Report", "Results", "render"]
