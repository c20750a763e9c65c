"""The origin of the numbers: cells' provenance, the cells without a result, and the paper's values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lks.results.cells import PROTOCOL, TUNING_S, Outcome
from reports.results import COLUMNS, Results, name_of, why


@dataclass(frozen=True, slots=True)
class Noted:
    """An item of provenance: its values, and the number of cells with each."""

    what: str
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CellWithoutResult:
    """A cell without a result."""

    outcome: Outcome
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Printed:
    """A table of the paper: values of each method, one group for each T; a dash where the paper has none."""

    title: str
    n_edits: tuple[int, ...]
    rows: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]


def noted(outcomes: Sequence[Outcome]) -> list[Noted]:
    """Return versions, devices, revisions and times of some cells."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        notes = {
            key: value
            for key, value in outcome.provenance.items()
            if key not in ("finished", "title", "regime", TUNING_S)
        }
        notes |= {f"model {cell.model}": cell.model_revision, f"data {cell.dataset}": cell.data_revision}
        for key, value in notes.items():
            counts.setdefault(key, Counter())[value] += 1
    table = [Noted("evaluation protocol", ((str(PROTOCOL), len(outcomes)),))]
    table += [Noted(key, tuple(sorted(values.items()))) for key, values in sorted(counts.items())]
    times = sorted(filter(None, (outcome.provenance.get("finished") for outcome in outcomes)))
    return [*table, Noted("finished", ((f"{times[0]} to {times[-1]}", len(times)),))] if times else table


def failures(outcomes: Sequence[Outcome]) -> list[CellWithoutResult]:
    """Return the cells without a result, and why."""
    return [
        CellWithoutResult(outcome, name_of(outcome), why(outcome, 1000))
        for outcome in outcomes
        if why(outcome)
    ]


def printed(results: Results) -> list[Printed]:
    """Return the paper's tables of the four metrics."""
    tables = []
    for dataset, model in sorted({key[:2] for key in results.published}, reverse=True):
        keys = [key for key in results.published if key[:2] == (dataset, model)]
        n_edits = tuple(sorted({key[3] for key in keys}))
        rows = []
        for method in dict.fromkeys(key[2] for key in keys):
            groups = (
                tuple(
                    _plain(results.published.get((dataset, model, method, n, metric))) for metric in COLUMNS
                )
                for n in n_edits
            )
            rows.append((method, tuple(groups)))
        tables.append(Printed(f"{model} on {dataset}", n_edits, tuple(rows)))
    return tables


def _plain(value: float | None) -> str:
    """Format a value with one decimal, or as a dash."""
    return "–" if value is None else f"{value:.1f}"
