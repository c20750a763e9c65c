"""Objects exchanged between requests and the engine: tickets go in, pieces of answers come out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lks.editing.patch import Patch
from workbench.serving.batch import GeneratingRow


class Full(Exception):
    """Raised when the maximum number of answers is in progress or waiting."""


class Closed(Exception):
    """Raised when the engine is ending or has failed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of one answer.

    Attributes:
        row: index of the row in the request.
        text: new text.
        made: number of tokens so far.
        finish: why the answer ended; None while it continues.
    """

    row: int
    text: str
    made: int
    finish: Literal["stop", "length", "error"] | None = None


class Ticket:
    """The rows of a request, and the queue that receives their pieces.

    Args:
        rows: at least one row; all with the same patch.
        patch: patch whose own batches the rows go to; None if each row carries its patch.
    """

    def __init__(self, rows: Sequence[GeneratingRow], patch: Patch | None = None) -> None:
        self.rows, self.patch = list(rows), patch
        self.loop = asyncio.get_running_loop()
        self.news: asyncio.Queue[Piece] = asyncio.Queue()
        self.cancelled = False

    def cancel(self) -> None:
        """Give up the answers, since nobody waits for them; their rows are freed before the next step."""
        self.cancelled = True
