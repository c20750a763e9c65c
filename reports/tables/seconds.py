"""The table of how a cell's seconds are spent: preparing, editing, asking, and each further stage."""

from lks.results.cells import (
    ABILITY,
    ANSWERS,
    ASK,
    DECISIONS,
    EDIT,
    GENERATIONS,
    OVERHEAD,
    PASSAGES,
    PREPARE,
    Costs,
)
from reports.results import Results
from reports.tables.cell_rows import cached, device, missing, places
from reports.tables.model import Column, Table, TableRow, Value
from reports.tables.number_formats import hundredths

PARTS = {
    PREPARE: ("Prepare", "preparing the method: counted in each cell that shares the preparation"),
    EDIT: ("Edit", "all edits of all draws"),
    ASK: ("Ask", "all read-outs of the bare prompts of all draws"),
    PASSAGES: ("Plain text", "how likely plain texts are"),
    ANSWERS: ("Ask", "the read-outs in a further context"),
    GENERATIONS: ("Free texts", "texts for fluency"),
    DECISIONS: ("Gates", "which prompts the edits act on"),
    ABILITY: ("Abilities", "tests of general abilities"),
    OVERHEAD: ("Overhead", "prefills without and with the edits"),
}
"""Parts of a cell's time in the order of the columns, by the first word of their names: heading and
explanation."""


def seconds(results: Results) -> list[Table]:
    """Return the seconds of each cell part by part, and what share of the whole each part takes."""
    here = places(results)
    parts = ordered({part for place in here for part in place.outcome.costs.parts})
    rows = []
    for place in here:
        costs, found = place.outcome.costs, shares(place.outcome.costs)
        if place.outcome.status != "ok":
            values = [
                Value(why=missing(place.outcome)),
                *[Value(why=place.outcome.status)] * (2 * len(parts)),
            ]
        else:
            pairs = [
                (
                    Value(costs.parts.get(part), why=missing(place.outcome, part)),
                    Value(found.get(part), why=_no_share(costs, part)),
                )
                for part in parts
            ]
            values = [Value(costs.seconds), *(value for pair in pairs for value in pair)]
        rows.append(TableRow((place.n_edits, place.name, *values), place.part))
    columns = [Column("T"), Column("Method"), Column("s", "All", hundredths)]
    for part in parts:
        columns += [
            Column("s", heading(part), hundredths, note(part)),
            Column("%", heading(part), note=note(part)),
        ]
    caption = (
        "Seconds, and percent of all seconds of the cell. Measured once, so without interval; loading models "
        "and data is not counted. Preparation that cells share is done once and counted in each of them. "
        f"Ask: all read-outs of all draws.{cached(here)}"
    )
    return [
        Table(
            "seconds",
            "Where a cell's seconds go",
            tuple(columns),
            tuple(rows),
            caption,
            2,
            device=device(here),
        )
    ]


def shares(costs: Costs) -> dict[str, float]:
    """Return the percentage of a cell's seconds that each part takes; empty if no time was recorded."""
    return {part: 100 * spent / costs.seconds for part, spent in costs.parts.items()} if costs.seconds else {}


def ordered(parts: set[str]) -> list[str]:
    """Return the parts of some cells in the order of columns, unknown kinds last."""
    kinds = list(PARTS)
    return sorted(
        parts, key=lambda part: (kinds.index(_kind(part)) if _kind(part) in PARTS else len(kinds), part)
    )


def heading(part: str) -> str:
    """Return the column heading of a part: "Prepare", "Ask (qa)", "Abilities (made)"."""
    kind, detail = _kind(part), part.partition("-")[2]
    title = PARTS[kind][0] if kind in PARTS else kind.replace("_", " ").capitalize()
    return f"{title} ({detail})" if detail else title


def note(part: str) -> str:
    """Return the explanation of a part, such as "answers-qa: the read-outs in a further context"."""
    return f"{part}: {PARTS[_kind(part)][1]}" if _kind(part) in PARTS else part


def _kind(part: str) -> str:
    """Return the first word of a part's name."""
    return part.partition("-")[0]


def _no_share(costs: Costs, part: str) -> str:
    """Return why a part has no share of the seconds."""
    return "not measured" if part not in costs.parts else "not applicable: no time was noted"
