"""SERAC: who answers a row, what the counterfactual model reads, the classifier's equations, and decisions
that stay with their rows.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from baselines._meta_training import loop
from baselines._serac import counterfactual
from baselines._serac.counterfactual import contexts, fresh, from_hub
from baselines._serac.patch import SeracPatch
from baselines._serac.scope_classifier import (
    ScopeClassifier,
    ScopeClassifierTrainer,
    StateEncoder,
    binary_cross_entropy,
    reserved,
)
from baselines.serac import Serac, SeracParams
from lks.errors import UserError
from lks.models.lm import LM
from tests.helpers import tiny

PARAMS = SeracParams(max_steps=0, dim=32, layers=1)
EDITS = tiny.edits(3)
INSIDE, OUTSIDE = EDITS[1].prompt, "Nobody lives in Oslo"
PROMPTS = [OUTSIDE, INSIDE, "Cairo", EDITS[2].prompt]


def patched(lm: LM) -> SeracPatch:
    """Untrained networks: a prompt is in the scope of the edit of the same prompt and of no other."""
    editor = Serac(PARAMS)
    editor.prepare(lm, tiny.training())
    patch = editor.edit(lm, EDITS)
    assert isinstance(patch, SeracPatch)
    with torch.no_grad():
        patch.classifier.log_scale.fill_(4.0)
        for number, weight in enumerate(patch.counterfactual.parameters()):
            weight.normal_(std=0.3, generator=torch.Generator().manual_seed(number))
    return patch


def ids_of(lm: LM, texts: Sequence[str]) -> list[list[int]]:
    return [e.ids for e in lm.encode(texts, [""] * len(texts))]


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp_min(0)


def counterfactual_logits(lm: LM, patch: SeracPatch, edit: int, ids: list[int]) -> torch.Tensor:
    """By the whole small model, in one row without padding."""
    front = contexts(lm, [EDITS[edit].prompt], [EDITS[edit].target])[0]
    with torch.no_grad():
        return patch.counterfactual.model(torch.tensor([front + ids])).logits[0, len(front) :]


@pytest.mark.parametrize("family", ["mistral", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_in_scope_get_the_counterfactual_logits_and_others_exactly_their_own(
    family: str, side: str
) -> None:
    lm = tiny.lm(family)
    patch = patched(lm)
    rows = ids_of(lm, PROMPTS)
    ids, mask = lm.pad(rows, side)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    with torch.no_grad():
        base = lm.model(**given).logits
        with patch.applied(lm):
            got, last = lm.model(**given).logits, lm.model(**given, logits_to_keep=2).logits
    assert torch.equal(got[[0, 2]], base[[0, 2]]) and not torch.equal(got[1], base[1])
    for row, edit in ((1, 1), (3, 2)):
        torch.testing.assert_close(
            got[row][mask[row].bool()],
            counterfactual_logits(lm, patch, edit, rows[row]),
            rtol=1e-4,
            atol=1e-4,
        )
    assert last.shape[1] == 2
    torch.testing.assert_close(last[[1, 3]], got[[1, 3]][:, -2:], rtol=1e-4, atol=1e-4)
    assert lm.model(**given).logits.equal(base)


def test_steps_on_some_rows_of_a_copied_cache_are_answered_as_the_whole_sequence() -> None:
    lm = tiny.lm("llama")
    patch = patched(lm)
    rows = ids_of(lm, PROMPTS)
    ids, mask = lm.pad(rows, "left")
    more = torch.tensor([[5, 6], [7, 8], [9, 10], [11, 12]])
    chosen = torch.tensor([3, 0, 1])
    with torch.no_grad(), patch.applied(lm):
        out = lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        )
        kept = copy.deepcopy(out.past_key_values)
        kept.batch_select_indices(chosen)
        steps = []
        for k in range(2):
            longer = torch.cat([mask[chosen], torch.ones(3, k + 1, dtype=torch.long)], 1)
            fed = {
                "input_ids": more[chosen, k : k + 1],
                "attention_mask": longer,
                "position_ids": positions(longer)[:, -1:],
            }
            steps.append(lm.model(**fed, past_key_values=kept, use_cache=True).logits[:, 0])
        longer = torch.cat([mask, torch.ones_like(more)], 1)
        fed = {"input_ids": more, "attention_mask": longer, "position_ids": positions(longer)[:, -2:]}
        at_once = lm.model(**fed, past_key_values=out.past_key_values, use_cache=True).logits
    got = torch.stack(steps, 1)
    torch.testing.assert_close(got, at_once[chosen], rtol=1e-4, atol=1e-4)
    for k, (row, edit) in enumerate(((3, 2), (0, None), (1, 1))):
        whole = rows[row] + more[row].tolist()
        with torch.no_grad():
            expected = (
                lm.model(torch.tensor([whole])).logits[0]
                if edit is None
                else counterfactual_logits(lm, patch, edit, whole)
            )
        torch.testing.assert_close(got[k], expected[-2:], rtol=1e-3, atol=1e-3)


class Placed(nn.Module):
    """An encoder that puts prompts where it is told."""

    def __init__(self, places: dict[str, tuple[float, ...]]) -> None:
        super().__init__()
        self.places = places
        self.shift = nn.Parameter(torch.zeros(()))

    def embed(self, lm: LM, prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([self.places[p] for p in prompts]) + self.shift


def test_the_nearest_edit_decides_and_only_above_the_threshold() -> None:
    lm = tiny.lm("llama")
    classifier = ScopeClassifier(Placed({"a": (0.0,), "b": (0.5,), "c": (2.0,)}))
    log_p = classifier.log_probability(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [5.0]]))
    torch.testing.assert_close(log_p, torch.tensor([[-1.0, -25.0], [-4.0, -4.0]]))
    patch = patched(lm)
    patch.classifier, patch.embeddings = classifier, torch.tensor([[-1.0], [0.8], [0.1]])
    assert patch.choose(lm, ["a", "b", "c"]).tolist() == [2, 1, -1]
    patch.threshold = math.exp(-0.05)
    assert patch.choose(lm, ["a", "b", "c"]).tolist() == [2, -1, -1]


def test_cross_entropy_looks_at_pairs_in_scope_and_at_the_nearest_edit_out_of_it() -> None:
    p = torch.tensor([[0.9, 0.2, 0.6], [0.3, 0.1, 0.4]])
    inside = torch.tensor([[True, False, False], [False, False, False]])
    ignored = torch.tensor([[False, False, True], [False, False, False]])
    expected = (-math.log(0.9) + (-math.log(1 - 0.2) - math.log(1 - 0.4)) / 2) / 2
    assert float(binary_cross_entropy(p.log(), inside, ignored)) == pytest.approx(expected, rel=1e-5)


def test_the_border_is_set_midway_between_prompts_in_scope_and_out_of_it() -> None:
    edit = replace(EDITS[0], training_paraphrases=("near",), training_locality=("far",))
    trainer = ScopeClassifierTrainer(
        tiny.lm("llama"),
        ScopeClassifier(Placed({"edit": (0.0,), "near": (1.0,), "far": (5.0,)})),
        1,
        1,
        seed=0,
    )
    trainer._calibrate([([edit], ["edit"], ["near"], [["far"]])])
    p = (
        trainer.classifier.log_probability(torch.tensor([[0.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        .exp()[0]
        .tolist()
    )
    # in scope at distance 1, out of it at 5: the border is at 3
    assert p[1] == pytest.approx(0.5) and p[0] > 0.9 and p[2] < 0.2


def test_a_phrasing_is_kept_for_validation_whoever_it_is_about() -> None:
    forms = [f"{{}} number {i} is" for i in range(200)]
    kept = [reserved(f.format("Ada Moss"), "Ada Moss") for f in forms]
    assert kept == [reserved(f.format("Ira Velik"), "Ira Velik") for f in forms] and 20 < sum(kept) < 60
    trainer = ScopeClassifierTrainer(tiny.lm("llama"), ScopeClassifier(Placed({})), 1, 1, seed=0)
    new, old = forms[kept.index(True)].format("Ada Moss"), forms[kept.index(False)].format("Ada Moss")
    edit = replace(EDITS[0], subject="Ada Moss", prompt=old, training_paraphrases=(new,))
    assert all(trainer._drawn([edit], validates=False)[1:3] == ([old], [old]) for _ in range(5))
    assert trainer._drawn([edit], validates=True)[1:3] == ([old], [new])


def test_training_tells_paraphrases_from_other_prompts() -> None:
    lm = tiny.lm("llama")
    classifier = ScopeClassifier(StateEncoder(2, lm.dim, 16, seed=0))
    edits = tiny.training()
    classifier.measure(lm, [e.prompt for e in edits])
    schedule = replace(PARAMS, max_steps=60, validation_interval=60)
    history = ScopeClassifierTrainer(lm, classifier, 8, 1, seed=0).fit(
        loop.Split(edits, edits), 1e-2, schedule, no_progress
    )
    assert history[1] < 0.5 * history[0]
    mean, deviation = (
        classifier.encoder.states(lm, [e.prompt for e in edits]).mean(0),
        classifier.encoder.deviation,
    )
    torch.testing.assert_close(classifier.encoder.mean.detach(), mean, rtol=1e-4, atol=1e-4)
    assert float(deviation.min()) > 0


def no_progress(fraction: float) -> None:
    pass


def test_an_embedding_does_not_depend_on_its_batch_or_order() -> None:
    lm = tiny.lm("qwen2")
    classifier = ScopeClassifier(StateEncoder(1, lm.dim, 8, seed=0)).train(False)
    together = classifier.embed_all(lm, PROMPTS, batch=3)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(
            together[row], classifier.embed(lm, [f" {prompt} "])[0].detach(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("ending", [0.0, 0.25])
def test_the_counterfactual_model_learns_from_edits_with_other_targets_too(ending: float) -> None:
    lm = tiny.lm("llama")
    trainer = counterfactual.CounterfactualTrainer(lm, fresh(lm, 32, 1, 4, seed=0), 4, 1.0, 0.5, ending)
    answers = sorted(tiny.CITIES)
    told, targets, asked = trainer._drawn(tiny.training() * 10, answers)
    assert (
        len(set(targets) - set(answers)) > 10
        and set(answers) < set(targets)
        and all(t.strip() for t in targets)
    )
    assert any(a != b for a, b in zip(told, asked, strict=True))
    example = (["The birthplace of Ada Moss is"], ["New Port"], ["Ada Moss was born in"])
    loss, with_prompt = (float(trainer.loss(*example, reading).detach()) for reading in (0.0, 0.5))
    front = contexts(lm, ["The birthplace of Ada Moss is"], ["New Port"])[0]
    assert front[-1] == lm.tokenizer.eos_token_id
    [row] = lm.encode(["Ada Moss was born in"], ["New Port"])
    said = [*row.ids, lm.tokenizer.eos_token_id]
    with torch.no_grad():
        log_p = trainer.model.model(torch.tensor([front + said])).logits[0].log_softmax(-1)
    each = [-float(log_p[len(front) + t - 1, said[t]]) for t in range(1, len(said))]
    prompt, answer, end = (
        each[: row.n_prompt - 1],
        each[row.n_prompt - 1 : len(row.ids) - 1],
        each[len(row.ids) - 1 :],
    )
    assert loss == pytest.approx(sum(answer) / len(answer) + ending * sum(end), rel=1e-4)
    assert with_prompt == pytest.approx(loss + 0.5 * sum(prompt) / len(prompt), rel=1e-4)


def test_a_counterfactual_model_must_share_the_vocabulary(tmp_path) -> None:
    lm = tiny.lm("llama")
    width = lm.vocabulary_projection.weight.shape[0]
    fresh(lm, 32, 1, 4, seed=0).model.save_pretrained(tmp_path / "same")
    assert from_hub(lm, str(tmp_path / "same")).config["vocab_size"] == width
    config = fresh(lm, 32, 1, 4, seed=0).config | {"vocab_size": width + 1}
    counterfactual.Counterfactual(config).model.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=f"has {width + 1} pieces"):
        from_hub(lm, str(tmp_path / "other"))
    with pytest.raises(UserError, match="cannot be loaded"):
        from_hub(lm, str(tmp_path / "nowhere"))


def test_an_unprepared_editor_or_too_few_training_edits_are_named() -> None:
    with pytest.raises(UserError, match="call `prepare`"):
        Serac(PARAMS).edit(tiny.lm("llama"), EDITS)
    with pytest.raises(UserError, match="there are 0 of them"):
        Serac(PARAMS).prepare(tiny.lm("llama"))
