"""Text on its way out: whole characters, and no part of a stop string."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lks.scope.token_text import PieceText
from tests.helpers import tiny
from workbench.serving.text_stream import TextStream

PIECES = {kind: PieceText(tiny.tokenizer(kind)) for kind in ("bytes", "metaspace")}


class Bytes(PieceText):
    """Token n spells the n-th of some byte strings."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts

    def bytes_of(self, token: int) -> bytes:
        return self.parts[token]


def said(stream: TextStream, count: int) -> list[str]:
    parts = []
    for token in range(count):
        parts.append(stream.push(token))
        if stream.stopped:
            return parts
    return [*parts, stream.end()]


def first_stop(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first, found letter by letter."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@settings(max_examples=300, derandomize=True)
@given(
    text=st.text("ab€😀\n", max_size=12),
    stops=st.lists(st.text("ab€\n", min_size=1, max_size=3), max_size=3),
    cuts=st.lists(st.integers(0, 40)),
)
def test_where_tokens_end_makes_no_difference(text: str, stops: list[str], cuts: list[int]) -> None:
    data = text.encode()
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    stream = TextStream(Bytes(parts), stops)
    given_out = said(stream, len(parts))
    expected = first_stop(text, stops)
    assert "".join(given_out) == expected
    assert stream.stopped == any(stop in text for stop in stops)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(given_out)
    shown = ""
    for part in given_out[:-1]:  # what was sent can never be taken back
        shown += part
        assert expected.startswith(shown)


def test_an_unfinished_character_at_the_end_is_shown_as_such() -> None:
    assert said(TextStream(Bytes(["€".encode()[:2]])), 1) == ["", "\N{REPLACEMENT CHARACTER}"]


def test_the_gap_to_the_prompt_is_no_part_of_a_chat_s_answer() -> None:
    assert "".join(said(TextStream(Bytes([b"", b" ", b" one", b" two"]), spaced=True), 4)) == " one two"
    assert "".join(said(TextStream(Bytes([b"one", b" two"]), spaced=True), 2)) == "one two"
    assert "".join(said(TextStream(Bytes([b" one"])), 1)) == " one"


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_real_tokenizers(kind: str) -> None:
    made = tiny.tokenizer(kind)
    text = (
        " Zoë was born in Oslo" if kind == "metaspace" else " Zoë 😀 was born in Oslo"
    )  # the first has its byte pieces as special tokens
    ids = made(text, add_special_tokens=False)["input_ids"]
    stream = TextStream(PIECES[kind])
    assert (
        "".join(stream.push(token) for token in [*ids, made.eos_token_id]) + stream.end()
    ).strip() == text.strip()


def test_nothing_is_held_back_longer_than_needed() -> None:
    stream = TextStream(Bytes([b"on", b"e\n", b"\n", b"two"]), ["\n\n"])
    assert [stream.push(0), stream.push(1), stream.push(2)] == ["on", "e", ""] and stream.stopped
    stream = TextStream(Bytes([b"one\n", b"two"]), ["\n\n"])
    assert [stream.push(0), stream.push(1)] == ["one", "\ntwo"]
