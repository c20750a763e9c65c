"""Command `lks tune`. Heavy imports are deferred until it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.display import note
from lks.errors import unknown

if TYPE_CHECKING:
    from flows.tuning.search import Search


def tune(
    method: Annotated[
        str, typer.Argument(help="Method: a name from [bold]lks list methods[/], or its title (FT-M).")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Model: a name from [bold]lks list models[/], a folder, or OWNER/NAME on the hub.",
            metavar="MODEL",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            help="Dataset; only its development cases are used, the last third of a seeded order.",
            metavar="NAME",
        ),
    ],
    edits: Annotated[
        int, typer.Option("--edits", min=1, help="T: number of simultaneous edits to tune for.", metavar="T")
    ] = 10,
    minutes: Annotated[
        float,
        typer.Option("--minutes", min=0.1, help="Time of all trials, those of an earlier run included."),
    ] = 30.0,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            help="What is maximised: the harmonic (hm) or arithmetic (ep) mean of reliability, generality "
            "and locality by a read-out: ar-hm, ar-ep, tf-hm, tf-ep, wild-hm or wild-ep.",
            metavar="NAME",
        ),
    ] = "ar-hm",
    seed: Annotated[
        int, typer.Option("--seed", help="Random seed for cases, training and configurations.")
    ] = 0,
    records: Annotated[
        int, typer.Option("--records", min=0, help="Use the first N records of the dataset; 0 means all.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Preset file to write. Default: in the results folder.", metavar="FILE"
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", help="Folder of all results. Default: $LKS_RESULTS or results.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Search for a method's parameters for a model, on development cases, and write a preset file.

    Successive halving: many configurations on few edits, the best third of them on three times as many. The
    default is always tried, and the result is never worse than it on the same cases. Trials are stored; a
    stopped search resumes, and with more --minutes it continues.

    [bold]Examples[/]

      lks tune ft --model smollm2-135m --dataset zsre --edits 10 --minutes 10

      lks tune lks --model ./my-model --dataset worldfacts --minutes 60 --out presets/mine.toml
    """
    from cli.readying import make_ready
    from cli.tuning.outputs import check_out
    from flows.running.planning import folder_of
    from flows.running.process_cache import process_cache
    from flows.tuning.objective import OBJECTIVES
    from flows.tuning.search import Search
    from lks.models.registry import check_name
    from workbench.presets import check_preset_files, method_named

    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    check_preset_files()
    with process_cache():
        search = Search(method_named(method), model, dataset, edits, objective, seed, records)
        check_name(model)
        check_out(out)
        _ = search.space, search.rungs
        console = Console()
        make_ready(console, [model])
        _run(console, search, minutes, folder_of(results), out)


def _run(console: Console, search: "Search", minutes: float, folder: Path, out: Path | None) -> None:
    """Run the search and show what was found."""
    from cli.tuning.outputs import SearchResult, show_table, summary, write_outputs
    from cli.tuning.screen import SearchScreen, rung_text
    from flows.running.planning import only_writer
    from flows.settings import calm_transformers
    from flows.tuning.search import Trials
    from lks.results.store import Store

    names = ", ".join(name for dimension in search.space for name in dimension.names)
    rungs = "; ".join(rung_text(rung) for rung in search.rungs)
    note(console, f"{search.method.title} on {search.model}, development cases of {search.dataset}: {names}.")
    note(console, f"Objective {search.objective}: {search.aim.words}. Rungs: {rungs}. Time: {minutes:g} min.")
    calm_transformers()
    with only_writer(folder):
        store = Store(folder)
        with SearchScreen(console, search.rungs, 60 * minutes, search.aim.title) as screen:
            trials = Trials(search, store, screen).run(60 * minutes)
        result = SearchResult(search, trials, store)
        note(console, "")
        show_table(console, result)
        note(console, summary(result))
        write_outputs(console, result, out)
