"""Console script `lks`. Heavy imports are deferred until a command needs them."""

import gc
import logging
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from cli.ask import ask, evaluate
from cli.ci import ci
from cli.compare import compare as compare_results
from cli.data import data
from cli.edit import edit, remove
from cli.models import models
from cli.patch import export, patch
from cli.scope import scope
from cli.serve import serve
from cli.status import status
from cli.study import study
from cli.testbed import testbed
from cli.tuning.command import tune
from cli.up import down, up
from flows.settings import Mode
from lks.errors import UserError, unknown

gc.set_threshold(
    100_000
)  # torch and transformers create a million lasting objects; scanning them took a sixth of the start-up time

EXIT_USER, EXIT_STOPPED = 2, 130


class _Commands(TyperGroup):
    """Reports errors that the user can fix in one line, and Ctrl-C with advice."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command.

        The frames of an error are cleared: those of a stopped flow keep DuckDB's objects alive, which then
        complain at exit.

        Raises:
            Exit: the command failed or was stopped; carries the exit code.
        """
        try:
            return super().invoke(ctx)
        except UserError as error:
            traceback.clear_frames(error.__traceback__)
            Console(stderr=True, soft_wrap=True).print("[red]error:[/]", Text(str(error)), highlight=False)
            raise typer.Exit(EXIT_USER) from None
        except (KeyboardInterrupt, RuntimeError) as stop:
            if not _is_stop(stop):
                raise
            traceback.clear_frames(stop.__traceback__)
            message = "Stopped. Finished work is kept; run the same command again to resume."
            Console(stderr=True, soft_wrap=True).print(f"\n{message}", highlight=False)
            raise typer.Exit(EXIT_STOPPED) from None


def _is_stop(error: KeyboardInterrupt | RuntimeError) -> bool:
    """Return whether an error is a Ctrl-C."""
    from lks.results.connection import is_stop

    return isinstance(error, KeyboardInterrupt) or is_stop(error)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark knowledge editing: every method on every model, resumable, "
    "each number a query over stored raw answers.\n\n"
    "Start with [bold]lks grid[/]; it edits a small real model, in about ten minutes, "
    "and prints the result table.",
    epilog="Environment: LKS_RESULTS (results folder), LKS_GRID (default grid), LKS_GRIDS (file of grids), "
    "LKS_DATA (folder of datasets), LKS_FACTS (folder of your own facts), "
    "LKS_DTYPE (number format of models: auto, float32 or bfloat16), LKS_METHODS (folder of methods), "
    "LKS_PRESETS (folder of preset files), "
    "LKS_STAGES (folder of measurements), "
    "LKS_TRAINING_PROMPTS (folder of written training prompts).",
)
BENCHMARK, OWN_MODEL, SERVERS, DEVELOPMENT = (
    "Benchmark",
    "Your own model",
    "Servers and workers",
    "Development",
)
"""Panels of `lks --help`."""

Results = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of all results. Default: $LKS_RESULTS or results.", metavar="DIR"),
]
GridName = Annotated[
    str | None,
    typer.Option(
        "--grid",
        help="Name of a grid (see [bold]lks list grids[/]). Default: $LKS_GRID or first.",
        metavar="NAME",
    ),
]
Preset = Annotated[
    list[Path] | None,
    typer.Option(
        "--preset",
        help="File of parameters, such as [bold]lks tune[/] writes; may be repeated. It comes before "
        "those of $LKS_PRESETS and the method's own preset.",
        metavar="FILE",
    ),
]
Only = Annotated[
    str,
    typer.Option(
        "--only",
        help="Use only cells that match: key=value,... with the keys model, dataset, method, n_edits, seed.",
        metavar="FILTER",
    ),
]


@app.command(rich_help_panel=BENCHMARK)
def grid(
    grid: GridName = None,
    results: Results = None,
    only: Only = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and a time estimate; run nothing.")
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Run cells again that failed for good (out of memory, diverged, timeout)."
        ),
    ] = False,
    runner: Annotated[
        Mode | None,
        typer.Option(
            "--runner",
            help="How cells are run: here (in this process), slots (child processes, one per GPU) "
            "or pool (Prefect workers). Default: $LKS_RUNNER or here.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            min=0,
            help="Seconds to wait if another grid is writing to the results folder.",
            metavar="S",
        ),
    ] = 0.0,
    preset: Preset = None,
) -> None:
    """Run the missing cells of a grid, then print the result table.

    Stored cells are never run again, so a stopped or killed grid resumes where it was. No server is needed.

    [bold]Examples[/]

      lks grid                                the default grid

      lks grid --grid mini --dry-run          what would be run, and how long it would take

      lks grid --only method=lks,n_edits=100  some cells only, and the unedited model
    """
    from cli.run_grid import run_grid
    from lks.editing.preset_files import presets_in_use

    with presets_in_use(preset or []):
        run_grid(grid, results, only, dry_run, retry_failed, runner, wait)


@app.command(rich_help_panel=BENCHMARK)
def report(
    results: Results = None,
    publish: Annotated[
        Path | None,
        typer.Option(
            "--publish",
            help="Also write numbers, figures and a page for a repository into this folder.",
            metavar="DIR",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid", help="With --publish: list the cells of this grid that have no result.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Write tables, figures and the HTML page of all stored results, and print the main table.

    [bold]Example[/]

      lks report --publish docs/results/real --grid real
    """
    from cli.run_grid import exchange_cells, show_results
    from flows.running.planning import cells_of, existing, folder_of, named_grid
    from flows.settings import Settings

    folder = folder_of(results)
    exchange_cells(folder, None)
    if existing(folder) is None:
        raise UserError(f"No results in {folder}. Run lks grid first, or give the folder with --results.")
    if grid and publish is None:
        raise UserError(
            "--grid selects the cells that a published page lists as not run: give --publish, too."
        )
    wanted = cells_of(named_grid(grid, Settings().grids), "") if grid else ()
    written = show_results(Console(), folder)
    if publish is not None:
        from reports.publish import publish as published

        published(written, publish, wanted)
        Console().print(f"Published: {publish / 'README.md'}", highlight=False, soft_wrap=True)


@app.command("judge", rich_help_panel=BENCHMARK)
def judge_answers(
    model: Annotated[
        str, typer.Option("--model", help="Name of the judge model on its server.", metavar="NAME")
    ],
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            help="URL of the judge's server. Default: $OPENAI_BASE_URL, else OpenAI's.",
            metavar="URL",
        ),
    ] = None,
    results: Results = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="File of answers with human labels. Default: the one that is shipped.",
            metavar="FILE.jsonl",
        ),
    ] = None,
    only_calibrate: Annotated[
        bool,
        typer.Option(
            "--only-calibrate", help="Only measure the judge's agreement with human labels; judge nothing."
        ),
    ] = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Maximum number of concurrent requests.")
    ] = 8,
) -> None:
    """Have an LLM judge the free answers, next to the deterministic score, after measuring its agreement with
    humans.

    Any server with OpenAI's chat completions API will do. Cells that this judge has judged already are
    skipped; a stopped run resumes where it was.

    [bold]Examples[/]

      lks judge --model gpt-4o-mini

      lks judge --model qwen3 --base-url http://localhost:8000/v1 --only-calibrate
    """
    from cli.judge import calibration_of, judge_folder
    from flows.running.planning import folder_of
    from lks.llm.judge import Judge

    judge = Judge(model, base_url, concurrency=concurrency)
    if only_calibrate:
        calibration_of(Console(), judge, calibration)
    else:
        judge_folder(Console(), folder_of(results), judge, calibration)


@app.command("list", rich_help_panel=BENCHMARK)
def show(
    what: Annotated[str, typer.Argument(help="What to list: methods, studies, models, datasets or grids.")],
) -> None:
    """List what is available: methods, studies, models, datasets or grids."""
    from cli.listing import datasets, grids, methods, models, studies

    kinds = {"methods": methods, "studies": studies, "models": models, "datasets": datasets, "grids": grids}
    if what not in kinds:
        raise unknown("list", what, kinds)
    Console().print(kinds[what]())


@app.callback()
def _log() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")


app.command("status", rich_help_panel=BENCHMARK)(status)
app.command("compare", rich_help_panel=BENCHMARK)(compare_results)
app.command("tune", rich_help_panel=BENCHMARK)(tune)
app.command("edit", rich_help_panel=OWN_MODEL)(edit)
app.command("ask", rich_help_panel=OWN_MODEL)(ask)
app.command("eval", rich_help_panel=OWN_MODEL)(evaluate)
app.command("remove", rich_help_panel=OWN_MODEL)(remove)
app.command("export", rich_help_panel=OWN_MODEL)(export)
app.command("serve", rich_help_panel=SERVERS)(serve)
app.command("up", rich_help_panel=SERVERS)(up)
app.command("down", rich_help_panel=SERVERS)(down)
app.add_typer(study, name="study", rich_help_panel=BENCHMARK)
app.add_typer(scope, name="scope", rich_help_panel=BENCHMARK)
app.add_typer(patch, name="patch", rich_help_panel=OWN_MODEL)
app.add_typer(data, name="data", rich_help_panel=OWN_MODEL)
app.add_typer(models, name="models", rich_help_panel=OWN_MODEL)
app.add_typer(ci, name="ci", rich_help_panel=DEVELOPMENT)
app.add_typer(testbed, name="testbed", rich_help_panel=DEVELOPMENT)
