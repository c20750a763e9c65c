"""All figures of a report."""

from collections.abc import Callable

from lks.reader import Reader
from reports.drawing import Absent, Drawing
from reports.figures_ability import ability
from reports.figures_cost import cost
from reports.figures_methods import errors, readouts, submetrics
from reports.figures_metrics import by_edits, retention
from reports.figures_scope import scope
from reports.figures_source import EXACT, PAPERS, Source
from reports.figures_studies import gain, probe, swap, tracing
from reports.results import Results
from reports.style import applied

FIGURES: tuple[Callable[[Source], Drawing | Absent], ...] = (
    lambda source: by_edits(source, EXACT),
    lambda source: by_edits(source, PAPERS),
    readouts,
    lambda source: cost(source, ("seconds", "patch_bytes"), "cost"),
    lambda source: cost(source, ("peak_bytes",), "cost_memory"),
    ability,
    retention,
    submetrics,
    errors,
    scope,
    probe,
    swap,
    gain,
    tracing,
)
"""In the order of the page."""


def figures(results: Results, store: Reader) -> list[Drawing | Absent]:
    """Every figure, of evaluated cases; what has no data says so.

    Args:
        results: of a results folder.
        store: the same folder's.
    """
    source = Source(results.of("evaluation"), store)
    with applied():
        return [figure(source) for figure in FIGURES]


__all__ = ["figures"]
