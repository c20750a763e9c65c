"""Commands `lks scope`: examine the scope indicators on real prompts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from lks.errors import DataError, UserError, unknown

if TYPE_CHECKING:
    from lks.evaluation.scope_benchmark import ScopeBenchmarkRow
    from lks.evaluation.scope_prompts import EditSet, Outside
    from lks.scope.indicator import ScopeKind

scope = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Examine the edit scope indicator, which decides to which prompts an edit applies.",
)

OTHERS = {"zsre": ("counterfact",), "counterfact": ("zsre",), "world": ("zsre",)}
"""Other datasets whose prompts are asked as well; for datasets not listed, those of both published files."""

MOST = 10_000
"""Default maximum number of edited cases; datasets with fewer are used completely."""


@scope.callback()
def _group() -> None:
    """Make this a command group even while it has a single command."""


DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset", help="Dataset whose subjects are edited: a name from [bold]lks list datasets[/]."
    ),
]
EditsFile = Annotated[
    Path | None,
    typer.Option(
        "--edits",
        help='Edit the subjects in this file instead: lines of {"subject": ..., "aliases": [...]}.',
        metavar="FILE",
    ),
]
NumberOfEdits = Annotated[
    int | None,
    typer.Option(
        "--n-edits",
        min=1,
        help="T: number of edited cases; the prompts of all others are asked, too. "
        f"Default: at most {MOST:,}.",
    ),
]
Kinds = Annotated[
    str,
    typer.Option(
        "--scope",
        help="Scope indicators to check, from exact, fuzzy and official, separated by commas; "
        "only the targets of the first one count.",
    ),
]
NumberOfNames = Annotated[
    int, typer.Option("--names", min=0, help="Add made-up names up to this total number of names.")
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of the datasets. Default: $LKS_DATA.", metavar="DIR")
]
Seed = Annotated[
    int, typer.Option("--seed", help="Random seed for the choice of cases, carrier sentences and typos.")
]
Why = Annotated[bool, typer.Option("--why", help="Show the cases that caused a target to be missed.")]


@scope.command("check")
def check_scope(
    dataset: DatasetName = "counterfact",
    edits: EditsFile = None,
    n_edits: NumberOfEdits = None,
    kinds: Kinds = "exact,fuzzy",
    names: NumberOfNames = 0,
    data: DataFolder = None,
    seed: Seed = 0,
    why: Why = False,
) -> None:
    """Check right subjects, false matches, speed and memory against targets. Exit 1 if the first scope misses
    one.

    [bold]Examples[/]

      lks scope check                                  10,000 CounterFact edits

      lks scope check --dataset zsre --names 1000000   with additional made-up names

      lks scope check --edits mine.jsonl --scope fuzzy
    """
    from lks.evaluation.scope_benchmark import check

    console = Console()
    asked = _kinds(kinds)
    edited, outside = _material(dataset, edits, n_edits, data, seed)
    edited = _enlarged(edited, names, seed)
    known = _aliases(data)
    for probes in outside:
        if probes.note:
            console.print(f"[yellow]{probes.note}[/]", highlight=False, soft_wrap=True)
    if not known:
        console.print(
            "[yellow]Aliases were left out: no entity_aliases/aliases.json in the data folder[/]",
            highlight=False,
        )
    rows = [row for kind in asked for row in check(kind, edited, outside, known, seed)]
    table = _table(rows, f"{len(edited.names):,} names of {edits or dataset}")
    Console(width=max(console.width, Console(width=1000).measure(table).maximum)).print(table)
    for row in rows:
        if why and row.passed is False:
            said = "\n  ".join([f"{row.kind}, {row.what}:", *row.why[:20]])
            console.print(said, highlight=False, markup=False, soft_wrap=True)
    if any(row.kind == asked[0] and row.passed is False for row in rows):
        raise typer.Exit(1)


def _kinds(text: str) -> "list[ScopeKind]":
    from lks.scope.indicator import ScopeKind

    known = get_args(ScopeKind)
    asked = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in asked:
        if kind not in known:
            raise unknown("scope", kind, known)
    if not asked:
        raise UserError(
            f"No scope in --scope {text!r}. Give some of {', '.join(known)}, separated by commas."
        )
    return cast("list[ScopeKind]", asked)


def _material(
    dataset: str, file: Path | None, n_edits: int | None, data: Path | None, seed: int
) -> "tuple[EditSet, list[Outside]]":
    """Return the edits, and prompts about something else."""
    from lks.data.datasets import load
    from lks.data.datasets import names as known
    from lks.evaluation.scope_prompts import Outside, ScopePrompt, abilities, read_edits, split

    if file is None and dataset not in known():
        raise unknown("dataset", dataset, known())
    outside = []
    if file is not None:
        edited = read_edits(file)
    else:
        edited, rest = split(dataset, n_edits or min(MOST, len(load(dataset, data).cases)), data, seed)
        if rest:
            outside.append(Outside(f"other {dataset} cases", rest))
    subjects = {name.casefold() for names in edited.names for name in names}
    for other in OTHERS.get(dataset if file is None else "", ("counterfact", "zsre")):
        try:
            cases = load(other, data).cases
        except DataError as error:
            outside.append(Outside(other, (), f"{other} was left out: {error}"))
            continue
        prompts = (
            ScopePrompt(case.edit.prompt, case.edit.subject)
            for case in cases
            if case.edit.subject.casefold() not in subjects
        )
        outside.append(Outside(other, tuple(prompts)))
    return edited, outside + abilities(data)


def _enlarged(edited: "EditSet", names: int, seed: int) -> "EditSet":
    """Add made-up names to the edited ones; no prompt asks about them."""
    from lks.evaluation.scope_prompts import EditSet
    from lks.scope.misspellings import made_names

    have = {name for own in edited.names for name in own}
    missing = max(0, names - len(edited.names))
    made = [(name,) for name in made_names(missing, seed) if name not in have] if missing else []
    return EditSet((*edited.names, *made), (*edited.carriers, *((),) * len(made)))


def _aliases(data: Path | None) -> dict[str, list[str]]:
    """Return aliases by name, if the data folder has them."""
    from lks.data.download import named_folder

    found = named_folder(data)
    file = found / "entity_aliases" / "aliases.json" if found else None
    if file is None or not file.is_file():
        return {}
    try:
        raw: object = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}. Fix or delete it.") from None
    if not isinstance(raw, dict):
        raise DataError(f"{file} must hold an object of lists. Fix or delete it.")
    return {
        str(name): [str(alias) for alias in aliases]
        for name, aliases in raw.items()
        if isinstance(aliases, list)
    }


def _table(rows: "list[ScopeBenchmarkRow]", title: str) -> Table:
    """Return a table of all numbers with target and verdict."""
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for heading in ("scope", "what", "cases", "measured", "target", ""):
        table.add_column(
            heading, justify="right" if heading in ("cases", "measured", "target") else "left", no_wrap=True
        )
    for row in rows:
        sign = "≤" if row.most else "≥"
        target = "" if row.target is None else f"{sign} {row.target:g} {row.unit}"
        verdict = {None: "", True: "[green]ok[/]", False: "[red]missed[/]"}[row.passed]
        value = f"{row.value:.2f}" if row.value < 1000 else f"{row.value:,.0f}"
        table.add_row(row.kind, row.what, f"{row.cases:,}", f"{value} {row.unit}", target, verdict)
    return table
