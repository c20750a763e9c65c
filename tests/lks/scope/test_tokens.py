"""`lks.scope.token_text`: text and spans agree with the tokenizer's own, for both kinds of vocabulary."""

import json
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lks.errors import UserError
from lks.method.replacer import KnowledgeBlockPatch, Replacer
from lks.models.lm import LM
from lks.models.prefill import Pass
from lks.scope.exact import Mention
from lks.scope.token_text import Decoded, PieceText, token_of

CORPUS = [
    "Where was Mara Kelorin born? In Zürich.",
    "東京 は 日本 の 首都 です",
    "naïve café, 100 % sure",
    "it's Anna's house",
] * 4
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
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
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
    vocabulary = {
        piece: i for i, piece in enumerate(base + [p for p in learned["vocab"] if p not in "東京は"])
    }
    merges = [tuple(merge) for merge in learned["merges"] if not set("東京は") & set("".join(merge))]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrap(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def covered(spans: list[tuple[int, int]], length: int) -> bool:
    """Every character belongs to a token, tokens are in order, and neighbours share at most one character."""
    ends = [0, *(end for _, end in spans)]
    return (
        all(end - 1 <= start <= end for end, (start, _) in zip(ends, spans, strict=False))
        and ends[-1] == length
    )


@given(CHARACTERS)
def test_byte_level_text_and_offsets_are_the_tokenizers_own(text: str) -> None:
    tokenizer = byte_level()
    encoding = tokenizer.backend_tokenizer.encode(text)
    assert PieceText(tokenizer).decode(encoding.ids) == Decoded(
        text, [(start, end) for start, end in encoding.offsets]
    )


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
    assert PieceText(tokenizer).decode(tokenizer("aZürich")["input_ids"]) == Decoded(
        "aZürich", [(0, 1), (1, 7)]
    )


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


NAMES = [
    "Mara Kelorin",
    "Zoë Quist",
    "Jean-Luc O'Neill",
    "東京タワー",
    "Анна Каренина",
    "Łódź",
    "🙂 Café",
    "محمد علي",
]
FILLERS = ["", "Where was", "works for", "日本 の", "naïve,", "and", "100 %", "друг", "\n", "Is it true that"]
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|done|>{% endfor %}<|reply|>"
KINDS = ("bytes", "replace", "metaspace")
Prompt = list[tuple[str, str, str]]
PROMPTS = st.lists(
    st.tuples(st.sampled_from(FILLERS), st.sampled_from(NAMES), st.sampled_from(FILLERS)),
    min_size=1,
    max_size=3,
)


@cache
def model_of(kind: str, begins: bool) -> LM:
    """A model too small to matter, with a tokenizer of a kind that has a chat template and puts "<s>" first
    or not.
    """
    if kind == "metaspace":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
        )
        special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        made.train_from_iterator(
            CORPUS, trainers.BpeTrainer(vocab_size=380, special_tokens=special, show_progress=False)
        )
        state = json.loads(made.to_str())
        state["added_tokens"] = [
            t for t in state["added_tokens"] if not t["content"].startswith("<0x")
        ]  # bytes are no special tokens
        made = Tokenizer.from_str(json.dumps(state))
    else:
        made = Tokenizer.from_str(
            (byte_level() if kind == "bytes" else sentence_piece()).backend_tokenizer.to_str()
        )
    tokenizer = wrap(made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|done|>", "<|reply|>"]})
    if begins:
        first = tokenizer.convert_tokens_to_ids("<s>")
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", first)]
        )
    tokenizer.chat_template = TEMPLATE
    sizes = {
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": len(tokenizer),
    }
    return LM(LlamaForCausalLM(LlamaConfig(**sizes)), tokenizer)


def chatted(messages: list[str]) -> str:
    return str(
        model_of("bytes", False).tokenizer.apply_chat_template(
            [{"role": "user", "content": m} for m in messages], tokenize=False
        )
    )


class Occurrences:
    """Names wherever the text has them, letter for letter: what counts as a mention is not the matter here."""

    def find(self, text: str) -> tuple[Mention, ...]:
        found = [
            Mention(i, m.start(), m.end())
            for i, name in enumerate(NAMES)
            for m in re.finditer(re.escape(name), text)
        ]
        return tuple(sorted(found, key=lambda mention: mention.start))


def by_offsets(lm: LM, text: str) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Ids, and per mention the (token, subject) of its tokens by the tokenizer's own offsets.

    A space that was put in front is counted to the first character by the tokenizers; it is no part of a
    name.
    """
    made = lm.tokenizer(text, return_offsets_mapping=True, add_special_tokens=not text.startswith("<|user|>"))
    ids, offsets = made["input_ids"], made["offset_mapping"]
    lone = [
        lm.pieces.text([token]) == " " and text[a:b] != " "
        for token, (a, b) in zip(ids, offsets, strict=True)
    ]
    found = []
    for m in Occurrences().find(text):
        on = [i for i, (a, b) in enumerate(offsets) if a < m.end and b > m.start and b > a and not lone[i]]
        found.append([(i, m.subject_index) for i in on])
    return ids, found


@settings(deadline=None)
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(PROMPTS, min_size=1, max_size=3), st.booleans(), st.sampled_from(["left", "right"]))
def test_tokens_found_from_ids_are_those_of_the_offsets(
    kind: str, begins: bool, drawn: list[Prompt], chat: bool, side: str
) -> None:
    """Several scripts, subjects and mentions; a chat template whose messages meet without a space; padding on
    either side.
    """
    lm = model_of(kind, begins)
    texts = []
    for row in drawn:
        messages = [" ".join(part for part in parts if part) for parts in row]
        texts.append(chatted(messages) if chat else " ".join(messages))
    expected = [by_offsets(lm, text) for text in texts]
    for positions in ("all", "last"):
        patch = KnowledgeBlockPatch(
            [[name] for name in NAMES], torch.zeros(1, len(NAMES), lm.dim), (0,), positions, "exact"
        )  # type: ignore[arg-type]
        patch.scope = Occurrences()
        rows = [ids for ids, _ in expected]
        counted = slice(None) if positions == "all" else slice(-1, None)
        assert [patch.find(lm, ids) for ids in rows] == [
            [token for mention in found for token in mention[counted]] for _, found in expected
        ]
        ids, mask = lm.pad(rows, side)
        replacer = Replacer(patch, lm)
        replacer.decide(Pass(ids, mask))
        shift = [ids.shape[1] - len(row) if side == "left" else 0 for row in rows]
        assert replacer.decided is not None
        placed = sorted(zip(*(replacer.decided[i].tolist() for i in range(3)), strict=True))
        assert placed == sorted(
            (r, t + shift[r], s) for r, row in enumerate(rows) for t, s in patch.find(lm, row)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_parts_words_and_names(kind: str) -> None:
    lm = model_of(kind, False)
    patch = KnowledgeBlockPatch([["Mara Kelorin"]], torch.zeros(1, 1, lm.dim), (0,), "last", "exact")
    found = {}
    for text in ("bornMara Kelorin", "born<|done|><|user|>Mara Kelorin<|done|>Kel", "Mara<|done|> Kelorin"):
        found[text] = patch.find(lm, lm.tokenizer(text)["input_ids"])
    assert [len(tokens) for tokens in found.values()] == [0, 1, 0]
