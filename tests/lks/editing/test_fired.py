"""What every patch with a gate tells of its decisions: at prefill, on the cache, and from the text alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lks.editing.patch
from baselines import methods
from baselines._in_context.retrieval_patch import FactsInFront, Lookup
from baselines.grace import CodebookPatch
from baselines.ice import ICE, ICEParams
from lks.editing.patch import Patch
from lks.method.relation_gate import RelationGate
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.frozen_prefix import last_states
from lks.models.lm import LM
from lks.models.prefill import FIRED, FOUND
from tests.baselines.test_methods import METHODS, editor
from tests.helpers import tiny

FAMILIES = ("mistral", "gpt2")  # beginning-of-sequence and a sliding window; neither
EDITS = tiny.edits(4)
NOBODY = ["Nobody lives here", "Oslo", "The old road crosses the field before the rain comes"]
PROMPTS = [e.prompt for e in EDITS] + [
    "We say that Tomas Verin works for",
    *NOBODY,
    "mara kelorin and Ilja Brandt love",
]


GATED = [name for name in METHODS if methods()[name].changes in ("activations", "context")]
OTHERS = [name for name in METHODS if name not in GATED]


@pytest.fixture(scope="module", params=[(m, f) for m in GATED for f in FAMILIES], ids="-".join)
def gated(request: pytest.FixtureRequest) -> tuple[LM, Patch]:
    name, family = request.param
    lm = tiny.lm(family)
    return lm, editor(name, lm).edit(lm, EDITS)


@torch.no_grad()
def prefill(lm: LM, prompts: Sequence[str], patch: Patch | None = None, side: str = "left") -> Any:
    """Output of a prefill; its `logits` without padding, by row."""
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side)
    with (patch or lks.editing.patch.NoPatch()).applied(lm):
        out = lm.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            use_cache=True,
        )
    out.logits = [row[kept.bool()] for row, kept in zip(out.logits, mask, strict=True)]
    return out


def told(lm: LM, prompts: Sequence[str], patch: Patch, side: str = "left") -> dict[str, torch.Tensor]:
    carried: dict[str, torch.Tensor] = prefill(lm, prompts, patch, side).past_key_values.row_state
    return carried


def test_a_patch_with_a_gate_tells_at_every_prefill(gated) -> None:
    lm, patch = gated
    for prompts in (PROMPTS, NOBODY, NOBODY[:1], PROMPTS[:1]):
        fired = told(lm, prompts, patch)[FIRED]
        assert fired.dtype == torch.bool and fired.shape == (len(prompts),) and fired.device == lm.device


@pytest.mark.parametrize("name", OTHERS)
def test_a_patch_without_a_gate_tells_nothing(name: str) -> None:
    lm = tiny.lm("gpt2")
    patch = editor(name, lm).edit(lm, EDITS[:1])
    carried = getattr(prefill(lm, PROMPTS, patch).past_key_values, "row_state", {})
    assert (
        FIRED not in carried
        and FOUND not in carried
        and patch.fires(lm, PROMPTS) is None
        and patch.subjects == ()
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_where_nothing_fired_the_model_is_the_unedited_one(gated, side: str) -> None:
    lm, patch = gated
    for prompts in (PROMPTS, NOBODY):
        edited, plain = prefill(lm, prompts, patch, side), prefill(lm, prompts, side=side)
        fired = edited.past_key_values.row_state[FIRED]
        for acts, one, other in zip(fired.tolist(), edited.logits, plain.logits, strict=True):
            if not acts and not (
                fired.any() and patch.context_tokens(lm)
            ):  # rows beside one with a context are padded like it
                assert torch.equal(one, other)
            elif not acts:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_text_alone_never_promises_too_much(gated) -> None:
    lm, patch = gated
    may = patch.fires(lm, [prompt + " " for prompt in PROMPTS])
    if may is not None:
        assert len(may) == len(PROMPTS) and all(isinstance(m, bool) for m in may)
        assert not any(
            acts and not m for acts, m in zip(told(lm, PROMPTS, patch)[FIRED].tolist(), may, strict=True)
        )
        assert all(may[: len(EDITS)])


def test_who_is_found_goes_with_who_fired_and_is_saved(gated, tmp_path: Path) -> None:
    lm, patch = gated
    carried = told(lm, PROMPTS, patch)
    if patch.subjects:
        assert torch.equal(carried[FOUND] >= 0, carried[FIRED]) and carried[FOUND].dtype == torch.long
        named = [patch.subjects[i] if i >= 0 else None for i in carried[FOUND].tolist()]
        own = [name == e.subject for name, e in zip(named, EDITS, strict=False)]
        assert all(right for right, acts in zip(own, carried[FIRED].tolist(), strict=False) if acts)
    else:
        assert FOUND not in carried
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert again.subjects == patch.subjects and torch.equal(told(lm, PROMPTS, again)[FIRED], carried[FIRED])


def test_it_does_not_depend_on_padding_or_on_the_batch(gated) -> None:
    lm, patch = gated
    alone = [bool(told(lm, [prompt], patch)[FIRED]) for prompt in PROMPTS]
    assert all(told(lm, PROMPTS, patch, side)[FIRED].tolist() == alone for side in ("left", "right"))


def test_it_follows_the_rows_of_the_cache_and_stays_while_generating(gated) -> None:
    lm, patch = gated
    cache = prefill(lm, PROMPTS, patch).past_key_values
    fired = cache.row_state[FIRED]
    rows = torch.tensor([7, 0, 5])
    cache.batch_select_indices(rows)
    assert torch.equal(cache.row_state[FIRED], fired[rows])
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache.row_state[FIRED], fired[rows].repeat_interleave(2))
    cache.reorder_cache(torch.tensor([5, 4, 3, 2, 1, 0]))
    assert torch.equal(cache.row_state[FIRED], fired[rows].repeat_interleave(2).flip(0))
    ids, mask = lm.pad([e.ids for e in lm.encode(PROMPTS, [""] * len(PROMPTS))], "left")
    with patch.applied(lm):
        out = lm.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
    assert torch.equal(out.past_key_values.row_state[FIRED], fired)


@pytest.mark.parametrize("name", GATED)
def test_without_edits_nothing_fires(name: str) -> None:
    lm = tiny.lm("llama")
    patch = editor(name, lm).edit(lm, [])
    carried = getattr(prefill(lm, PROMPTS, patch).past_key_values, "row_state", {})
    assert FIRED not in carried or not carried[FIRED].any()


def blocks(lm: LM, names: list[list[str]], **changes: Any) -> KnowledgeBlockPatch:
    table = torch.randn(1, len(names), lm.dim, generator=torch.Generator().manual_seed(0))
    return KnowledgeBlockPatch(names, table, (1,), changes.pop("positions", "last"), "exact", **changes)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("mentions", ["last", "all"])
def test_of_several_subjects_the_last_mentioned_is_found(positions: str, mentions: str) -> None:
    lm = tiny.lm("gpt2")
    patch = blocks(lm, [["Ada Moss", "A. Moss"], ["Zoë Quist"]], positions=positions, mentions=mentions)
    prompts = ["Ada Moss and Zoë Quist and Ada Moss love", "Ada Moss or Zoë Quist", "A. Moss", "Oslo"]
    assert patch.subjects == ("Ada Moss", "Zoë Quist")
    assert told(lm, prompts, patch)[FOUND].tolist() == [0, 1, 0, -1]
    assert patch.fires(lm, prompts) == [True, True, True, False]


@pytest.mark.parametrize("side", ["left", "right"])
def test_behind_a_gate_only_what_it_lets_through_fires(side: str) -> None:
    lm = tiny.lm("llama")
    prompts = [
        "The birthplace of Ada Moss is",
        "We all say that Ada Moss works for",
        "Nobody was born in",
        "Ada Moss works for Zoë Quist",
    ]
    states = last_states(lm, 1, prompts)
    gate = RelationGate.of(
        states[[0, 3, 1]], torch.tensor([0, 0, 1]), states.mean(0), 0.99
    )  # Zoë's key is another prompt's
    patch = blocks(lm, [["Ada Moss"], ["Zoë Quist"]], gate=gate)
    out, plain = prefill(lm, prompts, patch, side), prefill(lm, prompts, side=side)
    assert out.past_key_values.row_state[FIRED].tolist() == [True, False, False, True]
    assert out.past_key_values.row_state[FOUND].tolist() == [0, -1, -1, 0]
    assert patch.fires(lm, prompts) == [True, True, False, True]
    assert torch.equal(out.logits[1], plain.logits[1]) and not torch.equal(out.logits[0], plain.logits[0])


def test_a_context_that_no_fact_is_near_enough_for() -> None:
    lm = tiny.lm("mistral")
    patch = ICE(ICEParams(threshold=0.5)).edit(lm, EDITS)
    prompts = [EDITS[2].prompt, *NOBODY]
    assert told(lm, prompts, patch)[FIRED].tolist() == patch.fires(lm, prompts) == [True, False, False, False]
    assert told(lm, prompts, patch)[FOUND].tolist() == [2, -1, -1, -1]
    alone, plain = prefill(lm, NOBODY, patch), prefill(lm, NOBODY)
    assert all(torch.equal(one, other) for one, other in zip(alone.logits, plain.logits, strict=True))


def test_scores_that_rounding_may_change_prove_nothing() -> None:
    lm = tiny.lm("mistral")
    patch = FactsInFront([], [], Lookup("dense", "any", 1, 0.5, ""))
    assert patch.fires(lm, PROMPTS) is None
    assert FactsInFront([], [], replace(patch.lookup, threshold=0.0)).fires(lm, PROMPTS) == [False] * len(
        PROMPTS
    )


def test_patches_saved_before_subjects_were_kept_still_tell_what_fires() -> None:
    lm = tiny.lm("mistral")
    for name in GATED:
        patch = editor(name, lm).edit(lm, EDITS[:2])
        settings = patch.settings()
        old = {key: value for key, value in settings.items() if key != "subjects"}
        if isinstance(patch, FactsInFront):
            old["facts"] = [
                {key: value for key, value in fact.items() if key != "subject"} for fact in settings["facts"]
            ]  # type: ignore[attr-defined]
        if old == settings:
            continue
        again = type(patch).restore(patch.tensors(), old)
        carried = told(lm, PROMPTS, again)
        assert again.subjects == () and FOUND not in carried
        assert torch.equal(carried[FIRED], told(lm, PROMPTS, patch)[FIRED])


def test_a_code_book_names_the_edit_that_last_trained_the_entry() -> None:
    lm = tiny.lm("gpt2")
    again = replace(EDITS[0], case_id="b", subject="Mara")
    patch = editor("grace", lm).edit(lm, [EDITS[0], again])
    assert isinstance(patch, CodebookPatch) and patch.subjects == ("Mara",)
    assert told(lm, PROMPTS[:1], patch)[FOUND].tolist() == [0]
    with pytest.raises(ValueError, match="subjects"):
        CodebookPatch.restore(patch.tensors(), {"block": patch.block, "subjects": ["Mara", "Ada"]})
