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
    from lks.models.lm import LM
    from workbench.serving.server import GracefulServer
    from workbench.serving.service import ModelService, Rules

LENGTH = 2048
"""Default limit for the tokens of a prompt and its answer, if the model's window has room."""
UNEDITED: dict[str, object] = {"kind": "nothing"}
"""What is known of the unedited model as a version of itself."""
SAMPLE = "The capital of France is"
"""Sample prompt if no patch provides one."""


Model = Annotated[
    str, typer.Option("--model", help="Model to serve: name, folder or hub id.", metavar="MODEL")
]
Patches = Annotated[
    list[str] | None,
    typer.Option(
        "--patch",
        help="Patch folder to serve as an edited version of the model; may be repeated.",
        metavar="[NAME=]DIR",
    ),
]
BaseName = Annotated[
    str,
    typer.Option("--name", help="Name of the unedited model for clients. Default: the last part of MODEL."),
]
Host = Annotated[
    str,
    typer.Option(
        "--host", help="Address to listen on; any other than this machine's loopback requires an API key."
    ),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        help="File with the API key that clients must send. Default: $LKS_API_KEY, else no key.",
    ),
]
MaxLength = Annotated[
    int,
    typer.Option(
        "--max-length",
        min=0,
        help="Maximum number of tokens of a prompt and its answer together. "
        "Default: 2048, or the model's window if that is smaller.",
    ),
]
MaxConcurrent = Annotated[
    int,
    typer.Option("--max-concurrent", min=1, help="Maximum number of answers generated at the same time."),
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        "--max-waiting", min=0, help="Maximum number of waiting answers; further requests get status 429."
    ),
]
MaxBody = Annotated[int, typer.Option("--max-body", min=1, help="Maximum size of a request, in KiB.")]
Grace = Annotated[
    float,
    typer.Option("--grace", min=0, help="Seconds that unfinished answers get when the server shuts down."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Device to run on: cpu, cuda, ... Default: a GPU if there is one."),
]


def serve(
    model: Model,
    patch: Patches = None,
    name: BaseName = "",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: ApiKeyFile = None,
    max_length: MaxLength = 0,
    max_concurrent: MaxConcurrent = 32,
    max_waiting: MaxWaiting = 256,
    max_body: MaxBody = 1024,
    grace: Grace = 30.0,
    device: Device = None,
) -> None:
    """Serve a model and edited versions of it at once, with OpenAI's interface: each patch is a model name.

    All versions share one copy of the weights and, where the kind of patch allows it, one batch. Stop with
    Ctrl-C: answers in progress are finished.

    [bold]Examples[/]

      lks serve --model micro-llama --patch patch/

      lks serve --model meta-llama/Llama-3.1-8B-Instruct --patch june=patches/06 --patch july=patches/07
    """
    from cli.readying import make_ready
    from workbench.serving.models import base_name, check, chosen, facts_of, read_all, served
    from workbench.serving.server import GracefulServer, api_key, check_host
    from workbench.serving.service import ModelService, Rules

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
        lm = _loaded(model, device)
        rules = _within_window(rules, lm)
        check(lm, choices, edited)
        facts = {base: UNEDITED, **{one: facts_of(edits) for one, edits in edited.items()}}
        service = ModelService(lm, served(base, edited), rules, facts)
    own = edited[choices[-1].name].facts if choices else None
    sample = own.facts[0].prompt if own and own.facts else SAMPLE
    _run(GracefulServer(service, host, port, grace, lambda at: _say(console, service, at, sample)))
    console.print("Ended.")


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


def _loaded(model: str, device: str | None) -> "LM":
    """Load the model without output from transformers."""
    from transformers.utils import logging as transformers_log

    from lks.models.lm import LM

    transformers_log.disable_progress_bar()  # type: ignore[no-untyped-call]
    return LM.load(model, device)


def _within_window(rules: "Rules", lm: "LM") -> "Rules":
    """Return the rules with a limit for tokens that the model can read.

    Raises:
        UserError: the user's limit is larger.
    """
    window = int(getattr(lm.model.config, "max_position_embeddings", 0) or LENGTH)
    if rules.length > window:
        raise UserError(
            f"--max-length {rules.length} is more than the {window} tokens that {lm.name} can read. "
            f"Give at most {window}."
        )
    return replace(rules, length=rules.length or min(window, LENGTH))


def _run(server: "GracefulServer") -> None:
    """Serve until stopped.

    Raises:
        UserError: the engine failed.
    """
    logging.basicConfig(level=logging.WARNING)
    log = logging.getLogger("lks.serve")
    log.handlers, log.propagate = [logging.StreamHandler()], False
    log.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.setLevel(logging.INFO)
    server.run_with_engine()
    if server.service.engine.failed:
        raise UserError(
            "The engine failed; the log above says why. "
            "If memory ran out, start again with a smaller --max-concurrent."
        )


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
