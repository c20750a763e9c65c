"""The contrast gate: what it looks at, which prompts open it, and that it acts inside the replacer."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

import lks.editing.patch
from lks.edits import Edit
from lks.errors import UserError
from lks.evaluation.scope_decisions import Indicator, ScopeParams
from lks.evaluation.side_by_side import SideBySide, owned_by
from lks.method.common_questions import ATTRIBUTES, common_questions
from lks.method.contrast_gate import (
    BORDER,
    BORDER_SAME_WORDS,
    RIDGE,
    ContrastGate,
    as_said,
    separated,
    without_wording,
)
from lks.method.gate_parts import in_other_words, messages
from lks.method.lks import LKS
from lks.method.params import LKSParams
from lks.method.replacer import KnowledgeBlockPatch
from lks.method.training_data import subjects_of
from lks.models.lm import LM
from tests.helpers import tiny
from tests.lks.method.test_gate import BLOCK, generated, replaced


def fitted(lm: LM, edits: list[Edit]) -> ContrastGate:
    return ContrastGate.fit(lm, BLOCK, edits, subjects_of(edits))


def opens(lm: LM, gate: ContrastGate, prompts: list[str], subjects: list[int]) -> list[bool]:
    return gate.opens(gate.read(lm, BLOCK, prompts), torch.tensor(subjects)).tolist()


def patch_of(lm: LM, edits: list[Edit], value: float = 5.0) -> KnowledgeBlockPatch:
    names = [[subject] for subject in subjects_of(edits)]
    table = torch.full((1, len(names), lm.dim), value)
    return KnowledgeBlockPatch(names, table, (BLOCK,), "last", "exact", gate=fitted(lm, edits))


def test_it_looks_at_the_mean_direction_of_all_tokens_but_the_first_and_at_the_last() -> None:
    hidden = torch.tensor([[[100.0, 0.0], [0.0, 2.0], [3.0, 0.0]], [[9.0, 9.0], [0.0, -4.0], [1.0, 1.0]]])
    ids, prompt = torch.full((2, 3), 5), torch.tensor([[True, True, True], [False, True, False]])
    ends = torch.tensor([2, 1])
    rows, message, _ = messages(ids, prompt, torch.tensor([0]), torch.arange(2), ends)
    expected = torch.tensor([[0.5, 0.5, 0.3, 0.0], [0.0, -1.0, 0.0, -0.3]])  # a single token counts itself
    torch.testing.assert_close(ContrastGate.features(hidden, rows, message), expected)


def test_gates_look_at_the_messages_that_mention_a_subject() -> None:
    """Special tokens (1) separate them; several mentions in one message share it."""
    ids = torch.tensor([[1, 5, 5, 1, 6, 6, 6, 1], [0, 0, 7, 7, 1, 8, 1, 9]])
    prompt = ids > 0
    mentions = torch.tensor([[0, 0, 0, 1], [5, 6, 1, 3]])
    rows, message, where = messages(ids, prompt, torch.tensor([1]), *mentions)
    assert rows[where].tolist() == [0, 0, 0, 1]
    columns = [message[n].nonzero().flatten().tolist() for n in where.tolist()]
    assert columns == [[4, 5, 6], [4, 5, 6], [1, 2], [3]]  # without the first token of the second row
    assert len(rows) == 3


def test_the_messages_after_the_one_that_asks_are_not_looked_at() -> None:
    lm = tiny.lm("qwen2")
    edits = tiny.training(4)
    patch = patch_of(lm, edits, 7.0)
    prompts = [text for e in edits for text in (e.prompt, *e.training_locality)]
    special = lm.tokenizer.eos_token
    chats = [f"{prompt}{special}The answer is well known to all{special}" for prompt in prompts]
    alone, inside = (replaced(lm, patch, texts, "left", 7.0).any(1) for texts in (prompts, chats))
    assert 0 < alone.sum() < len(prompts)
    assert torch.equal(alone, inside)


def test_a_prompt_opens_it_that_is_nearer_to_the_first_mean() -> None:
    ask, rest = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    gate = ContrastGate(ask - rest, ((ask - rest) * (ask + rest)).sum(1) / 2, torch.tensor([0]))
    asked = torch.tensor([[1.1, 5.0], [0.9, -5.0], [2.0, 0.0]])
    assert gate.opens(asked, torch.zeros(3, dtype=torch.long)).tolist() == [True, False, True]


@pytest.mark.parametrize("rows", [3, 40])  # fewer and more than there are directions
def test_directions_along_which_wording_moves_a_vector_count_less(rows: int) -> None:
    """The direction is the difference times the inverse of half the scatter and half the identity."""
    generator = torch.Generator().manual_seed(0)
    moved = [torch.randn(rows, 6, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1, 1]) for _ in range(4)]
    residuals = [part - part.mean(0) for part in moved]
    found = torch.cat(residuals)
    scatter = found.T @ found / (len(found) - 4)
    metric = 0.5 * scatter + 0.5 * scatter.diag().mean() * torch.eye(6)
    vectors = torch.randn(5, 6, generator=generator)
    expected = vectors @ metric.inverse() * (0.5 * scatter.diag().mean())
    shrunk = without_wording(residuals, vectors)
    torch.testing.assert_close(shrunk(vectors), expected, rtol=1e-4, atol=1e-5)


def test_without_several_wordings_all_directions_count_alike() -> None:
    vectors = torch.randn(3, 6)
    assert without_wording([], vectors)(vectors) is vectors
    assert torch.equal(without_wording([torch.zeros(2, 6)], vectors)(vectors), vectors)


def test_the_classifier_is_the_ridge_regression_with_equal_weights_of_both_kinds() -> None:
    """The dual form gives what the primal one does, whose bias shares the ridge."""
    generator = torch.Generator().manual_seed(0)
    ask, other = torch.randn(3, 6, generator=generator) + 1, torch.randn(9, 6, generator=generator)
    direction, border = separated(ask, other, lambda vectors: vectors, 0.25)
    length = (ask.mean(0) - other.mean(0)).norm()
    points = torch.cat([ask, other]) - (ask.mean(0) + other.mean(0)) / 2
    inputs = torch.cat([points / length, torch.ones(12, 1)], 1)
    weight = torch.tensor([12 / 6.0] * 3 + [12 / 18.0] * 9)
    wanted = torch.tensor([1.0] * 3 + [-1.0] * 9)
    left = inputs.T @ (weight[:, None] * inputs) + RIDGE * torch.eye(7)
    primal = torch.linalg.solve(left, inputs.T @ (weight * wanted))
    scores = torch.cat([ask, other]) @ direction - border
    torch.testing.assert_close(scores, inputs @ primal - 0.25, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("count", [1, 4, 8])
def test_fitted_on_training_prompts_it_tells_relations_apart(family: str, count: int) -> None:
    lm = tiny.lm(family)
    edits = [
        replace(e, training_paraphrases=(f"The birthplace of our {e.subject} is",))
        for e in tiny.training(count)
    ]
    gate, numbers = fitted(lm, edits), list(range(count))
    assert all(opens(lm, gate, [e.prompt for e in edits], numbers))
    assert sum(opens(lm, gate, [f"{e.subject} works for" for e in edits], numbers)) <= 1


def test_without_prompts_about_other_facts_it_is_always_open() -> None:
    lm = tiny.lm("llama")
    gate = fitted(lm, [replace(e, training_locality=()) for e in tiny.edits(3)])
    assert gate.opens(torch.randn(30, 2 * lm.dim), torch.arange(30) % 3).all()


def test_common_questions_take_the_place_of_missing_ones() -> None:
    lm = tiny.lm("llama")
    edits = [replace(e, training_locality=()) for e in tiny.edits(3)]
    gate = ContrastGate.fit(lm, BLOCK, edits, subjects_of(edits), questions=4)
    assert all(opens(lm, gate, [e.prompt for e in edits], [0, 1, 2]))
    asked = [text for group in common_questions(edits[0], 4) for text in group]
    assert not any(opens(lm, gate, asked, [0] * len(asked)))


def test_common_questions_ask_in_the_same_forms_for_other_facts() -> None:
    edit = replace(tiny.edits(1)[0], subject="Ann", prompt="The mother of Ann is", training_paraphrases=())
    groups = common_questions(edit, len(ATTRIBUTES))
    assert len(groups) == len(ATTRIBUTES) - 1
    assert ("What is the age of Ann?", "The age of Ann is") in groups
    assert not any("mother" in text for group in groups for text in group)
    assert len(set(common_questions(edit, 3))) == 3 and common_questions(edit, 3) == common_questions(edit, 3)


def test_the_border_is_lower_for_an_edit_whose_prompts_are_all_in_the_same_words() -> None:
    """Prompts in other words score lower there. The prompt with words around it is in the same words."""
    lm = tiny.lm("llama")
    first, second = tiny.training(2)
    same = replace(second, training_paraphrases=(f"Fact: {second.prompt}",))
    other = replace(second, training_paraphrases=(f"{second.subject} was born in",))
    assert not in_other_words(same) and in_other_words(other)
    lower = fitted(lm, [first, same])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lks.method.contrast_gate.BORDER_SAME_WORDS", BORDER)
        usual = fitted(lm, [first, same])
    torch.testing.assert_close(usual.border - lower.border, torch.tensor([0.0, BORDER - BORDER_SAME_WORDS]))


def test_each_edit_of_a_subject_opens_it() -> None:
    lm = tiny.lm("llama")
    first = tiny.training(1)[0]
    again = (f"The employer of {first.subject} is",)
    second = replace(first, case_id="b", prompt=f"{first.subject} works for", training_paraphrases=again)
    gate = fitted(lm, [first, second])
    assert gate.subjects == 1 and len(gate.direction) == 2
    assert opens(lm, gate, [first.prompt, second.prompt], [0, 0]) == [True, True]


def test_tensors_must_fit_and_every_subject_needs_an_edit() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        ContrastGate(torch.ones(2, 3), torch.ones(3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="needs a key"):
        ContrastGate(torch.ones(2, 3), torch.ones(2), torch.tensor([0, 2]))


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_inside_the_replacer_it_decides_as_it_reads(family: str, side: Literal["left", "right"]) -> None:
    """Whatever the padding; and a scope cell, which edits nothing, finds the same."""
    lm = tiny.lm(family)
    edits = tiny.training(4)
    patch = patch_of(lm, edits, 7.0)
    prompts = [text for e in edits for text in (e.prompt, *e.training_paraphrases, *e.training_locality)]
    owners = [
        n for n, e in enumerate(edits) for _ in (e.prompt, *e.training_paraphrases, *e.training_locality)
    ]
    edited = replaced(lm, patch, prompts, side, 7.0).any(1).tolist()
    assert isinstance(patch.gate, ContrastGate)
    assert edited == opens(lm, patch.gate, prompts, owners)
    assert 0 < sum(edited) < len(edited)
    indicator = Indicator(edits, ScopeParams("exact", "contrast", BLOCK), lm)
    assert [bool(found) for found in indicator.find(prompts)] == edited


def test_generation_agrees_with_and_without_a_cache() -> None:
    lm = tiny.lm("qwen2")
    edits = tiny.training(3)
    patch = patch_of(lm, edits)
    prompts = [e.prompt for e in edits] + [p for e in edits for p in e.training_locality]
    made = generated(lm, patch, prompts)
    assert torch.equal(*made)


def test_side_by_side_it_decides_as_alone() -> None:
    lm = tiny.lm("llama")
    edits = tiny.training(4)
    patches = {0: patch_of(lm, edits[:2]), 1: patch_of(lm, edits[2:], 3.0)}
    prompts = [text for e in edits for text in (e.prompt, *e.training_locality)]
    owners = [n // 2 for n, e in enumerate(edits) for _ in (e.prompt, *e.training_locality)]
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], "left")
    alone = torch.stack(
        [_logits(lm, ids[[i]], mask[[i]], patches[owner])[0] for i, owner in enumerate(owners)]
    )
    beside = SideBySide.of(lm, patches)
    assert beside is not None
    with torch.no_grad(), beside.applied(), owned_by(owners):
        together = lm.model(input_ids=ids, attention_mask=mask).logits[:, -1]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def _logits(lm: LM, ids: torch.Tensor, mask: torch.Tensor, patch: KnowledgeBlockPatch) -> torch.Tensor:
    with torch.no_grad(), patch.applied(lm):
        logits: torch.Tensor = lm.model(input_ids=ids, attention_mask=mask).logits[:, -1]
    return logits


def test_patches_behind_it_are_taken_apart_and_put_together() -> None:
    """It has no threshold that would belong to all subjects, so `lks edit --update` need not train the others again."""
    lm = tiny.lm("llama")
    edits = tiny.training(4)
    whole = patch_of(lm, edits)
    parts = [whole.only([0, 1]), whole.only([2, 3])]
    again = parts[0].merged_with(parts[1])
    assert whole.extensible and again.subjects == whole.subjects
    for name, tensor in whole.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name
    left = whole.without([edits[1].subject])
    assert left.gate is not None and left.gate.subjects == 3
    with pytest.raises(UserError, match="the other has none"):
        plain = KnowledgeBlockPatch([["Zed"]], torch.ones(1, 1, lm.dim), (BLOCK,), "last", "exact")
        whole.merged_with(plain)


def test_it_is_saved_with_the_patch_and_refused_by_who_does_not_know_it(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    patch = LKS(LKSParams(block=BLOCK, gate="contrast", max_epochs=1)).edit(lm, tiny.training(3))
    assert isinstance(patch, KnowledgeBlockPatch) and isinstance(patch.gate, ContrastGate)
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert isinstance(again, KnowledgeBlockPatch) and isinstance(again.gate, ContrastGate)
    assert all(torch.equal(again.tensors()[k], tensor) for k, tensor in patch.tensors().items())
    # a version without this gate looks for gate.keys where there is a threshold, and does not go on ungated
    assert json.loads((tmp_path / "patch.json").read_text())["settings"]["threshold"] == 0.0
    assert "gate.keys" not in patch.tensors()


@pytest.mark.parametrize("owner", [[0, 9], [0, -1]])
def test_owners_that_are_no_subjects_are_damage(tmp_path: Path, owner: list[int]) -> None:
    lm = tiny.lm("llama")
    patch = patch_of(lm, tiny.training(2))
    assert patch.gate is not None
    patch.gate.owner = torch.tensor(owner)  # type: ignore[attr-defined]
    patch.save(tmp_path)
    with pytest.raises(UserError, match="Damaged patch"):
        lks.editing.patch.load(tmp_path)


def test_it_is_fitted_to_what_the_user_says_in_a_chat() -> None:
    """Edits whose prompts are rendered chats give the same gate as the bare prompts."""
    lm = tiny.lm("qwen2")
    tokenizer = copy.deepcopy(lm.tokenizer)  # the model is shared
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    chat = LM(lm.model, tokenizer)

    def turn(text: str) -> str:
        return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"

    edits = tiny.training(3)
    chats = [
        replace(
            e,
            prompt=turn(e.prompt),
            training_paraphrases=tuple(map(turn, e.training_paraphrases)),
            training_locality=tuple(map(turn, e.training_locality)),
        )
        for e in edits
    ]
    assert as_said(chat, chats[0]) == edits[0] and as_said(chat, edits[0]) == edits[0]
