"""The page: what a template needs, computed; the look is in `page.html.j2`."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from lks.grid import PROTOCOL, Outcome
from lks.store import Store
from reports.charts import chart
from reports.results import COLUMNS, HERE, READOUT_NOTES, READOUTS, Block, Results, Row, name_of, query, seconds_per_edit, why
from reports.summary import sentences

COLOURS = 8
"""Number of line colours in the template."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A raw answer to show.

    Attributes:
        cell_id, kind, draw, case_id, subject, prompt: which probe of which cell.
        answer: reference answer.
        unedited_text, ar_text: what the model generated before and after editing.
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
    ar_text: str
    tf_token: float | None
    is_right: bool | None
    fired: bool | None


@dataclass(frozen=True, slots=True)
class Number:
    """A value in a table: text, half-width, the interval as a bar in percent of the width, the published value."""

    text: str
    half: str
    left: float
    width: float
    at: float
    published: str


@dataclass(frozen=True, slots=True)
class Group:
    """A row's values at one T, or why there are none."""

    n_edits: int
    reason: str
    numbers: tuple[Number | None, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table on the page."""

    name: str
    colour: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A block under one read-out: its rows and its chart."""

    readout: str
    lines: tuple[Line, ...]
    chart: Markup


@dataclass(frozen=True, slots=True)
class Section:
    """A block of the page: one model on one dataset."""

    title: str
    model: str
    dataset: str
    n_edits: tuple[int, ...]
    panels: tuple[Panel, ...]


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


def samples(store: Store) -> list[Sample]:
    """Raw answers to show, the same for the same store."""
    return store.rows(Sample, query("answers"))


def html(results: Results, shown: list[Sample]) -> str:
    """The whole page, self-contained."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"seconds": seconds, "size": size}
    names = dict.fromkeys(row.name for block in results.blocks for row in block.rows)
    colours = {name: i % COLOURS for i, name in enumerate(names)}
    notes = [_note(results, outcome, shown) for outcome in sorted(results.outcomes, key=_place)]
    return environment.get_template("page.html.j2").render(
        sentences=sentences(results),
        sections=[_section(results, block, colours) for block in results.blocks],
        readouts=[(key, title, READOUT_NOTES[key]) for key, title in READOUTS.items()],
        columns=list(COLUMNS.values()),
        n_edits=sorted({n for block in results.blocks for n in block.n_edits}),
        notes=notes,
        failures=[note for note in notes if note.reason],
        provenance=_provenance(results.outcomes),
        published=_published(results),
        warnings=results.warnings,
        protocol=PROTOCOL,
    )


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


def _place(outcome: Outcome) -> tuple[object, ...]:
    cell = outcome.cell
    return (cell.dataset, cell.records, cell.model, cell.n_edits, cell.method != "none", cell.method, cell.variant, cell.seed)


def _section(results: Results, block: Block, colours: Mapping[str, int]) -> Section:
    panels = []
    for readout in READOUTS:
        lines = tuple(_line(results, block, row, readout, colours[row.name]) for row in block.rows)
        panels.append(Panel(readout, lines, chart(results, block, readout, colours)))
    return Section(block.title, block.model, block.dataset, block.n_edits, tuple(panels))


def _line(results: Results, block: Block, row: Row, readout: str, colour: int) -> Line:
    groups = []
    for n in block.n_edits:
        outcome = row.cells.get(n)
        reason = why(outcome, 120)
        numbers = tuple(_number(results, block, row, n, readout, metric) for metric in COLUMNS) if not reason else ()
        groups.append(Group(n, reason, numbers))
    return Line(row.name, colour, tuple(groups))


def _number(results: Results, block: Block, row: Row, n_edits: int, readout: str, metric: str) -> Number | None:
    score = results.score(row.cells[n_edits], readout, metric)
    if score is None or score.value is None:
        return None
    half = score.half_width or 0.0
    low, high = max(0.0, score.value - half), min(100.0, score.value + half)
    published = results.published_for(block, row, n_edits, metric) if readout == "tf_token" else None
    paper = "" if published is None else f"{published:.1f}"
    spread = "" if score.half_width is None else f"±{half:.1f}"
    return Number(f"{score.value:.1f}", spread, round(low, 1), round(high - low, 1), round(score.value, 1), paper)


def _note(results: Results, outcome: Outcome, shown: list[Sample]) -> CellNote:
    cell = outcome.cell
    minutes = None if cell.variant else results.minutes.get((cell.dataset, cell.model, cell.method, cell.n_edits))
    return CellNote(
        outcome=outcome,
        name=name_of(outcome),
        reason=why(outcome, 1000),
        per_edit=seconds(seconds_per_edit(outcome)),
        paper_minutes="" if minutes is None else f"{minutes:g} min",
        parameters=json.dumps(json.loads(cell.parameters), indent=2, ensure_ascii=False),
        samples=tuple(sample for sample in shown if sample.cell_id == cell.id),
    )


def _provenance(outcomes: tuple[Outcome, ...]) -> list[tuple[str, list[tuple[str, int]]]]:
    """(what, [(value, number of cells)]) for all that was noted about where the numbers come from."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        noted = {key: value for key, value in outcome.provenance.items() if key not in ("finished", "title")}
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
