"""Tables that the papers do not have: edit scope, abilities (Fig. 8), retention, kinds of error, contexts."""

from dataclasses import dataclass

from lks.results.reader import Reader
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Results, query
from reports.tables.cell_rows import MissingStage, by_cell, device, lines, missing, shown
from reports.tables.model import Column, Table, TableRow, Value
from reports.tables.number_formats import whole
from reports.tables.scope_rates import TITLES

INTERVAL = "± half of the 95 % interval"
CONTEXTS = {"bare": "bare prompt", "qa": "Q: ... A:", "chat": "chat template"}


@dataclass(frozen=True, slots=True)
class Rate:
    """A row of `sql/table_scope.sql`, in percent of probes.

    `what` is "fired", "right" (finds the subject asked about) or "wrong" (finds another).
    """

    dataset: str
    model: str
    records: int
    measure: str
    scope: str
    n_edits: int
    probe_set: str
    what: str
    probes: int
    value: float
    low: float | None
    high: float | None


Where = tuple[str, str, int, str, str]
"""Part, measure, T, scope, probe set."""
RULES = ("official", "counterfact", "others")
"""Scope, dataset and probe set of the earlier measurement of the authors' rules."""


def scope(results: Results, store: Reader) -> list[Table]:
    """Tabulate the prompts to which edits are taken to apply."""
    columns = (
        *map(Column, ("T", "Scope", "Asked", "Prompts")),
        Column("Fires"),
        Column("Right"),
        Column("Wrong"),
        Column("Probes", show=whole),
    )
    caption = (
        f"Percent of prompts, {INTERVAL}, clustered by prompt. Right: finds the subject that is asked about; "
        "wrong: finds another. In brackets an earlier measurement of the authors' rules, its middle where it "
        "is a range (scope.csv has the ends); the paper reports none."
    )
    cells = [*results.scope_cells, *results.outcomes]
    devices = "; ".join(
        sorted({cell.provenance.get("device", "") for cell in cells if cell.status == "ok"} - {""})
    )
    return [
        Table(
            "scope",
            "Edit scope: which prompts edits are taken to apply to",
            columns,
            tuple(_scope_rows(results, store)),
            caption,
            4,
            "decisions",
            devices,
        )
    ]


def _scope_rows(results: Results, store: Reader) -> list[TableRow]:
    """Return a row for each set of prompts, and one for each earlier measurement that was not repeated."""
    known = {one.n_edits: (one.low + one.high) / 2 for one in results.known_fires}
    compared, rows = set[int](), []
    for (where, measure, n_edits, kind, probe_set), rates in _rates(store).items():
        fired = rates["fired"]
        published = None
        if measure == "scope" and (kind, fired.dataset, probe_set) == RULES:
            published = known.get(n_edits)
            compared.add(n_edits)
        values = [
            _rate(rates.get(what), published if what == "fired" else None)
            for what in ("fired", "right", "wrong")
        ]
        asked = "indicator alone" if measure == "scope" else "edited model"
        title = TITLES.get(probe_set, probe_set).replace("-phr", "phr")
        rows.append(TableRow((f"{n_edits:,}", kind, asked, title, *values, Value(fired.probes)), where))
    absent = Value(why="not run")
    for n_edits, value in known.items():
        if n_edits not in compared:
            start = (f"{n_edits:,}", RULES[0], "indicator alone", TITLES[RULES[2]])
            earlier = Value(published=value, why="not run")
            rows.append(TableRow((*start, earlier, absent, absent, absent), "CounterFact, not run here"))
    return rows


def _rates(store: Reader) -> dict[Where, dict[str, Rate]]:
    """Return the rates of each set of prompts by what they are of."""
    found: dict[Where, dict[str, Rate]] = {}
    for rate in store.rows(Rate, query("table_scope")):
        records = f" (first {rate.records:,} records)" if rate.records else ""
        where = f"{rate.model} on {rate.dataset}{records}"
        key = (where, rate.measure, rate.n_edits, rate.scope, rate.probe_set)
        found.setdefault(key, {})[rate.what] = rate
    return found


def _rate(rate: Rate | None, published: float | None) -> Value:
    """Return a rate as a table entry."""
    if rate is None:
        return Value(why="not applicable: no subject to find")
    return Value(rate.value, rate.low, rate.high, published)


@dataclass(frozen=True, slots=True)
class Test:
    """A row of `sql/table_abilities.sql`, in percent."""

    cell_id: str
    task: str
    metric: str
    documents: int
    value: float
    low: float | None
    high: float | None
    unedited: float | None
    retention: float | None
    above_chance: float | None


def abilities(results: Results, store: Reader) -> list[Table]:
    """Tabulate general ability: the numbers of Fig. 8."""
    found = by_cell(store.rows(Test, query("table_abilities")))
    here = shown(results, found)
    columns = (
        *(
            Column("T"),
            Column("Method"),
            Column("Test"),
            Column("Metric"),
            Column("Score"),
            Column("Unedited"),
            Column("Kept"),
        ),
        *(Column("Kept above chance"), Column("Documents", show=whole)),
    )
    rows = lines(
        here,
        found,
        lambda _place, row: (
            *(row.task, row.metric, Value(row.value, row.low, row.high), _or(row.unedited, "not run")),
            *(
                _or(row.retention, "not applicable: unedited has none"),
                _or(row.above_chance, "not applicable: unedited at chance"),
            ),
            Value(row.documents),
        ),
        MissingStage("ability", 2, 5),
    )
    caption = (
        f"Percent, {INTERVAL} over documents. Kept: of the unedited model's score on the same texts; above "
        "chance: of what that is above guessing. Of the paper's Fig. 8 there are no numbers to compare with."
    )
    return [
        Table(
            "abilities",
            "General ability, the numbers of Fig. 8 (lm-eval)",
            columns,
            rows,
            caption,
            4,
            "lm-eval",
            device(here),
        )
    ]


def _or(value: float | None, why: str) -> Value:
    """Return a number as a table entry, or the reason for having none."""
    return Value(value, why=why)


def retention(results: Results) -> list[Table]:
    """Tabulate what sequential methods keep: each probe right after its edit and after all edits."""
    metrics = {metric: heading for metric, heading in COLUMNS.items() if metric != "edit_performance"}
    tables = []
    asked = {kept.readout for kept in results.kept.values()} or {"tf_token"}
    for readout in (name for name in READOUTS if name in asked):
        found = {key[0]: () for key in results.kept if key[1] == readout}
        here = [place for place in shown(results, found) if place.outcome.cell.id in found]
        rows = []
        for place in here:
            values: list[Value] = []
            for metric in metrics:
                kept = results.kept.get((place.outcome.cell.id, readout, metric))
                if kept is None or kept.lost is None:
                    values += [
                        Value(
                            why="not applicable: no such questions"
                            if kept is None
                            else "not applicable: unedited model not run"
                        )
                    ] * 3
                    continue
                half = kept.half_width
                ends = (None, None) if half is None else (kept.lost - half, kept.lost + half)
                values += [Value(kept.immediate), Value(kept.final), Value(kept.lost, *ends)]
            rows.append(TableRow((place.n_edits, place.name, *values), place.part))
        groups = [
            Column(heading, metrics[metric])
            for metric in metrics
            for heading in ("after each", "after all", "lost")
        ]
        columns = (Column("T"), Column("Method"), *groups)
        title = f"What sequential methods keep ({READOUTS[readout]})"
        caption = (
            f"{READOUTS[readout]}: {READOUT_NOTES[readout]}. Percent; lost: the difference, {INTERVAL}, "
            "clustered by subject."
        )
        tables.append(Table("retention", title, columns, tuple(rows), caption, 2, readout, device(here)))
    return tables


@dataclass(frozen=True, slots=True)
class Wrong:
    """A row of `sql/table_errors.sql`: one kind of wrong answer, in percent of all answers."""

    cell_id: str
    context: str
    metric: str
    error: str
    n: int
    share: float


def errors(results: Results, store: Reader) -> list[Table]:
    """Tabulate the kinds of wrong answers in free generation."""
    found = by_cell(store.rows(Wrong, query("table_errors")))
    here = shown(results, found)
    kinds = sorted({row.error for rows in found.values() for row in rows})
    groups = {cell_id: _kinds(rows) for cell_id, rows in found.items()}
    rows = []
    for place in here:
        start = (place.n_edits, place.name)
        for (context, metric), shares in groups.get(place.outcome.cell.id, {}).items():
            values = [Value(shares.get(kind, 0.0)) for kind in kinds]
            rows.append(
                TableRow((*start, CONTEXTS.get(context, context), COLUMNS[metric], *values), place.part)
            )
        if place.outcome.cell.id not in groups:
            asked = results.score(place.outcome, "wild", "reliability") is not None
            reason = "none wrong" if asked else missing(place.outcome, "answers")
            rows.append(TableRow((*start, "all", "all", *[Value(why=reason)] * len(kinds)), place.part))
    columns = (
        *map(Column, ("T", "Method", "Context", "Metric")),
        *(Column(kind.replace("_", " ")) for kind in kinds),
    )
    caption = (
        "Percent of all free answers, right ones included; a line only where some are wrong. Kinds are "
        "distinguished by rules, see wild.sql."
    )
    return [
        Table(
            "errors", "Kinds of wrong answers (WILD)", columns, tuple(rows), caption, 4, "wild", device(here)
        )
    ]


def _kinds(rows: list[Wrong]) -> dict[tuple[str, str], dict[str, float]]:
    """Return (context, metric) -> kind -> share."""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        groups.setdefault((row.context, row.metric), {})[row.error] = row.share
    return groups


@dataclass(frozen=True, slots=True)
class InContext:
    """A row of `sql/table_contexts.sql`, in percent."""

    cell_id: str
    context: str
    metric: str
    n_items: int
    value: float
    low: float | None
    high: float | None
    holds: float


def contexts(results: Results, store: Reader) -> list[Table]:
    """Tabulate free generation by context, and how far it falls below teacher-forced tokens."""
    found = by_cell(store.rows(InContext, query("table_contexts")))
    here = shown(results, found)

    def gap(cell_id: str, row: InContext) -> Value:
        """Return the gap between the teacher-forced token score and the free one."""
        score = results.scores.get((cell_id, "tf_token", row.metric))
        return Value(
            None if score is None or score.value is None else score.value - row.value,
            why="not applicable: not teacher-forced",
        )

    rows = lines(
        here,
        found,
        lambda place, row: (
            *(
                CONTEXTS.get(row.context, row.context),
                COLUMNS[row.metric],
                Value(row.value, row.low, row.high),
                Value(row.holds),
            ),
            *(gap(place.outcome.cell.id, row), Value(row.n_items)),
        ),
        MissingStage("answers", 2, 4),
    )
    columns = (
        *map(Column, ("T", "Method", "Context", "Metric")),
        Column("Right"),
        Column("Somewhere"),
        Column("Gap"),
        Column("Answers", show=whole),
    )
    caption = (
        f"Percent, {INTERVAL}, clustered by subject. Somewhere: the right answer is anywhere in the text. "
        "Gap: TF token (bare prompt) less Right."
    )
    return [
        Table(
            "contexts", "Free generation by context (WILD)", columns, rows, caption, 4, "wild", device(here)
        )
    ]
