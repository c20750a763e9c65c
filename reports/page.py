"""The page: what a template needs, computed; the look is in `page.html.j2`."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jinja2
from markupsafe import Markup

from lks.grid import PROTOCOL, Outcome, Split
from lks.store import Store
from reports import overview, scope
from reports.charts import SHADES, chart
from reports.results import COLUMNS, HERE, READOUT_NOTES, READOUTS, Block, Results, Row, query, seconds_per_edit, why
from reports.summary import sentences
from reports.tables import preparation, short
from reports.terminal import kept_texts

KEPT = ("reliability", "generality", "locality")
FOLD_COSTS = 24
"""More cells than this fold their costs away."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A raw answer to show.

    Attributes:
        cell_id, kind, draw, case_id, subject, prompt: which probe of which cell.
        answer: reference answer.
        unedited_text, said: what the model generated before and after editing.
        tf_token: score under teacher forcing, 0 to 1.
        is_right: the generated tokens are those wanted; None where that cannot be said.
        fired: whether a gate let the edit act.
    """

    cell_id: str
    kind: str
    draw: int
    case_id: str
    subject: str
    prompt: str
    answer: str
    unedited_text: str | None
    said: str
    tf_token: float | None
    is_right: bool | None
    fired: bool | None


@dataclass(frozen=True, slots=True)
class Text:
    """A free text before and after editing, and whether the edit holds in free generation."""

    cell_id: str
    draw: int
    subject: str
    prompt: str
    target: str
    before: str
    after: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Number:
    """A value in a table: text, half-width, the bare number for sorting, the published value, whether none is significantly better."""

    text: str
    half: str
    at: float
    published: str
    leads: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A row's values at one T with the seconds per edit, or why there are none."""

    n_edits: int
    reason: str
    numbers: tuple[Number | None, ...]
    per_edit: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table on the page."""

    name: str
    regime: str
    groups: tuple[Group, ...]
    prepare: str
    prepare_s: float


@dataclass(frozen=True, slots=True)
class Retained:
    """A sequential method at one T: right after each edit, after all, lost; the three texts for each of three metrics."""

    name: str
    n_edits: int
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A block under one read-out: its rows, its chart, and what sequential methods keep."""

    readout: str
    lines: tuple[Line, ...]
    chart: Markup
    retained: tuple[Retained, ...]


@dataclass(frozen=True, slots=True)
class CellNote:
    """A cell's costs, settings and sample answers."""

    outcome: Outcome
    name: str
    reason: str
    per_edit: str
    paper_minutes: str
    parameters: str
    samples: tuple[Sample, ...]
    texts: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A block of the page: one model on one dataset, and all about its cells, method by method.

    `overview` is everything measured: name, T and the texts under `columns` (group, heading).
    """

    title: str
    split: Split
    model: str
    n_edits: tuple[int, ...]
    panels: tuple[Panel, ...]
    overview: tuple[tuple[str, int, tuple[str, ...]], ...]
    columns: tuple[tuple[str, str], ...]
    methods: tuple[tuple[str, tuple[CellNote, ...]], ...]

    @property
    def notes(self) -> list[CellNote]:
        """Its cells in the order of the table."""
        return [note for _, notes in self.methods for note in notes]


@dataclass(frozen=True, slots=True)
class Scope:
    """The section on edit scope: (name, title) of the probe sets about edited subjects and about others, rows, failed cells."""

    figure: Markup
    own: list[tuple[str, str]]
    outside: list[tuple[str, str]]
    lines: list[scope.ScopeLine]
    failures: list[str]
    sources: list[str]


def samples(store: Store) -> list[Sample]:
    """Raw answers to show, the same for the same store."""
    return store.rows(Sample, query("answers"))


def texts(store: Store) -> list[Text]:
    """Free texts to show, the same for the same store."""
    return store.rows(Text, query("generations"))


def html(results: Results, shown: list[Sample], written: list[Text], files: tuple[str, ...] = ()) -> str:
    """The whole page, self-contained; `files` are named as lying beside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"seconds": seconds, "size": size}
    by_cell = _Shown(_by_cell(shown), _by_cell(written))
    sections = [_section(results, block, by_cell) for block in results.blocks]
    notes = [note for section in sections for note in section.notes]
    return environment.get_template("page.html.j2").render(
        sentences=sentences(results.of("evaluation")),
        sections=sections,
        readouts=[(key, title, READOUT_NOTES[key]) for key, title in READOUTS.items()],
        columns=list(COLUMNS.values()),
        n_edits=sorted({n for block in results.blocks for n in block.n_edits}),
        notes=notes,
        failures=[note for note in notes if note.reason],
        fold_costs=len(notes) > FOLD_COSTS,
        shades=SHADES,
        files=files,
        provenance=_provenance(results.outcomes + results.scope_cells),
        published=_published(results),
        overview_notes=overview.NOTES,
        warnings=results.warnings,
        protocol=PROTOCOL,
        cells=len(notes) + len(results.scope_cells),
        scope=_scope(results),
    )


def _scope(results: Results) -> Scope | None:
    """The section on edit scope, if there is anything to say."""
    if not results.scope_cells and not results.scope:
        return None
    figure = scope.on_page(scope.figure(results, "svg")) if scope.drawn(results) else Markup()
    own, outside = ([(name, scope.TITLES[name].replace("-phr", "phr")) for name in names] for names in (scope.own(results), scope.outside(results)))
    return Scope(figure, own, outside, scope.lines(results), scope.failures(results), sorted({f.source for f in results.known_fires}))


def seconds(value: float) -> str:
    """A duration with as many digits as say something."""
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms" if value else "–"


def size(value: int) -> str:
    """Bytes in kB, MB or GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value / 1e3:.1f} kB" if value else "–"


ShownT = TypeVar("ShownT", Sample, Text)


class _Shown(NamedTuple):
    """What is shown of each cell."""

    samples: Mapping[str, list[Sample]]
    texts: Mapping[str, list[Text]]


def _by_cell(rows: Sequence[ShownT]) -> dict[str, list[ShownT]]:
    found: dict[str, list[ShownT]] = {}
    for row in rows:
        found.setdefault(row.cell_id, []).append(row)
    return found


def _section(results: Results, block: Block, shown: _Shown) -> Section:
    panels = []
    for readout in READOUTS:
        lines = tuple(_line(results, block, row, readout) for row in block.rows)
        panels.append(Panel(readout, lines, chart(results, block, readout), tuple(_retained(results, block, readout))))
    methods = tuple((row.name, tuple(_note(results, row.name, row.cells[n], shown) for n in sorted(row.cells))) for row in block.rows)
    names = {outcome.cell.id: row.name for row in block.rows for outcome in row.cells.values()}
    rows = [row for row in results.overview if row.cell_id in names]
    columns = overview.used(rows)
    wide = tuple((names[row.cell_id], row.n_edits, tuple(overview.HEADINGS[name][2](row) for name in columns)) for row in rows)
    return Section(
        block.title, block.split, block.model, block.n_edits, tuple(panels), wide, tuple(overview.HEADINGS[n][:2] for n in columns), methods
    )


def _line(results: Results, block: Block, row: Row, readout: str) -> Line:
    groups = []
    for n in block.n_edits:
        outcome = row.cells.get(n)
        reason = why(outcome, 120)
        numbers = tuple(_number(results, block, row, n, readout, metric) for metric in COLUMNS) if not reason else ()
        took = seconds_per_edit(outcome) if outcome and not reason else 0.0
        groups.append(Group(n, reason, numbers, short(took), round(took, 6)))
    return Line(row.name, row.regime, tuple(groups), preparation(row.prepare_s), round(row.prepare_s, 3))


def _retained(results: Results, block: Block, readout: str) -> Iterator[Retained]:
    """Rows of what is kept, T by T."""
    for n in block.n_edits:
        for row in (row for row in block.rows if n in row.cells):
            kept = [results.kept.get((row.cells[n].cell.id, readout, metric)) for metric in KEPT]
            if any(kept):
                yield Retained(row.name, n, tuple(tuple(kept_texts(one)) for one in kept))


def _number(results: Results, block: Block, row: Row, n_edits: int, readout: str, metric: str) -> Number | None:
    score = results.score(row.cells[n_edits], readout, metric)
    if score is None or score.value is None:
        return None
    published = results.published_for(block, row, n_edits, metric) if readout == "tf_token" else None
    paper = "" if published is None else f"{published:.1f}"
    spread = "" if score.half_width is None else f"±{score.half_width:.1f}"
    leads = (score.cell_id, readout, metric) in results.leaders
    return Number(f"{score.value:.1f}", spread, round(score.value, 2), paper, leads)


def _note(results: Results, name: str, outcome: Outcome, shown: _Shown) -> CellNote:
    cell = outcome.cell
    minutes = None if cell.variant or cell.split != "evaluation" else results.minutes.get((cell.dataset, cell.model, cell.method, cell.n_edits))
    return CellNote(
        outcome=outcome,
        name=name,
        reason=why(outcome, 1000),
        per_edit=seconds(seconds_per_edit(outcome)),
        paper_minutes="" if minutes is None else f"{minutes:g} min",
        parameters=json.dumps(json.loads(cell.parameters), indent=2, ensure_ascii=False),
        samples=tuple(shown.samples.get(cell.id, ())),
        texts=tuple(shown.texts.get(cell.id, ())),
    )


def _provenance(outcomes: tuple[Outcome, ...]) -> list[tuple[str, list[tuple[str, int]]]]:
    """(what, [(value, number of cells)]) for all that was noted about where the numbers come from."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        noted = {key: value for key, value in outcome.provenance.items() if key not in ("finished", "title", "regime")}
        noted |= {f"model {cell.model}": cell.model_revision, f"data {cell.dataset}": cell.data_revision}
        for key, value in noted.items():
            counts.setdefault(key, Counter())[value] += 1
    times = sorted(filter(None, (outcome.provenance.get("finished") for outcome in outcomes)))
    table = [(key, sorted(values.items())) for key, values in sorted(counts.items())]
    return [*table, ("finished", [(f"{times[0]} to {times[-1]}", len(times))])] if times else table


def _published(results: Results) -> list[tuple[str, list[int], list[tuple[str, list[tuple[str, ...]]]]]]:
    """The paper's tables: (model and dataset, T, [(method, [values at each T])]); an empty group is a dash in the paper."""
    tables = []
    for dataset, model in sorted({key[:2] for key in results.published}, reverse=True):
        keys = [key for key in results.published if key[:2] == (dataset, model)]
        n_edits = sorted({key[3] for key in keys})
        rows = []
        for method in dict.fromkeys(key[2] for key in keys):
            values = [tuple(_plain(results.published.get((dataset, model, method, n, metric))) for metric in COLUMNS) for n in n_edits]
            rows.append((method, values))
        tables.append((f"{model} on {dataset}", n_edits, rows))
    return tables


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
