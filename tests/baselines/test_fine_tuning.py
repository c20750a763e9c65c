"""FT-M and FT-L: what their losses are, what they train, and what FT-L's objective cannot do."""

import math
from dataclasses import replace

import pytest
import torch

from baselines._fine_tuning import TrainingSequence, _loss, places, target_from_last_token, target_in_place
from baselines.ft import FineTuning, FTParams
from baselines.ft_l import FTLParams, LastTokenFineTuning
from lks.models.frozen_prefix import UpperBlocks, states
from lks.models.lm import LM, Encoded
from tests.helpers import tiny

ENCODED = Encoded([1, 10, 11, 12, 20, 21], n_prompt=4)


def log_probabilities(lm: LM, ids: list[int]) -> torch.Tensor:
    """[time, vocabulary] of the whole model, one row."""
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def test_in_place_each_target_token_is_predicted_by_the_one_before():
    assert target_in_place(ENCODED) == TrainingSequence([1, 10, 11, 12, 20, 21], [(3, 20), (4, 21)])


def test_from_the_last_token_all_target_tokens_are_asked_of_the_prompt_alone():
    assert target_from_last_token(ENCODED) == TrainingSequence([1, 10, 11, 12], [(3, 20), (3, 21)])


def test_places_of_a_batch_know_their_row():
    row, position, label = places(
        [TrainingSequence([1, 2, 3], [(1, 3)]), TrainingSequence([1, 2], [(0, 7), (0, 8)])],
        torch.device("cpu"),
    )
    assert row.tolist() == [0, 1, 1] and position.tolist() == [1, 0, 0] and label.tolist() == [3, 7, 8]


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("example", [target_in_place, target_from_last_token])
def test_the_loss_is_the_mean_over_edits_of_the_targets_mean_nll(family: str, example):
    lm = tiny.lm(family)
    encoded = lm.encode([e.prompt for e in tiny.edits(3)], ["Lisbon", "Quito New Port", "Quito"])
    assert len({len(e.answer) for e in encoded}) > 1
    expected = 0.0
    for e in encoded:
        if example is target_in_place:
            scores = log_probabilities(lm, e.ids)
            per_token = [float(scores[e.n_prompt - 1 + t, token]) for t, token in enumerate(e.answer)]
        else:
            scores = log_probabilities(lm, e.ids[: e.n_prompt])
            per_token = [float(scores[-1, token]) for token in e.answer]
        expected -= sum(per_token) / len(per_token) / len(encoded)
    examples = [example(e) for e in encoded]
    cached = states(lm, 1, [e.ids for e in examples])
    got = _loss(UpperBlocks(lm, 1), cached, examples, torch.arange(len(examples)))
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_the_first_adam_step_moves_every_weight_by_lr_against_the_whole_models_gradient():
    lm = tiny.lm("llama")
    edits = tiny.edits(1)
    delta = (
        LastTokenFineTuning(FTLParams(block=2, lr=1e-3, max_epochs=1))
        .edit(lm, edits)
        .tensors()["model.layers.2.mlp.down_proj.weight"]
    )
    weight = lm.mlp_output(2).weight
    weight.requires_grad_(True)
    e = lm.encode([edits[0].prompt], [edits[0].target])[0]
    scores = lm.model(torch.tensor([e.ids[: e.n_prompt]])).logits[0, -1].log_softmax(-1)
    (gradient,) = torch.autograd.grad(-scores[torch.tensor(e.answer)].mean(), weight)
    moved = gradient.abs() > 1e-4  # below it Adam's epsilon and rounding show
    assert moved.float().mean() > 0.5
    torch.testing.assert_close(delta[moved], -1e-3 * gradient.sign()[moved], rtol=1e-2, atol=0)


def test_on_targets_of_one_token_ft_l_is_ft_m():
    lm = tiny.lm("qwen2")
    edits = [e for e in tiny.edits(4) if len(lm.encode([e.prompt], [e.target])[0].answer) == 1]
    assert edits
    settings = {"block": 1, "lr": 1e-3, "max_epochs": 5}
    one = LastTokenFineTuning(FTLParams(**settings)).edit(lm, edits).tensors()
    other = FineTuning(FTParams(**settings)).edit(lm, edits).tensors()
    for name, delta in one.items():
        torch.testing.assert_close(delta, other[name], rtol=1e-3, atol=1e-6)


def test_ft_l_in_place_is_ft_m_exactly():
    lm = tiny.lm("qwen2")
    settings = {"block": 1, "lr": 1e-3, "max_epochs": 3, "batch_size": 2, "max_change": 1e-3}
    one = (
        LastTokenFineTuning(FTLParams(objective="in_place", **settings))
        .edit(lm, tiny.edits(4), seed=3)
        .tensors()
    )
    other = FineTuning(FTParams(**settings)).edit(lm, tiny.edits(4), seed=3).tensors()
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_ft_l_ends_with_all_target_tokens_equally_likely_at_the_prompts_end():
    """The optimum of a bag of m different next tokens is 1/m each, loss log m: early stopping never comes,
    the first token stays a coin toss.
    """
    lm = tiny.lm("qwen2")
    edit = replace(tiny.edits(1)[0], target="New Port")
    e = lm.encode([edit.prompt], [edit.target])[0]
    assert len(set(e.answer)) == len(e.answer) == 2
    probability, epochs = {}, []
    for objective in ("last_token", "in_place"):
        params = FTLParams(block=2, objective=objective, lr=2e-3, max_epochs=150, stop_loss=math.log(2))
        with LastTokenFineTuning(params).edit(lm, [edit], progress=epochs.append).applied(lm):
            probability[objective] = log_probabilities(lm, e.ids[: e.n_prompt])[
                -1, torch.tensor(e.answer)
            ].exp()
        if objective == "last_token":
            assert len(epochs) == 150
    assert len(epochs) < 300
    assert math.log(2) < float(-probability["last_token"].log().mean()) < math.log(2) + 0.15
    assert float(probability["last_token"].max()) < 0.55
    assert probability["in_place"][0] > 10 * probability["in_place"][1]


@pytest.mark.parametrize(
    "make",
    [
        lambda c: FineTuning(FTParams(1, max_change=c)),
        lambda c: LastTokenFineTuning(FTLParams(1, max_change=c)),
    ],
)
def test_no_weight_leaves_its_ball(make):
    lm = tiny.lm("gpt2")
    (delta,) = make(1e-3).edit(lm, tiny.edits(2)).tensors().values()
    (free,) = make(0.0).edit(lm, tiny.edits(2)).tensors().values()
    assert 0.9e-3 < float(delta.abs().max()) <= 1e-3 + 1e-7 < float(free.abs().max())


def test_training_stops_once_the_loss_is_low():
    lm = tiny.lm("llama")
    epochs: list[float] = []
    FineTuning(FTParams(block=2, lr=1e-3, max_epochs=200, stop_loss=0.5)).edit(
        lm, tiny.edits(1), progress=epochs.append
    )
    assert 1 < len(epochs) < 200
