"""Engine of the server: one thread that owns the model and generates for all requests at once."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from lks.editing.patch import Patch
from lks.editing.row_patch import RowPatch
from lks.models.generation import ends_of
from lks.models.lm import LM
from lks.models.prefill import installed_hooks
from workbench.serving.batch import GeneratingRow, GenerationBatch
from workbench.serving.ticket import Closed, Full, Piece, Ticket

PREFILL_TOKENS = 8192
"""Maximum padded tokens of new prompts read in one forward pass; the rest waits for a step, so that answers
in progress continue."""
SLICE = 4
"""Steps of a batch with its own patch before others have their turn; each turn applies and removes the
patch.
"""

log = logging.getLogger("lks.serve")


@dataclass(slots=True)
class _Place:
    """Identifies the ticket, and the row of it, that a row of a batch belongs to."""

    ticket: Ticket
    number: int


class Engine:
    """Generates for tickets until it is ended.

    Args:
        lm: the model, which nothing else may use in the meantime.
        patches: patches by the names they are served under.
        most: maximum number of rows in progress.
        waiting: maximum number of rows that may wait in addition.

    Attributes:
        failed: whether the thread has died of an error.
        steps: number of forward passes so far.
    """

    def __init__(self, lm: LM, patches: Mapping[str, Patch], most: int, waiting: int) -> None:
        self.lm, self.most, self.waiting = lm, most, waiting
        self.patches = dict(patches)
        self.by_row: dict[str, RowPatch | None] = {name: patch.by_rows(lm) for name, patch in patches.items()}
        self.failed = False
        self.steps = 0
        self._ends = frozenset(ends_of(lm))
        self._queue: deque[tuple[GeneratingRow, _Place]] = deque()
        self._places: dict[int, _Place] = {}
        self._shared: GenerationBatch | None = None
        self._own: list[GenerationBatch] = []
        self._news: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Piece]]] = {}
        self._change = threading.Condition()
        self._closed = self._over = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread; tickets may be submitted from now on."""
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Queue the rows of a request, in order.

        Raises:
            Full: there is no room to wait.
            Closed: nothing is accepted any more.
        """
        with self._change:
            if self._closed or self.failed:
                raise Closed
            if self.load + len(ticket.rows) > self.most + self.waiting:
                raise Full
            self._queue.extend((row, _Place(ticket, number)) for number, row in enumerate(ticket.rows))
            self._change.notify()

    @property
    def load(self) -> int:
        """Number of rows in progress or waiting."""
        return len(self._queue) + len(self._places)

    @property
    def ending(self) -> bool:
        """Whether it stops after the running step."""
        return self._over

    def close(self) -> None:
        """Accept nothing more; answers in progress continue."""
        with self._change:
            self._closed = True

    def end(self, timeout: float = 30.0) -> None:
        """Stop after the running step, cutting off answers in progress.

        Returns once the model is free and without hooks, or after the timeout in seconds.
        """
        with self._change:
            self._closed = self._over = True
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        """Run the engine; this is the body of the thread."""
        handles = [
            handle for patch in self.by_row.values() if patch is not None for handle in patch.handles()
        ]
        try:
            with installed_hooks(handles):
                while self._awaited():
                    self._drop_cancelled()
                    for batch in self._admitted():
                        self._guarded(batch, first=True)
                    for going in self._batches():
                        self._guarded(going, first=False)
                    self._own = [batch for batch in self._own if batch.rows]
                    self._shared = self._shared if self._shared is not None and self._shared.rows else None
        finally:
            self.failed = not self._over
            self._give_up()

    def _awaited(self) -> bool:
        """Wait for work; return False once the engine is to end."""
        with self._change:
            self._change.wait_for(lambda: self._over or self._queue or self._places)
            return not self._over

    def _drop_cancelled(self) -> None:
        with self._change:
            self._queue = deque(entry for entry in self._queue if not entry[1].ticket.cancelled)
        for batch in self._batches():
            if any(self._places[id(row)].ticket.cancelled for row in batch.rows):
                self._keep(
                    batch,
                    [i for i, row in enumerate(batch.rows) if not self._places[id(row)].ticket.cancelled],
                )

    def _batches(self) -> list[GenerationBatch]:
        return [batch for batch in (self._shared, *self._own) if batch is not None and batch.rows]

    def _keep(self, batch: GenerationBatch, chosen: Sequence[int]) -> None:
        """Keep only these rows of a batch; the places of the others become free."""
        staying = set(chosen)
        with self._change:
            for number, row in enumerate(batch.rows):
                if number not in staying:
                    del self._places[id(row)]
        batch.keep(chosen)

    def _admitted(self) -> list[GenerationBatch]:
        """Return new batches with as many rows as there is room for: one shared batch, one for each other
        patch.
        """
        found: dict[int, list[GeneratingRow]] = {}
        patches: dict[int, Patch | None] = {}
        width = count = 0
        with self._change:
            while self._queue and len(self._places) < self.most:
                row, place = self._queue[0]
                width, count = max(width, len(row.prompt)), count + 1
                if count > 1 and width * count > PREFILL_TOKENS:
                    break
                self._queue.popleft()
                self._places[id(row)] = place
                found.setdefault(id(place.ticket.patch), []).append(row)
                patches[id(place.ticket.patch)] = place.ticket.patch
        return [GenerationBatch(self.lm, rows, patches[key]) for key, rows in found.items()]

    def _guarded(self, batch: GenerationBatch, first: bool) -> None:
        """Prefill a new batch or run a batch's next steps; on failure its rows end with an error and others
        continue.
        """
        try:
            with self._applied(batch):
                if first:
                    self.steps += 1
                    self._settle(batch, batch.prefill())
                for _ in range(0 if first else 1 if batch.patch is None else SLICE):
                    if batch.rows:
                        self.steps += 1
                        self._settle(batch, batch.step())
            if first and batch.rows:
                self._place(batch)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
        ) as error:  # also torch's OutOfMemoryError
            log.error(
                "A batch of %d rows failed: %s",
                len(batch.rows),
                f"{type(error).__name__}: {error}".splitlines()[0],
                exc_info=error,
            )
            self._fail(batch)
            if self._shared is not None and first and batch.patch is None:  # it may have been joined in part
                self._fail(self._shared)
        self._deliver()

    def _fail(self, batch: GenerationBatch) -> None:
        for row in batch.rows:
            if (place := self._places.get(id(row))) is not None:
                self._tell(place.ticket, Piece(place.number, "", row.made, "error"))
        with self._change:
            for row in batch.rows:
                self._places.pop(id(row), None)
        batch.rows = []

    def _applied(self, batch: GenerationBatch) -> AbstractContextManager[None]:
        return nullcontext() if batch.patch is None else batch.patch.applied(self.lm)

    def _place(self, batch: GenerationBatch) -> None:
        """Join a new batch to the shared one, or run it separately."""
        if batch.patch is not None:
            self._own.append(batch)
        elif self._shared is None or not self._shared.rows:
            self._shared = batch
        else:
            self._shared.join(batch)

    def _settle(self, batch: GenerationBatch, tokens: Sequence[int]) -> None:
        """Report the tokens of a forward pass; finished rows leave the batch."""
        going = []
        for number, (row, token) in enumerate(zip(batch.rows, tokens, strict=True)):
            place = self._places[id(row)]
            ended = token in self._ends
            text = row.text.end() if ended else row.text.push(token)
            finish: Literal["stop", "length"] | None = "stop" if ended or row.text.stopped else None
            if finish is None and row.made >= row.sampling.longest:
                text, finish = text + row.text.end(), "stop" if row.text.stopped else "length"
            if finish is None:
                going.append(number)
            if text or finish:
                self._tell(place.ticket, Piece(place.number, text, row.made, finish))
        if len(going) < len(batch.rows):
            self._keep(batch, going)

    def _tell(self, ticket: Ticket, piece: Piece) -> None:
        self._news.setdefault(ticket.loop, []).append((ticket, piece))

    def _deliver(self) -> None:
        """Hand over all news, once per event loop."""
        for loop, news in self._news.items():
            try:
                loop.call_soon_threadsafe(_put, news)
            except RuntimeError:  # the loop is closed
                for ticket, _ in news:
                    ticket.cancel()
        self._news = {}

    def _give_up(self) -> None:
        """End everything in progress or waiting with an error."""
        with self._change:
            places = [*self._places.values(), *(place for _, place in self._queue)]
            self._places, self._queue = {}, deque()
        for place in places:
            self._tell(place.ticket, Piece(place.number, "", 0, "error"))
        self._deliver()


def _put(news: Sequence[tuple[Ticket, Piece]]) -> None:
    for ticket, piece in news:
        ticket.news.put_nowait(piece)
