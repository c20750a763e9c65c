"""Fetch and convert the models that a command is about to use, in sight of the user."""

from collections.abc import Iterable
from contextlib import ExitStack

from rich.console import Console

from cli.display import Bar, note
from lks.errors import UserError
from lks.models import precision
from lks.models.fetching import ready
from lks.models.registry import Ready, found


def make_ready(console: Console, names: Iterable[str], device: str | None = None) -> dict[str, Ready]:
    """Bring models onto this machine that are not on it, with a progress bar; those that are cost nothing.

    Args:
        console: for the bar; off a terminal a line per model is printed.
        names: of models, folders, GGUF files or hub repositories.
        device: on which they will run; the default one if not given.

    Raises:
        UserError: no such device or model, it cannot be had, or the device lacks the number format that is chosen; says why and what to do.
    """
    _check_device(device)
    made: dict[str, Ready] = {}
    for name in names:
        if here := found(name):
            made[name] = here
            continue
        note(console, f"{name} is not ready on this machine: it is fetched and converted once, and kept.")
        with ExitStack() as stack:
            bars: list[Bar] = []

            def show(what: str, done: float, stack: ExitStack = stack, bars: list[Bar] = bars) -> None:
                if (
                    not bars
                ):  # not before there is something to show: a download from the hub has bars of its own
                    bars.append(stack.enter_context(Bar(console)))
                bars[0](what, done)

            made[name] = ready(name, show)
    return made


def _check_device(name: str | None) -> None:
    """Look at the device before anything is fetched."""
    import torch

    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"Device {name!r} cannot be used: {str(error).splitlines()[0]} Use cpu, or leave --device out."
            ) from None
    precision.chosen(torch.device(name) if name else precision.default_device())
