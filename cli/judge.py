"""Implementation of `lks judge`: an LLM judges the stored free answers of a results folder, cell by cell."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from flows.running.planning import existing, only_writer
from lks.errors import UserError
from lks.llm.judge import Judge, JudgeItem
from lks.llm.judge_calibration import CALIBRATION, Calibration, calibrate, labelled_items
from lks.progress import Progress, no_progress
from lks.results.cells import JUDGED, Cell, Outcome
from lks.results.judge_rows import Judgement, file_name
from lks.results.shards import read_outcome, write_stage

if TYPE_CHECKING:
    from lks.edits import Context, ProbeKind
    from lks.results.store import Store

KINDS = ("edit", "paraphrase", "portability")
"""Kinds of probes with a known right answer; for locality it is whatever the unedited model said."""

_TO_JUDGE = "wild_text IS NOT NULL AND context <> 'given' AND list_contains(?, kind)"
_CELLS = (
    "SELECT cell_id, count(*) FROM answers JOIN current_cells USING (cell_id) "
    f"WHERE {_TO_JUDGE} GROUP BY ALL ORDER BY cell_id"
)
_JUDGED = f"""
SELECT cell_id FROM (SELECT cell_id, count(*) AS answers FROM answers WHERE {_TO_JUDGE} GROUP BY ALL)
JOIN (SELECT cell_id, count(*) AS judgements FROM judgements WHERE judge = ? GROUP BY ALL) USING (cell_id)
WHERE judgements = answers
"""
_ANSWERS = f"""
SELECT draw, case_id, kind, probe_index, context, prompt, answer, accepted, said(wild_text) AS said \
FROM answers
WHERE {_TO_JUDGE} AND cell_id = ? ORDER BY ALL
"""
_SCORES = """
SELECT cell_id, context, any_value(judged) FILTER (metric = 'reliability') AS reliability, \
any_value(wild) FILTER (metric = 'reliability')
    AS wild_reliability, any_value(judged) FILTER (metric = 'generality') AS generality, \
any_value(wild) FILTER (metric = 'generality')
    AS wild_generality, sum(n_items)::INTEGER AS answers, sum(n_items - n_judged)::INTEGER AS neither
FROM judged JOIN current_cells USING (cell_id) WHERE judge = ? GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A row of `_ANSWERS`: a free answer and the expected one."""

    draw: int
    case_id: str
    kind: "ProbeKind"
    probe_index: int
    context: "Context"
    prompt: str
    answer: str
    accepted: list[str]
    said: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a cell's answers in one context, by a judge and by the deterministic score.

    Attributes:
        cell_id, context: cell and context of the answers.
        reliability, generality: share of the judged answers that the judge considers right; None if it judged
            none.
        wild_reliability, wild_generality: share of all of them that the deterministic score considers right.
        answers: number of judged answers, portability included.
        neither: number of replies that contained neither verdict.
    """

    cell_id: str
    context: str
    reliability: float | None
    wild_reliability: float | None
    generality: float | None
    wild_generality: float | None
    answers: int
    neither: int


def judge_results(
    results: Path, judge: Judge, progress: Progress = no_progress, skip: Collection[str] = frozenset()
) -> Iterator[tuple[str, list[Judgement]]]:
    """Judge the free answers of the current cells; the text judged is the one that the deterministic score
    reads.

    Nothing is stored here, but the judge caches its replies, so repeating requests after a stop costs
    nothing. Answers with the edited fact in front ("given") are skipped: nothing was edited in them.

    Args:
        results: the results folder.
        judge: the judge.
        progress: called with the fraction of answers done.
        skip: ids of cells to skip because they have been judged.

    Yields:
        The id of a cell and a row for each of its answers, as soon as the cell is done.

    Raises:
        UserError: the judge's server cannot be used.
        StoreError: the results folder or the judge's replies cannot be used.
    """
    from lks.results.store import Store

    store = Store(results)
    counts = {
        str(cell_id): int(str(number))
        for cell_id, number in store.query(_CELLS, [list(KINDS)])
        if cell_id not in skip
    }
    total, done = sum(counts.values()), 0
    for cell_id, number in counts.items():
        answers = store.rows(_Answer, _ANSWERS, [list(KINDS), cell_id])
        items = [
            JudgeItem(given.prompt, given.answer, given.said, tuple(given.accepted)) for given in answers
        ]
        rulings = judge.rule(items, partial(_part, progress, done / total, number / total))
        done += number
        yield (
            cell_id,
            [
                Judgement(
                    judge.model,
                    a.draw,
                    a.case_id,
                    a.kind,
                    a.probe_index,
                    a.context,
                    ruling.verdict,
                    ruling.reply,
                )
                for a, ruling in zip(answers, rulings, strict=True)
            ],
        )


def _part(progress: Progress, start: float, share: float, fraction: float) -> None:
    """Report the progress of a part as that of the whole."""
    progress(start + share * fraction)


def judged_by(store: "Store", model: str) -> set[str]:
    """Return the ids of cells of which this judge has judged every answer.

    A cell that was asked in a further context since then is not among them.
    """
    return {str(cell_id) for (cell_id,) in store.query(_JUDGED, [list(KINDS), model])}


def keep(store: "Store", cell_id: str, model: str, made: Sequence[Judgement]) -> Outcome:
    """Store a judge's verdicts as a stage of their cell, replacing its earlier ones and keeping those of
    other judges.

    Raises:
        DataError: the cell's outcome or one of its shards is damaged.
        StoreError: the results folder cannot be written.
    """
    outcome = read_outcome(store.results, cell_id)
    shard = write_stage(store.results, cell_id, f"{JUDGED}-{file_name(model)}", made)
    outcome = replace(outcome, shards=(*(other for other in outcome.shards if other != shard), shard))
    store.record(outcome)
    return outcome


def calibration_of(console: Console, judge: Judge, file: Path | None = None) -> Calibration:
    """Ask the judge about labelled answers and print how far it agrees with the human labels.

    Raises:
            DataError: the file of labelled answers is malformed.
        UserError: the judge's server cannot be used.
    """
    items = labelled_items(file or CALIBRATION)
    with _bar(console) as bar:
        task = bar.add_task("calibration", total=1)
        found = calibrate(judge, items, lambda done: bar.update(task, completed=done))
    said = found.confusion
    console.print(
        f"Calibration of {judge.model} on {found.n} labelled answers: "
        f"agreement {found.agreement:.1%}, kappa {found.kappa:.2f} "
        f"(both correct {said.both_correct}, both incorrect {said.both_incorrect}, "
        f"only the judge says correct {said.lenient}, "
        f"only humans say correct {said.strict}, judge says neither {said.neither})",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return found


def judge_folder(console: Console, results: Path, judge: Judge, calibration: Path | None = None) -> None:
    """Calibrate the judge, judge what it has not judged yet, and print its scores next to the deterministic
    ones.

    Each cell is stored as soon as it is judged, so a stopped run loses only the current cell, and no reply of
    it.

    Raises:
        UserError: there are no results, or the judge's server cannot be used.
        StoreError: the results folder cannot be used, or a grid run holds it.
    """
    store = existing(results)
    if store is None:
        raise UserError(f"No results in {results}. Run lks grid first, or give the folder with --results.")
    with only_writer(results):
        for warning in store.sync():
            console.print(f"[yellow]damaged:[/] {warning}", highlight=False, soft_wrap=True)
        calibration_of(console, judge, calibration)
        before = judged_by(store, judge.model)
        now = _judge_cells(console, store, judge, before)
    console.print(
        f"{now} cells judged, {len(before)} had been judged before; {judge.asked} requests sent.",
        highlight=False,
    )
    console.print(
        _table({outcome.cell.id: outcome.cell for outcome in store.outcomes()}, scores(store, judge.model))
    )


def _judge_cells(console: Console, store: "Store", judge: Judge, skip: Collection[str]) -> int:
    """Judge and store cell by cell and return their number; show a bar on a terminal and a line per cell
    elsewhere.
    """
    total = sum(str(cell_id) not in skip for cell_id, _ in store.query(_CELLS, [list(KINDS)]))
    number = 0
    with _bar(console) as bar:
        task = bar.add_task(f"cells 0/{total}", total=1)
        for number, (cell_id, made) in enumerate(
            judge_results(store.results, judge, lambda done: bar.update(task, completed=done), skip), 1
        ):
            outcome = keep(store, cell_id, judge.model, made)
            bar.update(task, description=f"cells {number}/{total}")
            if not console.is_terminal:
                neither = sum(row.verdict is None for row in made)
                console.print(
                    f"[{number}/{total}] {outcome.cell.label}: {len(made)} answers, {neither} neither",
                    markup=False,
                    soft_wrap=True,
                )
    return number


def scores(store: "Store", model: str) -> list[Scores]:
    """Return a judge's scores of the current cells next to the deterministic ones, by cell and context."""
    return store.rows(Scores, _SCORES, [model])


def _table(cells: dict[str, Cell], found: Sequence[Scores]) -> Table:
    """Return a table of the judge's and the deterministic scores, in percent."""
    table = Table(box=None, header_style="bold")
    for heading in (
        "cell",
        "seed",
        "context",
        "reliability judged",
        "wild",
        "generality judged",
        "wild",
        "answers",
        "neither",
    ):
        table.add_column(heading, justify="left" if heading in ("cell", "context") else "right")
    for row in found:
        shares = (row.reliability, row.wild_reliability, row.generality, row.wild_generality)
        percent = ["" if share is None else f"{100 * share:.1f}" for share in shares]
        table.add_row(
            cells[row.cell_id].label,
            str(cells[row.cell_id].seed),
            row.context,
            *percent,
            str(row.answers),
            str(row.neither),
        )
    return table


def _bar(console: Console) -> Bar:
    """Return a progress bar that is only visible on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TimeRemainingColumn())
    return Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
