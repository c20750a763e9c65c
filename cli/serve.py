"""Command `lks serve`, which serves a model and edited versions of it with OpenAI's interface."""

import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lks.errors import UserError

if TYPE_CHECKING:
    from workbench.patch_folder import SavedEdits
    from workbench.serving.models import Choice
    from workbench.serving.service import ModelService, Rules

LENGTH = 2048
"""Default limit for the tokens of a prompt and its answer, if the model's window has room."""
SAMPLE = "The capital of France is"
"""Sample prompt if no patch provides one."""


def serve(
    model: Annotated[
        str, typer.Option("--model", help="Model to serve: name, folder or hub id.", metavar="MODEL")
    ],
    patch: Annotated[
        list[str] | None,
        typer.Option(
            "--patch",
            help="Patch folder to serve as an edited version of the model; may be repeated.",
            metavar="[NAME=]DIR",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--name", help="Name of the unedited model for clients. Default: the last part of MODEL."
        ),
    ] = "",
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen on; any other than this machine's loopback requires an API key."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="File with the API key that clients must send. Default: $LKS_API_KEY, else no key.",
        ),
    ] = None,
    max_length: Annotated[
        int,
        typer.Option(
            "--max-length",
            min=0,
            help="Maximum number of tokens of a prompt and its answer together. "
            "Default: 2048, or the model's window if that is smaller.",
        ),
    ] = 0,
    max_concurrent: Annotated[
        int,
        typer.Option("--max-concurrent", min=1, help="Maximum number of answers generated at the same time."),
    ] = 32,
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting", min=0, help="Maximum number of waiting answers; further requests get status 429."
        ),
    ] = 256,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, help="Maximum size of a request, in KiB.")
    ] = 1024,
    grace: Annotated[
        float,
        typer.Option(
            "--grace", min=0, help="Seconds that unfinished answers get when the server shuts down."
        ),
    ] = 30.0,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device to run on: cpu, cuda, ... Default: a GPU if there is one."),
    ] = None,
) -> None:
    """Serve a model and edited versions of it at once, with OpenAI's interface: each patch is a model name.

    All versions share one copy of the weights and, where the kind of patch allows it, one batch. Stop with
    Ctrl-C: answers in progress are finished.

    [bold]Examples[/]

      lks serve --model micro-llama --patch patch/

      lks serve --model meta-llama/Llama-3.1-8B-Instruct --patch june=patches/06 --patch july=patches/07
    """
    from cli.readying import make_ready
    from workbench.serving.models import base_name, chosen, read_all
    from workbench.serving.server import api_key, check_host
    from workbench.serving.service import Rules

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    key = api_key(api_key_file)
    hosts = check_host(host, key)
    _check_free(host, port)
    base = name or base_name(model)
    choices = chosen(patch or [], base)
    make_ready(console, [model], device)
    with console.status("reading patches"):
        edited = read_all(choices, model)
    rules = Rules(max_length, max_concurrent, max_waiting, max_body << 10, key, hosts)
    with console.status(f"loading {model}"):
        service = _service(model, device, (base, choices, edited), rules)
    own = edited[choices[-1].name].facts if choices else None
    _run(console, service, (host, port, grace), own.facts[0].prompt if own and own.facts else SAMPLE)


def _check_free(host: str, port: int) -> None:
    """Check that the address is free before the model is loaded.

    Raises:
        UserError: it is not.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"Nothing can listen at {host}, port {port}: {what}. Choose another --port or --host."
            ) from None


def _service(
    model: str, device: str | None, named: "tuple[str, list[Choice], dict[str, SavedEdits]]", rules: "Rules"
) -> "ModelService":
    """Load the model and return the service with its patches, each tried once.

    `named` is the unedited model's name, the patches' names and the patches.
    """
    from transformers.utils import logging as transformers_log

    from lks.models.lm import LM
    from workbench.serving.models import check, facts_of, served
    from workbench.serving.service import ModelService

    transformers_log.disable_progress_bar()  # type: ignore[no-untyped-call]
    base, choices, edited = named
    lm = LM.load(model, device)
    window = int(getattr(lm.model.config, "max_position_embeddings", 0) or LENGTH)
    if rules.length > window:
        raise UserError(
            f"--max-length {rules.length} is more than the {window} tokens that {model} can read. "
            f"Give at most {window}."
        )
    check(lm, choices, edited)
    facts: dict[str, dict[str, object]] = {
        base: {"kind": "nothing"},
        **{name: facts_of(edits) for name, edits in edited.items()},
    }
    return ModelService(
        lm, served(base, edited), replace(rules, length=rules.length or min(window, LENGTH)), facts
    )


def _run(console: Console, service: "ModelService", where: tuple[str, int, float], sample: str) -> None:
    """Serve until stopped. `where` is host, port and seconds of grace, `sample` a prompt to try."""
    from workbench.serving.server import GracefulServer

    logging.basicConfig(level=logging.WARNING)
    log = logging.getLogger("lks.serve")
    log.handlers, log.propagate = [logging.StreamHandler()], False
    log.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.setLevel(logging.INFO)
    server = GracefulServer(
        service, where[0], where[1], where[2], lambda address: _say(console, service, address, sample)
    )
    server.run_with_engine()
    if service.engine.failed:
        raise UserError(
            "The engine failed; the log above says why. "
            "If memory ran out, start again with a smaller --max-concurrent."
        )
    console.print("Ended.")


def _say(console: Console, service: "ModelService", address: str, sample: str) -> None:
    """Print what is served, and a first request to try."""
    from workbench.serving.models import curl

    table = Table("model", "kind", "edited subjects", "batches", box=None, header_style="bold")
    for name in service.names:
        facts = service.facts.get(name, {})
        kind = str(facts.get("kind", ""))
        table.add_row(
            name,
            "unedited" if kind == "nothing" else kind,
            str(facts.get("subjects", "")),
            service.batches(name),
        )
    console.print(table)
    rules = service.rules
    console.print(
        f"{address}/v1  up to {rules.length} tokens each, {rules.rows} answers at once, "
        f"{rules.waiting} waiting. Ctrl-C ends."
    )
    console.print(Text(curl(address, service.names[-1], rules.key is not None, sample)))
