"""TF and AR read-outs against plain one-row-at-a-time forward passes."""

import pytest
import torch

from lks.edits import Edit, make_case
from lks.evaluation.readouts import Asking, ask, ask_draws, same
from lks.models.lm import LM
from tests.helpers import tiny

EDITS = [
    Edit("0", "Mara Kelorin", "The birthplace of Mara Kelorin is", "New Port", "Oslo"),
    Edit("1", "Zoë Quist", "Q: Where was Zoë Quist born? A:", "Lisbon", "Oslo"),
    Edit("2", "Ada Moss", "Ada Moss was born in", "a very long answer of many words", "Oslo"),
]
CASES = [
    make_case(e, (f"Surely {e.subject} was born in",), ((f"{e.subject} works for", "Cairo"),)) for e in EDITS
]


def plainly(lm: LM, prompt: str, answer: str) -> tuple[list[int], list[int], list[int], float]:
    """Answer ids, TF argmax, AR tokens and log-probability, without cache, padding or batches."""
    row = lm.encode([prompt], [answer])[0]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        made = row.ids[: row.n_prompt]
        for _ in row.answer:
            made = [*made, int(lm.model(input_ids=torch.tensor([made])).logits[0, -1].argmax())]
    places = range(row.n_prompt, len(row.ids))
    return (
        row.answer,
        [int(logits[t - 1].argmax()) for t in places],
        made[row.n_prompt :],
        sum(float(logits[t - 1, row.ids[t]]) for t in places),
    )


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_batched_read_outs_equal_plain_ones(family: str, batch_tokens: int, wild: bool) -> None:
    lm = tiny.lm(family)
    answers = ask(lm, CASES, Asking(draw=3, batch_tokens=batch_tokens, wild=wild))
    assert [(a.case_id, a.kind) for a in answers[:3]] == [
        ("0", "edit"),
        ("0", "paraphrase"),
        ("0", "locality"),
    ]
    for a in answers:
        ids, tf, ar, logprob = plainly(lm, a.prompt, a.answer)
        assert (a.draw, a.answer_ids, a.tf_ids, a.ar_ids) == (3, tuple(ids), tuple(tf), tuple(ar))
        assert a.answer_logprob == pytest.approx(logprob, rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("answer", ["New Port", "1917", "Zoë", "x"])
def test_answer_tokens_are_those_of_the_answer_in_place(family: str, answer: str) -> None:
    lm = tiny.lm(family)
    row = lm.encode(["The birthplace of Mara Kelorin is"], [answer], ["Mara Kelorin"])[0]
    assert lm.tokenizer.decode(row.answer).strip() == answer
    assert (
        lm.tokenizer.decode(row.ids[: row.n_prompt], skip_special_tokens=True).strip()
        == "The birthplace of Mara Kelorin is"
    )
    assert row.subject is not None
    first, last = row.subject
    assert lm.tokenizer.decode(row.ids[first : last + 1]).strip() == "Mara Kelorin"
    assert lm.tokenizer.bos_token_id not in row.answer


@pytest.mark.parametrize("kinds", [(), ("paraphrase",)])
def test_draws_asked_together_are_answered_as_each_alone(kinds: tuple[str, ...]) -> None:
    lm = tiny.lm("llama")
    draws = {0: CASES[:1], 1: CASES[1:], 2: [CASES[0]]}
    together = ask_draws(lm, draws, Asking(kinds=kinds))
    alone = [
        answer
        for number, cases in draws.items()
        for answer in ask(lm, cases, Asking(draw=number, kinds=kinds))
    ]
    assert len(together) == len(alone) > 0
    for one, other in zip(together, alone, strict=True):
        assert one.draw == other.draw and same(one, other)


def test_a_lone_space_piece_is_the_answer_s_for_no_user_sends_it() -> None:
    lm = tiny.lm("llama")
    row = lm.encode(["The birthplace of Mara Kelorin is"], ["8"])[0]
    assert lm.tokenizer.convert_ids_to_tokens(row.answer)[0] == "▁"
    assert row.ids[: row.n_prompt] == lm.tokenizer("The birthplace of Mara Kelorin is")["input_ids"]
