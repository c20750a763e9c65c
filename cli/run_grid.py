"""The work behind `lks grid`: plan a grid, run what is missing, show the results."""

import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from flows.running.process_cache import process_cache
from flows.settings import Mode
from lks.errors import UserError

if TYPE_CHECKING:
    from flows.running.planning import Work
    from lks.results.cells import Cell
    from lks.runs.grid import Grid
    from reports import RenderedReport


@process_cache()
def run_grid(
    grid: str | None = None,
    results: Path | None = None,
    only: str = "",
    dry_run: bool = False,
    retry_failed: bool = False,
    runner: Mode | None = None,
    wait: float = 0.0,
) -> None:
    """Plan a grid, show what it is, run what is missing and show the results.

    Models and datasets are kept in the process meanwhile.

    Args:
        grid: its name; None for the default.
        results: folder of all results; None for that of the settings.
        only: filter of cells.
        dry_run: whether only the plan is shown.
        retry_failed: whether cells that failed for good are run again.
        runner: how cells are run; None for the setting.
        wait: seconds to wait for another grid that is writing to the folder; 0 for the setting.

    Raises:
        UserError: something is unknown, missing, in use or cannot be written.
    """
    from cli.readying import make_ready
    from flows.running.planning import await_writer, compare, existing, folder_of, only_writer
    from flows.settings import Settings
    from lks.editing.preset_files import check_used

    folder, console, mode = folder_of(results), Console(), runner or Settings().runner
    asked, cells = _chosen(console, grid, only, replaceable=not dry_run and mode != "pool")
    check_used(((cell.method, cell.model) for cell in cells), f"grid {asked.name!r}")
    if not dry_run:
        exchange_cells(folder, {cell.id for cell in cells})
    work = compare(asked, cells, existing(folder), retry_failed)
    if work.todo:
        _show_irregularities(work)
    if dry_run:
        _show_plan(work)
        return
    if work.todo:
        await_writer(folder, wait or Settings().wait_s)
        with only_writer(folder):  # busy or unwritable: say so now, not after Prefect has started
            pass
        if mode != "pool":
            make_ready(console, sorted({cell.model for cell in work.todo}))
        _run_flow(console, mode, (asked.name, folder, only, retry_failed), (asked, cells))
    else:
        console.print(
            f"Nothing to do: all {len(work.cells)} cells of {asked.name!r} are in {folder}.", highlight=False
        )
    show_results(console, folder)


def _chosen(console: Console, name: str | None, only: str, replaceable: bool) -> "tuple[Grid, list[Cell]]":
    """Return the grid to run and its cells.

    Args:
        console: where a replacement is reported.
        name: the grid that the user asks for; None for the default one.
        only: filter of cells.
        replaceable: whether another grid may take the place of the default one, see `_in_place_of`.
    """
    from flows.running.planning import cells_of, named_grid
    from flows.settings import Settings

    asked = named_grid(name or Settings().grid, Settings().grids)
    cells = cells_of(asked, only)
    other = None if name or not replaceable else _in_place_of(asked, console)
    return (asked, cells) if other is None else (other, cells_of(other, only))


def _in_place_of(asked: "Grid", console: Console) -> "Grid | None":
    """Return the grid to run instead of the default one, or None if that can be run.

    It is replaced only if the user has not chosen it and one of its models cannot be fetched.

    Args:
        asked: the default grid.
        console: where fetched models and a replacement are reported.
    """
    from cli.readying import make_ready
    from flows.running.planning import named_grid
    from flows.settings import Settings

    settings = Settings()
    if not asked.otherwise or "grid" in settings.model_fields_set:
        return None
    try:
        make_ready(console, asked.models)
    except UserError:
        why = (
            f"Grid {asked.name!r} needs {', '.join(asked.models)}, which cannot be fetched now "
            "(lks models fetch says why)"
        )
        console.print(f"{why}: grid {asked.otherwise!r} is run instead.", soft_wrap=True, highlight=False)
        return named_grid(asked.otherwise, settings.grids)
    return None


def exchange_cells(folder: Path, cell_ids: Collection[str] | None) -> None:
    """Exchange cells with the share, if there is one, and print how many; without `cell_ids` fetch all, send
    none.
    """
    from flows.running.planning import share_in_use

    if not (share := share_in_use()).url:
        return
    console = Console()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("cells of LKS_SHARE", total=1.0)
        taken, sent = share.exchange(
            folder,
            cell_ids,
            sending=cell_ids is not None,
            progress=lambda done: bar.update(task, completed=done),
        )
    console.print(f"{share.url}: {taken} cells taken, {sent} sent", highlight=False, soft_wrap=True)


def _show_irregularities(work: "Work") -> None:
    """Print the irregularities in the datasets of the cells to run; no case is dropped because of them."""
    from flows.running.planning import loaded_dataset
    from lks.data.datasets import irregularities

    for name in sorted({cell.dataset for cell in work.todo}):
        dataset = loaded_dataset(name)
        if dataset.notes:
            Console().print(
                f"{name}: {len(dataset.cases)} cases, kept among them: {irregularities(dataset)}",
                highlight=False,
                soft_wrap=True,
            )


def _run_flow(
    console: Console, runner: Mode, asked: tuple[str, Path, str, bool], plan: "tuple[Grid, list[Cell]]"
) -> None:
    """Run the flow, with a live display on a terminal and a line per cell elsewhere.

    Args:
        console: where to show it.
        runner: how cells are run.
        asked: grid, folder, filter and whether failed cells are tried again.
        plan: the grid and its cells.

    Raises:
        UserError: cells are to be run on a work pool, but no server is known.
    """
    from flows.settings import calm_prefect, calm_transformers

    calm_prefect(quiet=True)
    calm_transformers()
    with ExitStack() as stack:
        with console.status(
            "starting Prefect" if runner == "pool" else "starting Prefect and its temporary server"
        ):
            from prefect.settings import PREFECT_API_URL

            from flows.grid import PLAN, WATCH
            from flows.grid import grid as flow
            from flows.running.progress import LineProgress, Screen
            from flows.services.temporary_server import temporary_server

            if runner != "pool":
                stack.enter_context(temporary_server())
            elif not PREFECT_API_URL.value():
                raise UserError(
                    "--runner pool needs a Prefect server with workers. "
                    "Start them with `lks up`, then set PREFECT_API_URL as it says."
                )
        watch = stack.enter_context(Screen(console)) if console.is_terminal else LineProgress(_say)
        WATCH.set(watch)
        token = PLAN.set(plan)
        try:
            counts = flow(*asked, runner)
        finally:
            PLAN.reset(token)
    console.print(", ".join(f"{number} {status}" for status, number in counts.items()), highlight=False)


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def show_results(console: Console, folder: Path) -> "RenderedReport":
    """Write the report, print its tables, and return it."""
    from reports import render

    with console.status("report") as shown:
        written = render(folder, lambda what: shown.update(f"report: {what}"))
    wide = (
        Console(width=1000).measure(written.terminal).maximum
    )  # on a narrow terminal wrapped lines read better than one-letter columns
    Console(width=max(console.width, wide)).print(written.terminal)
    for warning in written.warnings:
        console.print(f"[yellow]damaged:[/] {warning}", highlight=False, soft_wrap=True)
    console.print(f"Report: {written.page}", highlight=False, soft_wrap=True)
    return written


def _show_plan(work: "Work") -> None:
    from baselines import methods
    from flows.running.progress import duration
    from flows.running.time_estimate import DurationEstimator
    from lks.results.cells import RULE, RULE_NOTE

    console = Console()
    clock = DurationEstimator(work.earlier)
    missing, known = {cell.id for cell in work.todo}, methods()
    table = Table(
        "method",
        "model",
        "dataset",
        "cases",
        "T",
        "draws",
        "seed",
        "state",
        "estimate",
        box=None,
        header_style="bold",
    )
    for cell in work.cells:
        stored = known[cell.method].preset_file(cell.model, cell.n_edits) if cell.measure != "study" else None
        rule = [f"({RULE})"] if cell.measure != "study" and known[cell.method].by_rule(cell.model) else []
        origin = [f"({stored.path.name})"] if stored else rule
        method = " ".join([cell.method, *origin, *(f"{k}={v}" for k, v in cell.variant)])
        lacking = work.lacking(cell)
        whole = len(lacking) == len(work.grid.extras.stages(cell.measure))
        state = "stored" if cell.id not in missing else "to run" if whole else f"lacks {', '.join(lacking)}"
        estimate = duration(clock.expect([cell])) if cell.id in missing else ""
        table.add_row(
            method,
            cell.model,
            cell.dataset,
            cell.split,
            str(cell.n_edits),
            str(cell.draws),
            str(cell.seed),
            state,
            estimate,
        )
    console.print(table)
    if any(cell.measure != "study" and known[cell.method].by_rule(cell.model) for cell in work.cells):
        console.print(RULE_NOTE, soft_wrap=True, highlight=False)
    expected = clock.expect(work.todo)
    time = (
        f"about {duration(expected)}, based on earlier runs"
        if expected is not None
        else "no estimate, as nothing similar has been run here"
    )
    rest = f"{len(work.todo)} to run: {time}" if work.todo else "all stored, nothing to run"
    console.print(f"{len(work.cells)} cells, {rest}.", highlight=False)
