"""From tokens to text that can be sent at once: whole characters only, and nothing that may turn out to be a stop string."""

import codecs
from collections.abc import Sequence

from lks.scope.token_text import PieceText


class TextStream:
    """The text of one answer while it is generated.

    What is handed out does not depend on where tokens end: a character that is split over tokens comes when it is whole, and the answer
    ends before the stop string that is complete first.

    Args:
        pieces: of the model's tokenizer.
        stops: strings that end the answer and are no part of it.
        spaced: a space at the very beginning is the gap to the prompt and left out.
    """

    def __init__(self, pieces: PieceText, stops: Sequence[str] = (), spaced: bool = False) -> None:
        self.pieces, self.stops, self._spaced = pieces, [stop for stop in stops if stop], spaced
        self.stopped = False
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Text that is certain once this token is there; sets `stopped` where a stop string is complete."""
        return self._take(self._bytes.decode(self.pieces.bytes_of(token)))

    def end(self) -> str:
        """What was held back, when no token follows."""
        text = self._take(self._bytes.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        held = self._held + text
        if self._spaced and held:
            held, self._spaced = held.removeprefix(" "), False
        found = [(at + len(stop), at) for stop in self.stops if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)[1]]
        keep = max((_begun(held, stop) for stop in self.stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
