"""`lks.tokens`: text and spans agree with the tokenizer's own, for both kinds of vocabulary."""

import json
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lks.errors import UserError
from lks.tokens import Decoded, PieceText, token_of

CORPUS = ["Where was Mara Kelorin born? In Zürich.", "東京 は 日本 の 首都 です", "naïve café, 100 % sure", "it's Anna's house"] * 4
CHARACTERS = st.text(st.sampled_from("abM arK' -.?üé東京は🙂\u0301\n"), max_size=40)


def wrap(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]


def ids_of(tokenizer: PreTrainedTokenizerFast, pieces: list[str]) -> list[int]:
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert isinstance(ids, list)
    return ids


@cache
def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrap(tokenizer, eos_token="<|end|>")


@cache
def sentence_piece() -> PreTrainedTokenizerFast:
    """Llama-2's make-up: spaces become "▁" with one put in front, unknown characters fall back to bytes."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    base = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(base + [p for p in learned["vocab"] if p not in "東京は"])}
    merges = [tuple(merge) for merge in learned["merges"] if not set("東京は") & set("".join(merge))]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return wrap(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def covered(spans: list[tuple[int, int]], length: int) -> bool:
    """Every character belongs to a token, tokens are in order, and neighbours share at most one character."""
    ends = [0, *(end for _, end in spans)]
    return all(end - 1 <= start <= end for end, (start, _) in zip(ends, spans, strict=False)) and ends[-1] == length


@given(CHARACTERS)
def test_byte_level_text_and_offsets_are_the_tokenizers_own(text: str) -> None:
    tokenizer = byte_level()
    encoding = tokenizer.backend_tokenizer.encode(text)
    assert PieceText(tokenizer).decode(encoding.ids) == Decoded(text, [(start, end) for start, end in encoding.offsets])


@given(CHARACTERS)
def test_sentence_piece_text_is_the_input_after_the_space_put_in_front(text: str) -> None:
    tokenizer = sentence_piece()
    ids = tokenizer(text)["input_ids"]
    decoded = PieceText(tokenizer).decode(ids)
    assert decoded.text == (f" {text}" if text else "")
    assert covered(decoded.spans, len(decoded.text))
    assert tokenizer.decode(ids) == decoded.text[1:]


@given(CHARACTERS)
def test_sentence_piece_spans_are_the_tokenizers_offsets(text: str) -> None:
    """Behind the space put in front, which the tokenizer counts to the first character."""
    tokenizer = sentence_piece()
    encoding = tokenizer.backend_tokenizer.encode(text)
    spans = PieceText(tokenizer).decode(encoding.ids).spans
    for (start, end), (own_start, own_end) in zip(spans, encoding.offsets, strict=True):
        if end > 1:
            assert (max(start - 1, 0), end - 1) == (own_start, own_end)


@given(st.lists(st.integers(0, 400), max_size=12))
def test_any_ids_decode_to_text_covered_by_their_spans(ids: list[int]) -> None:
    for tokenizer in (byte_level(), sentence_piece()):
        decoded = PieceText(tokenizer).decode(ids)
        assert len(decoded.spans) == len(ids)
        assert covered(decoded.spans, len(decoded.text))


def test_tokens_that_split_a_character_share_it() -> None:
    tokenizer = sentence_piece()
    decoded = PieceText(tokenizer).decode(ids_of(tokenizer, ["<s>", "▁", "<0xE6>", "<0x9D>", "<0xB1>", "a"]))
    assert decoded == Decoded(" 東a", [(0, 0), (0, 1), (1, 2), (1, 2), (1, 2), (2, 3)])


def test_bytes_that_are_no_character_are_marked() -> None:
    tokenizer = sentence_piece()
    decoded = PieceText(tokenizer).decode(ids_of(tokenizer, ["<0xE6>", "a", "<0xB1>", "<0xC3>", "<0xA9>"]))
    assert decoded == Decoded("\ufffda\ufffdé", [(0, 1), (1, 2), (2, 3), (3, 4), (3, 4)])


def test_special_tokens_are_empty_and_an_unknown_one_is_some_character() -> None:
    tokenizer = sentence_piece()
    ids = ids_of(tokenizer, ["<s>", "a", "<unk>", "</s>"])
    assert PieceText(tokenizer).decode(ids) == Decoded("a\ufffd", [(0, 0), (0, 1), (1, 2), (2, 2)])
    assert PieceText(tokenizer).decode([10**6]) == Decoded("", [(0, 0)])


def test_added_plain_tokens_stand_for_themselves() -> None:
    tokenizer = wrap(Tokenizer.from_str(byte_level().backend_tokenizer.to_str()))
    tokenizer.add_tokens(["Zürich"])
    assert PieceText(tokenizer).decode(tokenizer("aZürich")["input_ids"]) == Decoded("aZürich", [(0, 1), (1, 7)])


def test_another_kind_of_decoder_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(UserError, match="WordPiece"):
        PieceText(wrap(tokenizer))


def test_token_of_takes_every_token_with_a_character_of_the_range() -> None:
    spans = [(0, 0), (0, 4), (4, 9), (8, 9), (9, 12)]
    assert token_of(spans, 5, 6) == (2, 2)
    assert token_of(spans, 3, 9) == (1, 3)
    assert token_of(spans, 8, 10) == (2, 4)
    with pytest.raises(ValueError, match="12 to 13"):
        token_of(spans, 12, 13)
