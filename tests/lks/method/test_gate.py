"""The relation gate: what opens it, how its threshold is found, and that it acts inside the replacer."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

import lks.editing.patch
from lks.edits import Edit
from lks.errors import UserError
from lks.method.lks import LKS
from lks.method.params import LKSParams
from lks.method.relation_gate import RelationGate, _held_out, _threshold
from lks.method.replacer import KnowledgeBlockPatch
from lks.method.training_data import subjects_of
from lks.models.frozen_prefix import states
from lks.models.lm import LM
from tests.helpers import tiny

BLOCK = 1


def gate(threshold: float = 0.5) -> RelationGate:
    """Subject 0 has keys along x and y, subject 1 along -x; the centre is (1, 1)."""
    asked = torch.tensor([[3.0, 1.0], [1.0, 5.0], [0.0, 1.0]])
    return RelationGate.of(asked, torch.tensor([0, 0, 1]), torch.ones(2), threshold)


def fitted(lm: LM, edits: list[Edit], **changes: float) -> RelationGate:
    return RelationGate.fit(lm, BLOCK, edits, subjects_of(edits), **changes)  # type: ignore[arg-type]


def asked(lm: LM, prompts: list[str]) -> torch.Tensor:
    found = states(lm, BLOCK, [e.ids for e in lm.encode(prompts, [""] * len(prompts))])
    return found.at(torch.arange(len(prompts)), found.lengths - 1)


def replaced(
    lm: LM, patch: KnowledgeBlockPatch, prompts: list[str], side: Literal["left", "right"], value: float
) -> torch.Tensor:
    """Which states [prompts, time] of the block are the patch's, all of this value, in a padded batch."""
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), patch.applied(lm):
        handle = lm.block(BLOCK).register_forward_hook(
            lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2])
        )
        lm.model(input_ids=ids, attention_mask=mask, position_ids=positions)
        handle.remove()
    return (seen[0] == value).all(-1)


def generated(lm: LM, patch: KnowledgeBlockPatch, prompts: list[str]) -> list[torch.Tensor]:
    """Token ids of greedy answers with and without a cache."""
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], "left")
    with patch.applied(lm):
        return [
            lm.model.generate(
                ids, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=c, pad_token_id=0
            )
            for c in (True, False)
        ]


def test_a_subject_with_several_keys_opens_near_any_of_its_own() -> None:
    queries = torch.tensor([[9.0, 1.5], [0.5, 9.0], [-9.0, 1.0], [2.0, 2.0]])
    expected = torch.tensor([8 / (64.25**0.5), 8 / (64.25**0.5), 0.0, 0.5**0.5])
    torch.testing.assert_close(gate().nearness(queries, torch.zeros(4, dtype=torch.long)), expected)
    assert gate().opens(queries, torch.zeros(4, dtype=torch.long)).tolist() == [True, True, False, True]
    assert gate().opens(queries, torch.ones(4, dtype=torch.long)).tolist() == [False, False, True, False]


def test_a_key_can_be_left_out() -> None:
    queries, subjects = torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert gate().nearness(queries, subjects).tolist() == [1.0, 1.0]
    assert gate().nearness(queries, subjects, torch.tensor([0, 2])).tolist() == [0.0, -torch.inf]


def test_opening_is_nearness_above_the_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    owner = torch.cat([torch.arange(5), torch.randint(0, 5, (20,), generator=generator)])
    made = RelationGate.of(
        torch.randn(25, 8, generator=generator), owner, torch.randn(8, generator=generator), 0.3
    )
    queries, subjects = (
        torch.randn(50, 8, generator=generator),
        torch.randint(0, 5, (50,), generator=generator),
    )
    assert torch.equal(made.opens(queries, subjects), made.nearness(queries, subjects) > 0.3)
    cosines = torch.nn.functional.normalize(queries - made.centre, dim=1) @ made.keys.T
    naive = [
        max(float(c) for c, s in zip(row, owner, strict=True) if s == subject)
        for row, subject in zip(cosines, subjects, strict=True)
    ]
    torch.testing.assert_close(made.nearness(queries, subjects), torch.tensor(naive))


def test_every_subject_needs_a_key_and_tensors_must_fit() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        RelationGate.of(torch.ones(2, 3), torch.tensor([0, 2]), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="do not fit"):
        RelationGate(torch.ones(2, 3), torch.zeros(2, dtype=torch.long), torch.zeros(4), 0.5)


def test_the_threshold_keeps_the_rate_and_goes_half_way_where_there_is_room() -> None:
    outside = torch.linspace(0, 1, 101)
    assert _threshold(torch.tensor([0.9, 0.9]), outside, 0.05) == pytest.approx(0.95)
    assert float((outside > _threshold(torch.tensor([0.1]), outside, 0.2)).float().mean()) <= 0.2
    assert _threshold(torch.tensor([0.8, 0.8]), torch.tensor([0.2, 0.2]), 0.05) == pytest.approx(0.5)
    assert _threshold(torch.tensor([-torch.inf]), torch.tensor([0.2]), 0.05) == pytest.approx(
        0.6
    )  # no paraphrase


def test_half_of_the_subjects_are_held_out_unless_they_are_few() -> None:
    held = _held_out(torch.arange(20).repeat_interleave(3), seed=0)
    assert held.sum() == 30 and torch.equal(held[::3], held[1::3])
    assert not torch.equal(held, _held_out(torch.arange(20).repeat_interleave(3), seed=1))
    assert not _held_out(torch.arange(5), seed=0).any()


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("count", [1, 4, 8])
def test_fitted_on_training_prompts_it_tells_relations_apart(family: str, count: int) -> None:
    """A tiny random model's last-token states show which words were read, which is all that is needed here."""
    lm = tiny.lm(family)
    edits = [
        replace(e, training_paraphrases=(f"The birthplace of our {e.subject} is",))
        for e in tiny.training(count)
    ]
    made = fitted(lm, edits)
    numbers = torch.arange(count)
    assert made.opens(asked(lm, [e.prompt for e in edits]), numbers).all()
    assert made.opens(asked(lm, [f"{e.subject} works for" for e in edits]), numbers).sum() <= 1


def test_two_fits_agree_and_the_model_stays() -> None:
    lm = tiny.lm("llama")
    one, other = fitted(lm, tiny.training(8), seed=3), fitted(lm, tiny.training(8), seed=3)
    assert one.threshold == other.threshold and all(
        torch.equal(one.tensors()[k], other.tensors()[k]) for k in one.tensors()
    )
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.model.modules())


def test_a_higher_rate_never_raises_the_share_that_is_let_through() -> None:
    lm = tiny.lm("llama")
    strict, lax = (
        fitted(lm, tiny.training(8), false_positive_rate=0.01),
        fitted(lm, tiny.training(8), false_positive_rate=0.5),
    )
    prompts = [p for e in tiny.training(8) for p in e.training_locality]
    shares = [g.opens(asked(lm, prompts), torch.arange(8)).float().mean() for g in (strict, lax)]
    assert shares[0] <= shares[1]


def test_without_prompts_about_other_facts_it_is_always_open() -> None:
    lm = tiny.lm("llama")
    made = fitted(lm, [replace(e, training_locality=()) for e in tiny.edits(3)])
    assert made.opens(torch.randn(30, lm.dim), torch.arange(30) % 3).all()


def test_what_another_edit_of_the_subject_changes_is_no_other_fact() -> None:
    lm = tiny.lm("llama")
    first = tiny.edits(1)[0]
    second = replace(
        first,
        case_id="b",
        prompt=f"{first.subject} works for",
        training_paraphrases=(f"{first.subject} is employed by",),
    )
    made = fitted(lm, [first, second])
    assert made.subjects == 1 and len(made.keys) == 5
    assert made.opens(asked(lm, [first.prompt, second.prompt]), torch.tensor([0, 0])).all()


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_inside_the_replacer_only_prompts_that_open_it_are_edited(
    family: str, side: Literal["left", "right"]
) -> None:
    lm = tiny.lm(family)
    name = "Mara Kelorin"
    prompts = [
        f"The birthplace of {name} is",
        f"We all say that {name} works for",
        "Nobody was born in",
        f"{name} and {name} love",
    ]
    states_of = asked(lm, prompts)
    made = RelationGate.of(states_of[[0]], torch.tensor([0]), states_of.mean(0), 0.99)
    open_table = torch.full((1, 1, lm.dim), 7.0)
    patch = KnowledgeBlockPatch([[name]], open_table, (BLOCK,), "last", "exact", gate=made)
    edited = replaced(lm, patch, prompts, side, 7.0)
    assert edited.sum(1).tolist() == [1, 0, 0, 0]


def test_generation_behind_a_gate_agrees_with_and_without_a_cache() -> None:
    lm = tiny.lm("qwen2")
    edits = tiny.edits(3)
    patch = KnowledgeBlockPatch(
        [[e.subject] for e in edits],
        torch.full((1, 3, lm.dim), 5.0),
        (BLOCK,),
        "last",
        "exact",
        gate=fitted(lm, edits),
    )
    prompts = [e.prompt for e in edits] + [p for e in edits for p in e.training_locality]
    made = generated(lm, patch, prompts)
    assert torch.equal(*made)


def test_it_is_saved_with_the_patch(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    params = LKSParams(block=BLOCK, gate="relation", max_epochs=1)
    patch = LKS(params).edit(lm, tiny.edits(3))
    assert isinstance(patch, KnowledgeBlockPatch) and patch.gate is not None
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert isinstance(again, KnowledgeBlockPatch) and again.gate is not None
    assert again.gate.threshold == patch.gate.threshold and again.nbytes == patch.nbytes
    assert all(torch.equal(again.tensors()[k], tensor) for k, tensor in patch.tensors().items())
    document = tmp_path / "patch.json"
    document.write_text(document.read_text().replace(', ["Zoë Quist"]', ""))
    with pytest.raises(UserError, match="Damaged patch"):
        lks.editing.patch.load(tmp_path)
