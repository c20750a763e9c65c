"""Free generation: batches with early stops against one row at a time, and each rule of stopping by hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lks.edits import Case, Edit, Probe, make_case
from lks.errors import BadRecord
from lks.evaluation.readouts import LONGEST, SPARE, Asking, ask
from lks.evaluation.record_checks import check
from lks.models.generation import Generated, StopLimits, Stops, ends_of, generate, positions, text_of
from lks.models.lm import LM
from tests.helpers import real, tiny

PROMPTS = [
    form.format(name)
    for name in tiny.NAMES
    for form in ("Surely the birthplace of {}, of all people, is", "{}")
]


@contextmanager
def leaning(lm: LM, ids: Sequence[int], by: float) -> Iterator[None]:
    """A model that is fonder of some tokens than it was."""
    bias = torch.zeros(lm.vocabulary_projection.out_features)
    bias[list(ids)] = by
    handle = lm.vocabulary_projection.register_forward_hook(lambda module, args, out: out + bias)
    yield
    handle.remove()


def newlines(lm: LM) -> list[int]:
    """The pieces that hold a newline, from the tokenizer's own decoder."""
    return [i for i in range(len(lm.tokenizer)) if "\n" in lm.tokenizer.decode([i])]


def model(family: str) -> LM:
    """A tiny model; byte pieces of the tiny vocabularies are special tokens, so they are made the text that
    they are elsewhere.
    """
    lm = tiny.lm(family)
    for piece, token in lm.tokenizer.get_vocab().items():
        if piece.startswith("<0x"):
            lm.piece_texts[token] = piece
    for token in newlines(lm):
        lm.piece_texts[token] = "\n"
    return lm


def controls(lm: LM) -> set[int]:
    """Special tokens without the byte pieces, which `model` makes text."""
    return {
        i
        for i, token in lm.tokenizer.added_tokens_decoder.items()
        if token.special and lm.piece_texts[i] in ("", "\ufffd")
    }


def ends(lm: LM) -> list[int]:
    """What may end an answer."""
    return [*newlines(lm), int(lm.tokenizer.eos_token_id)]


@torch.no_grad()
def plainly(lm: LM, ids: Sequence[int], count: int) -> list[int]:
    """So many greedy tokens of one row, without cache, padding or stops."""
    made = list(ids)
    for _ in range(count):
        made.append(int(lm.model(input_ids=torch.tensor([made]), use_cache=False).logits[0, -1].argmax()))
    return made[len(ids) :]


def natural_stop(lm: LM, made: Sequence[int], longest: int, newline: bool) -> int:
    """Tokens up to the stop, from what each token spells."""
    words = False
    for count, token in enumerate(made[:longest], 1):
        if (
            token == lm.tokenizer.eos_token_id
            or token in controls(lm)
            or (newline and words and token in newlines(lm))
        ):
            return count
        words = words or bool(lm.piece_texts[token].strip())
    return longest


@torch.no_grad()
def batched(lm: LM, prompts: Sequence[str], limits: StopLimits) -> tuple[list[Generated], list[int]]:
    """What `generate` makes of a batch, and the rows of each of its model calls."""
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side="left")
    out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True)
    rows: list[int] = []
    handle = lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    made = generate(lm, Stops(lm), out.past_key_values, mask, out.logits[:, -1], limits)
    handle.remove()
    return made, rows


@pytest.mark.parametrize("family", tiny.MODELS)
def test_a_batch_with_early_stops_equals_one_row_at_a_time(family: str) -> None:
    lm, longest = model(family), 18
    shortest = [1 + i % 4 for i in range(len(PROMPTS))]
    with leaning(lm, ends(lm), 4.0):
        plain = [plainly(lm, e.ids, longest) for e in lm.encode(PROMPTS, [""] * len(PROMPTS))]
        every = [longest] * len(PROMPTS)
        made, calls = zip(
            *(
                batched(lm, PROMPTS, StopLimits(every, shortest, [new] * len(PROMPTS)))
                for new in (True, False)
            ),
            strict=True,
        )
    for newline, rows, called in zip((True, False), made, calls, strict=True):
        lengths = [natural_stop(lm, row, longest, newline) for row in plain]
        assert len(set(lengths)) > 2 and max(lengths) > 8, f"the rows do not stop at several times: {lengths}"
        assert [row.length for row in rows] == lengths
        needed = [max(pair) for pair in zip(lengths, shortest, strict=True)]
        for row, expected, least in zip(rows, plain, needed, strict=True):
            assert row.ids[:least] == expected[:least] and row.ids == expected[: len(row.ids)]
        # A row leaves when it has what it needs, or a little later: no more than a third more rows are run
        # than still go on.
        assert len(called) == max(needed) - 1
        for count, size in enumerate(called, 1):
            going = sum(least > count for least in needed)
            assert going <= size and (going == size or 3 * size < 4 * going)


class Script:
    """A model that says what is written, row by row."""

    TEXTS = ("", "\n", "word", "", "  ", "end\n")
    END = 3

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows, self.shown = rows, torch.arange(len(rows))
        self.count = 0
        self.batches: list[int] = []
        self.lm: Any = SimpleNamespace(
            model=self,
            piece_texts=list(self.TEXTS),
            device=torch.device("cpu"),
            tokenizer=SimpleNamespace(eos_token_id=self.END, added_tokens_decoder={}),
            generation_config=None,
        )
        self.generation_config = SimpleNamespace(eos_token_id=[self.END])

    def logits(self) -> Tensor:
        """[rows, vocabulary] of the next tokens."""
        wanted = [
            self.rows[i][self.count] if self.count < len(self.rows[i]) else 2 for i in self.shown.tolist()
        ]
        return torch.nn.functional.one_hot(torch.tensor(wanted), len(self.TEXTS)).float()

    def batch_select_indices(self, index: Tensor) -> None:
        self.shown = self.shown[index]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: object) -> SimpleNamespace:
        assert len(input_ids) == len(attention_mask) == len(self.shown)
        self.batches.append(len(input_ids))
        self.count += 1
        return SimpleNamespace(logits=self.logits()[:, None])

    def said(
        self, longest: int | Sequence[int], shortest: Sequence[int], newline: bool | Sequence[bool] = True
    ) -> list[Generated]:
        mask, count = torch.ones(len(self.rows), 3, dtype=torch.long), len(self.rows)
        most = [longest] * count if isinstance(longest, int) else longest
        lines = [newline] * count if isinstance(newline, bool) else newline
        return generate(self.lm, Stops(self.lm), self, mask, self.logits(), StopLimits(most, shortest, lines))


@pytest.mark.parametrize(
    ("row", "newline", "length"),
    [
        ([2, 1, 2], True, 2),  # a newline behind a word
        ([1, 2, 1], True, 3),  # one before the first word is no stop
        ([4, 1, 4, 2, 1], True, 5),  # white space is no word
        ([5, 2, 1], True, 3),  # a first word with its newline in one token does not stop itself
        ([2, 5], True, 2),
        ([3], True, 1),  # the end of sequence, at once
        ([1, 3, 2], True, 2),
        ([2, 1, 2, 3], False, 4),  # newlines are text
        ([2], True, 6),  # words without end: the longest
    ],
)
def test_a_row_stops_at_its_end(row: list[int], newline: bool, length: int) -> None:
    (made,) = Script([row]).said(6, [1], newline)
    assert made == Generated([*row, *[2] * 6][:length], length)


def test_a_row_that_must_go_on_notes_its_stop_all_the_same() -> None:
    script = Script([[2, 1, 4, 2, 2], [3, 2, 2], [2, 2, 2, 3]])
    made = script.said(50, [4, 1, 2])
    assert [row.length for row in made] == [2, 1, 4]
    assert made[0].ids == [2, 1, 4, 2] and made[1].ids == [3] and made[2].ids == [2, 2, 2, 3]
    assert script.batches == [2, 2, 2]


def test_the_longest_length_may_be_below_the_shortest() -> None:
    (made,) = Script([[2, 2, 4, 2]]).said(1, [3])
    assert made == Generated([2, 2, 4], 1)


def test_rows_leave_once_a_quarter_of_a_batch_has_stopped() -> None:
    script = Script([[2] * n + [3] for n in (9, 0, 2, 5, 7)])  # they stop at tokens 10, 1, 3, 6, 8
    assert [row.length for row in script.said(50, [1] * 5)] == [10, 1, 3, 6, 8]
    assert script.batches == [
        5,
        5,
        3,
        3,
        3,
        2,
        2,
        1,
        1,
    ]  # 4 of 5 go on: all are run; 3 of 5: the others are gone


def test_each_row_has_its_own_limits() -> None:
    script = Script([[2, 1, 2, 3], [2, 1, 2, 3], [2] * 9, [2] * 9, [2, 1, 2, 2, 2, 2, 2]])
    made = script.said([50, 50, 3, 7, 6], [1] * 5, [True, False, True, True, False])
    assert [row.length for row in made] == [2, 4, 3, 7, 6]


@pytest.mark.parametrize("name", real.FAMILIES)
def test_control_tokens_of_real_tokenizers_end_an_answer(name: str) -> None:
    lm = real.tokenizer_only(name)
    stops, names = Stops(lm), lm.tokenizer.get_vocab()
    wanted = {
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|file_sep|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<bos>",
        "<eos>",
        "<pad>",
    } & set(names)
    assert len(wanted) >= 3 and all(stops.end[names[token]] for token in wanted)
    text = "user\nParis, C++ <b> ##</s>"
    assert not stops.end[lm.tokenizer(text, add_special_tokens=False)["input_ids"]].any()
    start = "<start_of_turn>" if "<start_of_turn>" in names else "<|im_start|>"
    ids = lm.tokenizer(f" Paris{start}user\nWhat", add_special_tokens=False)["input_ids"]
    length = next(count for count, token in enumerate(ids, 1) if stops.end[token])
    assert text_of(lm, Generated(ids, length)) == "Paris"


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_stops_are_read_from_the_tokenizer(family: str) -> None:
    lm = tiny.lm(family)
    stops = Stops(lm)
    assert stops.newline.nonzero().flatten().tolist() == newlines(lm) != []
    assert ends_of(lm) == [lm.tokenizer.eos_token_id]
    assert set(stops.end.nonzero().flatten().tolist()) == controls(lm) | {lm.tokenizer.eos_token_id}
    assert not stops.word[[lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id, *newlines(lm)]].any()
    lm.model.generation_config.eos_token_id = [2, 7]
    assert ends_of(lm) == [2, 7]


@pytest.mark.parametrize("family", tiny.MODELS)
def test_text_ends_at_the_stop_and_has_no_special_tokens(family: str) -> None:
    lm = tiny.lm(family)
    ids = lm.encode(["Ada Moss was born in"], ["New Port"])[0].answer
    more = lm.encode(["Ada Moss was born in"], ["Oslo"])[0].answer
    assert text_of(lm, Generated([*ids, lm.tokenizer.eos_token_id, *more], len(ids) + 1)) == "New Port"


@pytest.mark.parametrize("family", tiny.MODELS)
def test_free_and_truncated_answers_are_of_one_plain_generation(family: str) -> None:
    lm = model(family)
    edits = [
        Edit("0", "Mara Kelorin", "The birthplace of Mara Kelorin is", "New Port", "Oslo"),
        Edit("1", "Zoë Quist", "Q: Where was Zoë Quist born? A:", "Lisbon", "Oslo"),
        Edit("2", "Ada Moss", "Ada Moss was born in", "a very long answer of many words", "Oslo"),
    ]
    cases = [make_case(e, (), ()) for e in edits]
    with leaning(lm, ends(lm), 3.0 if family == "gpt2" else 2.0):
        answers = {wild: ask(lm, cases, Asking(wild=wild)) for wild in (True, False)}
        rows = lm.encode([a.prompt for a in answers[True]], [a.answer for a in answers[True]])
        plain = [plainly(lm, row.ids[: row.n_prompt], LONGEST) for row in rows]
    assert LONGEST == 50
    for free, short, row, made in zip(answers[True], answers[False], rows, plain, strict=True):
        length = natural_stop(lm, made, LONGEST, newline=True)
        assert free.wild_tokens == length
        assert free.wild_text == lm.tokenizer.decode(made[:length], skip_special_tokens=True).strip(" ")
        assert free.ar_ids == short.ar_ids == tuple(made[: len(row.answer)])
        assert short.wild_text is None and short.wild_tokens == 0


def long_case(answer: str, accepted: tuple[str, ...] = ()) -> Case:
    edit = Edit("0", "Mara Kelorin", "The birthplace of Mara Kelorin is", answer, "Oslo")
    return Case(edit, (Probe("edit", 0, edit.prompt, answer, accepted),))


def test_an_answer_longer_than_the_usual_length_is_generated_whole() -> None:
    lm = model("llama")
    spelling = "a very long answer of many words and " * 4
    long, short = (lm.encode(["The birthplace of Mara Kelorin is"], [one])[0] for one in (spelling, "Oslo"))
    assert len(long.answer) > LONGEST
    with leaning(lm, short.answer[:1], 50.0):  # it never stops by itself
        plain = plainly(lm, long.ids[: long.n_prompt], len(long.answer) + SPARE)
        for answer, accepted in (
            ("Oslo", ()),
            (spelling, ()),
            ("Oslo", (spelling,)),
            ("Oslo", ("Christiania",)),
        ):
            (free,) = ask(lm, [long_case(answer, accepted)])
            assert free.wild_tokens == (len(plain) if spelling in (answer, *accepted) else LONGEST)
            assert free.wild_text == lm.tokenizer.decode(
                plain[: free.wild_tokens], skip_special_tokens=True
            ).strip(" ")


def test_a_newline_ends_an_answer_only_if_no_right_answer_has_one() -> None:
    lm = model("llama")
    with leaning(lm, newlines(lm), 50.0):
        lm.piece_texts[newlines(lm)[0]] = "word\n"  # a word, so that every further one is a stop
        tokens = {
            answer: ask(lm, [long_case(answer, accepted)])[0].wild_tokens
            for answer, accepted in (("Oslo", ()), ("Os\nlo", ()), ("Quito", ("Qui\nto",)))
        }
    assert tokens == {"Oslo": 2, "Os\nlo": LONGEST, "Quito": LONGEST}


def test_where_positions_are_learnt_a_long_answer_must_fit_into_the_window() -> None:
    lm = tiny.lm("gpt2")
    case = long_case("Oslo", ("a very long answer of many words and " * 8,))
    check(lm, "world", [[long_case("Oslo")]])
    with pytest.raises(BadRecord, match="window"):
        check(lm, "world", [[case]])
