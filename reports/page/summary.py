"""A summary of a grid's findings, in a few sentences made from its numbers."""

from collections import Counter

from lks.results.cells import UNEDITED, Outcome
from reports.results import Block, Results, name_of

MANY = 8
"""If there are more methods than this, they are counted, not named."""

FEW = 3
"""If there are more pairs of model and dataset than this, they are counted, not named."""


def sentences(results: Results) -> list[str]:
    """Return the summary of the results.

    It says what was run, which method was best at the largest T, how much remains when the model writes the
    answer itself, and what the model knew before.
    """
    if not results.outcomes:
        others = {"the edit scope": results.scope, "studies": results.study_cells}
        seen = _list([name for name, found in others.items() if found])
        return [
            f"No model has been asked yet; see below for {seen}." if seen else "Nothing has been run yet."
        ]
    leaders = [(block, best) for block in results.blocks if (best := _best(results, block)) is not None]
    return [
        _ran(results),
        *([_led(results, leaders), _generated(results, leaders)] if leaders else []),
        *_knew(results),
    ]


def _ran(results: Results) -> str:
    """Say what was run and how many cells have a result."""
    total, ok = len(results.outcomes), sum(outcome.status == "ok" for outcome in results.outcomes)
    named = sorted({name_of(o) for o in results.outcomes if not o.cell.variant and o.cell.method != UNEDITED})
    methods = (_list(named) if len(named) <= MANY else f"{len(named)} methods") or "No method"
    counts = sorted({outcome.cell.n_edits for outcome in results.outcomes})
    edits = (
        f"{counts[0]:,} to {counts[-1]:,} edits"
        if len(counts) > 1
        else f"{counts[0]:,} edit{'s' * (counts[0] > 1)}"
    )
    titles = [block.title for block in results.blocks]
    places = _list(titles) if len(titles) <= FEW else f"{len(titles)} pairs of model and dataset"
    failed = Counter(outcome.status for outcome in results.outcomes if outcome.status != "ok")
    tail = (
        f" (without: {_list([f'{n} × {status}' for status, n in sorted(failed.items())])})" if failed else ""
    )
    share = (
        f"{ok} of {total} cells have"
        if failed
        else f"all {total} cells have"
        if total > 1
        else "the one cell has"
    )
    return f"{methods} made {edits} at a time on {places}; {share} a result{tail}."


def _led(results: Results, leaders: list[tuple[Block, Outcome]]) -> str:
    """Say which methods have the highest edit performance at the largest T."""
    said = "Counted as in the paper, by teacher-forced tokens,"
    if len(leaders) <= FEW:
        parts = [
            (
                f"{name_of(best)} ({block.title}, T = {best.cell.n_edits:,}: "
                f"{_figure(results, best)}{_ties(results, block, best)})"
            )
            for block, best in leaders
        ]
        return f"{said} the highest edit performance at the largest T is that of {_list(parts)}."
    wins = Counter(name_of(best) for _, best in leaders)
    parts = [f"{name} on {n}" for name, n in sorted(wins.items(), key=lambda item: (-item[1], item[0]))]
    values = [_value(results, best, "tf_token", "edit_performance") for _, best in leaders]
    return (
        f"{said} the highest edit performance at the largest T, {_range(values)}, is that of "
        f"{_list(parts)} of {len(leaders)} pairs."
    )


def _figure(results: Results, outcome: Outcome) -> str:
    """Return edit performance with half of its interval."""
    score = results.score(outcome, "tf_token", "edit_performance")
    width = f" ± {score.half_width:.1f}" if score and score.half_width is not None else ""
    return f"{_value(results, outcome, 'tf_token', 'edit_performance'):.1f}{width}"


def _ties(results: Results, block: Block, best: Outcome) -> str:
    """Say which other methods are not significantly worse."""
    cells = [row.cells[best.cell.n_edits] for row in block.rows if best.cell.n_edits in row.cells]
    names = [
        name_of(cell)
        for cell in cells
        if cell is not best and (cell.cell.id, "tf_token", "edit_performance") in results.leaders
    ]
    if not names:
        return ""
    return (
        f"; {_list(names) if len(names) <= FEW else f'{len(names)} others'} "
        f"{'is' if len(names) == 1 else 'are'} not significantly worse"
    )


def _generated(results: Results, leaders: list[tuple[Block, Outcome]]) -> str:
    """Say how the best methods score when the model generates the answers."""
    cells = [best for _, best in leaders]
    edited = (
        "these edited models write the answers themselves"
        if len(cells) > 1
        else "that edited model writes the answer itself"
    )
    rel, gen, loc = (
        [_value(results, cell, "ar_exact", metric) for cell in cells]
        for metric in ("reliability", "generality", "locality")
    )
    gap = max(
        _value(results, cell, "tf_token", "reliability") - value
        for cell, value in zip(cells, rel, strict=True)
    )
    verdict = (
        f"teacher forcing flatters reliability by up to {gap:.1f} points"
        if gap >= 0.5
        else "teacher forcing does not flatter reliability here"
    )
    right = f"{_range(rel)} of the edits and {_range(gen)} of their paraphrases come out wholly right"
    kept = f"{_range(loc)} of the other questions about the same subjects keep their answer"
    return f"When {edited}, {right}, and {kept}; {verdict}."


def _knew(results: Results) -> list[str]:
    """Say how many old answers the unedited model gives at the largest T; empty if no edit has one."""
    rows = {
        (row.model, row.dataset, row.records, row.n_edits): row
        for row in results.overview
        if row.method == UNEDITED and row.old_answers
    }
    found: list[tuple[Block, int, int, int]] = []
    for block in results.blocks:
        at = [n for n in block.n_edits if (block.model, block.dataset, block.records, n) in rows]
        if at:
            row = rows[block.model, block.dataset, block.records, at[-1]]
            found.append((block, at[-1], row.old_answers_known or 0, row.old_answers or 0))
    if not found:
        return []
    if len(found) > FEW:
        shares = _range([100 * known / of for _, _, known, of in found])
        return [
            (
                f"Before editing, the models give {shares} of the old answers of the edits, on "
                f"{len(found)} pairs of model and dataset."
            )
        ]
    parts = [f"{known:,} of {of:,} ({block.title}, T = {n_edits:,})" for block, n_edits, known, of in found]
    return [f"Of the old answers of the edits the unedited model gives {_list(parts)}."]


def _range(values: list[float]) -> str:
    """Return the range of some percentages: "97 %", "12 to 97 %"."""
    low, high = (f"{value:.0f}" for value in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _best(results: Results, block: Block) -> Outcome | None:
    """Return the method with the highest edit performance at the largest T that has one; skip ablations."""
    for n_edits in reversed(block.n_edits):
        cells = [
            row.cells[n_edits]
            for row in block.rows
            if n_edits in row.cells and not row.variant and row.method != UNEDITED
        ]
        scored = [cell for cell in cells if results.score(cell, "tf_token", "edit_performance")]
        if scored:
            return max(scored, key=lambda cell: _value(results, cell, "tf_token", "edit_performance"))
    return None


def _value(results: Results, outcome: Outcome, readout: str, metric: str) -> float:
    """Return a metric of a cell, or 0 if it has none."""
    score = results.score(outcome, readout, metric)
    return score.value if score is not None and score.value is not None else 0.0


def _list(parts: list[str]) -> str:
    """Join parts as in a sentence: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
