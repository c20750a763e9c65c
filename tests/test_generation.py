"""Free generation: batches with early stops against one row at a time, and each rule of stopping by hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lks.edits import Edit, make_case
from lks.generation import Generated, Limits, Stops, ends_of, generate, positions, text_of
from lks.lm import LM
from lks.readout import LONGEST, Asking, ask
from tests import tiny

PROMPTS = [form.format(name) for name in tiny.NAMES for form in ("Surely the birthplace of {}, of all people, is", "{}")]


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
    """A tiny model; byte pieces of the tiny vocabularies are special tokens, so its newline is made the text that it is elsewhere."""
    lm = tiny.lm(family)
    for token in newlines(lm):
        lm.piece_texts[token] = "\n"
    return lm


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
        if token == lm.tokenizer.eos_token_id or (newline and words and token in newlines(lm)):
            return count
        words = words or bool(lm.piece_texts[token].strip())
    return longest


@torch.no_grad()
def batched(lm: LM, prompts: Sequence[str], limits: Limits) -> tuple[list[Generated], list[int]]:
    """What `generate` makes of a batch, and the rows of each of its model calls."""
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side="left")
    out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True)
    rows: list[int] = []
    handle = lm.model.register_forward_pre_hook(lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    made = generate(lm, Stops(lm), out.past_key_values, mask, out.logits[:, -1], limits)
    handle.remove()
    return made, rows


@pytest.mark.parametrize("family", tiny.MODELS)
def test_a_batch_with_early_stops_equals_one_row_at_a_time(family: str) -> None:
    lm, longest = model(family), 18
    shortest = [1 + i % 4 for i in range(len(PROMPTS))]
    with leaning(lm, ends(lm), 4.0):
        plain = [plainly(lm, e.ids, longest) for e in lm.encode(PROMPTS, [""] * len(PROMPTS))]
        made, calls = zip(*(batched(lm, PROMPTS, Limits(longest, shortest, newline)) for newline in (True, False)), strict=True)
    for newline, rows, called in zip((True, False), made, calls, strict=True):
        lengths = [natural_stop(lm, row, longest, newline) for row in plain]
        assert len(set(lengths)) > 2 and max(lengths) > 8, f"the rows do not stop at several times: {lengths}"
        assert [row.length for row in rows] == lengths
        needed = [max(pair) for pair in zip(lengths, shortest, strict=True)]
        for row, expected, least in zip(rows, plain, needed, strict=True):
            assert row.ids[:least] == expected[:least] and row.ids == expected[: len(row.ids)]
        # A row leaves when it has what it needs, or a little later: no more than a third more rows are run than still go on.
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
            tokenizer=SimpleNamespace(eos_token_id=self.END),
            generation_config=None,
        )
        self.generation_config = SimpleNamespace(eos_token_id=[self.END])

    def logits(self) -> Tensor:
        """[rows, vocabulary] of the next tokens."""
        wanted = [self.rows[i][self.count] if self.count < len(self.rows[i]) else 2 for i in self.shown.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(wanted), len(self.TEXTS)).float()

    def batch_select_indices(self, index: Tensor) -> None:
        self.shown = self.shown[index]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: object) -> SimpleNamespace:
        assert len(input_ids) == len(attention_mask) == len(self.shown)
        self.batches.append(len(input_ids))
        self.count += 1
        return SimpleNamespace(logits=self.logits()[:, None])

    def said(self, limits: Limits) -> list[Generated]:
        mask = torch.ones(len(self.rows), 3, dtype=torch.long)
        return generate(self.lm, Stops(self.lm), self, mask, self.logits(), limits)


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
    (made,) = Script([row]).said(Limits(6, [1], newline))
    assert made == Generated([*row, *[2] * 6][:length], length)


def test_a_row_that_must_go_on_notes_its_stop_all_the_same() -> None:
    script = Script([[2, 1, 4, 2, 2], [3, 2, 2], [2, 2, 2, 3]])
    made = script.said(Limits(50, [4, 1, 2]))
    assert [row.length for row in made] == [2, 1, 4]
    assert made[0].ids == [2, 1, 4, 2] and made[1].ids == [3] and made[2].ids == [2, 2, 2, 3]
    assert script.batches == [2, 2, 2]


def test_the_longest_length_may_be_below_the_shortest() -> None:
    (made,) = Script([[2, 2, 4, 2]]).said(Limits(1, [3]))
    assert made == Generated([2, 2, 4], 1)


def test_rows_leave_once_a_quarter_of_a_batch_has_stopped() -> None:
    script = Script([[2] * n + [3] for n in (9, 0, 2, 5, 7)])  # they stop at tokens 10, 1, 3, 6, 8
    assert [row.length for row in script.said(Limits(50, [1] * 5))] == [10, 1, 3, 6, 8]
    assert script.batches == [5, 5, 3, 3, 3, 2, 2, 1, 1]  # 4 of 5 go on: all are run; 3 of 5: the others are gone


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_stops_are_read_from_the_tokenizer(family: str) -> None:
    lm = tiny.lm(family)
    stops = Stops(lm)
    assert stops.newline.nonzero().flatten().tolist() == newlines(lm) != []
    assert stops.end.nonzero().flatten().tolist() == ends_of(lm) == [lm.tokenizer.eos_token_id]
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
