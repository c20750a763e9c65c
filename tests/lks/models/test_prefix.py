"""Cached block states and upper blocks give what the full model gives."""

import pytest
import torch

from lks.models.frozen_prefix import UpperBlocks, batches, states
from lks.models.frozen_suffix import Suffix
from tests.helpers import tiny

PROMPTS = ["Mara Kelorin was born in", "The birthplace of Zoë Quist is", "Ada"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("block", [-1, 0, 2, 3])
def test_upper_on_cached_states_equals_the_full_model(family: str, block: int) -> None:
    lm = tiny.lm(family)
    rows = [e.ids for e in lm.encode(PROMPTS, ["Lisbon", "New Port", "Oslo"])]
    cached = states(lm, block, rows, batch_tokens=32)
    hidden, mask = cached.rows(torch.arange(3))
    upper = UpperBlocks(lm, block)
    ids, full_mask = lm.pad(rows)
    assert torch.equal(mask, full_mask)
    with torch.no_grad():
        ours = upper.logits(upper(hidden, mask)[mask.bool()])
        theirs = lm.model(input_ids=ids, attention_mask=full_mask).logits[full_mask.bool()]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_equal_those_through_the_full_model(family: str) -> None:
    lm = tiny.lm(family)
    row = lm.encode(PROMPTS[:1], ["Lisbon"])[0].ids
    new = torch.randn(lm.dim, generator=torch.Generator().manual_seed(0))
    position, block = 3, 1

    ours = new.clone().requires_grad_()
    hidden, mask = states(lm, block, [row]).rows(torch.tensor([0]))
    hidden = hidden.clone()
    hidden[0, position] = ours
    upper = UpperBlocks(lm, block)
    upper.logits(upper(hidden, mask)[0])[-2, row[-1]].backward()

    theirs = new.clone().requires_grad_()

    def put(module: object, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
        changed = (output[0] if isinstance(output, tuple) else output).clone()
        changed[0, position] = theirs
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = lm.block(block).register_forward_hook(put)
    lm.model(input_ids=torch.tensor([row])).logits[0, -2, row[-1]].backward()
    handle.remove()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert ours.grad is not None and ours.grad.abs().max() > 0
    assert all(p.grad is None for p in lm.model.parameters())


def test_the_original_model_is_not_touched() -> None:
    lm = tiny.lm("llama")
    before = [id(b) for b in lm.blocks], id(lm.decoder.norm)
    states(lm, 1, [[1, 2, 3]])
    UpperBlocks(lm, 1)
    assert ([id(b) for b in lm.blocks], id(lm.decoder.norm)) == before
    assert lm.model.config.num_hidden_layers == 4


def test_states_gather_one_position() -> None:
    lm = tiny.lm("llama")
    cached = states(lm, 0, [[1, 5, 6], [1, 7], [1, 8, 9, 10]])
    hidden, _ = cached.rows(torch.tensor([2, 0]))
    torch.testing.assert_close(cached.at(torch.tensor([2, 0]), torch.tensor([3, 1])), hidden[[0, 1], [3, 1]])


def test_batches_hold_every_index_once_and_the_limit() -> None:
    lengths = [3, 50, 4, 4, 9, 200]
    made = batches(lengths, 100)
    assert sorted(i for group in made for i in group) == list(range(6))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 100 for g in made)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("block", [0, 2, 3])
def test_the_ends_of_rows_alone_give_what_whole_rows_give(family: str, block: int) -> None:
    lm = tiny.lm(family)
    long = "Tomas Verin, whom all of us have known for a long time in the old town,"
    encoded = lm.encode([*PROMPTS, long], ["Lisbon", "New Port", "Oslo", "Cairo"])
    starts = torch.tensor([3, len(encoded[1].ids) - 1, 0, 9])
    cached = states(lm, block, [e.ids for e in encoded])
    index = torch.tensor([0, 1, 2, 3])
    change = torch.randn(4, lm.dim, generator=torch.Generator().manual_seed(0))
    whole, mask = cached.rows(index)
    whole = whole.clone()
    whole[index, starts] += change
    upper = UpperBlocks(lm, block)
    with torch.no_grad():
        expected = upper(whole, mask)
        suffix = Suffix(upper, cached, index, starts)
        ends = suffix.hidden.clone()
        ends[:, 0] += change
        for _ in range(2):  # nothing is used up
            got = suffix(ends)
            for row, (start, length) in enumerate(zip(starts.tolist(), cached.lengths.tolist(), strict=True)):
                torch.testing.assert_close(
                    got[row, : length - start], expected[row, start:length], rtol=1e-5, atol=1e-4
                )
        some = torch.tensor([3, 1])
        torch.testing.assert_close(
            suffix.select(some)(ends[some])[:, :1], got[some][:, :1], rtol=1e-5, atol=1e-4
        )
