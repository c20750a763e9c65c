"""Hooks that decide at prefill: passes told apart, decisions carried by the cache, contexts put in front of
prompts.
"""

import copy
from collections.abc import Sequence

import pytest
import torch

from lks.editing.context_patch import ContextPatch
from lks.models.lm import LM
from lks.models.prefill import Pass, track_prefill
from tests.helpers import tiny


class Fixed(ContextPatch):
    """A context per prompt, by the prompt's text."""

    kind = "fixed"
    nbytes = 0

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table

    def contexts(self, lm: LM, prompts: Sequence[str]) -> list[str]:
        return [self.table.get(p, "") for p in prompts]

    def tensors(self):
        return {}

    @classmethod
    def restore(cls, tensors, settings):
        return cls({})


PROMPTS = ["The birthplace of Ada Moss is", "Mara Kelorin works for", "Oslo"]
TABLE = {PROMPTS[0]: "Ada Moss was born in Quito. Zoë Quist works for Cairo.", PROMPTS[1]: "Tomas Verin"}


def ids_of(lm: LM, texts: Sequence[str]) -> list[list[int]]:
    return [e.ids for e in lm.encode(texts, [""] * len(texts))]


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp_min(0)


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_context_in_front_is_the_longer_sequence(family: str, side: str) -> None:
    lm = tiny.lm(family)
    ids, mask = lm.pad(ids_of(lm, PROMPTS), side)
    with torch.no_grad(), Fixed(TABLE).applied(lm):
        got = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).logits
    for row, prompt in enumerate(PROMPTS):
        own = ids_of(lm, [prompt])[0]
        context = lm.tokenizer.encode(TABLE.get(prompt, ""), add_special_tokens=False)
        head = 1 if own[0] == lm.tokenizer.bos_token_id else 0
        with torch.no_grad():
            whole = lm.model(torch.tensor([own[:head] + context + own[head:]])).logits[0]
        torch.testing.assert_close(
            got[row][mask[row].bool()][head:], whole[len(context) + head :], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("family", tiny.MODELS)
def test_a_context_holds_while_generating_with_and_without_a_cache(family: str) -> None:
    lm = tiny.lm(family)
    ids, mask = lm.pad(ids_of(lm, PROMPTS), "left")
    with Fixed(TABLE).applied(lm):
        made = [
            lm.model.generate(
                ids, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=c, pad_token_id=0
            )
            for c in (True, False)
        ]
    assert torch.equal(*made)
    for row, prompt in enumerate(PROMPTS):
        own = ids_of(lm, [prompt])[0]
        context = lm.tokenizer.encode(TABLE.get(prompt, ""), add_special_tokens=False)
        head = 1 if own[0] == lm.tokenizer.bos_token_id else 0
        whole = torch.tensor([own[:head] + context + own[head:]])
        plain = lm.model.generate(
            whole, attention_mask=torch.ones_like(whole), max_new_tokens=6, do_sample=False, pad_token_id=0
        )[0]
        assert (
            made[0][row][ids.shape[1] :].tolist()[: len(plain) - whole.shape[1]]
            == plain[whole.shape[1] :].tolist()
        )


def test_some_rows_of_a_copied_cache_go_on_as_they_would() -> None:
    lm = tiny.lm("mistral")
    ids, mask = lm.pad(ids_of(lm, PROMPTS), "left")
    next_ids = torch.tensor([[5, 6], [7, 8], [9, 10]])
    longer = torch.cat([mask, torch.ones_like(next_ids)], 1)
    with torch.no_grad(), Fixed(TABLE).applied(lm):
        out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True)
        kept = copy.deepcopy(out.past_key_values)

        def step(rows, cache):
            where = positions(longer[rows])[:, ids.shape[1] :]
            return lm.model(
                input_ids=next_ids[rows],
                attention_mask=longer[rows],
                position_ids=where,
                past_key_values=cache,
                use_cache=True,
            ).logits

        everything = step(torch.arange(3), out.past_key_values)
        rows = torch.tensor([2, 0])
        kept.batch_select_indices(rows)
        torch.testing.assert_close(step(rows, kept), everything[rows], rtol=1e-4, atol=1e-4)


def test_passes_are_told_apart_and_decisions_ride_on_the_cache() -> None:
    lm = tiny.lm("llama")
    seen: list[Pass] = []
    ids, mask = lm.pad(ids_of(lm, PROMPTS), "left")
    with track_prefill(lm) as prefills:

        def look(*_: object) -> None:
            assert prefills.now is not None
            if prefills.now.is_prefill:
                prefills.now.row_state["row"] = torch.arange(len(prefills.now.ids))
            seen.append(prefills.now)

        handle = lm.block(0).register_forward_hook(look)
        lm.model.generate(
            ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0
        )
        lm.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            pad_token_id=0,
            use_cache=False,
        )
        handle.remove()
    assert [p.is_prefill for p in seen] == [True, False, False, True, False, False]
    assert [p.ends is None for p in seen] == [False, True, True, False, False, False]
    assert all(p.row_state["row"].tolist() == [0, 1, 2] for p in seen)
    assert all(
        torch.equal(p.prompt[:, : mask.shape[1]], mask.bool()) and not p.prompt[:, mask.shape[1] :].any()
        for p in seen[3:]
    )
    assert not lm.decoder._forward_hooks and not lm.decoder._forward_pre_hooks


@pytest.mark.parametrize("family", tiny.MODELS)
def test_a_prompt_that_fills_a_cache_is_one_even_where_it_goes_on_from_the_last(family: str) -> None:
    lm = tiny.lm(family)
    ids = torch.tensor([[5, 6, 7]])
    with track_prefill(lm) as prefills:
        seen: list[Pass | None] = []
        handle = lm.block(0).register_forward_hook(lambda *_: seen.append(prefills.now))
        for prompt, cached in ((ids[:, :2], True), (ids, True), (ids[:, :2], False), (ids, False)):
            lm.model(input_ids=prompt, use_cache=cached)
        handle.remove()
    assert [p.is_prefill for p in seen if p is not None] == [True, True, True, False]
