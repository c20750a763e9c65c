"""Commands `lks patch info`, `lks patch merge`, `lks patch diff`, and `lks export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.display import byte_text, folder_line, grid_of_facts, note
from lks.errors import UserError
from workbench.export import Precision, publish
from workbench.export import merge as merge_into_model

patch = typer.Typer(no_args_is_help=True, help="Inspect, merge and compare patches.")

Folder = Annotated[Path, typer.Argument(help="Folder of a patch.", metavar="PATCH")]
LISTED = 20
"""Maximum number of subjects, facts or norms listed; the rest is counted."""


@patch.command()
def info(folder: Folder) -> None:
    """Show the content and the origin of a patch."""
    from workbench.patch_folder import joined_parameters, read, size

    console = Console()
    edited = read(folder)
    table = grid_of_facts()
    table.add_row("kind", edited.patch.kind)
    origin = edited.origin
    if origin is not None:
        table.add_row("method", origin.title)
        table.add_row("parameters", Text(joined_parameters(origin.parameters) or "none"))
        table.add_row("model", Text(str(origin.base)))
        table.add_row("form", origin.form)
    subjects = edited.patch.subjects or tuple(
        dict.fromkeys(fact.subject for fact in edited.facts.facts) if edited.facts else ()
    )
    table.add_row(
        "subjects",
        Text(f"{len(subjects):,}: {_listed(subjects)}" if subjects else "not recorded in the patch"),
    )
    table.add_row(
        "facts", f"{len(edited.facts.facts):,}" if edited.facts else "unknown, as there is no facts.jsonl"
    )
    table.add_row("tensors", byte_text(edited.patch.nbytes))
    table.add_row("on disk", byte_text(size(folder)))
    if origin is not None:
        table.add_row(
            "made",
            Text(
                f"{origin.made.get('finished', '?')}, on {origin.made.get('device', '?')}, "
                f"in {origin.seconds:.1f} s"
            ),
        )
        table.add_row("history", Text("\n".join(origin.history)))
    else:
        table.add_row("made", "unknown, as there is no edit.json")
    console.print(table, highlight=False)


@patch.command()
def merge(
    first: Folder,
    last: Folder,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write the merged patch to.", metavar="DIR")
    ],
    prefer: Annotated[
        Literal["first", "last"] | None,
        typer.Option(
            "--prefer", help="Patch whose facts are kept for subjects that both patches have: first or last."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the existing patch in --out.")
    ] = False,
) -> None:
    """Merge two patches into one.

    Knowledge blocks of different subjects are put side by side, and each answers as before. Changes of
    weights are added up; the edits may disturb each other, so evaluate the result.
    """
    from workbench.patch_folder import check_writable, read, write
    from workbench.patch_tools import merge as merged

    console = Console()
    if out.absolute() in (first.absolute(), last.absolute()):
        raise UserError("--out is one of the two patches. Give another folder.")
    check_writable(out, overwrite)
    made = merged(read(first), read(last), prefer)
    write(out, made)
    facts = f", {len(made.facts.facts):,} facts" if made.facts else ""
    folder_line(console, f"Merged{facts}", out)
    if made.patch.kind == "weights":
        note(
            console,
            "Changes of weights were added up. Evaluate both sets of facts with lks eval.",
        )


@patch.command()
def diff(first: Folder, second: Folder) -> None:
    """Show how two patches differ in their facts and tensors."""
    from workbench.patch_folder import read
    from workbench.patch_tools import difference

    console = Console()
    found = difference(read(first), read(second))
    for where, names in ((first, found.only_first), (second, found.only_second)):
        if names:
            note(console, f"only in {where} ({len(names):,}):")
            for name in names[:LISTED]:
                note(console, f"  {name}")
            _rest(console, len(names))
    if found.changed:
        note(console, f"other targets ({len(found.changed):,}):")
        for prompt, one, two in found.changed[:LISTED]:
            note(console, f"  {prompt}: {one} -> {two}")
        _rest(console, len(found.changed))
    apart = [row for row in found.norms if row[3] != 0.0]
    if not (found.only_first or found.only_second or found.changed):
        note(console, "The facts are the same.")
    if not apart:
        note(console, "The tensors are the same.")
        return
    table = Table("norm of", box=None, header_style="bold", pad_edge=False)
    for heading in ("first", "second", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, *sizes in apart[:LISTED]:
        table.add_row(Text(name), *("-" if one is None else f"{one:.4g}" for one in sizes))
    console.print(table, highlight=False)
    _rest(console, len(apart))


def export(
    model: Annotated[
        str,
        typer.Option("--model", help="Model that was edited: name, folder or hub id.", metavar="MODEL"),
    ],
    patch: Annotated[Path, typer.Option("--patch", help="Patch folder to export.", metavar="DIR")],
    out: Annotated[Path, typer.Option("--out", help="New folder to write to.", metavar="DIR")],
    merged: Annotated[
        bool, typer.Option("--merge", help="Fold a patch of weights into a plain checkpoint.")
    ] = False,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--dtype",
            help="Number format of the merged checkpoint. "
            "Default: that in which models run here, float32 on a CPU, bfloat16 on a GPU.",
        ),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            "--license", help="License stated in the model card, as the hub names it.", metavar="ID"
        ),
    ] = "other",
) -> None:
    """Write a patch, or with --merge the edited model, to a folder for sharing or for the hub.

    The folder has a model card that says what was edited and how to load it.
    Upload it with `hf upload USER/REPOSITORY DIR`.

    [bold]Examples[/]

      lks export --model meta-llama/Llama-2-7b-chat-hf --patch patch --out to-hub

      lks export --model micro-llama --patch patch --out edited --merge
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    console = Console(soft_wrap=True)
    if precision is not None and not merged:
        raise UserError("--dtype only applies to --merge: a patch is exported as it is.")
    if merged:
        from cli.readying import make_ready

        make_ready(console, [model])
    with console.status("merging" if merged else "copying"):
        done = (
            merge_into_model(model, patch, out, precision, licence)
            if merged
            else publish(model, patch, out, licence)
        )
    console.print(f"{done.folder}: {', '.join(done.files)} ({done.nbytes:,} bytes)", highlight=False)


def _rest(console: Console, count: int) -> None:
    if count > LISTED:
        note(console, f"  and {count - LISTED:,} more")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
