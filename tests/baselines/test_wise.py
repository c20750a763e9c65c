"""WISE: merging, margin loss and routing against values worked by hand; routed rows against the model with
the side memory's weight.
"""

from dataclasses import replace

import pytest
import torch

from baselines._ties import ties
from baselines.wise import (
    LayerRows,
    SideMemoryPatch,
    SideMemoryTrainer,
    Wise,
    WiseParams,
    activation,
    margin_loss,
    read,
)
from lks.editing.patch import WeightPatch
from lks.models.lm import LM
from tests.helpers import tiny

PARAMS = WiseParams(block=2, lr=0.05, n_iter=6, contexts=2, locality_prompts=2)
PROMPTS = [e.prompt for e in tiny.edits(4)] + ["Nobody lives here", "We say that Tomas Verin works for"]


def test_ties_trims_elects_and_averages_what_agrees() -> None:
    changes = [
        torch.tensor([[4.0, -3.0, 1.0], [0.5, 2.0, 0.0]]),
        torch.tensor([[2.0, 5.0, 0.4], [-6.0, 0.3, 0.2]]),
        torch.tensor([[-1.0, -3.0, 0.1], [-2.0, 0.2, 0.0]]),
    ]
    # half of 6 entries: 4, -3, 2 | 2, 5, -6 | -1, -3, -2; signs of the sums 5, -1, 0 and -8, 2, 0
    torch.testing.assert_close(ties(changes, 0.5), torch.tensor([[3.0, -3.0, 0.0], [-4.0, 2.0, 0.0]]))
    torch.testing.assert_close(ties(changes[:1], 1.0), changes[0])


def test_the_margin_loss_by_hand() -> None:
    inside, outside = torch.tensor([18.0, 25.0]), torch.tensor([3.0, 9.0, 16.0])
    above_beta = (2 + 0) / 2
    below_alpha = (0 + 4 + 11) / 3
    apart = (0 + 1 + 8 + 0 + 0 + 1) / 6
    assert float(margin_loss(inside, outside, 5, 20, 10)) == pytest.approx(above_beta + below_alpha + apart)
    assert float(margin_loss(inside, outside[:0], 5, 20, 10)) == pytest.approx(above_beta)


def test_what_the_routing_activation_reads() -> None:
    ids = torch.tensor([[1, 7, 8, 9, 0], [0, 1, 7, 8, 9]])
    prompt = torch.tensor(
        [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    ).bool()  # 9 in the first row is answer, 0 is padding, 1 begins the sequence
    assert read("mean", ids, prompt, (1,)).int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    assert read("mean", ids, prompt, ()).equal(prompt)
    assert read("last", ids, prompt, (1,)).int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    product = torch.zeros(2, 5, 2)
    product[0], product[1, 2:] = torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 6.0]])
    assert activation(product, read("mean", ids, prompt, (1,))).tolist() == [5.0, 3.0]
    assert activation(product, read("last", ids, prompt, (1,))).tolist() == [5.0, 6.0]


def test_the_most_active_memory_above_its_own_threshold_answers() -> None:
    changes = torch.stack([torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 2.0]))])
    patch = SideMemoryPatch(0, changes, torch.tensor([1.0, 9.0]), "mean")
    inputs = torch.tensor(
        [[3.0, 1.0], [3.0, 4.0], [0.5, 4.0], [3.0, 5.0], [0.5, 5.0]]
    )  # active: (3, 2) (3, 8) (.5, 8) (3, 10) (.5, 10)
    assert patch.choose(inputs[:, None], torch.ones(5, 1).bool()).tolist() == [0, 0, -1, 1, 1]


def half_routed(lm: LM, reads: str) -> tuple[SideMemoryPatch, list[bool]]:
    """A random side memory whose threshold lies in the middle of the prompts' activations, and which prompts
    reach it.
    """
    encoded = lm.encode(PROMPTS, [""] * len(PROMPTS))
    params = replace(PARAMS, reads=reads)
    width = LayerRows.of(lm, params, ([PROMPTS[0]], ["Oslo"])).inputs.shape[-1]
    change = torch.randn(width, lm.dim, generator=torch.Generator().manual_seed(3)) * 0.3
    active = []
    for prompt in PROMPTS:
        rows = LayerRows.of(lm, params, ([prompt], ["Oslo"]))
        active.append(float(activation(rows.inputs @ change, rows.where)))
    middle = sorted(active)[len(encoded) // 2 - 1 :][:2]
    return SideMemoryPatch(2, change[None], torch.tensor([sum(middle) / 2]), params.reads), [
        a > sum(middle) / 2 for a in active
    ]


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("reads", ["mean", "last"])
def test_each_row_of_a_mixed_batch_generates_with_its_own_memory_to_the_end(family: str, reads: str) -> None:
    lm = tiny.lm(family)
    patch, routed = half_routed(lm, reads)
    assert 0 < sum(routed) < len(routed)
    module = lm.mlp_output(patch.block)
    change = patch.changes[0] if family == "gpt2" else patch.changes[0].T
    side = WeightPatch({lm.parameter_name(module): change})
    ids, mask = lm.pad([e.ids for e in lm.encode(PROMPTS, [""] * len(PROMPTS))], "left")

    def generated(rows: torch.Tensor, attention: torch.Tensor, cache: bool = True) -> torch.Tensor:
        made = lm.model.generate(
            rows,
            attention_mask=attention,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            use_cache=cache,
            pad_token_id=0,
        )
        return made[:, rows.shape[1] :]

    plain = generated(ids, mask)
    with side.applied(lm):
        changed = generated(ids, mask)
    expected = torch.where(torch.tensor(routed)[:, None], changed, plain)
    assert not plain[torch.tensor(routed)].equal(expected[torch.tensor(routed)])
    with patch.applied(lm):
        for cache in (True, False):
            assert torch.equal(generated(ids, mask, cache), expected)
        for row, keep in enumerate(mask.bool()):
            assert torch.equal(generated(ids[row, keep][None], mask[row, keep][None])[0], expected[row])


@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_loss_of_an_untouched_memory_is_the_models_own_plus_the_margins(family: str) -> None:
    lm, edit = tiny.lm(family), tiny.edits(1)[0]
    trainer = SideMemoryTrainer(lm, PARAMS, 0)
    texts = trainer._texts(edit)
    assert (
        len(texts[0]) == 3 + 2
        and texts[0][0] == edit.prompt
        and set(texts[0][3:]) == set(edit.training_locality)
    )
    rows = LayerRows.of(lm, PARAMS, texts)
    loss = trainer.loss(torch.zeros(rows.inputs.shape[-1], lm.dim), rows)
    means = []
    with torch.no_grad():
        for row in lm.encode(texts[0][:3], texts[1][:3]):
            scores = lm.model(torch.tensor([row.ids])).logits[0, row.n_prompt - 1 : -1].log_softmax(-1)
            means.append(-scores.gather(1, torch.tensor(row.answer)[:, None]).mean())
    assert float(loss) == pytest.approx(float(sum(means)) / 3 + PARAMS.beta + PARAMS.gamma, rel=1e-4)


def test_a_shard_changes_its_own_weights_only_and_none_too_far() -> None:
    lm = tiny.lm("llama")
    trainer = SideMemoryTrainer(lm, replace(PARAMS, max_change=0.01, save_freq=2), 0)
    masks = []
    for edit in tiny.edits(3):
        trainer.learn(edit, lambda _: None)
        masks.append(trainer.mask)
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    assert (
        [s.edits for s in trainer.saved] == [(0, 1)]
        and trainer.shard is not None
        and trainer.shard.edits == (2,)
    )
    for shard, mask in ((trainer.saved[0], masks[0]), (trainer.shard, masks[2])):
        assert float(mask.mean()) == pytest.approx(0.2, abs=0.03)
        assert not shard.change[mask == 0].any() and float(shard.change.abs().max()) == pytest.approx(0.01)


def test_shards_are_kept_apart_or_merged() -> None:
    lm, edits = tiny.lm("llama"), tiny.edits(3)
    apart, merged, late = (
        Wise(replace(PARAMS, save_freq=1, merge_freq=m, retrieve=r)).edit(lm, edits, seed=2)
        for m, r in ((9, True), (9, False), (2, True))
    )
    shards = list(apart.tensors()["changes"])
    assert len(shards) == 3
    torch.testing.assert_close(merged.tensors()["changes"][0], ties(shards, PARAMS.density))
    torch.testing.assert_close(
        late.tensors()["changes"], torch.stack([ties(shards[:2], PARAMS.density), shards[2]])
    )


def test_the_threshold_is_that_of_the_least_active_edit_as_the_memory_ends_up() -> None:
    lm, edits = tiny.lm("mistral"), tiny.edits(3)
    patch = Wise(PARAMS).edit(lm, edits)
    change = patch.tensors()["changes"][0]
    active = []
    for edit in edits:
        rows = LayerRows.of(lm, PARAMS, ([edit.prompt], [edit.target]))
        active.append(float(activation(rows.inputs @ change, rows.where)))
    assert float(patch.tensors()["thresholds"][0]) == pytest.approx(0.88 * min(active), rel=1e-4)
