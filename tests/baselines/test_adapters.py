"""LoRA and AdaLoRA: what is kept of peft's adapters, how the model is put back, and AdaLoRA's schedule."""

import warnings
from dataclasses import replace

import pytest
import torch

from baselines import adalora, lora
from baselines._adapters import ADAPTER, Rule, _groups, as_it_was, batch_loss, low_rank
from baselines._fine_tuning import target_in_place
from baselines.adalora import AdaLoRA, AdaLoRAParams, Allocation
from baselines.lora import LoRA, LoRAParams
from lks.editing.patch import WeightPatch
from lks.errors import UserError
from lks.models.lm import LM
from tests.helpers import tiny

METHODS = [
    (LoRA(LoRAParams(rank=4)), lora.factors),
    (AdaLoRA(AdaLoRAParams(initial_rank=4, target_rank=2)), adalora.factors),
]
EDITS = tiny.edits(4)


def fill(model: torch.nn.Module) -> None:
    """Give every adapter factor, zero ones included, random values."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize(("editor", "factors"), METHODS, ids=["lora", "adalora"])
def test_the_factors_are_pefts_own_weight_difference(family: str, editor, factors):
    lm = tiny.lm(family)
    with as_it_was(lm.model), warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns when it is told wrongly how weights are laid out
        tuner, _ = editor._tuner(lm.model, 10)
        fill(lm.model)
        expected = {
            n: m.get_delta_weight(ADAPTER).detach()
            for n, m in lm.model.named_modules()
            if hasattr(m, "get_delta_weight")
        }
        patch = WeightPatch(low_rank(tuner, factors))
    assert expected and patch.names == sorted(f"{name}.weight" for name in expected)
    weights = dict(lm.model.named_parameters())
    for name, delta in expected.items():
        assert delta.shape == weights[f"{name}.weight"].shape
        torch.testing.assert_close(patch.difference(f"{name}.weight"), delta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize(("editor", "factors"), METHODS, ids=["lora", "adalora"])
def test_the_patched_model_answers_as_the_adapted_one(family: str, editor, factors):
    lm = tiny.lm(family)
    ids = torch.tensor([lm.encode([EDITS[0].prompt], [""])[0].ids])
    with as_it_was(lm.model):
        tuner, _ = editor._tuner(lm.model, 10)
        fill(lm.model)
        lm.model.eval()
        with torch.no_grad():
            adapted = lm.model(ids).logits
        patch = WeightPatch(low_rank(tuner, factors))
    with torch.no_grad(), patch.applied(lm):
        torch.testing.assert_close(lm.model(ids).logits, adapted, rtol=1e-3, atol=1e-3)
        assert not torch.equal(lm.model(ids).logits, unedited(lm, ids))


def unedited(lm: LM, ids: torch.Tensor) -> torch.Tensor:
    return tiny.lm(lm.name.removeprefix("micro-")).model(ids).logits


def test_a_lora_step_by_hand():
    """Where A is kept and B starts at 0, only B moves in the first step: lr against the gradient's sign,
    times alpha / r.
    """
    lm = tiny.lm("llama")
    params = LoRAParams(rank=2, alpha=6, dropout=0.0, lr=1e-3, epochs=1, target_modules="v_proj")
    deltas = LoRA(params).edit(lm, EDITS[:1], seed=4).tensors()
    name = "model.layers.3.self_attn.v_proj.weight"
    weight = dict(lm.model.named_parameters())[name]
    example = target_in_place(lm.encode([EDITS[0].prompt], [EDITS[0].target])[0])
    with torch.enable_grad():
        weight.requires_grad_(True)
        (gradient,) = torch.autograd.grad(batch_loss(lm, [example]), weight)
    by_b = 3.0 * gradient @ initial_right(lm, params, name).T
    clear = by_b.abs() > 1e-4
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(
        deltas[f"{name}.left"][clear], (-3.0 * 1e-3 * by_b.sign())[clear], rtol=1e-2, atol=0
    )
    torch.testing.assert_close(deltas[f"{name}.right"], initial_right(lm, params, name), rtol=0, atol=0)


def initial_right(lm: LM, params: LoRAParams, name: str) -> torch.Tensor:
    deltas = LoRA(replace(params, lr=0.0)).edit(lm, EDITS[:1], seed=4).tensors()
    assert not deltas[f"{name}.left"].any()
    return deltas[f"{name}.right"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", [LoRA, AdaLoRA], ids=["lora", "adalora"])
def test_nothing_of_peft_stays_in_the_model(family: str, method):
    lm = tiny.lm(family)
    lm.model.lm_head.train()  # a mode of its own is kept, too
    before = [
        (n, id(m), m.training, list(m._modules), len(m._forward_hooks)) for n, m in lm.model.named_modules()
    ]
    keys, attributes = list(lm.model.state_dict()), set(vars(lm.model))
    parameters = [(n, id(p), p.requires_grad) for n, p in lm.model.named_parameters()]

    def check() -> None:
        assert [
            (n, id(m), m.training, list(m._modules), len(m._forward_hooks))
            for n, m in lm.model.named_modules()
        ] == before
        assert list(lm.model.state_dict()) == keys and set(vars(lm.model)) == attributes
        assert [(n, id(p), p.requires_grad) for n, p in lm.model.named_parameters()] == parameters

    def interrupt(fraction: float) -> None:
        assert len(list(lm.model.named_modules())) > len(before)  # the adapter is in there
        raise KeyboardInterrupt

    editor = method.for_model("micro-tiny", "world", 2)
    editor.edit(lm, EDITS[:2])
    check()
    with pytest.raises(KeyboardInterrupt):
        editor.edit(lm, EDITS[:2], progress=interrupt)
    check()
    with pytest.raises(UserError, match="target_modules"):
        method(replace(editor.params, target_modules="no_such_layer")).edit(lm, EDITS[:2])
    check()


def test_named_modules_are_the_ones_adapted():
    deltas = (
        LoRA(LoRAParams(epochs=1, target_modules="q_proj, down_proj"))
        .edit(tiny.lm("llama"), EDITS[:1])
        .tensors()
    )
    assert {name.split(".")[4] for name in deltas} == {"q_proj", "down_proj"}


@pytest.mark.parametrize("method", [LoRA, AdaLoRA], ids=["lora", "adalora"])
def test_the_seed_decides_and_the_callers_generator_is_left_alone(method):
    lm = tiny.lm("llama")
    editor = method(replace(method.for_model("micro-tiny", "world", 3).params, epochs=3, dropout=0.3))
    state = torch.get_rng_state()
    first = editor.edit(lm, EDITS[:3], seed=1).tensors()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = editor.edit(lm, EDITS[:3], seed=1).tensors(), editor.edit(lm, EDITS[:3], seed=2).tensors()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(
        k not in other or other[k].shape != first[k].shape or not torch.equal(first[k], other[k])
        for k in first
    )


@pytest.mark.parametrize(("n_edits", "batch_size", "epochs"), [(1, 1, 20), (4, 2, 12)])
def test_adaloras_ranks_fall_to_the_target(n_edits: int, batch_size: int, epochs: int):
    lm = tiny.lm("llama")
    params = AdaLoRAParams(initial_rank=6, target_rank=2, epochs=epochs, batch_size=batch_size)
    deltas = AdaLoRA(params).edit(lm, EDITS[:n_edits]).tensors()
    ranks = [d.shape[1] for name, d in deltas.items() if name.endswith(".left")]
    assert sum(ranks) == 2 * 8  # eight adapted modules
    assert len(set(ranks)) > 1  # dealt out by importance, not evenly


def test_adaloras_budget_falls_as_a_cubic_between_warm_up_and_settling():
    lm = tiny.lm("llama")
    params = AdaLoRAParams(initial_rank=6, target_rank=2, epochs=20, dropout=0.0)  # t_i = 3, t_f = 9
    example = target_in_place(lm.encode([EDITS[0].prompt], [EDITS[0].target])[0])
    alive: list[int] = []
    with as_it_was(lm.model), torch.random.fork_rng():
        tuner, rule = AdaLoRA(params)._tuner(lm.model, 20)
        optimiser = torch.optim.Adam([p for p in lm.model.parameters() if p.requires_grad], lr=1e-2)
        for step in range(1, 21):
            optimiser.zero_grad()
            (batch_loss(lm, [example]) + rule.penalty()).backward()
            optimiser.step()
            rule.stepped(step)
            alive.append(sum(int((p != 0).sum()) for n, p in tuner.model.named_parameters() if "lora_E" in n))
            assert rule.may_stop(step) == (step >= 11)
    start, end, first, last = 6 * 8, 2 * 8, 3, 20 - 9
    expected = [
        int((start - end) * (1 - (min(max(t, first), last) - first) / (last - first)) ** 3 + end)
        for t in range(1, 21)
    ]
    assert alive == expected


def test_adalora_does_not_stop_before_its_ranks_have_fallen():
    epochs: list[float] = []
    params = AdaLoRAParams(initial_rank=6, target_rank=2, epochs=20, stop_loss=1e9)
    AdaLoRA(params).edit(tiny.lm("llama"), EDITS[:1], progress=epochs.append)
    assert len(epochs) == 11
    epochs.clear()
    LoRA(LoRAParams(epochs=20, stop_loss=1e9)).edit(tiny.lm("llama"), EDITS[:1], progress=epochs.append)
    assert len(epochs) == 1


def test_the_penalty_is_zero_for_orthonormal_factors_and_known_for_others():
    lm = tiny.lm("llama")
    with as_it_was(lm.model):
        tuner, rule = AdaLoRA(AdaLoRAParams(initial_rank=3, target_rank=2, orthogonality=0.5))._tuner(
            lm.model, 10
        )
        assert isinstance(rule, Allocation)
        with torch.no_grad():
            for name, parameter in tuner.model.named_parameters():
                if "lora_A" in name or "lora_B" in name:
                    torch.nn.init.eye_(parameter)
            assert float(rule.penalty()) == pytest.approx(0.0, abs=1e-6)
            for name, parameter in tuner.model.named_parameters():
                if "lora_A" in name:
                    parameter.mul_(2.0)  # Q Q^T - I = 3 I of size 3, half of the matrices
        assert float(rule.penalty().detach()) == pytest.approx(0.5 * 0.5 * 27**0.5, rel=1e-5)
    assert Rule().penalty() == 0.0


def test_batches_are_of_similar_length():
    assert _groups([5, 2, 9, 3, 8], 2) == [[1, 3], [0, 4], [2]]


@pytest.mark.parametrize("wrong", [{"target_rank": 12}, {"target_rank": 0}, {"warmup": 0.6, "settle": 0.5}])
def test_a_schedule_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        AdaLoRA(replace(AdaLoRAParams(), **wrong)).edit(tiny.lm("llama"), EDITS[:1])
