"""The modes in which the cells of a grid are run.

Mode "here" runs cells in the flow's own process, one after the other (`flows.running.here`). Mode "slots"
runs them in long-lived child processes, one per GPU (`flows.running.slots`). Mode "pool" makes each cell a
flow run on a work pool (`flows.running.pool`).
"""

from collections.abc import Iterable
from pathlib import Path

from flows.running.base import Runner
from flows.running.here import HereRunner
from flows.running.pool import PoolRunner
from flows.running.progress import Watch
from flows.running.slots import SlotsRunner
from flows.running.time_estimate import DurationEstimator
from flows.settings import Mode
from lks.results.cells import Outcome


def make_runner(mode: Mode, results: Path, watch: Watch, earlier: Iterable[Outcome]) -> Runner:
    """Return the runner for a mode.

    Args:
        mode: one of `flows.settings.Mode`.
        results: folder of all results.
        watch: receives starts and progress, but not finished cells, which the grid flow reports.
        earlier: stored outcomes, for time estimates.
    """
    if mode == "pool":
        return PoolRunner(results, watch, DurationEstimator(earlier))
    if mode == "slots":
        return SlotsRunner(results, watch, DurationEstimator(earlier))
    return HereRunner(results, watch)
