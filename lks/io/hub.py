"""Whether the Hugging Face hub, or another public source, can be asked: found out within seconds, and once in a process.

Libraries that fetch from the hub try again and again where there is none, for a minute or more. Whoever needs the hub calls `why_not` or
`why_not_for` first.
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
    """Say why the hub cannot be asked; "" if it can.

    Where it cannot, the libraries of this process are told so: they then look at their caches alone, and fail at once where a file is not there.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "The hub is not asked: HF_HUB_OFFLINE is set."
    if is_reachable(constants.ENDPOINT):
        return ""
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # else it asks for that value when it is imported
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return f"The hub cannot be reached: {constants.ENDPOINT} does not answer."


def why_not_for(name: str) -> str:
    """Say why what a name stands for cannot be fetched from the hub; "" for a folder, which need not be, and where the hub can be asked."""
    return "" if name.startswith((".", "/")) or Path(name).is_dir() else why_not()


def is_reachable(url: str) -> bool:
    """Tell whether the server of a URL answers within `WAIT_S`, whatever it says."""
    parts = urlsplit(url)
    return _answers(f"{parts.scheme}://{parts.netloc}/")


@cache
def _answers(address: str) -> bool:
    answered: list[bool] = []
    probe = Thread(
        target=_ask, args=(address, answered), daemon=True
    )  # looking up a name has no time limit of its own
    probe.start()
    probe.join(WAIT_S)
    return bool(answered)


def _ask(address: str, answered: list[bool]) -> None:
    import httpx

    with suppress(httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        status = httpx.head(address, timeout=WAIT_S, follow_redirects=False).status_code
        if status not in (407, 502, 503, 504):  # what a proxy says that lets nothing through, or finds nobody
            answered.append(True)
