"""What the edit scope indicators decide: a table, and a figure of how often they fire on prompts about other subjects."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from markupsafe import Markup
from rich.table import Table

from reports.results import Fires, Results, ScopeRate, why

TITLES = {
    "edit": "edit prompts",
    "paraphrase": "para-phrases",
    "typo": "one typo",
    "case": "lower case",
    "alias": "alias",
    "locality": "other facts",
    "others": "other subjects",
    "gsm8k": "GSM8K",
    "sst2": "SST-2",
    "rte": "RTE",
    "plain": "plain text",
}
"""Probe sets as tables call them."""

ABOUT = ("edit", "paraphrase", "typo", "case", "alias", "locality")
"""Sets about edited subjects."""
INK, SOFT, RULE, PAPER = "#1d2328", "#5b6670", "#dfe2e0", "#ffffff"
STYLES = {"official": ("#b3261e", "o", 5.0), "exact": ("#0b6e63", "s", 8.5), "fuzzy": ("#c4600c", "o", 6.0), "exact+gate": ("#7b3fb0", "D", 3.0)}
"""Colour, marker and its size of a scope indicator: where lines lie on each other, the later ones are thinner and all are seen."""

ON_PAGE = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--card", "#b3261e": "--bad", "#0b6e63": "--accent"}
ON_PAGE |= {"#c4600c": "--s3", "#7b3fb0": "--s4"}
"""Colours that follow the page's light and dark palettes."""

EARLIER = "the authors' rules, measured before"
LINEAR = 0.1
"""Below so many percent the figure's axis is linear, so that zero has a place."""

Where = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class ScopeLine:
    """A row of the table: one scope indicator at one T on one dataset; sets that were not asked are absent.

    Attributes:
        where: dataset, model and, if not all records were used, how many.
        scope: kind of indicator.
        n_edits: T.
        rates: probe set -> its rates.
    """

    where: str
    scope: str
    n_edits: int
    rates: Mapping[str, ScopeRate]

    def fired(self, probe_set: str) -> str:
        """Percent of the prompts of a set on which it fires."""
        return percent(self.rates[probe_set].fired if probe_set in self.rates else None)

    def right(self, probe_set: str) -> str:
        """Percent of the prompts of a set where it finds the subject that is asked about; of a method that does not say for whom it acts how
        often it does.
        """
        if probe_set not in self.rates:
            return percent(None)
        rate = self.rates[probe_set]
        return percent(rate.fired if rate.right_subject is None and rate.measure == "answers" else rate.right_subject)

    def wrong(self, probe_set: str) -> str:
        """Percent of the prompts of a set where it finds another subject."""
        return percent(self.rates[probe_set].wrong_subject if probe_set in self.rates else None)


def lines(results: Results) -> list[ScopeLine]:
    """All rows of the table."""
    groups: dict[tuple[Where, str, int], dict[str, ScopeRate]] = {}
    for rate in results.scope:
        groups.setdefault((_where(rate), rate.scope, rate.n_edits), {})[rate.probe_set] = rate
    return [ScopeLine(_title(where), scope, n_edits, rates) for (where, scope, n_edits), rates in groups.items()]


def failures(results: Results) -> list[str]:
    """A line for each scope cell without a result."""
    return [f"{outcome.cell.label}: {why(outcome, 120)}" for outcome in results.scope_cells if why(outcome)]


def own(results: Results) -> list[str]:
    """The probe sets about edited subjects that any cell has asked, in the order of tables."""
    return [name for name in ABOUT if any(rate.probe_set == name for rate in results.scope)]


def outside(results: Results) -> list[str]:
    """The probe sets about no edited subject that any cell has asked, in the order of tables."""
    return [name for name in TITLES if name not in ABOUT and any(rate.probe_set == name for rate in results.scope)]


def percent(value: float | None) -> str:
    """Two digits after the point where it matters: "0.02", "0", "47.3", "100"."""
    if value is None:
        return "–"
    return f"{value:.2f}".removesuffix(".00") if value < 1 or value > 99.9 else f"{value:.1f}"


def scope_csv(results: Results) -> str:
    """Every rate, long form; published ones have no other columns than scope, T, probe set and what they say."""
    names = [field.name for field in fields(ScopeRate)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "reference_low", "reference_high", "source"])
    for rate in results.scope:
        values = [getattr(rate, name) for name in names]
        writer.writerow(["" if value is None else f"{value:.4f}" if isinstance(value, float) else value for value in values] + [""] * 3)
    for one in results.known_fires:
        known = {"scope": one.scope, "n_edits": one.n_edits, "probe_set": "others"}
        writer.writerow([*(known.get(name, "") for name in names), f"{one.low:g}", f"{one.high:g}", one.source])
    return text.getvalue()


def terminal_table(results: Results) -> Table:
    """The table for the end of a run."""
    title = "Edit scope, percent of prompts. Right: the subject asked about is found. Fires: an edited subject is found in a prompt about none"
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1), collapse_padding=True, title=title, title_justify="left")
    table.add_column("dataset, model", no_wrap=True)
    table.add_column("T", justify="right")
    table.add_column("scope", no_wrap=True)
    about, sets = own(results), outside(results)
    for i, name in enumerate((*about, *sets)):
        heading = "Right:" if i == 0 else "Fires:" if i == len(about) else ""
        table.add_column(f"{heading}\n{TITLES[name].replace('-phr', 'phr')}".replace(" ", "\n"), justify="right", no_wrap=True)
    before: ScopeLine | None = None
    for line in lines(results):
        where = "" if before and before.where == line.where else line.where
        count = "" if before and not where and before.n_edits == line.n_edits else f"{line.n_edits:,}"
        table.add_row(where, count, line.scope, *(line.right(name) for name in about), *(line.fired(name) for name in sets))
        before = line
    return table


def drawn(results: Results) -> bool:
    """Whether there is something for the figure."""
    return bool(_indicators(results))


def _indicators(results: Results) -> list[ScopeRate]:
    """What indicators alone, without an edited model, do with prompts about other subjects."""
    return [rate for rate in results.scope if rate.probe_set == "others" and rate.measure == "scope"]


def figure(results: Results, kind: str) -> bytes:
    """How often each scope indicator fires on prompts about other subjects, against T: a panel per dataset and model.

    Args:
        results: with scope cells that have such prompts (`drawn`).
        kind: "svg" or "png".
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels: dict[Where, list[ScopeRate]] = {}
    for rate in _indicators(results):
        panels.setdefault(_where(rate), []).append(rate)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lks", "font.size": 9, "text.color": INK}):
        made = Figure(figsize=(len(panels) * 5.2 + 2.0, 4.0), layout="constrained", facecolor=PAPER)
        axes = made.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for ax, (where, rates) in zip(axes, panels.items(), strict=True):
            _panel(ax, _title(where), rates, results.known_fires)
        axes[0].set_ylabel("prompts on which it fires, %", color=SOFT)
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        handles[EARLIER] = handles.pop(EARLIER)  # the last
        made.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, labelspacing=0.7)
        buffer = io.BytesIO()
        made.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def on_page(svg: bytes) -> Markup:
    """The figure's SVG as part of a page: without its head, in the page's colours."""
    text = svg.decode()
    text = re.sub(r' clip-path="[^"]*"', "", text[text.index("<svg") :])  # nothing lies outside; a page has no url(...)
    for colour, name in ON_PAGE.items():
        text = text.replace(colour, f"var({name})")
    label = "How often each scope indicator fires on prompts about other subjects, against the number of edits; the table below has the numbers"
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _panel(ax: Any, title: str, rates: Sequence[ScopeRate], published: Sequence[Fires]) -> None:
    """One line per scope indicator, and the published points."""
    for scope in dict.fromkeys(rate.scope for rate in rates):
        colour, marker, size = STYLES.get(scope, (SOFT, "v", 4.0))
        own = [rate for rate in rates if rate.scope == scope]
        label = "official (the authors' rules)" if scope == "official" else scope
        at = [rate.n_edits for rate in own]
        ax.plot(at, [rate.fired for rate in own], color=colour, marker=marker, ms=size, lw=0.4 * size, label=label, clip_on=False)
    middle = [(one.low + one.high) / 2 for one in published]
    half = [(one.high - one.low) / 2 for one in published]
    at = [one.n_edits for one in published]
    ax.errorbar(at, middle, yerr=half, fmt="D", ms=7, mfc="none", mec=INK, ecolor=INK, mew=1.1, label=EARLIER, zorder=5, clip_on=False)
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    ax.set_ylim(0, 100)
    ax.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    ax.set_yticks([], minor=True)
    ticks = [10**k for k in range(6) if 10**k <= max([*at, *(rate.n_edits for rate in rates)])]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("edits in force together (T)", color=SOFT)
    ax.set_title(title, loc="left", fontsize=10)
    ax.grid(color=RULE, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=SOFT, length=0, pad=8)
    for side in ax.spines.values():
        side.set_visible(False)


def _where(rate: ScopeRate) -> Where:
    return rate.dataset, rate.model, rate.records


def _title(where: Where) -> str:
    dataset, model, records = where
    return f"{dataset}, {model}" + (f" (first {records:,} records)" if records else "")
