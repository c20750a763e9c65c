"""Progress of a search: a live display on a terminal, one line per finished trial elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.display import note
from flows.running.progress import duration
from flows.tuning.halving import LATER, Rung, Trial, affordable, least_edits, ranked
from lks.results.cells import Cell, Overrides


class SearchScreen:
    """Listener of a search (`flows.tuning.search.TrialListener`); use it as a context manager.

    Args:
        console: where to show it.
        rungs: the rungs.
        budget_s: seconds of the whole search.
        title: short name of the objective.
    """

    def __init__(self, console: Console, rungs: list[Rung], budget_s: float, title: str) -> None:
        self._console, self._rungs, self._budget_s, self._title = console, rungs, budget_s, title
        self._trials: list[Trial] = []
        self._best: dict[int, Trial] = {}
        self._default: dict[int, Trial] = {}
        self._now: tuple[Overrides, int] = ((), 0)
        self._stage, self._began = "", time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=5, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, variant: Overrides, rung: int) -> None:
        """Note the start of a trial."""
        self._now, self._stage, self._began = (variant, rung), "load", time.monotonic()

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        """Note the progress of a trial."""
        self._stage = f"{name} {100 * fraction:.0f} %" if cell.variant == self._now[0] else "unedited model"

    def finish(self, trial: Trial, stored: bool) -> None:
        """Count a finished trial; print it, or on a terminal only what is new."""
        self._trials.append(trial)
        if not trial.variant:
            self._default[trial.rung] = trial
        here = [*filter(None, (self._best.get(trial.rung),)), trial]
        if best := ranked(here):
            self._best[trial.rung] = best[0]
        if not stored and (not self._console.is_terminal or self._is_news(trial)):
            note(self._console, self._line(trial))
        if len(self._trials) == 1:
            self._plan(trial)

    def _plan(self, first: Trial) -> None:
        """Print what the time allows, as the search decides it after its first trial."""
        per_edit = first.costs.seconds / self._rungs[0].edits
        kept = affordable(self._rungs, per_edit, self._budget_s)
        least = per_edit * least_edits(kept)
        if least > 1.2 * self._budget_s:
            said = f"{self._budget_s / 60:g} min are short: the smallest search takes about {duration(least)}"
        elif len(kept) < len(self._rungs):
            whole = duration(per_edit * least_edits(self._rungs))
            said = f"The time allows {len(kept)} of {len(self._rungs)} rungs; all take at least {whole}"
        else:
            count = self._budget_s / (len(kept) * per_edit * kept[0].edits)
            said = f"The time allows about {count:.0f} configurations"
        self._rungs = kept
        note(self._console, f"{said}.")

    def _is_news(self, trial: Trial) -> bool:
        """Return whether a trial failed, is the default, or is the best of its rung so far."""
        return trial.score is None or not trial.variant or self._best.get(trial.rung) is trial

    def _line(self, trial: Trial) -> str:
        rung = self._rungs[trial.rung]
        said = (
            f"{self._title} {100 * trial.score:.1f}"
            if trial.score is not None
            else f"{trial.status.upper()} ({trial.reason})"
        )
        count = sum(1 for other in self._trials if other.rung == trial.rung)
        place = f"rung {trial.rung + 1} of {len(self._rungs)} ({rung_text(rung)}), trial {count}"
        return f"{place}: {variant_text(trial.variant)}: {said}, {trial.seconds:.1f} s"

    @property
    def spent(self) -> float:
        """Seconds of all finished trials."""
        return sum(trial.seconds for trial in self._trials)

    def _per_edit(self) -> float:
        """Return the seconds of a trial per edit so far; loading the model does not count."""
        edits = sum(self._rungs[trial.rung].edits for trial in self._trials)
        return sum(trial.costs.seconds for trial in self._trials) / max(edits, 1)

    def left(self) -> float | None:
        """Return the estimated seconds for the rest of the search; None if nothing is known."""
        if not self._trials:
            return None
        further = self._rungs[self._now[1] + 1 :]
        least = self._per_edit() * sum(LATER * rung.edits for rung in further)
        return max(self._budget_s - self.spent - (time.monotonic() - self._began), least, 0.0)

    def _render(self) -> Group:
        variant, number = self._now
        rung = self._rungs[number]
        used = self.spent + time.monotonic() - self._began
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text("time", style="bold"),
            ProgressBar(total=self._budget_s, completed=min(used, self._budget_s), width=24),
            f"{duration(used)} of {duration(self._budget_s)}, left about {duration(self.left())}",
        )
        count = sum(1 for trial in self._trials if trial.rung == number) + 1
        where = f"rung {number + 1} of {len(self._rungs)}: {rung_text(rung)}, trial {count}"
        failed = sum(1 for trial in self._trials if trial.score is None)
        where += f", {failed} failed" if failed else ""
        reached = [
            f"{what} {100 * trial.score:.1f}"
            for what, found in (("best", self._best), ("default", self._default))
            if (trial := found.get(number)) and trial.score is not None
        ]
        line = f"{where}; {self._title}: {', '.join(reached)}" if reached else where
        now = f"{variant_text(variant)}: {self._stage}"
        return Group(bar, Text(line), Text(now, style="dim", no_wrap=True, overflow="ellipsis"))


def variant_text(variant: Overrides) -> str:
    """Return a configuration as one line of text."""
    return " ".join(f"{name}={value.replace(' ', '')}" for name, value in variant) or "default"


def rung_text(rung: Rung) -> str:
    """Return the cases of a rung as text."""
    sets = "" if rung.draws == 1 else f", {rung.draws} sets"
    return f"T = {rung.n_edits}{sets}"
