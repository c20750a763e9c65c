"""GRACE: the code-book's rules, values against the full model, batched training against one edit after the
other.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from baselines.grace import ROOM, Codebook, CodebookPatch, Grace, GraceParams, ValueTrainer, at_the_end
from lks.edits import Edit
from lks.models.lm import LM
from lks.models.prefill import installed_hooks
from tests.helpers import tiny

PARAMS = GraceParams(block=2, eps=0.5, lr=0.3, n_iter=12)


def line(*positions: float) -> torch.Tensor:
    """Points on a line in a plane."""
    return torch.tensor([[p, 0.0] for p in positions])


def trainer(
    lm: LM, edits: Sequence[Edit], params: GraceParams = PARAMS, batch_tokens: int = 4096
) -> tuple[ValueTrainer, torch.Tensor]:
    encoded = lm.encode([e.prompt for e in edits], [e.target for e in edits])
    outputs = at_the_end(lm, params.block, encoded)[1]
    return ValueTrainer(lm, params, encoded, outputs, batch_tokens), outputs


def test_the_code_book_opens_expands_and_splits() -> None:
    book, a, b, c, d = Codebook(1.0, torch.zeros(9, 2)), (1,), (2,), (3,), (4,)
    opened = [book.add(q, label) for q, label in zip(line(0, 3), (a, b), strict=True)]
    assert [e.key for e in opened] == [0, 1] and book.radii == [1.0, 1.0]  # 3 > 1 + 1: out of reach
    assert book.add(line(0.5)[0], a).key == 0 and book.radii == [
        1.0,
        1.0,
    ]  # same label, covered: nothing to change
    assert book.add(line(1.4)[0], a).key == 0 and book.radii[0] == pytest.approx(
        1.4 * (1 + ROOM)
    )  # same label: expand
    split = book.add(line(2.0)[0], c)  # at distance 1 of key 1, other label: half each
    assert (split.key, split.radii) == (2, {1: 0.5, 2: 0.5})
    again = book.add(line(3.0)[0], d)  # the very prompt of key 1, other label: takes its place
    assert (again.key, again.radii) == (3, {1: -1.0, 3: 0.5})
    assert book.add(line(3.0)[0], d).key == 3
    torch.testing.assert_close(book.keys, line(0, 3, 2, 3))


def test_a_label_is_the_target_not_its_mean() -> None:
    book = Codebook(1.0, torch.zeros(9, 2))
    assert [book.add(q, label).key for q, label in zip(line(0, 0.2), ((5, 7), (6, 6)), strict=True)] == [0, 1]


def test_the_nearest_key_answers_within_its_radius_or_none_does() -> None:
    patch = CodebookPatch(0, line(0, 2, 2), torch.zeros(3, 2), torch.tensor([5.0, -1.0, 0.5]))
    assert patch.choose(line(0.9, 1.2, 1.6, -5.0, -5.1)).tolist() == [0, -1, 2, 0, -1]


def test_values_trained_in_one_batch_are_those_trained_one_by_one() -> None:
    lm, edits = tiny.lm("llama"), tiny.edits(4)
    initial = torch.rand(4, lm.dim, generator=torch.Generator().manual_seed(0))
    for stop_loss in (0.0, 1.0):  # with and without rows that stop early
        params = replace(PARAMS, stop_loss=stop_loss)
        together = trainer(lm, edits, params)[0].train(range(4), initial)
        for i, edit in enumerate(edits):
            alone = trainer(lm, [edit], params)[0].train([0], initial[i : i + 1])[0]
            assert (together[i] - alone).norm() < 1e-3 * alone.norm()


def test_an_edit_on_an_existing_key_goes_on_training_its_value() -> None:
    lm, edits = tiny.lm("mistral"), tiny.edits(3)
    made, outputs = trainer(lm, edits)
    values = made.train([0, 1, 0], outputs)
    first = made.optimise(torch.tensor([0]), outputs[:1])
    torch.testing.assert_close(values[:1], first, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(values[2:], made.optimise(torch.tensor([2]), first), rtol=1e-3, atol=1e-3)


def test_a_row_that_reached_its_loss_is_left_alone() -> None:
    made, outputs = trainer(tiny.lm("llama"), tiny.edits(2), replace(PARAMS, stop_loss=1e3))
    assert torch.equal(made.train([0, 1], outputs), outputs)


@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_loss_is_that_of_the_full_model_with_the_value_in_place(family: str) -> None:
    lm, edits = tiny.lm(family), tiny.edits(3)
    made, outputs = trainer(lm, edits)
    values = outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    losses = made.losses(made.suffix(torch.arange(3)), torch.arange(3), values)
    keys = at_the_end(lm, PARAMS.block, made.encoded)[0]
    with torch.no_grad(), CodebookPatch(PARAMS.block, keys, values, torch.full((3,), 0.01)).applied(lm):
        for i, row in enumerate(made.encoded):
            prefilled = lm.model(torch.tensor([row.ids[: row.n_prompt]]), use_cache=True)
            logits = [prefilled.logits[:, -1:]]
            if len(row.answer) > 1:
                logits.append(
                    lm.model(
                        torch.tensor([row.answer[:-1]]), past_key_values=prefilled.past_key_values
                    ).logits
                )
            scores = torch.cat(logits, 1)[0].log_softmax(-1)[torch.arange(len(row.answer)), row.answer]
            torch.testing.assert_close(losses[i], -scores.mean(), rtol=1e-3, atol=1e-3)


def test_only_the_prompts_last_token_gets_the_value() -> None:
    lm, edits = tiny.lm("llama"), tiny.edits(2)
    encoded = lm.encode([e.prompt for e in edits] + ["Nobody lives here"], ["", "", ""])
    keys = at_the_end(lm, 2, encoded)[0][:2]
    values = torch.full((2, lm.dim), 7.0)
    ids, mask = lm.pad([e.ids for e in encoded], "left")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad(), CodebookPatch(2, keys, values, torch.full((2,), 0.1)).applied(lm):
        look = lm.mlp_output(2).register_forward_hook(
            lambda _module, args, output: seen.append((args[0], output))
        )
        with installed_hooks([look]):
            lm.model.generate(
                ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0
            )
    (prefill, changed), *steps = seen
    plain = lm.mlp_output(2)(prefill)
    assert (
        torch.equal(changed[:2, -1], values)
        and torch.equal(changed[:, :-1], plain[:, :-1])
        and torch.equal(changed[2], plain[2])
    )
    assert len(steps) == 2 and all(torch.equal(out, lm.mlp_output(2)(given)) for given, out in steps)


def test_the_later_of_two_answers_to_one_prompt_holds() -> None:
    lm = tiny.lm("llama")
    first = tiny.edits(1)[0]
    second = replace(first, case_id="again", target="Quito")
    patch = Grace(GraceParams(block=2)).edit(lm, [first, second])
    query = at_the_end(lm, 2, lm.encode([first.prompt], [second.target]))[0]
    assert isinstance(patch, CodebookPatch)
    assert patch.choose(query).tolist() == [1]
