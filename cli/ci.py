"""Command `lks ci`: runs the small grid `ci` and compares it with the golden results, or accepts new ones."""

import hashlib
import json as json_format
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lks.errors import StoreError, UserError

if TYPE_CHECKING:
    from lks.results.cells import Cell, Outcome
    from reports.compare.regression import Regression

GRID, EXIT_DIFFERENT, WIDTH = "ci", 1, 100
RESULTS = Path("results-ci")
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "ci"
REASONS = "REASONS.md"
MARK = "ci.json"
"""File in a folder of `lks ci` that identifies the code which fills the folder. A cell's id does not depend
on the code, so without it results of other code would be compared as if they were new."""

MADE = ("cells", "runs", "report", "cache", "lks.duckdb", "lks.duckdb.wal")
"""Entries of such a folder that are removed when the code has changed."""

CODE = (".py", ".sql", ".toml", ".txt", ".jsonl")

ci = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")

Results = Annotated[
    Path | None,
    typer.Option("--results", help=f"Results folder of the ci run. Default: {RESULTS}.", metavar="DIR"),
]
Golden = Annotated[
    Path | None,
    typer.Option(
        "--golden",
        help="Folder of the golden results. Default: tests/golden/ci of the checkout.",
        metavar="DIR",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Write the full comparison to this file, as JSON.", metavar="FILE"),
]


@ci.callback()
def check(ctx: typer.Context, results: Results = None, golden: Golden = None, json: Json = None) -> None:
    """Check whether a change altered results: run the grid [bold]ci[/] (minutes) and compare it with golden
    results.

    A stopped run resumes where it was; if the code has changed since, everything is run again.
    Exit code 0: fine. 1: different. 2: something must be fixed first.

    [bold]Examples[/]

      lks ci

      lks ci accept --reason "GRACE: keys are compared before the norm"
    """
    ctx.obj = (results, golden)
    if ctx.invoked_subcommand:
        return
    from cli.run_grid import run_grid
    from lks.io.atomic import write_whole
    from reports.compare.regression_text import text, to_json

    folder = results or RESULTS
    begin(folder)
    with _own_preparations(folder):
        run_grid(grid=GRID, results=folder)
    found = compared(golden or GOLDEN, folder)
    console = Console()
    Console(width=max(console.width, WIDTH)).print("", text(found), highlight=False)
    if json is not None:
        write_whole(json, to_json(found).encode())
    if not found.fine:
        console.print('If this is intended: lks ci accept --reason "..."', highlight=False)
        raise typer.Exit(EXIT_DIFFERENT)


@ci.command("accept")
def accept(
    ctx: typer.Context,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", help="Why the results changed, for readers a year from now.", show_default=False
        ),
    ] = "",
    results: Results = None,
    golden: Golden = None,
) -> None:
    """Make the results of the last [bold]lks ci[/] the golden ones, and record the reason with them.

    [bold]Example[/]

      lks ci accept --reason "torch 2.14 rounds otherwise"
    """
    given = ctx.obj or (None, None)
    folder, target = results or given[0] or RESULTS, golden or given[1] or GOLDEN
    why = " ".join(reason.split())
    if not why:
        raise UserError(
            'Golden results are not changed without a reason. Give one: lks ci accept --reason "..."'
        )
    outcomes = _finished(folder)
    line = note(why, outcomes, _difference(target, folder))
    _replace_golden(target, folder, [outcome.cell.id for outcome in outcomes], line)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    Console().print(
        f"{target}: {len(outcomes)} cells, {size / 1e6:.2f} MB. Noted: {line}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def begin(folder: Path) -> None:
    """Make sure that everything in a folder was made by this code: mark a new folder, empty one of other
    code.

    Raises:
        UserError: the folder holds something that `lks ci` has not made.
        StoreError: the folder cannot be written, or another run is writing to it.
    """
    from flows.running.planning import only_writer
    from lks.io.atomic import write_whole

    mark, code = folder / MARK, _code()
    if not mark.exists() and folder.exists() and any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(
            f"{folder} holds files that `lks ci` has not made, so it is unknown which code made its cells. "
            "Give a new folder with --results."
        )
    with only_writer(folder):
        if mark.exists() and mark.read_bytes() == code:
            return
        if mark.exists():
            Console().print(
                f"The code has changed since {folder} was filled: everything is run again.",
                highlight=False,
                soft_wrap=True,
            )
        for name in MADE:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_whole(mark, code)
        write_whole(folder / ".gitignore", b"*\n")


def _code() -> bytes:
    """Return a document that changes with the code and with the versions of the packages it depends on."""
    from lks.results.provenance import provenance

    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in ("lks", "baselines", "flows", "cli"):
        for file in sorted(path for path in (root / package).rglob("*") if path.suffix in CODE):
            digest.update(
                f"{file.relative_to(root).as_posix()} ".encode() + hashlib.sha256(file.read_bytes()).digest()
            )
    versions = {name: version for name, version in provenance().items() if name not in ("finished", "device")}
    return (json_format.dumps({"code": digest.hexdigest(), **versions}, indent=1) + "\n").encode()


@contextmanager
def _own_preparations(folder: Path) -> Iterator[None]:
    """Keep preparations and cells made by other code out of the run.

    Covariances cached elsewhere and cells on a share are identified by what they depend on, except the code.
    """
    own = {"LKS_CACHE": str(folder.resolve() / "cache"), "LKS_SHARE": ""}
    before = {name: os.environ.get(name, "") for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        os.environ.update(before)  # "" has the same effect as an unset variable


def compared(golden: Path, results: Path) -> "Regression":
    """Compare the grid's cells of a results folder with golden ones, using copies so that the golden folder
    is not written to.

    Raises:
        UserError: there are no golden results, or they cannot be compared with these.
    """
    from reports.compare.regression import regress

    if not (golden / "cells").is_dir():
        raise UserError(
            f"No golden results in {golden}. "
            f'If those in {results} are right: lks ci accept --golden {golden} --reason "..."'
        )
    with tempfile.TemporaryDirectory(prefix="lks-ci-") as scratch:
        was, now = Path(scratch) / "golden", Path(scratch) / "results"
        _copy(golden, was, [path.name for path in (golden / "cells").iterdir()])
        _copy(results, now, [cell.id for cell in _cells()])
        found = regress(was, now)
        warnings = tuple(
            line.replace(str(was), str(golden)).replace(str(now), str(results))
            for line in found.comparison.warnings
        )
    return replace(
        found, comparison=replace(found.comparison, a=str(golden), b=str(results), warnings=warnings)
    )


def _cells() -> "list[Cell]":
    from flows.running.planning import cells_of, named_grid
    from flows.settings import Settings

    return cells_of(named_grid(GRID, Settings().grids))


def _copy(source: Path, target: Path, ids: Sequence[str]) -> None:
    """Copy cells of a results folder, without patches and catalogue; cells that do not exist are skipped."""
    try:
        for cell_id in ids:
            if (source / "cells" / cell_id / "outcome.json").exists():
                shutil.copytree(source / "cells" / cell_id, target / "cells" / cell_id)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "protocol.json", target / "protocol.json")
    except OSError as error:
        raise StoreError(f"Cannot copy results from {source} to {target}: {error.strerror}.") from error


def _finished(folder: Path) -> "list[Outcome]":
    """Return the outcomes of all cells of the grid, in its order.

    Raises:
        UserError: the folder is not one of `lks ci`, was filled by other code, lacks a cell or has a failed
            one.
    """
    from lks.results.shards import read_outcome

    mark = folder / MARK
    if not mark.exists():
        raise UserError(
            f"{folder} holds no results of `lks ci`. Run it first, or give its folder with --results."
        )
    if mark.read_bytes() != _code():
        raise UserError(
            f"The code has changed since {folder} was filled. "
            "Run `lks ci` again, check its output, then accept."
        )
    cells = _cells()
    missing = [cell.label for cell in cells if not (folder / "cells" / cell.id / "outcome.json").exists()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(cells)} cells ({missing[0]}). Let `lks ci` finish first."
        )
    outcomes = [read_outcome(folder, cell.id) for cell in cells]
    for outcome in outcomes:
        failed = (
            outcome.reason or outcome.status
            if outcome.status != "ok"
            else "; ".join(f"{stage}: {said}" for stage, said in outcome.failed.items())
        )
        if failed:
            raise UserError(
                f"A failed cell cannot be a golden result: {outcome.cell.label} ({failed}). "
                "Fix it, and run `lks ci` again."
            )
    return outcomes


def _difference(golden: Path, results: Path) -> str:
    """Describe in a sentence what is accepted."""
    from reports.compare.regression_text import sentence

    if not (golden / "cells").is_dir():
        return "First golden results."
    try:
        return sentence(compared(golden, results))
    except StoreError as error:  # another protocol, or no cell in common: a reason to accept new results
        return f"Not compared: {error}"


def note(reason: str, outcomes: "Sequence[Outcome]", difference: str) -> str:
    """Return a line for the file of reasons: date, reason, versions, what is accepted."""
    origin = outcomes[0].provenance
    versions = ", ".join(
        f"{name} {origin[name]}"
        for name in ("lks-grid", "torch", "transformers", "python", "device")
        if name in origin
    )
    return f"- {datetime.now(UTC):%Y-%m-%d}: {reason} ({versions}) {difference}"


def _replace_golden(golden: Path, results: Path, ids: Sequence[str], line: str) -> None:
    """Replace the golden results by new ones; earlier reasons are kept."""
    from lks.io.atomic import replaced_folder

    reasons = golden / REASONS
    before = (
        reasons.read_text(encoding="utf-8")
        if reasons.exists()
        else "Why golden results changed, the newest last.\n\n"
    )
    with replaced_folder(golden) as part:
        _copy(results, part, ids)
        (part / REASONS).write_text(f"{before}{line}\n", encoding="utf-8")
