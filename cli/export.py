"""Command `lks export`, which writes a patch or an edited model for others."""

from pathlib import Path
from typing import Annotated

import typer

from lks.errors import UserError
from workbench.export import Precision, merge, publish


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
    from rich.console import Console
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    console = Console(soft_wrap=True)
    if precision is not None and not merged:
        raise UserError("--dtype only applies to --merge: a patch is exported as it is.")
    if merged:
        from cli.readying import make_ready

        make_ready(console, [model])
    with console.status("merging" if merged else "copying"):
        done = merge(model, patch, out, precision, licence) if merged else publish(model, patch, out, licence)
    console.print(f"{done.folder}: {', '.join(done.files)} ({done.nbytes:,} bytes)", highlight=False)
