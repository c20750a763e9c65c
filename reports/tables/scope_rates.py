"""The decisions of the edit scope indicators, as a table."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields

from rich.table import Table

from reports.results import Results, ScopeRate, why

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
"""Displayed names of the probe sets."""

ABOUT = ("edit", "paraphrase", "typo", "case", "alias", "locality")
"""Probe sets about edited subjects."""

Where = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class ScopeLine:
    """A row of the table: one scope indicator at one T on one dataset; sets that were not asked are absent.

    Attributes:
        where: dataset, model and, if not all records were used, their number.
        scope: kind of indicator.
        n_edits: T.
        rates: probe set -> its rates.
    """

    where: str
    scope: str
    n_edits: int
    rates: Mapping[str, ScopeRate]

    def fired(self, probe_set: str) -> str:
        """Return the percentage of the prompts of a set on which it fires."""
        return percent(self.rates[probe_set].fired if probe_set in self.rates else None)

    def right(self, probe_set: str) -> str:
        """Return the percentage of the prompts of a set where it finds the subject asked about.

        For a method that does not say which subject it acts for, return how often it acts.
        """
        if probe_set not in self.rates:
            return percent(None)
        rate = self.rates[probe_set]
        return percent(
            rate.fired if rate.right_subject is None and rate.measure == "answers" else rate.right_subject
        )

    def wrong(self, probe_set: str) -> str:
        """Return the percentage of the prompts of a set where it finds another subject."""
        return percent(self.rates[probe_set].wrong_subject if probe_set in self.rates else None)


def lines(results: Results) -> list[ScopeLine]:
    """Return all rows of the table."""
    groups: dict[tuple[Where, str, int], dict[str, ScopeRate]] = {}
    for rate in results.scope:
        groups.setdefault((_where(rate), rate.scope, rate.n_edits), {})[rate.probe_set] = rate
    return [
        ScopeLine(_title(where), scope, n_edits, rates) for (where, scope, n_edits), rates in groups.items()
    ]


def failures(results: Results) -> list[str]:
    """Return a line for each scope cell without a result."""
    return [f"{outcome.cell.label}: {why(outcome, 120)}" for outcome in results.scope_cells if why(outcome)]


def own(results: Results) -> list[str]:
    """Return the probe sets about edited subjects that any cell has asked, in the order of the tables."""
    return [name for name in ABOUT if any(rate.probe_set == name for rate in results.scope)]


def outside(results: Results) -> list[str]:
    """Return the probe sets about no edited subject that any cell has asked, in the order of the tables."""
    return [
        name for name in TITLES if name not in ABOUT and any(rate.probe_set == name for rate in results.scope)
    ]


def percent(value: float | None) -> str:
    """Format a percentage, with two decimals where they matter: "0.02", "0", "47.3", "100"."""
    if value is None:
        return "–"
    return f"{value:.2f}".removesuffix(".00") if value < 1 or value > 99.9 else f"{value:.1f}"


def scope_csv(results: Results) -> str:
    """Return every rate in long form.

    Rows of earlier measurements fill only the columns scope, T, probe set, range and source.
    """
    names = [field.name for field in fields(ScopeRate)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "reference_low", "reference_high", "source"])
    for rate in results.scope:
        values = [getattr(rate, name) for name in names]
        writer.writerow(
            [
                "" if value is None else f"{value:.4f}" if isinstance(value, float) else value
                for value in values
            ]
            + [""] * 3
        )
    for one in results.known_fires:
        known = {"scope": one.scope, "n_edits": one.n_edits, "probe_set": "others"}
        writer.writerow(
            [*(known.get(name, "") for name in names), f"{one.low:g}", f"{one.high:g}", one.source]
        )
    return text.getvalue()


def terminal_table(results: Results) -> Table:
    """Return the table for the end of a run."""
    title = (
        "Edit scope, percent of prompts. Right: the subject asked about is found. Fires: an edited subject "
        "is found in a prompt about none"
    )
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        title=title,
        title_justify="left",
    )
    table.add_column("dataset, model", no_wrap=True)
    table.add_column("T", justify="right")
    table.add_column("scope", no_wrap=True)
    about, sets = own(results), outside(results)
    for i, name in enumerate((*about, *sets)):
        heading = "Right:" if i == 0 else "Fires:" if i == len(about) else ""
        table.add_column(
            f"{heading}\n{TITLES[name].replace('-phr', 'phr')}".replace(" ", "\n"),
            justify="right",
            no_wrap=True,
        )
    before: ScopeLine | None = None
    for line in lines(results):
        where = "" if before and before.where == line.where else line.where
        count = "" if before and not where and before.n_edits == line.n_edits else f"{line.n_edits:,}"
        table.add_row(
            where,
            count,
            line.scope,
            *(line.right(name) for name in about),
            *(line.fired(name) for name in sets),
        )
        before = line
    return table


def _where(rate: ScopeRate) -> Where:
    """Return the dataset, model and sample limit of a rate."""
    return rate.dataset, rate.model, rate.records


def _title(where: Where) -> str:
    """Return a displayed title such as "world, micro-llama (first 100 records)"."""
    dataset, model, records = where
    return f"{dataset}, {model}" + (f" (first {records:,} records)" if records else "")
