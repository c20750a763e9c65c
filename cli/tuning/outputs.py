"""What a search leaves: a table of the best configurations, a figure of all trials, a preset file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.display import folder_line, note
from cli.tuning.screen import rung_text
from flows.running.progress import duration
from flows.tuning.halving import Rung, Trial, ranked, winner
from flows.tuning.objective import Measured, scores
from flows.tuning.search import Search, folder_of_search
from lks.editing.preset_files import FOLDER, preset_text
from lks.editing.search_space import DIGITS
from lks.errors import UserError
from lks.io.atomic import write_whole
from lks.results.store import Store
from workbench.plural import many

SHOWN = 5
"""Configurations in the table, beside the default."""
HEADER = "Written by `lks tune`."
"""First comment of a preset file; a file that begins otherwise is not replaced."""
METRICS = {"reliability": "Rel", "generality": "Gen", "locality": "Loc"}


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        search: what was searched.
        trials: all trials.
        store: store of the results folder.
    """

    search: Search
    trials: Sequence[Trial]
    store: Store

    @property
    def rungs(self) -> list[Rung]:
        """The rungs that were reached."""
        return self.search.rungs[: 1 + max(trial.rung for trial in self.trials)]

    @cached_property
    def best(self) -> Trial:
        """The chosen trial.

        Raises:
            UserError: all trials failed.
        """
        if found := winner(self.trials):
            return found
        first = self.trials[0]
        raise UserError(
            f"All {len(self.trials)} trials failed, the first with: {first.status} ({first.reason}). "
            "`lks status` lists the reasons."
        )

    @cached_property
    def default(self) -> Trial | None:
        """The default's trial on the rung of the chosen one, if it did not fail."""
        same = (t for t in self.trials if t.rung == self.best.rung and not t.variant and t.score is not None)
        return next(same, None)

    @cached_property
    def parameters(self) -> dict[str, bool]:
        """The parameters that differ between trials, and whether each is spread over orders of magnitude."""
        names = {name: dimension.log for dimension in self.search.space for name in dimension.names}
        return {n: log for n, log in names.items() if len({str(self.values(t)[n]) for t in self.trials}) > 1}

    def values(self, trial: Trial) -> dict[str, object]:
        """Return the value of each parameter of the search space in a trial."""
        rung = self.search.rungs[trial.rung]
        params = self.search.resolved(trial.variant, rung.n_edits)
        names = (name for dimension in self.search.space for name in dimension.names)
        return {name: getattr(params, name) for name in names}

    def measured(self, trial: Trial) -> dict[str, Measured]:
        """Return the metrics of a trial by the objective's read-out."""
        return scores(self.store, trial.cell_id, self.search.aim)

    def top(self) -> list[Trial]:
        """Return the best configurations, each on its last rung, later rungs first; then the default."""
        last: dict[object, Trial] = {}
        for trial in self.trials:
            if trial.score is not None:
                last[trial.variant] = trial
        order = sorted(ranked(list(last.values())), key=lambda trial: -trial.rung)
        shown = order[:SHOWN]
        return shown + [trial for trial in order[SHOWN:] if not trial.variant]


def show_table(console: Console, result: SearchResult) -> None:
    """Print the best configurations with their metrics on development cases."""
    search = result.search
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for name in result.parameters:
        table.add_column(name, justify="right")
    for heading in ("cases", search.aim.title, *METRICS.values(), "s/edit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, trial in enumerate(result.top(), start=1):
        found, values = result.measured(trial), result.values(trial)
        rung = search.rungs[trial.rung]
        numbers = [_percent(found.get(name)) for name in (search.aim.mean, *METRICS)]
        mark = "default" if not trial.variant else str(place)
        table.add_row(
            f"{mark} *" if trial is result.best else mark,
            *(_short(values[name]) for name in result.parameters),
            rung_text(rung),
            *numbers,
            f"{trial.costs.edit_s / rung.edits:.2g}",
        )
    wide = Console(width=1000).measure(table).maximum
    Console(width=max(console.width, wide)).print(table, highlight=False)
    note(
        console,
        f"{search.aim.title}: {search.aim.words}. Percent on development cases, with half of the 95 % "
        "interval; * chosen.",
    )


def _percent(found: Measured | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f}"
    return f"{100 * found.value:.1f} ±{50 * (found.high - found.low):.1f}"


def _short(value: object) -> str:
    """Return a parameter's value as it is shown."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.{DIGITS + 1}g}" if isinstance(value, float) else str(value).lower()


def check_out(out: Path | None) -> None:
    """Refuse to replace a file that was not written by this command.

    Raises:
        UserError: it is another file, or cannot be read.
    """
    if out is None or not out.exists():
        return
    try:
        ours = out.read_text(encoding="utf-8").startswith(f"# {HEADER}")
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise UserError(f"--out {out} exists and was not written by lks tune. Give another file name.")


def write_outputs(console: Console, result: SearchResult, out: Path | None) -> None:
    """Write the figure and the preset file, and print where they are and how the preset is used."""
    from reports.figures.tuning import TrialPoint, trials

    search, best = result.search, result.best
    folder = folder_of_search(result.store.results, search)
    labels = [rung_text(rung) for rung in result.rungs]
    if result.parameters:
        points = [
            TrialPoint(result.values(t), t.rung, t.score, not t.variant, t is best) for t in result.trials
        ]
        title = f"{search.method.title} on {search.model}, {search.dataset}, T = {search.n_edits}"
        texts = (f"{search.aim.title} ({search.objective}), %", title)
        drawn = trials(points, result.parameters, labels, texts)
        write_whole(folder / "trials.png", drawn.file("png"))
        folder_line(console, "Figure", folder / "trials.png")
    path = out or folder / "preset.toml"
    text = preset_text(
        search.method.registry_name(),
        search.model,
        search.n_edits,
        search.resolved(best.variant),
        _comments(result),
    )
    write_whole(path, text.encode())
    folder_line(console, "Preset", path)
    note(
        console, f"Use it with --preset {path} in lks edit and lks grid, or put it into the folder ${FOLDER}."
    )


def summary(result: SearchResult) -> str:
    """Return what was found, in one or two sentences."""
    best, default, title = result.best, result.default, result.search.aim.title
    tried = many(len({trial.variant for trial in result.trials}), "configuration")
    if not best.variant:
        return f"None of {tried} is better than the default; the preset file holds the default."
    if default is None:
        return f"Chosen from {tried}; the default failed on these cases."
    reached, before = (100 * (trial.score or 0.0) for trial in (best, default))
    text = f"Chosen from {tried}: {title} {reached:.1f}, default {before:.1f}."
    found = result.measured(best)[result.search.aim.mean]
    if found.low is not None and found.low <= (default.score or 0):
        text += (
            " The default is within the interval: more minutes, or a larger dataset, would tell them apart."
        )
    return text


def _comments(result: SearchResult) -> list[str]:
    """Return the provenance of a preset as comments of its file."""
    search, best = result.search, result.best
    aim, rung = search.aim, search.rungs[best.rung]
    outcome = next(o for o in result.store.outcomes() if o.cell.id == best.cell_id)
    made, cell = outcome.provenance, outcome.cell
    versions = ", ".join(
        f"{name} {made[name]}" for name in ("lks-grid", "torch", "transformers") if name in made
    )
    first = f", first {search.records} records" if search.records else ""
    failed = sum(1 for trial in result.trials if trial.score is None)
    tried = many(len({trial.variant for trial in result.trials}), "configuration")
    rungs = "; ".join(rung_text(rung) for rung in result.rungs)
    lines = [
        f"{HEADER} Parameters of {search.method.title} for {search.model}, T = {search.n_edits}.",
        "",
        f"Chosen on development cases of {search.dataset}{first} (seed {search.seed}): the last third, which "
        "grids of this seed leave alone while their draws do not need it.",
        f"Objective {search.objective}: {aim.words}.",
        f"{many(len(result.trials), 'trial')} of {tried}, {failed} failed, "
        f"{duration(sum(t.seconds for t in result.trials))}; rungs: {rungs}.",
        f"Date: {made.get('finished', '')}. Versions: {versions}. Device: {made.get('device', '')}.",
        f"Model revision {cell.model_revision}, data revision {cell.data_revision}, cell {cell.id}.",
        "",
        f"On the {many(rung.edits, 'edit')} of rung {best.rung + 1} ({rung_text(rung)}), percent with 95 % "
        "intervals.",
        "They chose these parameters, so they are optimistic: measure on evaluation cases with a grid.",
        _line("chosen", result.measured(best), aim.mean, aim.title),
    ]
    if result.default is not None and best.variant:
        lines.append(_line("default", result.measured(result.default), aim.mean, aim.title))
    return lines


def _line(name: str, found: Mapping[str, Measured], mean: str, title: str) -> str:
    """Return the metrics of a trial in one line."""
    names = ((mean, title), *METRICS.items())
    chosen = [(words, found[metric]) for metric, words in names if metric in found]
    parts = [f"{words} {100 * value.value:.1f}{_between(value)}" for words, value in chosen]
    return f"{name}: {', '.join(parts)}"


def _between(value: Measured) -> str:
    """Return an interval as text."""
    if value.low is None or value.high is None:
        return ""
    return f" ({100 * value.low:.1f} to {100 * value.high:.1f})"
