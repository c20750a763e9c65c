"""The LKS paper's other tables: settings (2, 4), fluency (5), texts (6), time and memory (Appendix E)."""

from dataclasses import dataclass
from functools import partial

from lks.results.cells import UNEDITED
from lks.results.reader import Reader
from reports import published_values
from reports.results import Results, query
from reports.tables.cell_rows import (
    CellRow,
    Key,
    MissingStage,
    by_cell,
    cached,
    device,
    device_of,
    lines,
    missing,
    shown,
)
from reports.tables.grid_tables import grid, parts
from reports.tables.model import Column, Entry, Table, TableRow, Value
from reports.tables.number_formats import brief, general, megabytes, preparation_or_none, two_digits, whole

ELSEWHERE = ("counterfact",)
"""Datasets that have their own table."""
TEXT = 200
"""Number of characters of a free text that are shown."""
PUBLISHED = "In brackets the value that the LKS paper prints and ours less that."


def table1(results: Results, number: str = "Table 1") -> list[Table]:
    """Return the grid of every dataset except CounterFact, in the paper's layout."""
    return grid(results, "table1", number, parts(results, unwanted=ELSEWHERE))


def table3(results: Results) -> list[Table]:
    """Return the grid of CounterFact, for which the paper has LKS at T = 1,000."""
    return grid(results, "table3", "Table 3", parts(results, list(ELSEWHERE)))


@dataclass(frozen=True, slots=True)
class SettingsRow:
    """A row of `sql/table_2_4.sql`.

    Every field except `cell_id` and `end_of_answer`, whose default is not stored, is None if a cell stores
    its parameters in an older form.
    """

    cell_id: str
    block: int | None
    lambda_edit: float | None
    max_epochs: int | None
    batch_size: int | None
    lr: float | None
    weight_decay: float | None
    patience: int | None
    hypernetwork: str | None
    form: str | None
    features: str | None
    key: str | None
    positions: str | None
    optimisation: str | None
    locality_prompts: int | None
    scope: str | None
    gate: str | None
    end_of_answer: str


NUMBERS = {
    "lambda_edit": "lambda edit",
    "max_epochs": "Epochs",
    "batch_size": "Batch",
    "lr": "lr",
    "block": "Block",
    "weight_decay": "Weight decay",
}
NUMBERS |= {"patience": "Patience", "locality_prompts": "Locality prompts"}
WORDS = {
    "hypernetwork": "Hypernetwork",
    "form": "Form",
    "features": "Features",
    "key": "Key",
    "positions": "Positions",
}
WORDS |= {"optimisation": "Optimisation", "scope": "Scope", "gate": "Gate", "end_of_answer": "End of answer"}


def table2_4(results: Results, store: Reader) -> list[Table]:
    """Tabulate the settings of LKS as its cells stored them, next to the paper's Tables 2 and 4."""
    found = by_cell(store.rows(SettingsRow, query("table_2_4")))
    paper = {(p.dataset, p.model, p.n_edits): p for p in published_values.presets()}
    ours = [place for place in shown(results, found) if place.outcome.cell.id in found]
    rows = []
    for place in ours:
        cell = place.outcome.cell
        preset = None if cell.variant else paper.pop((cell.dataset, cell.model, cell.n_edits), None)
        row = found[cell.id][0]
        numbers = [_setting(getattr(row, name), getattr(preset, name, None)) for name in NUMBERS]
        rows.append(
            TableRow(
                (
                    place.n_edits,
                    place.name,
                    *numbers,
                    *(str(getattr(row, name) or "not stored") for name in WORDS),
                ),
                place.part,
            )
        )
    for preset in paper.values():
        numbers = [_setting(None, getattr(preset, name, None)) for name in NUMBERS]
        part = f"{preset.model} on {preset.dataset}, not run here"
        rows.append(TableRow((f"{preset.n_edits:,}", "LKS", *numbers, *["not run"] * len(WORDS)), part))
    columns = [
        Column("T"),
        Column("Method"),
        *(Column(heading, show=general) for heading in NUMBERS.values()),
        *map(Column, WORDS.values()),
    ]
    caption = (
        "Taken from the parameters stored with each cell, not from the presets of the program. "
        f"{PUBLISHED} Block counts from 0."
    )
    return [
        Table(
            "table2_4",
            "Tables 2 and 4, settings of LKS that were used",
            tuple(columns),
            tuple(rows),
            caption,
            keys=2,
        )
    ]


def _setting(ours: float | None, published: float | None) -> Value:
    """Return a setting as a table entry, next to the paper's."""
    return Value(
        ours,
        published=published,
        why="not run" if published is not None else "not run, not in the paper's table",
    )


@dataclass(frozen=True, slots=True)
class Texts:
    """A row of `sql/table_5.sql`: entropy in bits with its interval, over texts long enough to have one."""

    cell_id: str
    prompt_set: str
    texts: int
    long_enough: int
    words: float
    value: float | None
    low: float | None
    high: float | None


FLUENCY = (
    "Entropy in bits of 2- and 3-grams of words and marks of greedy texts of up to 100 new tokens, weights "
    "2/3 and 4/3, the sum divided by two as in the code of the LKS paper and ROME (the survey prints 100 "
    "times that); ± half of the 95 % interval over texts. "
)


def texts(store: Reader) -> list[Texts]:
    """Return the entropy of free texts for every shown cell and set of prompts."""
    return store.rows(Texts, query("table_5"))


def table5(results: Results, found: list[Texts]) -> list[Table]:
    """Tabulate fluency after edit prompts, as in the paper, and after openings of plain sentences."""
    columns = (
        Column("T"),
        Column("Method"),
        Column("Fluency", show=two_digits),
        Column("Words"),
        Column("Texts", show=whole),
    )
    tables = []
    for prompt_set, title in (("edit", "edit prompts"), ("plain", "openings of plain sentences")):
        some = by_cell(row for row in found if row.prompt_set == prompt_set)
        paper = published_values.fluency() if prompt_set == "edit" else {}
        places = shown(results, some, paper)
        rows = lines(places, some, partial(_fluency, paper), MissingStage("generations", 0, 3))
        done = {place.key for place in places}
        rows += tuple(_not_run(key, value, columns) for key, value in paper.items() if key not in done)
        caption = FLUENCY + (PUBLISHED if prompt_set == "edit" else "The paper has no such texts.")
        if not rows:
            continue
        tables.append(
            Table(
                "table5",
                f"Table 5, fluency, {title} (free generation)",
                columns,
                rows,
                caption,
                2,
                "generation",
                device(places),
            )
        )
    return tables


def _fluency(paper: dict[Key, float], place: CellRow, row: Texts) -> tuple[Entry, ...]:
    """Return the entries of a fluency row, with the paper's value."""
    value = Value(
        row.value, row.low, row.high, paper.get(place.key), why="not applicable: no text has three words"
    )
    return value, Value(row.words), Value(row.texts)


def _not_run(key: Key, value: float, columns: tuple[Column, ...]) -> TableRow:
    """Return a row of the paper that was not run here, with its value in the column after T and method."""
    dataset, model, method, n_edits = key
    rest = [Value(why="not run")] * (len(columns) - 3)
    start = (f"{n_edits:,}", published_values.TITLES[method])
    return TableRow(
        (*start, Value(published=value, why="not run"), *rest), f"{model} on {dataset}, not run here"
    )


@dataclass(frozen=True, slots=True)
class FreeTextRow:
    """A row of `sql/table_6.sql`: a free text after an edit prompt."""

    cell_id: str
    subject: str
    prompt: str
    target: str
    before: str
    after: str
    holds: bool


def table6(results: Results, store: Reader) -> list[Table]:
    """Tabulate texts before and after editing."""
    found = by_cell(store.rows(FreeTextRow, query("table_6")))
    places = [place for place in shown(results, found) if place.outcome.cell.method != UNEDITED]
    rows = []
    for place in places:
        samples = found.get(place.outcome.cell.id, ())
        for one in samples:
            words = (
                _cut(one.prompt),
                _cut(one.target),
                _cut(one.before),
                _cut(one.after),
                "yes" if one.holds else "no",
            )
            rows.append(TableRow((place.n_edits, place.name, *words), place.part))
        if not samples:
            rows.append(
                TableRow(
                    (place.n_edits, place.name, missing(place.outcome, "generations"), *["–"] * 4), place.part
                )
            )
    columns = tuple(map(Column, ("T", "Method", "Prompt", "Target", "Before", "After", "Holds")))
    caption = (
        "Of each cell one text whose edit holds (the free answer to the same prompt is right) and one whose "
        f"does not, where there are any, by a hash of the subject. Before: the unedited model. First {TEXT} "
        "characters; generations.csv has more."
    )
    return [
        Table(
            "table6",
            "Table 6, texts before and after editing (free generation)",
            columns,
            tuple(rows),
            caption,
            2,
            "generation",
            device(places),
        )
    ]


def _cut(text: str) -> str:
    """Return the start of a text on one line."""
    line = " ".join(text.split())
    return (line if len(line) <= TEXT else line[: TEXT - 1].rstrip() + "…") or "(no text)"


@dataclass(frozen=True, slots=True)
class CostRow:
    """A row of `sql/table_appendix_e.sql`: minutes for all edits of a draw, seconds, bytes, percent."""

    cell_id: str
    minutes: float
    seconds_per_edit: float
    prepare_s: float
    ask_s: float
    ability_s: float | None
    peak_bytes: int
    patch_bytes: int
    overhead_1: float | None
    overhead_1_low: float | None
    overhead_1_high: float | None
    overhead_32: float | None
    overhead_32_low: float | None
    overhead_32_high: float | None


def appendix_e(results: Results, store: Reader) -> list[Table]:
    """Tabulate time and memory."""
    found = by_cell(store.rows(CostRow, query("table_appendix_e")))
    places = shown(results, found, results.minutes)
    columns = (
        *(
            Column("T"),
            Column("Method"),
            Column("Min", show=brief, note="minutes for all T edits of one draw"),
            Column("s/edit", show=brief),
        ),
        *(
            Column("Prepare s", show=preparation_or_none),
            Column("Ask s", show=brief),
            Column("Ability s", show=brief),
        ),
        *(Column("Peak MB", show=megabytes), Column("Patch MB", show=megabytes)),
        *(Column("batch 1", "Overhead %"), Column("batch 32", "Overhead %"), Column("Device")),
    )
    rows = lines(places, found, partial(_spent, results.minutes), MissingStage("", 0, 10))
    done = {place.key for place in places}
    rows += tuple(_not_run(key, value, columns) for key, value in results.minutes.items() if key not in done)
    caption = (
        f"Measured once, so without interval, but for overhead. {PUBLISHED} The paper's are of one "
        "A800-80GB. Prepare: once for all cells that share it. Ask: all read-outs of all draws. Peak: "
        "allocated on a GPU, else resident set of the process. Overhead: how much longer a prefill takes "
        "with the edits in force; measured only where a grid asks for it (overhead = true)."
        f"{cached(places)}"
    )
    return [
        Table("appendix_e", "Appendix E, time and memory", columns, rows, caption, 2, device=device(places))
    ]


def _spent(paper: dict[Key, float], place: CellRow, row: CostRow) -> tuple[Entry, ...]:
    """Return the entries of a cost row, with the paper's minutes."""
    seconds = (
        Value(row.minutes, published=paper.get(place.key)),
        Value(row.seconds_per_edit),
        Value(row.prepare_s),
        Value(row.ask_s),
    )
    reason = missing(place.outcome, "ability")
    further = [Value(row.ability_s, why=reason), Value(row.peak_bytes), Value(row.patch_bytes)]
    lacking = "not applicable: unedited" if place.outcome.cell.method == UNEDITED else "not measured"
    overheads = [
        Value(row.overhead_1, row.overhead_1_low, row.overhead_1_high, why=lacking),
        Value(row.overhead_32, row.overhead_32_low, row.overhead_32_high, why=lacking),
    ]
    return (*seconds, *further, *overheads, device_of(place.outcome))
