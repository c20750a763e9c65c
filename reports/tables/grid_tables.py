"""Tables in the layout of the paper's Table 1: methods against T, one table per read-out.

The columns of each T are Rel, Gen, Loc, EP and seconds per edit.
"""

from dataclasses import dataclass
from itertools import groupby

from lks.results.cells import Outcome
from reports.published_values import TITLES
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Block, Results, seconds_per_edit, why
from reports.results import ResultRow as Line
from reports.tables.cell_rows import cached, device, places
from reports.tables.model import Column, Entry, Table, TableRow, Value
from reports.tables.number_formats import brief, preparation_or_none

CAPTION = (
    "Percent, ± half of the 95 % interval, clustered by subject. In bold the best method of a column and all "
    "that are not significantly worse (paired cluster bootstrap, Holm over the table: comparisons.csv); the "
    "unedited model takes no part. Seconds per edit are without preparation, which is done once."
)
PUBLISHED = " In brackets the value that the LKS paper prints and ours less that."
PAPER = "TF token"
"""The paper's read-out: its values are shown only under this one."""
WIDEST = 3
"""Number of T's side by side, as in the paper."""
MANY = 100
"""If there are more T's than `WIDEST`, those above this value go into a second table."""
END_OF_ANSWER = Column(
    "End of answer", note="whether targets were trained with the end-of-sequence token behind them"
)
"""Column of tables in which some method was."""
NONE_SUCH = {"generality": "paraphrases", "locality": "locality questions"}


@dataclass(frozen=True, slots=True)
class TablePart:
    """A model on a dataset, run here or only in the paper.

    Attributes:
        dataset, model: registry names.
        title: displayed title.
        block: the block that was run here; None if only the paper has it.
        published: (method, T) pairs that the paper has.
    """

    dataset: str
    model: str
    title: str
    block: Block | None
    published: tuple[tuple[str, int], ...]

    def n_edits(self, readout: str) -> frozenset[int]:
        """Return all T of its rows."""
        own = self.block.n_edits if self.block else ()
        return frozenset(own) | frozenset(n for _, n in self.published if READOUTS[readout] == PAPER)

    def lines(self, readout: str) -> list[Line]:
        """Return the rows that were run, followed by those that only the paper has."""
        own = self.block.rows if self.block else ()
        run = {line.method for line in own if not line.variant}
        further = (
            dict.fromkeys(method for method, _ in self.published if method not in run)
            if READOUTS[readout] == PAPER
            else {}
        )
        return [*own, *(Line(TITLES[method], method, "", False, {}) for method in further)]


def grid(results: Results, name: str, number: str, parts: list[TablePart]) -> list[Table]:
    """Return the tables of a grid: one per read-out and set of T's.

    Args:
        results: results of one split.
        name: stem of the tables' file names.
        number: title prefix: "Table 1" or a replacement for it.
        parts: the parts to show.
    """
    tables = []
    for readout in READOUTS:
        by_dataset = {
            d: frozenset().union(*(p.n_edits(readout) for p in ps)) for d, ps in _by_dataset(parts).items()
        }
        for n_edits in dict.fromkeys(by_dataset.values()):
            within = [part for part in parts if by_dataset[part.dataset] == n_edits]
            tables += [_table(results, (name, number), readout, within, chunk) for chunk in _chunks(n_edits)]
    return tables


def parts(
    results: Results, wanted: list[str] | None = None, unwanted: tuple[str, ...] = ()
) -> list[TablePart]:
    """Return the blocks of the results, and after those of a dataset the parts that only the paper has.

    Args:
        results: results of one split.
        wanted: datasets to include; None for all that were run.
        unwanted: datasets to leave out.
    """
    run = [
        block
        for block in results.blocks
        if block.dataset not in unwanted and (wanted is None or block.dataset in wanted)
    ]
    evaluated = not results.blocks or results.blocks[0].split == "evaluation"
    keys = [
        key
        for key in results.published
        if evaluated and key[0] not in unwanted and (wanted is None or key[0] in wanted)
    ]
    made = [
        TablePart(
            b.dataset, b.model, b.title, b, _published(results, b.dataset, b.model) if evaluated else ()
        )
        for b in run
    ]
    have = {(part.dataset, part.model) for part in made}
    for dataset, model in dict.fromkeys(key[:2] for key in keys):
        if (dataset, model) not in have:
            made.append(
                TablePart(
                    dataset,
                    model,
                    f"{model} on {dataset}, not run here",
                    None,
                    _published(results, dataset, model),
                )
            )
    compared = {part.dataset for part in made if part.block and part.published}
    anything = {part.dataset for part in made if part.block}
    return sorted(
        made, key=lambda part: (part.dataset not in compared, part.dataset not in anything, part.dataset)
    )


def _published(results: Results, dataset: str, model: str) -> tuple[tuple[str, int], ...]:
    """Return the (method, T) pairs that the paper has for a model on a dataset."""
    return tuple(dict.fromkeys((key[2], key[3]) for key in results.published if key[:2] == (dataset, model)))


def _by_dataset(parts: list[TablePart]) -> dict[str, list[TablePart]]:
    """Group consecutive parts by dataset."""
    return {dataset: list(some) for dataset, some in groupby(parts, lambda part: part.dataset)}


def _chunks(n_edits: frozenset[int]) -> list[list[int]]:
    """Split the T's into those that share a table."""
    halves = [sorted(n for n in n_edits if (n > MANY) == many) for many in (False, True)]
    return [sorted(n_edits)] if 0 < len(n_edits) <= WIDEST else [half for half in halves if half]


def _table(
    results: Results, names: tuple[str, str], readout: str, parts: list[TablePart], n_edits: list[int]
) -> Table:
    """Return the table of one read-out and one set of T's."""
    used = [part for part in parts if part.n_edits(readout) & set(n_edits)]
    groups = [
        column
        for n in n_edits
        for column in (
            *(Column(name, f"T={n:,}") for name in COLUMNS.values()),
            Column("s/edit", f"T={n:,}", brief),
        )
    ]
    lines = [(part, line) for part in used for line in part.lines(readout)]
    keys = [Column("Method"), Column("Regime")]
    if any("yes" in line.end_of_answer for _, line in lines):
        keys.append(END_OF_ANSWER)
    rows = tuple(
        TableRow((*_keys(line)[: len(keys)], *_entries(results, part, line, readout, n_edits)), part.title)
        for part, line in lines
    )
    datasets = ", ".join(dict.fromkeys(part.dataset for part in used))
    paper = PUBLISHED if any(part.published for part in used) and READOUTS[readout] == PAPER else ""
    titles = {part.title for part in used}
    here = [place for place in places(results) if place.part in titles]
    return Table(
        name=names[0],
        title=f"{names[1]}, {datasets}, T = {', '.join(f'{n:,}' for n in n_edits)} ({READOUTS[readout]})",
        columns=(*keys, *groups, Column("Prepare s", show=preparation_or_none)),
        rows=rows,
        caption=f"{READOUTS[readout]}: {READOUT_NOTES[readout]}. {CAPTION}{cached(here)}{paper}",
        keys=len(keys),
        readout=readout,
        device=device(here),
    )


def _keys(line: Line) -> tuple[str, str, str]:
    """Return all entries that can identify a row, in the order of their columns."""
    return line.name, line.regime or "–", line.end_of_answer


def _entries(
    results: Results, part: TablePart, line: Line, readout: str, n_edits: list[int]
) -> tuple[Entry, ...]:
    """Return the entries of a row after its keys."""
    entries: list[Entry] = []
    for n in n_edits:
        entries += _group(results, part, line, n, readout)
    ran = any(outcome.status == "ok" for outcome in line.cells.values())
    reasons = [why(outcome) for outcome in line.cells.values()]
    return (*entries, Value(line.prepare_s) if ran else Value(why=(reasons or ["not run"])[0].split(":")[0]))


def _group(results: Results, part: TablePart, line: Line, n: int, readout: str) -> list[Value]:
    """Return four metrics and seconds per edit; the full reason of a failure appears only once."""
    outcome = line.cells.get(n)
    values = [_value(results, part, line, n, (readout, metric)) for metric in COLUMNS]
    if outcome is not None and outcome.status == "ok":
        return [*values, Value(seconds_per_edit(outcome))]
    word = outcome.status if outcome else "not run"
    return [values[0], *(Value(published=value.published, why=word) for value in values[1:]), Value(why=word)]


def _value(results: Results, part: TablePart, line: Line, n: int, what: tuple[str, str]) -> Value:
    """Return the entry of a metric at one T, with the published value; `what` is (read-out, metric)."""
    readout, metric = what
    key = (part.dataset, part.model, line.method, n, metric)
    published = (
        results.published.get(key)
        if part.published and not line.variant and READOUTS[readout] == PAPER
        else None
    )
    outcome = line.cells.get(n)
    if outcome is None or outcome.status != "ok":
        return Value(published=published, why=why(outcome))
    score = results.score(outcome, readout, metric)
    if score is None or score.value is None:
        return Value(published=published, why=absent(results, outcome, readout, metric))
    leads = (outcome.cell.id, readout, metric) in results.leaders
    return Value(score.value, score.low, score.high, published, leads)


def absent(results: Results, outcome: Outcome, readout: str, metric: str) -> str:
    """Return why a cell that has run has no value of a metric."""
    if results.score(outcome, readout, "reliability") is None:
        return "not asked"
    if metric == "edit_performance":
        return "not applicable: needs all three"
    if results.score(outcome, readout, metric) is not None:
        return "not applicable: unedited model not run"
    return f"not applicable: no {NONE_SUCH.get(metric, 'such questions')}"
