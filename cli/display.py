"""Terminal output of the commands that edit and query a model."""

import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lks.io.lines import json_line
from workbench.plural import many

if TYPE_CHECKING:
    from lks.data.user_facts import Facts
    from workbench.compare_answers import AnswerPair
    from workbench.editing import RecallCheck
    from workbench.health import Health
    from workbench.patch_folder import SavedEdits
    from workbench.scoring import Scored

HEADINGS = {"reliability": "Rel", "generality": "Gen", "locality": "Loc", "edit_performance": "EP"}
READOUTS = {"tf_token": "TF", "ar_exact": "AR", "wild": "WILD"}
READOUT_NOTES = (
    "TF: share of the answer's tokens that the model predicts, given the right tokens before each. "
    "AR: the first tokens that the model writes are the answer's,",
    "whatever follows: 420 counts for 42. "
    "WILD: what it writes to the end of the sentence is the answer and nothing else.",
)
NOTED = frozenset({"statistics"})
"""Keys of a method's preparation notes (`Editor.notes`) that `lks edit` shows."""


class Bar:
    """A progress bar per stage with the time left; nothing is shown if there is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._spent: dict[str, float] = {}
        self._last = time.perf_counter()

    def __enter__(self) -> Self:
        self._progress.start()
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, fraction: float) -> None:
        """Show the fraction of a stage that is done."""
        now = time.perf_counter()
        self._spent[stage] = self._spent.get(stage, 0.0) + now - self._last
        self._last = now
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0)
        self._progress.update(self._tasks[stage], completed=fraction)

    def seconds(self, *stages: str) -> float:
        """Return the seconds that some stages took."""
        return sum(self._spent.get(stage, 0.0) for stage in stages)

    def spent(self) -> str:
        """Describe what all stages took, for display."""
        each = ", ".join(
            f"{stage} {seconds:.1f} s" for stage, seconds in self._spent.items() if seconds >= 0.05
        )
        return f"{sum(self._spent.values()):.1f} s ({each})" if each else "less than 0.1 s"


def note(console: Console, line: str) -> None:
    """Print a plain line."""
    console.print(Text(line), soft_wrap=True)


FEW = 30
"""With fewer facts than this a score says little."""
MISSES = 5
"""Maximum number of facts shown that were not learnt."""


def folder_line(console: Console, what: str, path: Path) -> None:
    """Print a path on a line of its own, so that it can be copied."""
    note(console, f"{what}: {path}")


def byte_text(count: int) -> str:
    """Format a number of bytes for display."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def grid_of_facts() -> Table:
    """Return an empty table of two columns: name and value."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def show_check(
    console: Console, edited: "SavedEdits", found: "tuple[RecallCheck, Health]", seconds: float, out: Path
) -> None:
    """Show the result of editing: what is answered, what harm was done, and what to do about either."""
    from workbench.advice import on_misses, on_troubles
    from workbench.lengths import by_length
    from workbench.patch_folder import size

    check, health = found
    origin = edited.origin
    table = grid_of_facts()
    sample = "" if check.asked == check.of else f" (a sample; there are {check.of:,})"
    table.add_row("answered", f"{check.after} of {check.asked} facts{sample}; {check.before} before the edit")
    begins, missed = check.those("begins"), check.those("no")
    if begins:
        table.add_row(
            "",
            f"{len(begins)} only {'begins' if len(begins) == 1 else 'begin'} with the answer, "
            f"{len(missed)} not answered",
        )
    if check.asked_in:
        table.add_row("asked", check.asked_in)
    if lengths := by_length(check):
        table.add_row("by length", lengths)
    table.add_row(
        "harm",
        "; ".join(health.troubles)
        or f"none found (plain text, and what follows {many(health.looked, 'answer')})",
    )
    if origin is not None:
        changed = "".join(f", {name}={value}" for name, value in origin.changed.items())
        table.add_row("method", f"{origin.title}, {origin.tuned}{changed}")
        table.add_row("model", str(origin.base))
        for what in sorted(set(origin.made) & NOTED):
            table.add_row(what, origin.made[what])
    table.add_row("time", f"{seconds:.1f} s")
    table.add_row("size", byte_text(size(out)))
    table.add_row("patch", str(out))
    console.print(table, highlight=False)
    for one in begins[:MISSES]:
        note(
            console,
            f"Begins with the answer: {one.prompt!r}: {_short(one.text, one.wanted)} "
            f"instead of {one.wanted!r}",
        )
    for one in missed[:MISSES]:
        note(
            console, f"Not answered: {one.prompt!r}: {_short(one.text, one.wanted)} instead of {one.wanted!r}"
        )
    more = sum(max(0, len(those) - MISSES) for those in (begins, missed))
    if more:
        note(console, f"{more} more are not shown; `lks eval` shows all.")
    for line in (*on_misses(check, origin), on_troubles(health, origin)):
        if line:
            note(console, line)


def _short(text: str, wanted: str) -> str:
    """Return the start of a text, a little longer than the wanted answer, to show how it continues."""
    shown = text[: len(wanted) + 24]
    return repr(shown) if shown == text else f"{shown!r}..."


def show_reply(console: Console, reply: "AnswerPair", as_json: bool) -> None:
    """Show both answers, as a small table or as one line of JSON."""
    if as_json:
        speeds = {
            "unedited_tokens_per_s": round(reply.unedited.rate, 1),
            "edited_tokens_per_s": round(reply.edited.rate, 1),
        }
        console.file.write(json_line({**asdict(reply), **speeds}) + "\n")
        console.file.flush()
        return
    from workbench.forms import NAMES

    table = grid_of_facts()
    table.add_row("prompt", Text(reply.prompt) + Text(f"  ({NAMES[reply.form]})", style="dim"))
    for name, said in (("unedited", reply.unedited), ("edited", reply.edited)):
        table.add_row(
            name, Text(said.text) + Text(f"  ({said.tokens} tokens, {said.rate:.0f} per s)", style="dim")
        )
    if reply.fired is None:
        fired = "always active: this kind of patch has no gate"
    elif not reply.fired:
        fired = "does not act on this prompt"
    else:
        fired = f"acts, for {reply.subject}" if reply.subject else "acts"
    table.add_row("edit", Text(fired))
    console.print(table, "", highlight=False)


def show_scores(console: Console, results: Path, scored: "Scored", facts: "Facts") -> None:
    """Show the two models' scores with their intervals."""
    from lks.results.store import Store
    from reports.results import load

    loaded = load(Store(results))
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for who in ("unedited", "edited"):
        table.add_column(who, justify="right", no_wrap=True)
    missing: set[str] = set()
    for readout, short in READOUTS.items():
        for metric, heading in HEADINGS.items():
            cells = []
            for outcome in (scored.unedited, scored.edited):
                found = loaded.score(outcome, readout, metric)
                cells.append(
                    "-"
                    if found is None or found.value is None
                    else f"{found.value:.1f}{_interval(found.low, found.high)}"
                )
            if cells == ["-", "-"]:
                missing.add(metric)
            else:
                table.add_row(f"{short} {heading}", *cells)
    before, after = scored.answered
    note(
        console,
        f"Answered, and the answer ends there: {after} of {scored.asked} facts; {before} before the edit."
        + _beginning(scored.begins),
    )
    note(console, f"{scored.what}: percent, with 95 % intervals")
    console.print(table, highlight=False)
    note(console, " ".join(READOUT_NOTES))
    for line in _overheads(results, scored):
        note(console, line)
    note(
        console,
        f"{many(len(facts.facts), 'fact')}."
        + (" With so few, intervals are wide." if len(facts.facts) < FEW else ""),
    )
    if {"generality", "locality"} & missing:
        note(console, "EP is the mean of all three and is missing if one of them is.")
    for metric, field in (("generality", "paraphrases"), ("locality", "locality")):
        if metric in missing:
            note(console, f"No {metric}: the facts have no {field} to ask. Add some to measure it.")
    if scored.foreign:
        note(console, f"{scored.foreign} of the {len(facts.facts)} facts are not in the patch.")


def _overheads(results: Path, scored: "Scored") -> list[str]:
    """Describe how much longer a prefill takes with the patch, if that was measured."""
    from lks.evaluation.profiling import BATCHES
    from lks.results.cells import OVERHEAD
    from lks.results.store import Store

    if OVERHEAD not in scored.edited.written:
        return []
    rows = Store(results).query(
        "SELECT batch, value, low, high FROM overheads WHERE cell_id = ?", [scored.edited.cell.id]
    )
    found = {batch: f"{value:+.1f} % ({low:+.1f} to {high:+.1f})" for batch, value, low, high in rows}
    each = "; ".join(
        f"batch {size}: {found.get(size, 'not measured, it would take too long here')}" for size in BATCHES
    )
    return [f"Overhead of reading prompts, {each}"]


def _beginning(count: int) -> str:
    return f" {count} only {'begins' if count == 1 else 'begin'} with the answer." if count else ""


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.0f} to {high:.0f})"
