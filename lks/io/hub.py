"""Reachability of the Hugging Face hub and other public sources, checked within seconds and once per process.

Without a connection, libraries that fetch from the hub retry for a minute or more. Code that needs the hub
calls `why_not` or `why_not_for` first.
"""

import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

WAIT_S = 2.0
"""Seconds that a source has to answer."""


@cache
def why_not() -> str:
    """Return why the hub cannot be asked; "" if it can.

    Where it cannot, the libraries of this process are set to offline mode: they then look in their caches
    alone, and fail at once where a file is missing.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "The hub is not asked: HF_HUB_OFFLINE is set."
    if is_reachable(constants.ENDPOINT):
        return ""
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # otherwise it reads that value when it is imported
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return f"The hub cannot be reached: {constants.ENDPOINT} does not answer."


def why_not_for(name: str) -> str:
    """Return why a model or dataset of this name cannot be fetched from the hub; "" where it can.

    A folder need not be fetched, so "" is returned for it too.
    """
    return "" if name.startswith((".", "/")) or Path(name).is_dir() else why_not()


def is_reachable(url: str) -> bool:
    """Return whether the server of a URL answers within `WAIT_S`, with whatever status."""
    parts = urlsplit(url)
    return _answers(f"{parts.scheme}://{parts.netloc}/")


@cache
def _answers(address: str) -> bool:
    """Return whether an address answers in time; asked once per process."""
    answered: list[bool] = []
    # a thread, because a name lookup has no time limit of its own
    probe = Thread(target=_ask, args=(address, answered), daemon=True)
    probe.start()
    probe.join(WAIT_S)
    return bool(answered)


def _ask(address: str, answered: list[bool]) -> None:
    """Append True to a list if an address answers with something other than a proxy error."""
    import httpx

    with suppress(httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        status = httpx.head(address, timeout=WAIT_S, follow_redirects=False).status_code
        if status not in (407, 502, 503, 504):  # sent by a proxy that blocks or finds no server
            answered.append(True)
