"""Preparation of the models that a command is about to use: fetching and converting, with visible
progress.
"""

from collections.abc import Iterable
from contextlib import ExitStack

from rich.console import Console

from cli.display import Bar, note
from lks.errors import UserError
from lks.models import precision
from lks.models.fetching import ready
from lks.models.registry import Ready, found


def make_ready(console: Console, names: Iterable[str], device: str | None = None) -> dict[str, Ready]:
    """Fetch and convert models that are not on this machine, with a progress bar; others take no time.

    Args:
        console: where the bar is shown; without a terminal a line per model is printed.
        names: names of models, folders, GGUF files or hub repositories.
        device: device on which they will run; None for the default one.

    Raises:
        UserError: the device or model does not exist, the model cannot be fetched, or the device lacks the
            chosen number format; the message says why and what to do.
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
                if not bars:  # only when there is something to show: a download from the hub has its own bars
                    bars.append(stack.enter_context(Bar(console)))
                bars[0](what, done)

            made[name] = ready(name, show)
    return made


def _check_device(name: str | None) -> None:
    """Check the device before anything is fetched.

    Raises:
        UserError: the device cannot be used.
    """
    import torch

    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"Device {name!r} cannot be used: {str(error).splitlines()[0]} Use cpu, or omit --device."
            ) from None
    precision.chosen(torch.device(name) if name else precision.default_device())
