"""The leaderboard: one entry for each evaluation or development cell, as the page's script receives it."""

from dataclasses import dataclass
from typing import NamedTuple

from lks.results.cells import UNEDITED, Outcome
from reports.results import COLUMNS, READOUTS, Block, ResultRow, Results, seconds_per_edit, why
from reports.tables.overview import Overview

METRICS = (*COLUMNS, "harmonic_mean", "same_relation", "near_name", "far", "portability")
"""Metrics that a cell's panel shows; the leaderboard has the first four."""


class LeaderboardScore(NamedTuple):
    """A score in percent.

    The fields are its value, the ends of its interval, the published value, whether no method is
    significantly better, and the number of items and subjects.
    """

    value: float | None
    low: float | None
    high: float | None
    published: float | None
    leads: bool
    n_items: int
    n_subjects: int | None


@dataclass(frozen=True, slots=True)
class LeaderboardCost:
    """Seconds and bytes of a cell; `paper_minutes` is the paper's time for all edits."""

    per_edit_s: float
    prepare_s: float
    edit_s: float
    ask_s: float
    peak_bytes: int
    patch_bytes: int
    paper_minutes: float | None


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """A row of the leaderboard: one cell.

    Attributes:
        cell: id of the cell.
        group: title of its model and dataset.
        model, dataset, method, regime, split, n_edits, seed, draws: coordinates; `dataset` includes the
            sample limit, `method` the overrides.
        unedited: whether it makes no edits.
        main: whether its T is the one that most cells of its group have; the largest if there are several.
        status, why: its status, and why it has no numbers.
        scores: read-out -> metric -> score.
        spent: costs; None if it failed.
        fires_outside, ability_kept: percent; None where not measured.
        failed: further stage -> how it failed.
        parameters: resolved parameters, as JSON.
        provenance: device, versions, time.
    """

    cell: str
    group: str
    model: str
    dataset: str
    method: str
    regime: str
    split: str
    n_edits: int
    seed: int
    draws: int
    unedited: bool
    main: bool
    status: str
    why: str
    scores: dict[str, dict[str, LeaderboardScore]]
    spent: LeaderboardCost | None
    fires_outside: float | None
    ability_kept: float | None
    failed: dict[str, str]
    parameters: str
    provenance: dict[str, str]


def entries(results: Results) -> list[LeaderboardRow]:
    """Return all cells with answers, in the order of the tables."""
    beyond = {row.cell_id: row for row in results.overview}
    return [
        _entry(results, block, row, row.cells[n_edits], beyond.get(row.cells[n_edits].cell.id))
        for block in results.blocks
        for row in block.rows
        for n_edits in sorted(row.cells)
    ]


def _entry(
    results: Results, block: Block, row: ResultRow, outcome: Outcome, beyond: Overview | None
) -> LeaderboardRow:
    """Return the row of one cell."""
    cell = outcome.cell
    return LeaderboardRow(
        cell=cell.id,
        group=block.title,
        model=cell.model,
        dataset=cell.dataset + (f" (first {cell.records:,})" if cell.records else ""),
        method=row.name,
        regime=row.regime,
        split=cell.split,
        n_edits=cell.n_edits,
        seed=cell.seed,
        draws=cell.draws,
        unedited=cell.method == UNEDITED,
        main=cell.n_edits == _main(block),
        status=outcome.status,
        why=why(outcome, 1000),
        scores=_scores(results, block, row, outcome),
        spent=_spent(results, outcome) if outcome.status == "ok" else None,
        fires_outside=beyond.fires_outside if beyond else None,
        ability_kept=beyond.ability_kept if beyond else None,
        failed=outcome.failed,
        parameters=cell.parameters,
        provenance={
            key: value for key, value in sorted(outcome.provenance.items()) if key not in ("title", "regime")
        },
    )


def _main(block: Block) -> int:
    """Return the T at which most cells can be compared."""
    return max(block.n_edits, key=lambda n: (sum(n in row.cells for row in block.rows), n))


def _scores(
    results: Results, block: Block, row: ResultRow, outcome: Outcome
) -> dict[str, dict[str, LeaderboardScore]]:
    """Return the scores of a cell: read-out -> metric -> score."""
    marks: dict[str, dict[str, LeaderboardScore]] = {}
    for readout in READOUTS:
        for metric in METRICS:
            score = results.score(outcome, readout, metric)
            if score is None:
                continue
            published = (
                results.published_for(block, row, outcome.cell.n_edits, metric)
                if readout == next(iter(READOUTS))
                else None
            )
            leads = (score.cell_id, readout, metric) in results.leaders
            mark = LeaderboardScore(
                score.value, score.low, score.high, published, leads, score.n_items, score.n_subjects
            )
            marks.setdefault(readout, {})[metric] = mark
    return marks


def _spent(results: Results, outcome: Outcome) -> LeaderboardCost:
    """Return the costs of a cell."""
    cell, costs = outcome.cell, outcome.costs
    plain = not cell.variant and cell.split == "evaluation"
    minutes = results.minutes.get((cell.dataset, cell.model, cell.method, cell.n_edits)) if plain else None
    return LeaderboardCost(
        per_edit_s=round(seconds_per_edit(outcome), 6),
        prepare_s=round(costs.prepare_s, 6),
        edit_s=round(costs.edit_s, 6),
        ask_s=round(costs.ask_s, 6),
        peak_bytes=costs.peak_bytes,
        patch_bytes=costs.patch_bytes,
        paper_minutes=minutes,
    )
