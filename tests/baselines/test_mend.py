"""MEND: gradients in factors, the edited model without touching a weight, the losses, and which weights of
training are kept.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines._mend.network import LowRankMLP, MendNetwork, live, mlp_layers
from baselines._mend.passes import Border, gradients, with_factors
from baselines._mend.training import MendTrainer, change, measure
from baselines._meta_training import loop
from baselines._meta_training.loop import Batches, MetaTraining
from baselines.mend import Mend, MendParams
from lks.editing.editor import Editor
from lks.editing.patch import WeightPatch
from lks.errors import UserError
from lks.models.lm import LM
from tests.helpers import tiny

PLAIN = MendParams(blocks=(-2, -1), rank=4, normalise=False, edit_lr=0.03, max_steps=0)
EDITS = tiny.edits(3)


def prepared(lm: LM, params: MendParams) -> Editor[MendParams]:
    made = Mend(params)
    made.prepare(lm, tiny.training())
    return made


def stirred(lm: LM, params: MendParams) -> MendNetwork:
    """A network that is no longer the identity."""
    network = Mend(params).network(mlp_layers(lm, (2, 3)))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith((".u", ".bias", ".shift")):
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(weight.numel()))
    return network


def true_gradients(lm: LM, names: list[str]) -> dict[str, torch.Tensor]:
    """Of the sum over edits of the mean negative log-likelihood of the target, by the weights themselves."""
    weights = {n: p for n, p in lm.model.named_parameters() if n in names}
    for weight in weights.values():
        weight.requires_grad_(True)
    total = torch.zeros(())
    for e in lm.encode([e.prompt for e in EDITS], [e.target for e in EDITS]):
        logits = lm.model(torch.tensor([e.ids])).logits[0, e.n_prompt - 1 : -1]
        total = total + F.cross_entropy(logits, torch.tensor(e.answer))
    found = torch.autograd.grad(total, list(weights.values()))
    for weight in weights.values():
        weight.requires_grad_(False)
    return dict(zip(weights, found, strict=True))


@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_untrained_network_makes_one_step_of_gradient_descent(family: str) -> None:
    lm = tiny.lm(family)
    patch = prepared(lm, PLAIN).edit(lm, EDITS)
    assert isinstance(patch, WeightPatch)
    layers = mlp_layers(lm, (2, 3))
    assert patch.names == sorted(layer.name for layer in layers) and len(layers) == (
        4 if family == "gpt2" else 6
    )
    for name, gradient in true_gradients(lm, patch.names).items():
        torch.testing.assert_close(patch.difference(name), -PLAIN.edit_lr * gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_changes_of_several_edits_add_up_in_factors_or_dense(family: str) -> None:
    lm = tiny.lm(family)
    editor = prepared(lm, replace(PLAIN, normalise=True))
    alone = [editor.edit(lm, [e]) for e in EDITS]
    many = editor.edit(lm, EDITS * 20)
    assert all(f"{n}.left" in alone[0].tensors() for n in many.names) and set(many.tensors()) == set(
        many.names
    )
    for name in many.names:
        torch.testing.assert_close(
            many.difference(name), 20 * sum(p.difference(name) for p in alone), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_group_of_rows_sees_its_own_edit_as_if_the_weights_were_changed(family: str) -> None:
    lm = tiny.lm(family)
    network, layers, border = stirred(lm, PLAIN), mlp_layers(lm, (2, 3)), Border(lm, 2)
    encoded = lm.encode([e.prompt for e in EDITS], [e.target for e in EDITS])
    asked = lm.encode(
        [p for e in EDITS for p in (e.training_paraphrases[0], EDITS[0].prompt)],
        [e.target for e in EDITS for _ in range(2)],
    )
    rows = border.rows(asked)
    with (
        torch.no_grad(),
        with_factors(layers, change(network, gradients(border, layers, border.rows(encoded)), len(EDITS))),
    ):
        together = border.logits(rows)
    assert not any(layer.module._forward_hooks for layer in layers)
    editor = prepared(lm, PLAIN)
    editor._trained = network.state_dict()
    for k, edit in enumerate(EDITS):
        with torch.no_grad(), editor.edit(lm, [edit]).applied(lm):
            for j in (2 * k, 2 * k + 1):
                alone = lm.model(torch.tensor([asked[j].ids])).logits[0, asked[j].n_prompt - 1 : -1]
                torch.testing.assert_close(together[rows.row == j], alone, rtol=1e-3, atol=1e-3)


def test_an_edit_lowers_the_loss_on_its_target() -> None:
    lm = tiny.lm("llama")
    border = Border(lm, 2)
    rows = border.rows(lm.encode([EDITS[0].prompt], [EDITS[0].target]))
    before = F.cross_entropy(border.logits(rows), rows.label)
    with prepared(lm, PLAIN).edit(lm, EDITS[:1]).applied(lm):
        assert F.cross_entropy(border.logits(rows), rows.label) < before - 0.01


def trainer(lm: LM, params: MendParams, network: MendNetwork | None = None) -> MendTrainer:
    layers = mlp_layers(lm, (2, 3))
    return MendTrainer(lm, layers, Border(lm, 2), network or Mend(params).network(layers), params, seed=0)


def test_a_zero_step_costs_no_locality_and_a_real_one_does() -> None:
    lm = tiny.lm("qwen2")
    made = trainer(lm, replace(PLAIN, c_edit=0.0))
    rows = made.rows(EDITS)
    assert float(made.loss(*rows).detach()) > 1e-4
    with torch.no_grad():
        made.network.steps.zero_()
    assert abs(float(made.loss(*rows).detach())) < 1e-6


def test_edits_of_a_step_are_edited_each_by_itself_and_their_losses_averaged() -> None:
    lm = tiny.lm("mistral")
    made = trainer(lm, PLAIN, stirred(lm, PLAIN))
    compat = trainer(
        lm, replace(PLAIN, compat="easyedit"), made.network
    )  # nothing is drawn but locality prompts
    one_each = [replace(e, training_locality=e.training_locality[:1]) for e in EDITS]
    alone = [float(compat.loss(*compat.rows([e])).detach()) for e in one_each]
    assert float(compat.loss(*compat.rows(one_each)).detach()) == pytest.approx(sum(alone) / 3, rel=1e-4)


def test_the_edit_loss_is_taken_on_a_paraphrase_or_for_comparison_on_the_edit_prompt() -> None:
    lm = tiny.lm("llama")
    edit = replace(EDITS[0], training_paraphrases=("Surely Mara Kelorin was born in",))
    for compat, prompt in (("published", edit.training_paraphrases[0]), ("easyedit", edit.prompt)):
        outer = trainer(lm, replace(PLAIN, compat=compat)).rows([edit])[1]
        assert outer.mask.sum() == len(lm.encode([prompt], [edit.target])[0].ids)


def test_factors_are_normalised_by_the_moments_of_tokens_that_have_a_gradient() -> None:
    lm = tiny.lm("llama")
    layers, border = mlp_layers(lm, (3,)), Border(lm, 3)
    network = Mend(PLAIN).network(layers)
    encoded = lm.encode([e.prompt for e in EDITS], [e.target for e in EDITS])
    network.normalise(measure(network, border, layers, encoded, batch_tokens=20))
    x, delta = gradients(border, layers, border.rows(encoded))[2]
    kept = live(delta)
    assert kept.sum(1).tolist() == [
        len(e.answer) for e in encoded
    ]  # in the last block only the loss positions have one
    x_new, delta_new = network(2, x, delta)
    both = torch.cat([x_new, delta_new], -1)[kept]
    torch.testing.assert_close(both.mean(0), torch.zeros(144), rtol=0, atol=1e-4)
    torch.testing.assert_close(both.std(0), torch.ones(144), rtol=1e-2, atol=1e-2)
    assert not x_new[~kept].any() and not delta_new[~kept].any()


def test_the_untrained_network_learns_at_once() -> None:
    lm = tiny.lm("llama")
    made = trainer(lm, PLAIN)
    made.loss(*made.rows(EDITS)).backward()
    learning = {
        name.split(".")[-1]
        for name, weight in made.network.named_parameters()
        if weight.grad is not None and bool(weight.grad.any())
    }
    assert learning == {"u", "bias", "shift", "steps"}  # scale and v have no say while U = 0


def test_the_network_is_the_published_residual_layer() -> None:
    net = LowRankMLP(2, rank=1, depth=1, shared=2)
    with torch.no_grad():
        net.v.copy_(torch.tensor([[[1.0], [2.0]]]))
        net.u.copy_(torch.tensor([[[3.0, -1.0]]]))
        net.bias.copy_(torch.tensor([[0.5, 0.5]]))
        net.scale[1] = 2.0
        net.shift[1] = -1.0
    z = torch.tensor([[1.0, 1.0]])  # V z = 3, U V z + b = (9.5, -2.5)
    assert net(z, 0).tolist() == [[10.5, 1.0]]
    assert net(z, 1).tolist() == [[19.0, 1.0]]


class Settings:
    max_steps, clip, validation_interval, patience, decay = 12, 1.0, 2, 2, False


def test_training_keeps_the_best_validated_weights_and_stops_early() -> None:
    module = nn.Linear(1, 1, bias=False)
    values = iter([3.0, 2.0, float("nan"), 1.0, 5.0, 6.0, 0.0])
    seen: list[torch.Tensor] = []

    def validation() -> float:
        seen.append(module.weight.detach().clone())
        return next(values)

    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    training = MetaTraining(
        module, optimiser, Batches(1, 1, torch.Generator()), module.weight.sum, validation
    )
    history = loop.fit(training, Settings())
    assert len(history) == 6 and history[3] == 1.0
    assert torch.equal(module.weight.detach(), seen[3]) and not torch.equal(seen[3], seen[5])


def test_learning_rates_stay_or_fall_to_zero() -> None:
    for decays, moved in ((False, 4.0), (True, 4 * (1 + 0.75 + 0.5 + 0.25) / 4)):
        module = nn.Linear(1, 1, bias=False)
        before = float(module.weight.detach())
        settings = Settings()
        settings.max_steps, settings.decay = 4, decays
        optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
        values = iter([3.0, 2.0, 1.0])
        training = MetaTraining(
            module,
            optimiser,
            Batches(1, 1, torch.Generator()),
            module.weight.sum,
            lambda values=values: next(values),
        )
        loop.fit(training, settings)
        assert before - float(module.weight.detach()) == pytest.approx(moved, rel=1e-4)


def test_the_split_is_the_same_for_the_same_edits_and_needs_a_few() -> None:
    edits = tiny.training(8)
    parts = loop.split(edits, "MEND")
    assert parts.validation == [edits[7]] and parts.train == edits[:7]
    many = [replace(e, case_id=f"{k}") for k in range(30) for e in edits[:1]]
    assert [e.case_id for e in loop.split(many, "MEND", 2).validation] == ["9", "19"]
    assert loop.digest(edits) != loop.digest(edits[::-1])
    with pytest.raises(UserError, match=r"there are 2 of them.*Choose a grid"):
        Mend(PLAIN).prepare(tiny.lm("llama"), edits[:2])


def test_an_unprepared_editor_says_so_and_another_model_is_trained_anew() -> None:
    with pytest.raises(UserError, match="call `prepare`"):
        Mend(PLAIN).edit(tiny.lm("llama"), EDITS)
    editors = [prepared(tiny.lm("llama", seed), replace(PLAIN, normalise=True)) for seed in (0, 1)]
    one, other = (e._trained for e in editors)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_batches_go_through_all_edits_before_any_comes_again() -> None:
    drawn = Batches(5, 2, torch.Generator().manual_seed(0))
    numbers = [i for _ in range(5) for i in next(drawn)]
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == list(range(5))


def test_batches_go_on_with_what_would_have_come() -> None:
    drawn, other = (Batches(5, 3, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    next(drawn)
    other.load_state_dict(drawn.state_dict())
    assert other.waiting and [next(other) for _ in range(5)] == [next(drawn) for _ in range(5)]
