"""A comparison as text for the terminal.

It has one sentence, what changed cell by cell, examples, and the differences other than the answers.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reports.compare.model import (
    Beside,
    ChangedAnswer,
    ComparisonReport,
    Held,
    Match,
    ScoreDifference,
    Unscored,
    label,
)
from reports.results import COLUMNS, READOUTS

READOUT_NAMES = READOUTS | {
    "wild_qa": "WILD, QA",
    "wild_chat": "WILD, chat",
    "likelihood": "likelier",
    "fires": "fires",
}
METRIC_NAMES = COLUMNS | {
    "portability": "Port",
    "portability_all": "Port, all",
    "same_relation": "same relation",
    "near_name": "near name",
}
BESIDE_NAMES = {
    "perplexity": "perplexity",
    "fluency_edit": "fluency, edit prompts",
    "fluency_plain": "fluency, plain",
    "ability": "ability %",
    "fires_in_scope": "fires in scope %",
    "fires_outside": "fires outside %",
    "seconds_per_edit": "seconds per edit",
    "prepare_s": "seconds of preparation",
    "peak_bytes": "peak memory MB",
}
STYLES = {
    "identical": "green",
    "no difference found": "green",
    "different": "bold red",
    "cannot be compared": "yellow",
}
FIRST = ("different", "cannot be compared", "no difference found", "identical")
"""Order in which matches are shown."""
LISTED = 8
"""Maximum number of cells of one side only that are listed without --all."""


def text(report: ComparisonReport, everything: bool = False) -> Group:
    """Return the whole comparison as text for the terminal.

    Args:
        report: the comparison to show.
        everything: also show what did not change.
    """
    parts: list[RenderableType] = [
        _line("A", report.a),
        _line("B", report.b),
        Text(sentence(report), style="bold"),
    ]
    parts += [Text(f"damaged, left out: {warning}", style="yellow") for warning in report.warnings]
    parts += _alone("A", report.only_a, everything) + _alone("B", report.only_b, everything)
    cells = [match.a.cell for match in report.matches]
    for match in sorted(report.matches, key=lambda match: FIRST.index(match.verdict)):
        if everything or match.verdict != "identical":
            parts += ["", _heading(match, label(match.a.cell, cells)), *_body(match, everything)]
    if report.tests:
        note = (
            f"Percent and points. An interval is of its row alone; p is adjusted for all {report.tests:,} "
            "scores that changed (Holm)."
        )
        parts += ["", Text(note, style="dim")]
    parts += _provenance(report) + _ratios(report)
    return Group(*parts)


def sentence(report: ComparisonReport) -> str:
    """Return the summary, such as "18 cells in both: 16 identical, 2 different (lks | micro-llama | ...)".

    A number of the different cells are named.
    """
    cells = [match.a.cell for match in report.matches]
    counts = []
    for verdict, number in report.counts.items():
        if number:
            names = [
                label(match.a.cell, cells)
                for match in report.matches
                if match.verdict == verdict == "different"
            ]
            shown = "; ".join(names[:3]) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")
            counts.append(f"{number} {verdict}" + (f" ({shown})" if names else ""))
    said = f"{_number(len(cells), 'cell')} in both: {', '.join(counts)}."
    alone = [
        f"{len(side)} only in {name}" for name, side in (("A", report.only_a), ("B", report.only_b)) if side
    ]
    said += f" {', '.join(alone)}." if alone else ""
    if report.tolerance:
        said += f" Differences within {report.tolerance:g} points count as the same"
        said += (
            f"; {report.uncertain} changed scores are too uncertain to be called that."
            if report.uncertain
            else "."
        )
    return said


def _number(count: int, noun: str) -> str:
    """Return a count with its noun: "1 cell", "2 cells"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _line(name: str, path: str) -> Text:
    """Return the line that names the path of a side."""
    return Text.assemble((f"{name}  ", "dim"), path)


def _alone(name: str, cells: Sequence[Held], everything: bool) -> list[RenderableType]:
    """Return the lines for cells that only one side has."""
    shown = cells if everything else cells[:LISTED]
    lines = [
        Text(f"only in {name}: {label(held.cell)}" + ("" if held.status == "ok" else f" ({held.status})"))
        for held in shown
    ]
    more = len(cells) - len(shown)
    return [*lines, *([Text(f"only in {name}: and {more} more (--all lists them)")] if more else [])]


def _heading(match: Match, name: str) -> Text:
    """Return the heading of a match: its verdict and its label."""
    made = Text.assemble((match.verdict, STYLES[match.verdict]), "  ", (name, "bold"))
    return made.append(
        "" if match.a.cell_id == match.b.cell_id else f"  ({match.a.cell_id} → {match.b.cell_id})", "dim"
    )


def _body(match: Match, everything: bool) -> list[RenderableType]:
    """Return what is shown under a match's heading."""
    if match.why:
        return [_indented(Text(match.why))]
    rows = [one for one in match.differences if everything or one.state != "unchanged"]
    moved = [
        f"{BESIDE_NAMES.get(one.name, one.name)} {_beside(one)}"
        for one in match.beside
        if everything or "→" in _beside(one)
    ]
    parts: list[RenderableType] = [
        Text(_questions(match)),
        *([_table(rows)] if rows else []),
        *map(_lost, match.unscored),
    ]
    parts += [Text(f"not tested: {'; '.join(moved)}", style="dim")] if moved else []
    return [_indented(part) for part in (*parts, *map(_example, match.examples))]


def _lost(one: Unscored) -> Text:
    """Return the line on items that could not be scored."""
    where = " and ".join(f"{side} ({count:,})" for side, count in (("A", one.in_a), ("B", one.in_b)) if count)
    return Text(
        f"{_names(one.readout, one.metric)}: {_number(one.n_items, 'item')} left out, no answer of the "
        f"unedited model in {where}."
    )


def _indented(part: RenderableType) -> Padding:
    """Indent a part by two spaces."""
    return Padding(part, (0, 0, 0, 2), expand=False)


def _questions(match: Match) -> str:
    """Return how many questions there were and how many answers changed."""
    items = match.items
    kinds = (
        ("teacher-forced", items.tf),
        ("generated", items.ar),
        ("free", items.wild),
        ("gate", items.fired),
    )
    how = ", ".join(f"{count:,} {name}" for name, count in kinds if count)
    said = f"{_number(items.shared, 'question')} to both, the answers to {items.changed:,} differ" + (
        f" ({how})." if how else "."
    )
    if not items.changed:
        said = f"{_number(items.shared, 'question')} to both, identical answers."
    said += "".join(
        f" {count:,} asked of {name} alone."
        for name, count in (("A", items.only_a), ("B", items.only_b))
        if count
    )
    return said + (
        f" Mean log p per token moved by up to {items.logprob_moved:.2g}." if items.logprob_moved else ""
    )


def _names(readout: str, metric: str) -> str:
    """Return the displayed name of a metric under a read-out."""
    return f"{READOUT_NAMES.get(readout, readout)} {METRIC_NAMES.get(metric, metric)}"


def _table(rows: Sequence[ScoreDifference]) -> Table:
    """Return the table of scores that changed, in percent and percentage points."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("read-out", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for heading in ("A", "B", "B - A", "95 % interval", "p, Holm", "items", "changed", "better", "worse"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    last = ""
    for one in rows:
        name = READOUT_NAMES.get(one.readout, one.readout)
        between = (
            f"{one.low:+.1f} to {one.high:+.1f}" if one.low is not None and one.high is not None else "open"
        )
        numbers = (f"{one.a:.1f}", f"{one.b:.1f}", f"{one.value:+.1f}", between, _p(one.adjusted_p))
        counts = (f"{count:,}" for count in (one.n_items, one.changed, one.better, one.worse))
        state = {"no difference found": "", "unchanged": "", "within tolerance": "same"}.get(
            one.state, one.state
        )
        table.add_row(
            "" if name == last else name,
            METRIC_NAMES.get(one.metric, one.metric),
            *numbers,
            *counts,
            Text(state, STYLES.get(state, "")),
        )
        last = name
    return table


def _p(value: float) -> str:
    """Format a p value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _beside(one: Beside) -> str:
    """Format a quantity that is not tested, as "A → B" with their ratio if it changed."""
    scale = 1e6 if one.name == "peak_bytes" else 1
    a, b = ("–" if value is None else f"{value / scale:.4g}" for value in (one.a, one.b))
    return a if a == b else f"{a} → {b}" + (f" (×{one.ratio:.2f})" if one.ratio is not None else "")


def _example(one: ChangedAnswer) -> RenderableType:
    """Return a question with both answers."""
    where = "" if one.context == "bare" else f", {one.context}"
    where += {"immediate": ", right after its edit"}.get(one.moment, "")
    asked = Text(f"{one.kind}{where}, {READOUT_NAMES.get(one.readout, one.readout)}", "dim")
    asked.append(f", {one.effect}" if one.effect else "").append(
        f": {_short(one.prompt)}" if one.prompt else "", "default"
    )
    said = Text.assemble(("A ", "dim"), repr(_short(one.a_said)), ("  B ", "dim"), repr(_short(one.b_said)))
    return Group(
        asked, _indented(said.append(f"  reference {_short(one.answer)!r}" if one.answer else "", "dim"))
    )


def _short(said: str | None, width: int = 60) -> str:
    """Return a text on one line; of a long one the end, which distinguishes prompts."""
    flat = " ".join((said or "").split())
    return flat if len(flat) <= width else "…" + flat[-width + 1 :]


def _provenance(report: ComparisonReport) -> list[RenderableType]:
    """Return the table of differences other than the answers, with the number of cells of each."""
    found = report.common_changes()
    if not found:
        return []
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("Other differences", overflow="fold")
    table.add_column("A", overflow="fold")
    table.add_column("B", overflow="fold")
    table.add_column("cells", justify="right")
    for change, count in sorted(found.items(), key=lambda entry: -entry[1]):
        table.add_row(*(Text(part or "–") for part in (change.what, change.a, change.b)), str(count))
    return ["", table]


def _ratios(report: ComparisonReport) -> list[RenderableType]:
    """Return the table of quantities that are not tested, over all cells."""
    ratios: dict[str, list[float]] = {}
    for one in _all_beside(report):
        if one.ratio is not None:
            ratios.setdefault(one.name, []).append(one.ratio)
    ratios = {
        name: ratios[name] for name in BESIDE_NAMES if any(ratio != 1 for ratio in ratios.get(name, ()))
    }
    if not ratios:
        return []
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("Not tested, B as a multiple of A")
    for heading in ("median", "least", "most", "cells"):
        table.add_column(heading, justify="right")
    for name, values in ratios.items():
        numbers = (f"{number:.3g}" for number in (median(values), min(values), max(values)))
        table.add_row(BESIDE_NAMES.get(name, name), *numbers, str(len(values)))
    return ["", table]


def _all_beside(report: ComparisonReport) -> Iterable[Beside]:
    """Return the quantities that are not tested, over all matches."""
    return (one for match in report.matches for one in match.beside)
