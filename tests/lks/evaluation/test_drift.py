"""Drift: the divergence from the unedited model over its own answer, against two whole forward passes side by
side.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.edits import make_case
from lks.evaluation import kl_drift
from lks.evaluation.kl_drift import with_drift
from lks.evaluation.readouts import ask
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from lks.results.answers import Answer
from tests.helpers import tiny

CASES = [
    make_case(
        e, (), ((f"{e.subject} works for", "New Port"), ("The birthplace of nobody in particular is", "Oslo"))
    )
    for e in tiny.edits(4)
]


def weights(lm: LM) -> Patch:
    weight = lm.mlp_output(2).weight
    return WeightPatch(
        {
            lm.parameter_name(lm.mlp_output(2)): 0.1
            * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        }
    )


def blocks(lm: LM) -> Patch:
    table = torch.randn(1, 2, lm.dim, generator=torch.Generator().manual_seed(7)) * 5
    return KnowledgeBlockPatch([["Mara Kelorin"], ["Zoë Quist"]], table, (1,), "last", "exact")


@torch.no_grad()
def plainly(lm: LM, patch: Patch, answer: Answer, unedited: Answer) -> float:
    """Mean KL over the positions of the unedited answer: whole passes over one row, without cache or padding."""
    prompt = lm.encode([answer.prompt], [""])[0].ids
    ids = torch.tensor([[*prompt, *unedited.ar_ids]])
    places = slice(len(prompt) - 1, -1)
    before = lm.model(input_ids=ids, use_cache=False).logits[0, places].double().softmax(-1)
    with patch.applied(lm):
        after = lm.model(input_ids=ids, use_cache=False).logits[0, places].double().softmax(-1)
    return float((before * (before.log() - after.log())).sum(-1).mean())


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("make", [weights, blocks])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_drift_equals_two_plain_forward_passes(
    family: str, make: Callable[[LM], Patch], batch_tokens: int
) -> None:
    lm = tiny.lm(family)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    patch, unedited = make(lm), ask(lm, CASES)
    with patch.applied(lm):
        answers = ask(lm, CASES)
    made = with_drift(lm, patch, answers, unedited, batch_tokens=batch_tokens)
    expected = [plainly(lm, patch, now, then) for now, then in zip(answers, unedited, strict=True)]
    assert [one.kl for one in made] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert max(expected) > 0.05, "the patch does something"
    if make is blocks:
        assert [one.kl == 0 for one in made] == [
            "Mara Kelorin" not in one.prompt and "Zoë Quist" not in one.prompt for one in answers
        ]
    assert [replace(one, kl=None) for one in made] == answers, "nothing else is changed"
    assert all((value == before[name]).all() for name, value in lm.model.state_dict().items())


def test_it_is_the_unedited_answer_that_counts() -> None:
    """Another reference answer gives another number: the distributions are those behind what the unedited
    model said.
    """
    lm = tiny.lm("llama")
    patch, unedited = weights(lm), ask(lm, CASES)
    others = [replace(one, ar_ids=tuple(reversed(one.ar_ids[:1])) + one.answer_ids) for one in unedited]
    assert with_drift(lm, patch, unedited, others)[0].kl == pytest.approx(
        plainly(lm, patch, unedited[0], others[0]), rel=1e-3
    )
    assert with_drift(lm, patch, unedited, others)[0].kl != pytest.approx(
        with_drift(lm, patch, unedited, unedited)[0].kl, rel=1e-2
    )


def test_nothing_moves_without_edits() -> None:
    lm = tiny.lm("llama")
    unedited = ask(lm, CASES)
    assert [one.kl for one in with_drift(lm, NoPatch(), unedited, unedited)] == [0.0] * len(unedited)


def test_what_is_known_is_kept_and_what_has_no_answer_is_left() -> None:
    lm = tiny.lm("llama")
    unedited = ask(lm, CASES[:1])
    answers = [replace(unedited[0], kl=5.0), *unedited[1:]]
    before = [*unedited[:2], replace(unedited[2], ar_ids=())]
    done: list[float] = []
    made = with_drift(lm, weights(lm), answers, before, progress=done.append)
    assert made[0].kl == 5.0 and made[1].kl is not None and made[1].kl > 0 and made[2].kl is None
    assert done == [1.0]
    assert with_drift(lm, weights(lm), answers[:1], before[:1]) == answers[:1]
    assert with_drift(lm, weights(lm), [], []) == []


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.lm("mistral")
    unedited, patch = ask(lm, CASES), weights(lm)
    whole = with_drift(lm, patch, unedited, unedited, batch_tokens=40)
    monkeypatch.setattr(kl_drift, "PIECE_BYTES", 1)
    assert with_drift(lm, patch, unedited, unedited, batch_tokens=40) == whole
