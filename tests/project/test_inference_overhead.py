"""The benchmark of inference overhead: what it compares, not how long it takes."""

import random

import pytest
import torch

from benchmarks import inference_overhead as overhead
from lks.models.lm import LM
from tests.helpers import tiny


def hooks(lm: LM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_combination_is_measured_and_the_model_stays(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overhead, "NEW_TOKENS", 2)
    lm = tiny.lm(family)
    blocks, before = list(lm.blocks), lm.model(torch.tensor([[5, 6, 7]])).logits
    found = list(overhead.overheads(lm, tiny.edits(5), 1, 0.0, ("prefill", "generate")))
    assert len({(o.work, o.rows, o.what) for o in found}) == len(found) == 12
    assert all(o.plain_s > 0 and o.ratio[1] <= o.ratio[0] <= o.ratio[2] for o in found)
    assert (
        list(lm.blocks) == blocks
        and hooks(lm) == 0
        and torch.equal(lm.model(torch.tensor([[5, 6, 7]])).logits, before)
    )
    assert overhead.shown(found, 5).row_count == 12


def test_strangers_mention_nobody_and_the_others_somebody() -> None:
    lm = tiny.lm("llama")
    patch, gated = overhead.patches(lm, tiny.edits(5), 1)
    strangers = overhead.strangers(tiny.edits(5), patch)
    assert strangers and not any(patch.scope.find(prompt) for prompt in strangers)
    assert all(patch.scope.find(e.prompt) for e in tiny.edits(5))
    assert patch.gate is None and gated.gate is not None and gated.gate.subjects == 5


def test_pairs_switch_the_patch_off_and_on_and_leave_it_on() -> None:
    lm = tiny.lm("llama")
    patch, _ = overhead.patches(lm, tiny.edits(5), 1)
    seen: list[bool] = []
    with patch.applied(lm):
        registered = hooks(lm)
        taken = overhead.pairs(lm, lambda: seen.append(hooks(lm) == registered), 0.0, random.Random(0))
        assert hooks(lm) == registered
    assert len(taken) == 5 and [sum(seen[i : i + 2]) for i in range(0, 12, 2)] == [1] * 6
    assert hooks(lm) == 0
