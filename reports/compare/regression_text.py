"""A regression as text for the terminal and as JSON.

The text has what `lks compare` prints, the further checks, and one sentence.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.compare.model import SettingChange, label
from reports.compare.regression import QuantityCheck, Regression, parameters, said
from reports.compare.text import text as comparison_text

NAMED = 3
"""Maximum number of differing cells, and of reasons for each, that the sentence names."""


def sentence(regression: Regression) -> str:
    """Return one sentence on whether all is fine, and one on the parameters that differ, if any."""
    changes = [change for match in regression.comparison.matches for change in parameters(match)]
    cells = sum(bool(parameters(match)) for match in regression.comparison.matches)
    more = f" Parameters differ in {_cells(cells)}: {_changes(changes)}." if cells else ""
    return (_fine(regression) if regression.fine else _different(regression)) + more


def _fine(regression: Regression) -> str:
    """Return the sentence for a run without differences beyond the tolerance."""
    matches = regression.comparison.matches
    other = len(matches) - regression.identical
    if other:
        changed, asked = (
            sum(match.items.changed for match in matches),
            sum(match.items.shared for match in matches),
        )
        start = (
            f"Fine: {changed:,} of {asked:,} raw answers differ from the golden results, in "
            f"{_cells(other)} of {len(matches)}"
        )
        return f"{start}; no difference goes beyond the tolerance."
    moved = sum(check.value != 0 for checks in regression.checks for check in checks)
    also = f"; {moved} perplexities or abilities differ, none beyond the tolerance" if moved else ""
    return f"Fine: all raw answers of {_cells(len(matches))} are those of the golden results{also}."


def _different(regression: Regression) -> str:
    """Return the sentence for a run that is different."""
    comparison, faults = regression.comparison, regression.faults
    number = len(comparison.matches) + len(comparison.only_a) + len(comparison.only_b)
    named = _some([f"{cell}: {_some(why, ', ')}" for cell, why in faults.items()], "; ")
    return f"Different from the golden results: {_cells(len(faults))} of {number} ({named})."


def _cells(count: int) -> str:
    """Return "1 cell", "2 cells"."""
    return f"{count} cell{'s' * (count != 1)}"


def _some(parts: Sequence[str], between: str) -> str:
    """Join the first `NAMED` parts and say how many more there are."""
    return between.join(parts[:NAMED]) + (
        f"{between}and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    )


def _changes(changes: Iterable[SettingChange]) -> str:
    """Return the distinct changes of settings as text."""
    return _some(
        [f"{change.what} {change.a or '–'} → {change.b or '–'}" for change in dict.fromkeys(changes)], ", "
    )


def text(regression: Regression, everything: bool = False) -> Group:
    """Return the text for the terminal.

    It has what `lks compare` prints, the further checks whose value is not 0, the reasons for differences,
    and the sentence.

    Args:
        regression: the regression to show.
        everything: also show what did not change.
    """
    parts: list[RenderableType] = [comparison_text(regression.comparison, everything)]
    cells = [match.a.cell for match in regression.comparison.matches]
    rows = [
        (label(match.a.cell, cells), check)
        for match, checks in zip(regression.comparison.matches, regression.checks, strict=True)
        for check in checks
        if everything or check.value
    ]
    parts += ["", _table(rows)] if rows else []
    parts += [""] if regression.faults else []
    parts += [
        Text(f"different  {cell}: {'; '.join(why)}", "bold red") for cell, why in regression.faults.items()
    ]
    return Group(*parts, "", Text(sentence(regression), "bold green" if regression.fine else "bold red"))


def _table(rows: Sequence[tuple[str, QuantityCheck]]) -> Table:
    """Return the table of the further checks."""
    table = Table(
        "Tested besides the scores",
        "found (95 % interval, tolerance)",
        "",
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1),
    )
    last = ""
    for cell, check in rows:
        table.add_row(
            "" if cell == last else cell,
            said(check),
            Text("different", "bold red") if check.different else "",
        )
        last = cell
    return table


def to_json(regression: Regression) -> str:
    """Serialise the regression, preceded by whether it is fine, the sentence and the reasons."""
    summary = {"fine": regression.fine, "sentence": sentence(regression), "faults": regression.faults}
    return json.dumps(summary | asdict(regression), indent=1, ensure_ascii=False) + "\n"
