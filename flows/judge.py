"""Have an LLM judge the stored free answers of a results folder, cell by cell."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lks.judge import Item, Judge, Progress, unseen
from lks.judge_rows import Judgement

if TYPE_CHECKING:
    from lks.edits import Context, ProbeKind

JUDGED = ("edit", "paraphrase", "portability")
"""Kinds of probes with a known right answer; locality is what the unedited model said, whatever that was."""

_CELLS = """
SELECT cell_id, count(*) FROM answers JOIN current_cells USING (cell_id)
WHERE wild_text IS NOT NULL AND list_contains(?, kind) GROUP BY ALL ORDER BY cell_id
"""
_ANSWERS = """
SELECT draw, case_id, kind, probe_index, context, prompt, answer, accepted, said(wild_text) AS said FROM answers
WHERE cell_id = ? AND wild_text IS NOT NULL AND list_contains(?, kind) ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A row of `_ANSWERS`: a free answer and what it should be."""

    draw: int
    case_id: str
    kind: "ProbeKind"
    probe_index: int
    context: "Context"
    prompt: str
    answer: str
    accepted: list[str]
    said: str


def judge_results(
    results: Path, judge: Judge, progress: Progress = unseen, skip: Collection[str] = frozenset()
) -> Iterator[tuple[str, list[Judgement]]]:
    """Judge the free answers of the current cells; the answer judged is the one that the deterministic score looks at.

    Nothing is stored here, but the judge keeps its replies: what is asked again after a stop costs nothing.

    Args:
        results: the results folder.
        judge: who judges.
        progress: called with the fraction of answers done.
        skip: ids of cells to leave out, because they have been judged.

    Yields:
        The id of a cell and a row for each of its answers, as soon as the cell is done.

    Raises:
        UserError: the judge's server cannot be used.
        StoreError: the results folder or the judge's replies cannot be used.
    """
    from lks.store import Store

    store = Store(results)
    counts = {str(cell_id): int(str(number)) for cell_id, number in store.query(_CELLS, [list(JUDGED)]) if cell_id not in skip}
    total, done = sum(counts.values()), 0
    for cell_id, number in counts.items():
        answers = store.rows(_Answer, _ANSWERS, [cell_id, list(JUDGED)])
        items = [Item(given.prompt, given.answer, given.said, tuple(given.accepted)) for given in answers]
        rulings = judge.rule(items, partial(_part, progress, done / total, number / total))
        done += number
        yield (
            cell_id,
            [
                Judgement(judge.model, a.draw, a.case_id, a.kind, a.probe_index, a.context, ruling.verdict, ruling.reply)
                for a, ruling in zip(answers, rulings, strict=True)
            ],
        )


def _part(progress: Progress, start: float, share: float, fraction: float) -> None:
    """Show the progress of a part as that of the whole."""
    progress(start + share * fraction)
