"""`lks scope`: examine the scope indicators on real prompts."""

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
    from lks.scope.exact import ScopeKind

scope = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Examine the scope indicator: which prompts an edit applies to.",
)

OTHERS = {"zsre": ("counterfact",), "counterfact": ("zsre",), "world": ("zsre",)}
"""Whose prompts are asked as well; where nothing stands here, those of both published files."""

MOST = 10_000
"""Cases that are edited unless another number is asked for; all of a dataset with fewer."""


@scope.callback()
def _group() -> None:
    """A group even while it has one command."""


@scope.command("check")
def check_scope(
    dataset: Annotated[
        str, typer.Option("--dataset", help="Edit subjects of it; names are in [bold]lks list datasets[/].")
    ] = "counterfact",
    edits: Annotated[
        Path | None,
        typer.Option(
            "--edits", help='Edit these: lines of {"subject": ..., "aliases": [...]}.', metavar="FILE"
        ),
    ] = None,
    n_edits: Annotated[
        int | None,
        typer.Option(
            "--n-edits",
            min=1,
            help=f"T: so many cases are edited; the others' prompts are asked too. Default: at most {MOST:,}.",
        ),
    ] = None,
    kinds: Annotated[
        str, typer.Option("--scope", help="Of exact, fuzzy and official; only the first one's targets count.")
    ] = "exact,fuzzy",
    names: Annotated[int, typer.Option("--names", min=0, help="Add made-up names up to so many.")] = 0,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the datasets. Default: $LKS_DATA.", metavar="DIR")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of cases, carriers and typos.")] = 0,
    why: Annotated[
        bool, typer.Option("--why", help="Show cases that speak against a missed target.")
    ] = False,
) -> None:
    """Right subject, false matches, speed and memory, each with its target. Exit 1 if the first scope misses one.

    [bold]Examples[/]

      lks scope check                                  10,000 CounterFact edits

      lks scope check --dataset zsre --names 1000000   with made-up names beside them

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
    if why:
        for row in rows:
            if row.passed is False:
                console.print(
                    f"{row.kind}, {row.what}:",
                    *row.why[:20],
                    sep="\n  ",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
    if any(row.kind == asked[0] and row.passed is False for row in rows):
        raise typer.Exit(1)


def _kinds(text: str) -> "list[ScopeKind]":
    from lks.scope.exact import ScopeKind

    known = get_args(ScopeKind)
    asked = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in asked:
        if kind not in known:
            raise unknown("scope", kind, known)
    if not asked:
        raise UserError(
            f"No scope in --scope {text!r}. Name some of {', '.join(known)}, with commas between."
        )
    return cast("list[ScopeKind]", asked)


def _material(
    dataset: str, file: Path | None, n_edits: int | None, data: Path | None, seed: int
) -> "tuple[EditSet, list[Outside]]":
    """Edits, and prompts about something else."""
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
    """With made-up names beside the edited ones; nobody is asked about those."""
    from lks.evaluation.scope_prompts import EditSet
    from lks.scope.misspellings import made_names

    have = {name for own in edited.names for name in own}
    missing = max(0, names - len(edited.names))
    made = [(name,) for name in made_names(missing, seed) if name not in have] if missing else []
    return EditSet((*edited.names, *made), (*edited.carriers, *((),) * len(made)))


def _aliases(data: Path | None) -> dict[str, list[str]]:
    """Aliases by name, if the data folder has them."""
    from lks.evaluation.scope_prompts import folder

    found = folder(data)
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
    """All numbers, target and verdict."""
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
