"""Token ids to text with the characters of every token, without tokenising again.

Hooks see token ids; scope needs text, and the replacer needs to know which tokens a mention covers.
`PieceText` reads once which bytes each id of a vocabulary represents; decoding is then a lookup per token.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from lks.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()  # an unknown token represents some character


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text of a token sequence.

    Attributes:
        text: what the pieces spell. A tokenizer that adds a space before a text gives a text with that space.
        spans: per token its [start, end) characters in `text`; empty for special tokens. Tokens that share a
            character (each holds some of its bytes) all have it in their span.
    """

    text: str
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class _Spelling:
    """How a vocabulary writes bytes, read from the tokenizer's decoder.

    Attributes:
        byte_level: every piece is bytes written in the GPT-2 alphabet.
        space: the character that represents a space otherwise.
        byte_fallback: pieces such as `<0x0A>` represent one byte.
    """

    byte_level: bool
    space: str
    byte_fallback: bool


class PieceText:
    """Decoder from token ids to text, for one tokenizer.

    Args:
        tokenizer: SentencePiece style (a visible space such as "▁", with or without byte fallback) or
            byte-level BPE. Its decoder shows which.

    Attributes:
        special: ids that spell nothing: they begin, end and separate texts.

    Raises:
        UserError: a decoder of another kind.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        spelling = _spelling(state["decoder"])
        self._bytes = {i: _piece_bytes(piece, spelling) for piece, i in tokenizer.get_vocab().items()}
        for added in state["added_tokens"]:
            self._bytes[added["id"]] = b"" if added["special"] else added["content"].encode()
        self._bytes.update(dict.fromkeys(tokenizer.all_special_ids, b""))
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown not in (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        ):
            self._bytes[unknown] = _UNKNOWN
        texts = {i: _text(piece) for i, piece in self._bytes.items()}
        self._marks = {
            added["id"]: str(added["content"])
            for added in state["added_tokens"]
            if not self._bytes[added["id"]]
        }
        self._whole = {i: text for i, text in texts.items() if text is not None}
        self.special = frozenset(i for i, piece in self._bytes.items() if not piece)
        self._split = {
            i for i, text in texts.items() if text is None
        }  # pieces that hold a part of a character

    def parts(self, ids: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
        """Split into runs of tokens without special ones, with their positions.

        A special token separates words and names.
        """
        head = int(len(ids) > 0 and ids[0] in self.special)
        if self.special.isdisjoint(ids[head:]):  # as with most prompts
            return [(head, ids[head:])]
        edges = [-1, *(i for i, token in enumerate(ids) if token in self.special), len(ids)]
        return [(a + 1, ids[a + 1 : b]) for a, b in pairwise(edges) if b > a + 1]

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes a token spells, possibly part of a character.

        They are empty for special tokens and ids outside the vocabulary.
        """
        return self._bytes.get(token, b"")

    def text(self, ids: Sequence[int]) -> str:
        """Return the text alone."""
        try:
            return "".join(map(self._whole.__getitem__, ids))
        except KeyError:  # a part of a character, or an id outside the vocabulary
            return self.decode(ids).text

    def shown(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens written out, so that none is overlooked."""
        runs = [(mark, list(run)) for mark, run in groupby(ids, self._marks.get)]
        return "".join(self.text(run) if mark is None else mark * len(run) for mark, run in runs)

    def decode(self, ids: Sequence[int]) -> Decoded:
        """Return text and spans.

        Ids outside the vocabulary are treated like special tokens; bytes that are not UTF-8 become U+FFFD.
        """
        try:
            texts = list(map(self._whole.__getitem__, ids))
        except KeyError:
            return self._assembled(ids)
        ends = list(accumulate(map(len, texts)))
        return Decoded("".join(texts), list(zip([0, *ends[:-1]], ends, strict=False)))

    def _assembled(self, ids: Sequence[int]) -> Decoded:
        """Return text and spans where tokens may share characters."""
        texts: list[str] = []
        spans: list[Span] = []
        at, i = 0, 0
        while i < len(ids):
            if ids[i] in self._split:
                run = i + 1
                while run < len(ids) and ids[run] in self._split:
                    run += 1
                text, inner = _join([self._bytes[j] for j in ids[i:run]])
                spans += [(at + a, at + b) for a, b in inner]
                i = run
            else:
                text = self._whole.get(ids[i], "")
                spans.append((at, at + len(text)))
                i += 1
            texts.append(text)
            at += len(text)
        return Decoded("".join(texts), spans)


def token_of(spans: Sequence[Span], start: int, end: int) -> tuple[int, int]:
    """Return the first and last token with a character in [start, end).

    The spans must be as returned by `decode`: in order and without gaps.

    Raises:
        ValueError: no token has one.
    """
    first = bisect_right(spans, start, key=itemgetter(1))
    last = bisect_left(spans, end, key=itemgetter(0)) - 1
    if first > last or start >= end:
        raise ValueError(f"no token covers characters {start} to {end}")
    return first, last


def _spelling(decoder: Mapping[str, object] | None) -> _Spelling:
    """Read from a tokenizer's decoder how its vocabulary writes bytes."""
    kinds = list(_flat(decoder))
    types = [str(kind["type"]) for kind in kinds]
    if "ByteLevel" in types:
        return _Spelling(byte_level=True, space="", byte_fallback=False)
    for kind in kinds:
        fallback = "ByteFallback" in types
        if kind["type"] == "Metaspace":
            return _Spelling(byte_level=False, space=str(kind["replacement"]), byte_fallback=fallback)
        if kind["type"] == "Replace" and kind["content"] == " ":
            return _Spelling(
                byte_level=False,
                space=cast(dict[str, str], kind["pattern"])["String"],
                byte_fallback=fallback,
            )
    raise UserError(
        f"This tokenizer's decoder ({', '.join(types) or 'none'}) is not supported: it must be "
        "byte-level BPE or SentencePiece style."
    )


def _flat(decoder: Mapping[str, object] | None) -> Iterable[Mapping[str, object]]:
    """Yield the decoders of a possibly nested sequence."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for inner in cast(list[Mapping[str, object]], decoder["decoders"]):
            yield from _flat(inner)
    else:
        yield decoder


def _alphabet() -> dict[str, int]:
    """Return character -> byte of byte-level BPE.

    Printable Latin-1 characters represent themselves, the other bytes are U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _alphabet()


def _piece_bytes(piece: str, spelling: _Spelling) -> bytes:
    """Return the bytes that a piece spells."""
    if spelling.byte_level:
        try:
            return bytes(map(_ALPHABET.__getitem__, piece))
        except KeyError:  # a piece that was added as plain text
            return piece.encode()
    match = _BYTE.fullmatch(piece) if spelling.byte_fallback else None
    return bytes([int(match[1], 16)]) if match else piece.replace(spelling.space, " ").encode()


def _text(piece: bytes) -> str | None:
    """Return the piece's characters, None if it splits one."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def _join(pieces: Sequence[bytes]) -> tuple[str, list[Span]]:
    """Return the text of pieces that split characters, and the characters of each piece."""
    data = b"".join(pieces)
    characters: list[str] = []
    owner: list[int] = []  # byte -> character
    while len(owner) < len(data):
        lead = data[len(owner)]
        width = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
        character = _text(data[len(owner) : len(owner) + width])
        if character is None or len(character) != 1:
            character, width = "\N{REPLACEMENT CHARACTER}", 1
        owner += [len(characters)] * width
        characters.append(character)
    spans = []
    at = 0
    for piece in pieces:
        spans.append((owner[at], owner[at + len(piece) - 1] + 1))
        at += len(piece)
    return "".join(characters), spans
