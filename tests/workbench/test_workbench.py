"""Editing one's own model: make, ask, add, change, remove, merge, compare."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lks.data import synthetic_world
from lks.data.fact_validation import UserFact
from lks.data.user_facts import Facts
from lks.editing.patch import Patch, WeightPatch
from lks.edits import Edit
from lks.errors import UserError
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from tests.helpers import tiny
from workbench.compare_answers import reply
from workbench.editing import EditRequest, answers, edit_model, update_model
from workbench.patch_folder import ModelIdentity, SavedEdits, check_writable, is_patch, read, write
from workbench.patch_tools import difference, merge, remove
from workbench.scoring import content_of, score

QUICK = {"max_epochs": "40", "lambda_edit": "0.5", "locality_prompts": "4", "locality_pool": "4"}


def edits_of(count: int) -> list[Edit]:
    return [
        replace(case.edit, training_paraphrases=(), training_locality=())
        for case in synthetic_world.cases()[:count]
    ]


def facts_of(edits: list[Edit], target: str = "") -> Facts:
    return Facts(
        "people", tuple(UserFact(0, e.subject, e.prompt, target or e.target, e.case_id) for e in edits)
    )


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama", "cpu")


@pytest.fixture(scope="module")
def made(lm: LM) -> SavedEdits:
    return edit_model(lm, facts_of(edits_of(4)), EditRequest(changes=QUICK))


@pytest.fixture(scope="module")
def saved(made: SavedEdits, tmp_path_factory: pytest.TempPathFactory) -> SavedEdits:
    folder = tmp_path_factory.mktemp("saved") / "patch"
    write(folder, made)
    return read(folder)


def logits(lm: LM, patch: Patch | None, prompt: str) -> torch.Tensor:
    ids, mask = lm.pad([lm.encode([prompt], [""])[0].ids])
    with torch.no_grad():
        if patch is None:
            return torch.as_tensor(lm.model(input_ids=ids, attention_mask=mask).logits)
        with patch.applied(lm):
            return torch.as_tensor(lm.model(input_ids=ids, attention_mask=mask).logits)


def test_the_edited_model_answers_and_what_was_saved_answers_the_same(
    lm: LM, made: SavedEdits, saved: SavedEdits
) -> None:
    assert made.facts is not None
    check = answers(lm, made.patch, made.facts.dataset())
    assert (check.asked, check.of) == (4, 4) and check.after == 4 > check.before
    for edit in edits_of(4):
        assert torch.equal(logits(lm, made.patch, edit.prompt), logits(lm, saved.patch, edit.prompt))
    assert saved.origin == made.origin
    assert set(saved.learnt) == set(made.learnt) and all(
        torch.equal(saved.learnt[k], made.learnt[k].cpu()) for k in made.learnt
    )


def test_a_model_that_nobody_tuned_gets_the_middle_block_and_a_method_its_blocks_at_the_same_depth(
    lm: LM,
) -> None:
    from workbench.presets import editor_for, method_named

    editor, said = editor_for(method_named("lks"), "somebody/else", (32, 4096), (10, ""), {})
    assert editor.params.block == 16  # type: ignore[attr-defined]
    assert "not tuned" in said
    moved, _ = editor_for(method_named("memit"), "somebody/else", (16, 1024), (10, ""), {})
    assert (moved.params.first_block, moved.params.last_block) == (2, 4)  # type: ignore[attr-defined]
    changed, _ = editor_for(method_named("lks"), "somebody/else", (32, 4096), (10, ""), {"block": "3"})
    assert changed.params.block == 3  # type: ignore[attr-defined]


def test_asking_says_which_subject_fired_and_leaves_other_prompts_alone(lm: LM, saved: SavedEdits) -> None:
    edit = edits_of(4)[1]
    said = reply(lm, saved.patch, edit.prompt, 4)
    assert (said.fired, said.subject) == (True, edit.subject)
    assert said.edited.text.startswith(edit.target) and said.edited.text != said.unedited.text
    assert said.edited.tokens > 0 and said.edited.rate > 0
    other = reply(lm, saved.patch, "Nobody was born in", 4)
    assert (other.fired, other.subject) == (False, "") and other.edited.text == other.unedited.text
    with pytest.raises(UserError, match="chat template"):
        reply(lm, saved.patch, "Hello", 4, form="chat")
    with pytest.raises(UserError, match="window has"):
        reply(lm, saved.patch, "Hello", 50_000)


def test_an_update_adds_and_changes_and_keeps_the_rest_bit_for_bit(lm: LM, made: SavedEdits) -> None:
    old = edits_of(5)
    changed = Facts("more", (*facts_of(old[:1], "pony").facts, *facts_of(old[4:]).facts))
    after, said = update_model(lm, made, changed)
    assert "3 subjects keep" in said and after.facts is not None
    assert [fact.target for fact in after.facts.facts] == ["pony", *(edit.target for edit in old[1:])]
    assert answers(lm, after.patch, after.facts.dataset()).after == 5
    for edit in old[1:4]:
        assert torch.equal(logits(lm, after.patch, edit.prompt), logits(lm, made.patch, edit.prompt))
    again, _ = update_model(lm, after, Facts("none", ()), drop=[old[2].subject])
    assert torch.equal(logits(lm, again.patch, old[2].prompt), logits(lm, None, old[2].prompt))


def test_an_update_of_changed_weights_edits_again_and_says_so(lm: LM) -> None:
    first = edit_model(lm, facts_of(edits_of(2)), EditRequest("ft", {"max_epochs": "3", "block": "1"}))
    after, said = update_model(lm, first, facts_of(edits_of(3)[2:]))
    assert "again with all facts" in said
    assert after.facts is not None and len(after.facts.facts) == 3
    with pytest.raises(UserError, match="--without"):
        remove(first, edits_of(1)[0].subject)


def test_removing_a_subject_is_exact(lm: LM, saved: SavedEdits) -> None:
    edits = edits_of(4)
    done = remove(saved, edits[1].subject)
    assert done.facts == 1 and not done.still
    left = done.edited.patch
    assert torch.equal(logits(lm, left, edits[1].prompt), logits(lm, None, edits[1].prompt))
    for edit in (edits[0], edits[2], edits[3]):
        assert torch.equal(logits(lm, left, edit.prompt), logits(lm, saved.patch, edit.prompt))
    assert done.edited.facts is not None and edits[1].subject not in {
        fact.subject for fact in done.edited.facts.facts
    }
    with pytest.raises(UserError, match="Unknown subject"):
        remove(done.edited, edits[1].subject)


def test_removing_keeps_a_gate_as_it_was(lm: LM) -> None:
    made = edit_model(
        lm, facts_of(edits_of(4)), EditRequest(changes=QUICK | {"gate": "relation", "max_epochs": "5"})
    )
    left = remove(made, edits_of(4)[0].subject).edited.patch
    for edit in edits_of(4)[1:]:
        assert torch.equal(logits(lm, left, edit.prompt), logits(lm, made.patch, edit.prompt))


def test_merging_puts_subjects_side_by_side(lm: LM, saved: SavedEdits) -> None:
    edits = edits_of(4)
    one = remove(remove(saved, edits[0].subject).edited, edits[1].subject).edited
    two = remove(remove(saved, edits[2].subject).edited, edits[3].subject).edited
    whole = merge(one, two)
    for edit in edits:
        assert torch.equal(logits(lm, whole.patch, edit.prompt), logits(lm, saved.patch, edit.prompt))
    assert whole.facts is not None and len(whole.facts.facts) == 4 and not whole.learnt
    with pytest.raises(UserError, match="--prefer"):
        merge(saved, two)
    assert isinstance(two.patch, KnowledgeBlockPatch) and isinstance(saved.patch, KnowledgeBlockPatch)
    half = KnowledgeBlockPatch(two.patch.names, two.patch.table / 2, two.patch.blocks, "last", "exact")
    for prefer, wanted in (("first", saved.patch), ("last", half)):
        chosen = merge(saved, replace(two, patch=half), prefer)  # type: ignore[arg-type]
        assert torch.equal(logits(lm, chosen.patch, edits[0].prompt), logits(lm, wanted, edits[0].prompt))
    other = replace(two, origin=replace(two.origin, base=ModelIdentity("else", "1", 4, 48, 9)))  # type: ignore[type-var]
    with pytest.raises(UserError, match="different models"):
        merge(one, other)


def test_merged_weights_are_both_changes(lm: LM) -> None:
    name = lm.parameter_name(lm.mlp_output(1))
    weight = dict(lm.model.named_parameters())[name]
    dense = WeightPatch({name: torch.randn(weight.shape)})
    left, right = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
    low = WeightPatch({f"{name}.left": left, f"{name}.right": right})
    both = merge(SavedEdits(dense, None, None), SavedEdits(low, None, None)).patch
    assert isinstance(both, WeightPatch)
    torch.testing.assert_close(both.difference(name), dense.difference(name) + left @ right)
    twice = merge(SavedEdits(low, None, None), SavedEdits(low, None, None)).patch
    assert isinstance(twice, WeightPatch) and name not in twice.deltas
    torch.testing.assert_close(twice.difference(name), 2 * (left @ right))


def test_a_difference_names_facts_targets_and_norms(saved: SavedEdits) -> None:
    edits = edits_of(4)
    assert saved.facts is not None
    fewer = remove(saved, edits[0].subject).edited
    assert fewer.facts is not None
    other = replace(
        fewer,
        facts=replace(
            fewer.facts,
            facts=tuple(
                replace(f, target="Paris") if f.subject == edits[1].subject else f for f in fewer.facts.facts
            ),
        ),
    )
    found = difference(saved, other)
    assert found.only_first == (edits[0].prompt,) and found.only_second == ()
    assert found.changed == ((edits[1].prompt, edits[1].target, "Paris"),)
    norms = {name: (one, two, apart) for name, one, two, apart in found.norms}
    assert norms[edits[0].subject][1:] == (None, None) and norms[edits[1].subject][2] == 0.0


def test_a_patch_for_another_model_is_refused_with_both_identities(lm: LM, saved: SavedEdits) -> None:
    other = tiny.lm("qwen2")
    saved.check_model(lm)
    with pytest.raises(UserError, match=r"made for micro-llama.*the model is micro-qwen2"):
        saved.check_model(other)
    saved.check_model(other, force=True)


def test_folders_that_hold_something_else_are_never_written(tmp_path: Path, made: SavedEdits) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for replaceable in (False, True):
        with pytest.raises(UserError, match="something other than a patch"):
            check_writable(tmp_path / "mine", replaceable)
    write(tmp_path / "patch", made)
    assert is_patch(tmp_path / "patch")
    with pytest.raises(UserError, match="--update"):
        check_writable(tmp_path / "patch", may_replace=False)
    check_writable(tmp_path / "patch", may_replace=True)
    with pytest.raises(UserError, match="are free there"):
        check_writable(tmp_path / "new", may_replace=False, needed=1 << 60)
    assert sorted(part.name for part in tmp_path.iterdir()) == ["mine", "patch"]


def test_what_is_saved_names_no_machine_and_no_path(tmp_path: Path, made: SavedEdits) -> None:
    import getpass
    import platform

    write(tmp_path / "patch", made)
    text = (tmp_path / "patch" / "edit.json").read_text()
    assert str(tmp_path) not in text and platform.node() not in text and f"/{getpass.getuser()}" not in text
    assert json.loads(text)["parameters"]["max_epochs"] == 40


def test_scores_come_from_the_given_patch(lm: LM, saved: SavedEdits, tmp_path: Path) -> None:
    assert saved.facts is not None
    asked = tuple(replace(fact, paraphrases=(f"I heard: {fact.prompt}",)) for fact in saved.facts.facts)
    paraphrased = replace(saved.facts, facts=asked)
    scored = score(lm, saved, paraphrased, tmp_path)
    assert (scored.edited.status, scored.foreign) == ("ok", 0)
    from lks.results.store import Store
    from reports.results import load

    loaded = load(Store(tmp_path))
    after, before = (
        loaded.score(outcome, "ar_exact", "reliability") for outcome in (scored.edited, scored.unedited)
    )
    assert (
        after is not None
        and before is not None
        and after.value == 100.0
        and before.value is not None
        and before.value < 100.0
    )
    assert after.low is not None and after.low < 100.0
    other = remove(saved, edits_of(1)[0].subject).edited
    assert content_of(other.patch) != content_of(saved.patch), "another patch is another cell"
