"""Seconds per edit of each method for growing numbers of edits, excluding preparation.

Every method edits the cases that a grid cell with one draw would edit, after its `prepare` on the cases that
such a cell holds out. One untimed edit comes first. A number of edits that would exceed the time limit,
extrapolated from the previous one, is left out.

Run: `python -m benchmarks.edit_speed [--model NAME] [--methods ft,lks] [--edits 1,10,100]
[--limit SECONDS] [--json FILE]`
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from baselines import methods
from flows.running.planning import revision_of_model
from flows.settings import Settings
from lks.data.datasets import load
from lks.editing.editor import Editor
from lks.edits import Case
from lks.errors import UserError, unknown
from lks.evaluation.profiling import measured
from lks.models.lm import LM
from lks.results.cells import UNEDITED, Cell
from lks.results.provenance import provenance
from lks.runs.draws import draws, held_out
from reports.tables.number_formats import short

LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class EditTiming:
    """Timing of one method at one number of edits.

    Attributes:
        method: registry name of the method.
        n_edits: T.
        prepare_s: seconds of preparation when it was done, also if it came from the cache.
        edit_s: seconds of all T edits; None if there is no measurement.
        peak_bytes: peak memory while editing.
        why: reason why there is no measurement; empty if there is one.
    """

    method: str
    n_edits: int
    prepare_s: float
    edit_s: float | None
    peak_bytes: int
    why: str = ""

    @property
    def per_edit(self) -> float | None:
        """Seconds per edit."""
        return None if self.edit_s is None else self.edit_s / self.n_edits


def timings(
    name: str,
    method: type[Editor[object]],
    lm: LM,
    cases: Sequence[Case],
    cells: Sequence[Cell],
    limit: float = LIMIT_S,
) -> Iterator[EditTiming]:
    """Measure a method at each cell's T, in the given order, up to the first failure.

    A T that would take longer than `limit` seconds is not measured; its timing says so.
    """
    last = 0.0
    for cell in cells:
        if last * cell.n_edits > limit:
            yield EditTiming(name, cell.n_edits, 0.0, None, 0, f"over {limit:g} s")
            continue
        try:
            editor = method.for_model(cell.model, cell.dataset, cell.n_edits)
            with measured() as preparing:
                prepare_s = editor.prepare(lm, held_out(cases, cell))
            edits = [case.edit for case in draws(cases, cell)[0]]
            if not last:
                editor.edit(lm, edits[:1])
            with measured() as meter:
                editor.edit(lm, edits)
        except (UserError, RuntimeError, ValueError, FloatingPointError) as error:
            yield EditTiming(
                name, cell.n_edits, 0.0, None, 0, f"{type(error).__name__}: {error}".splitlines()[0]
            )
            return
        last = meter.seconds / cell.n_edits
        yield EditTiming(
            name,
            cell.n_edits,
            max(prepare_s, preparing.seconds if prepare_s else 0.0),
            meter.seconds,
            meter.peak_bytes,
        )


def cells_for(model: str, n_edits: Sequence[int] = ()) -> list[Cell]:
    """Return cells of one draw: on a mini model's records, a micro model's synthetic world, else zsRE."""
    family, _, rest = model.partition("-")
    dataset, _, records = (
        rest.partition("-") if family == "mini" else ("world" if family == "micro" else "zsre", "", "")
    )
    chosen = n_edits or ((1, 10, 100, 300) if family == "micro" else (1, 10, 100, 1000))
    return [Cell(model, dataset, UNEDITED, n, 0, 1, records=int(records or 0)) for n in sorted(chosen)]


def default_model() -> str:
    """Return the mini model of 1,000 zsRE records if it has been built, else a shipped model."""
    try:
        revision_of_model("mini-zsre-1000")
    except UserError:
        return "micro-llama"
    return "mini-zsre-1000"


def chosen_methods(names: str) -> Mapping[str, type[Editor[object]]]:
    """Return the methods named in "a,b", or all except the unedited model if the string is empty."""
    found = methods()
    for name in filter(None, names.split(",")):
        if name not in found:
            raise unknown("method", name, found)
    return {
        name: method
        for name, method in found.items()
        if name in names.split(",") or (not names and name != UNEDITED)
    }


def table(model: str, n_edits: Sequence[int], found: Sequence[EditTiming]) -> Table:
    """Return a table with methods as rows and T as columns."""
    made = Table(title=f"{model}: seconds per edit", box=None, header_style="bold", title_justify="left")
    made.add_column("method")
    for heading in (*(f"T={n:,}" for n in n_edits), "prepare s", "peak MB"):
        made.add_column(heading, justify="right")
    for name in dict.fromkeys(timing.method for timing in found):
        own = {timing.n_edits: timing for timing in found if timing.method == name}
        texts = [
            short(own[n].per_edit or 0.0) if n in own and not own[n].why else (own[n].why if n in own else "")
            for n in n_edits
        ]
        peak = max(timing.peak_bytes for timing in own.values())
        made.add_row(
            name, *texts, short(max(timing.prepare_s for timing in own.values())), f"{peak / 1e6:,.0f}"
        )
    return made


def run(
    model: str, names: str, n_edits: Sequence[int], limit: float, say: Callable[[str], None]
) -> tuple[list[Cell], list[EditTiming]]:
    """Measure all timings of a model, passing a line about each to `say`."""
    cells = cells_for(model, n_edits)
    cases = load(cells[0].dataset).cases
    lm = LM.load(model)
    found: list[EditTiming] = []
    for name, method in chosen_methods(names).items():
        for timing in timings(name, method, lm, cases, cells, limit):
            found.append(timing)
            taken = f"{short(timing.edit_s or 0.0)} s, {short(timing.per_edit or 0.0)} per edit"
            say(f"{name} T={timing.n_edits:,}: {timing.why or taken}")
    return cells, found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write the JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edit_speed", description="Seconds per edit of each method."
    )
    parser.add_argument(
        "--model", default="", help="default: mini-zsre-1000 if it is built, else micro-llama"
    )
    parser.add_argument("--methods", default="", help="comma-separated names; default: all")
    parser.add_argument(
        "--edits",
        default="",
        help="comma-separated numbers of edits; default: 1,10,100,1000, on a micro model 1,10,100,300",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        help="maximum seconds for T edits, extrapolated from the previous T",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=None,
        help="default: benchmarks/edit_speed-MODEL.json in the results folder",
    )
    asked = parser.parse_args(argv)
    model = asked.model or default_model()
    console = Console()
    cells, found = run(
        model,
        asked.methods,
        [int(n) for n in filter(None, asked.edits.split(","))],
        asked.limit,
        console.print,
    )
    console.print(table(model, [cell.n_edits for cell in cells], found))
    file = asked.json or Settings().results / "benchmarks" / f"edit_speed-{Path(model).name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(timing), "per_edit_s": timing.per_edit} for timing in found]
    file.write_text(
        json.dumps(
            {"model": model, "dataset": cells[0].dataset, "provenance": provenance(), "timings": rows},
            indent=1,
        )
        + "\n"
    )
    console.print(f"Written: {file}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
