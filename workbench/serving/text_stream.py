"""Conversion of tokens to text that can be sent at once: complete characters only, and no possible stop
string.
"""

import codecs
from collections.abc import Sequence

from lks.scope.token_text import PieceText


class TextStream:
    """The text of one answer while it is generated.

    What is returned does not depend on where tokens end: a character that is split over tokens is returned
    once it is complete, and the answer ends before the stop string that is complete first.

    Args:
        pieces: texts of the tokenizer's tokens.
        stops: strings that end the answer and are not part of it.
        spaced: whether a space at the very beginning separates the answer from the prompt and is dropped.
    """

    def __init__(self, pieces: PieceText, stops: Sequence[str] = (), spaced: bool = False) -> None:
        self.pieces, self.stops, self._spaced = pieces, [stop for stop in stops if stop], spaced
        self.stopped = False
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Return the text that is certain after this token; set `stopped` if a stop string is complete."""
        return self._take(self._bytes.decode(self.pieces.bytes_of(token)))

    def end(self) -> str:
        """Return the text that was held back, when no token follows."""
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
    """Return the number of characters at the end of a text that are the beginning of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
