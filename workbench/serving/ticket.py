"""What passes between requests and the engine: tickets go in, pieces of answers come out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lks.editing.patch import Patch
from workbench.serving.batch import GeneratingRow


class Full(Exception):
    """As many answers are under way or waiting as are let in."""


class Closed(Exception):
    """The engine is ending, or has failed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one answer.

    Attributes:
        row: which of the request's.
        text: that is new.
        made: tokens so far.
        finish: why it ended; None while it goes on.
    """

    row: int
    text: str
    made: int
    finish: Literal["stop", "length", "error"] | None = None


class Ticket:
    """A request's rows, and where their news goes.

    Args:
        rows: at least one; all with the same patch.
        patch: whose own batches the rows go to; None where each row has its patch with it.
    """

    def __init__(self, rows: Sequence[GeneratingRow], patch: Patch | None = None) -> None:
        self.rows, self.patch = list(rows), patch
        self.loop = asyncio.get_running_loop()
        self.news: asyncio.Queue[Piece] = asyncio.Queue()
        self.cancelled = False

    def cancel(self) -> None:
        """Nobody waits for the answers any more; their rows are freed before the next step."""
        self.cancelled = True
