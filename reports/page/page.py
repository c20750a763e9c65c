"""The page: one self-contained file.

The data for its template and script is computed here; its appearance is in `page.css`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path, PurePath

import jinja2
from markupsafe import Markup

from lks.results.cells import UNEDITED, Outcome
from lks.results.reader import Reader
from reports.figures.drawing import Absent, Drawing
from reports.figures.style import page_css
from reports.page import leaderboard, provenance, samples
from reports.page.summary import sentences
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Results
from reports.tables import formats
from reports.tables.model import Table

OPEN = ("table1",)
"""Tables that are not folded; of a table with several read-outs, the first one."""

APART = ("development", "scope")
"""Prefixes of the stems of tables and figures that have their own sections."""

DEFAULT_READOUT = "ar_exact"
"""Read-out that the leaderboard opens with, if it exists: what the model writes itself."""

TABLE_FILES, FIGURE_FILES = (".csv", ".md", ".tex"), (".svg", ".pdf", ".png")
HERE = Path(__file__).parent
SCRIPTS = ("page.js", "page_board.js", "page_panel.js")


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number or word under the title, and what it counts."""

    value: str
    what: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The tables with one file stem, with their files next to the page."""

    stem: str
    tables: list[Table]
    files: list[str]
    is_open: bool

    @property
    def title(self) -> str:
        """Title of the fold: the common beginning of its tables' titles."""
        title = self.tables[0].title
        if len(self.tables) == 1:
            return title
        words = [table.title.split() for table in self.tables]
        shared = takewhile(lambda place: len(set(place)) == 1, zip(*words, strict=False))
        return " ".join(word for word, *_ in shared).rstrip(" ,:(") or title


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure with its files next to the page, or the reason for having none."""

    figure: Drawing | Absent
    image: Markup
    files: list[str]

    @property
    def why(self) -> str:
        """Why there is no figure; empty if there is one."""
        return self.figure.why if isinstance(self.figure, Absent) else ""


def html(
    results: Results,
    store: Reader,
    tables: dict[str, list[Table]],
    figures: Sequence[Drawing | Absent],
    files: tuple[str, ...],
) -> str:
    """Return the whole page as self-contained HTML; the same store gives the same bytes.

    Args:
        results: results of the folder.
        store: reader of the same folder, for the raw answers behind the scores.
        tables: file stem -> its tables.
        figures: the figures, or why they are absent.
        files: names of the files next to the page.
    """
    folders = [
        Folder(stem, made, _beside(stem, files, TABLE_FILES), stem in OPEN)
        for stem, made in tables.items()
        if made
    ]
    plates = [_plate(figure, files) for figure in figures]
    outcomes = results.outcomes + results.scope_cells + results.study_cells
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            sentences=sentences(results.of("evaluation")),
            facts=_facts(outcomes),
            warnings=results.warnings,
            data=_data(results, store),
            has_cells=bool(results.outcomes),
            has_development=any(block.split == "development" for block in results.blocks),
            folders=[folder for folder in folders if not folder.stem.startswith(APART)],
            plates=[plate for plate in plates if not plate.figure.name.startswith(APART)],
            apart={stem: [folder for folder in folders if folder.stem.startswith(stem)] for stem in APART},
            plates_apart={
                stem: [plate for plate in plates if plate.figure.name.startswith(stem)] for stem in APART
            },
            failures=provenance.failures(outcomes),
            provenance=provenance.noted(outcomes),
            printed=provenance.printed(results),
            readouts=[(title, READOUT_NOTES[key]) for key, title in READOUTS.items()],
            sources=sorted({fires.source for fires in results.known_fires}),
            columns=list(COLUMNS.values()),
            files=files,
        )
    )


def _environment() -> jinja2.Environment:
    """Return the template environment with style, script and filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {
        "style": Markup((HERE / "page.css").read_text(encoding="utf-8") + page_css()),
        "script": Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)),
    }
    environment.filters |= {"table": formats.html, "unbroken": _unbroken}
    return environment


def _unbroken(text: str) -> str:
    """Return a sentence with non-breaking spaces between numbers and their signs and units."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%").replace("T = ", "T\u00a0=\u00a0")


def _plate(figure: Drawing | Absent, files: tuple[str, ...]) -> Plate:
    """Return a figure ready for the template."""
    return Plate(
        figure,
        Markup() if isinstance(figure, Absent) else figure.on_page(),
        _beside(figure.name, files, FIGURE_FILES),
    )


def _beside(stem: str, files: tuple[str, ...], endings: tuple[str, ...]) -> list[str]:
    """Return the files of a stem that have one of the given extensions."""
    return [name for name in files if PurePath(name).stem == stem and PurePath(name).suffix in endings]


def _facts(outcomes: tuple[Outcome, ...]) -> list[KeyFigure]:
    """Return the key figures under the title."""
    if not outcomes:
        return []
    cells = [outcome.cell for outcome in outcomes]
    editing = [cell for cell in cells if cell.measure != "study"]
    counted = (
        (len(cells), "cell", "cells"),
        (len({cell.method for cell in editing} - {UNEDITED}), "method", "methods"),
        (len({cell.method for cell in cells if cell.measure == "study"}), "study", "studies"),
        (len({cell.model for cell in cells}), "model", "models"),
        (len({cell.dataset for cell in cells}), "dataset", "datasets"),
    )
    facts = [KeyFigure(f"{n:,}", one if n == 1 else many) for n, one, many in counted if n]
    facts += (
        [KeyFigure(f"{max(cell.n_edits for cell in editing):,}", "edits at most together")] if editing else []
    )
    devices = sorted(
        {outcome.provenance["device"].split(",")[0] for outcome in outcomes if "device" in outcome.provenance}
    )
    finished = max((outcome.provenance.get("finished", "") for outcome in outcomes), default="")[:10]
    return [
        *facts,
        *([KeyFigure(" · ".join(devices), "device")] if devices else []),
        *([KeyFigure(finished, "last cell")] if finished else []),
    ]


def _data(results: Results, store: Reader) -> Markup:
    """Return the script's data as JSON that is safe inside a script element."""
    content = {
        "readouts": [
            {"key": key, "title": title, "note": READOUT_NOTES[key]} for key, title in READOUTS.items()
        ],
        "metrics": [{"key": key, "title": title} for key, title in COLUMNS.items()],
        "readout": DEFAULT_READOUT,
        "entries": [asdict(entry) for entry in leaderboard.entries(results)],
        "samples": samples.samples(store),
        "texts": samples.texts(store),
        "errors": samples.errors(store),
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
