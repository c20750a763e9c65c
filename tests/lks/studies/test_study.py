"""Studies: each number against a naive computation or worked by hand, on every architecture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lks.errors import UserError
from lks.method.lks import LKS
from lks.method.params import LKSParams
from lks.models.lm import LM
from lks.models.prefill import installed_hooks
from lks.progress import no_progress
from lks.results.study_rows import StudyRow
from lks.studies import donors, probe
from lks.studies.base import Entities
from lks.studies.blockwise import captured
from lks.studies.donors import Pair, exchanged, pairs
from lks.studies.information_gain import Gain, GainParams
from lks.studies.probe import ProbeParams, StateProbe
from lks.studies.registry import STUDIES
from lks.studies.swap import Swap, SwapParams
from tests.helpers import tiny

EDITS = tiny.edits(5)
BOTH = Entities(EDITS, [*EDITS, *tiny.training(8)])


def hooked(lm: LM, ids: Sequence[int], changes: Sequence[tuple[nn.Module, int, Tensor]]) -> Tensor:
    """Logits [time, vocabulary] of a whole forward pass with some modules' outputs replaced at one position
    each.
    """

    def put(position: int, state: Tensor) -> Callable[..., object]:
        def hook(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> object:
            changed = (output[0] if isinstance(output, tuple) else output).clone()
            changed[:, position] = state
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    with (
        torch.no_grad(),
        installed_hooks(
            [module.register_forward_hook(put(position, state)) for module, position, state in changes]
        ),
    ):
        return lm.model(input_ids=torch.tensor([ids])).logits[0].float()


def values(rows: Sequence[StudyRow], quantity: str, block: int) -> list[float]:
    return [row.value for row in rows if row.quantity == quantity and row.block == block]


@pytest.mark.parametrize("family", tiny.MODELS)
def test_states_of_all_blocks_are_the_models_own(family: str) -> None:
    lm = tiny.lm(family)
    rows = [
        one.ids
        for one in lm.encode([edit.prompt for edit in EDITS], ["", *[edit.target for edit in EDITS[1:]]])
    ]
    found = captured(lm, rows, [[0, len(row) - 1] for row in rows], list(lm.blocks), batch_tokens=20)
    assert found.shape == (4, 5, 2, lm.dim)
    for row, ids in enumerate(rows):
        with torch.no_grad():
            theirs = lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        for block in range(3):  # the last one is given behind the final norm
            torch.testing.assert_close(found[block, row], theirs[block + 1][0, [0, -1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_a_swap_at_each_block_is_a_whole_forward_pass_with_a_hook(family: str, batch_tokens: int) -> None:
    lm = tiny.lm(family)
    chosen = pairs(lm, BOTH, 0)
    assert len(chosen) == 5
    said = exchanged(lm, chosen, no_progress, batch_tokens)
    for i, pair in enumerate(chosen):
        (row,) = lm.encode([pair.asked.prompt], [pair.donor.ground_truth], [pair.asked.subject])
        (old,) = lm.encode([pair.asked.prompt], [pair.asked.ground_truth])
        (donor,) = lm.encode([pair.donor.prompt], [""], [pair.donor.subject])
        assert row.subject and donor.subject
        given = captured(lm, [donor.ids], [[donor.subject[1]]], list(lm.blocks))[:, 0, 0]
        assert (said.donor_first[i], said.old_first[i], said.tokens[i]) == (
            row.answer[0],
            old.answer[0],
            len(row.answer),
        )
        for block in range(-1, len(lm.blocks)):
            changes = [(lm.block(block), row.subject[1], given[block])] if block >= 0 else []
            logits = hooked(lm, row.ids, changes)[row.n_prompt - 1 : -1]
            likelihood = logits.log_softmax(-1)[torch.arange(len(row.answer)), torch.tensor(row.answer)].sum()
            assert said.logprob[block + 1, i].item() == pytest.approx(likelihood.item(), rel=1e-5, abs=1e-4)
            assert said.rank[block + 1, i] == (logits[0] > logits[0, row.answer[0]]).sum()
            assert said.best[block + 1, i] == logits[0].argmax()


def test_donors_are_asked_the_same_and_have_another_answer() -> None:
    lm = tiny.lm("llama")
    chosen = pairs(lm, BOTH, 0)
    for pair in chosen:
        frames = [edit.prompt.replace(edit.subject, "{}") for edit in (pair.asked, pair.donor)]
        assert (
            frames[0] == frames[1]
            and pair.asked.subject != pair.donor.subject
            and pair.asked.ground_truth != pair.donor.ground_truth
        )
    assert (
        pairs(lm, Entities(EDITS[2:3], BOTH.pool[::-1]), 0) == chosen[2:3]
    )  # whoever else is studied, in whatever order
    assert {pair.donor for seed in range(8) for pair in pairs(lm, BOTH, seed)} > {
        pair.donor for pair in chosen
    }
    alone = replace(EDITS[0], prompt=f"{EDITS[0].subject} works for")
    nameless = replace(EDITS[1], prompt="Who is she?")
    assert pairs(lm, Entities([alone, nameless], [*EDITS, alone, nameless]), 0) == []
    found = Swap(SwapParams()).run(lm, Entities([alone, EDITS[0]], EDITS))
    assert list(found.left_out.values()) == [1] and {row.subject for row in found.rows} == {EDITS[0].subject}


def test_the_swap_counts_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs, two blocks: the first donor's answer goes from rank 3 to 0, then to 3; the second from 0 to
    0, then to 5.
    """
    lm = tiny.lm("llama")
    lm.model.model.layers = lm.model.model.layers[:2]
    said = donors.DonorOutputs(
        rank=torch.tensor([[3, 0], [0, 0], [3, 5]]),
        best=torch.tensor([[7, 8], [6, 8], [7, 4]]),
        logprob=torch.tensor([[-4.0, -1.0], [-1.0, -0.5], [-4.0, -9.0]]),
        donor_first=torch.tensor([6, 8]),
        old_first=torch.tensor([7, 9]),
        tokens=torch.tensor([1, 2]),
    )
    monkeypatch.setattr(
        "lks.studies.swap.pairs", lambda *_: [Pair(EDITS[0], EDITS[1]), Pair(EDITS[1], EDITS[2])]
    )
    monkeypatch.setattr(
        "lks.studies.information_gain.pairs", lambda *_: [Pair(EDITS[0], EDITS[1]), Pair(EDITS[1], EDITS[2])]
    )
    monkeypatch.setattr("lks.studies.swap.exchanged", lambda *_: said)
    monkeypatch.setattr("lks.studies.information_gain.exchanged", lambda *_: said)
    rows = Swap(SwapParams()).run(lm, Entities(EDITS[:2], EDITS)).rows
    assert [values(rows, "known", -1)] == [[1, 0]]
    assert [values(rows, "rises", block) for block in (0, 1)] == [[1, 0], [0, 0]]
    assert [values(rows, "first", block) for block in (0, 1)] == [[1, 1], [0, 0]]
    assert [values(rows, "old_first", block) for block in (0, 1)] == [[0, 0], [1, 0]]
    assert [values(rows, "likelier", block) for block in (0, 1)] == [[1, 1], [0, 0]]
    assert {row.site for row in rows if row.block >= 0} == {"subject_last"}
    rows = Gain(GainParams()).run(lm, Entities(EDITS[:2], EDITS)).rows
    assert values(rows, "bits", 0) == pytest.approx([3 / math.log(2), 0.5 / math.log(2)])
    assert values(rows, "bits", 1) == pytest.approx([0, -8 / math.log(2)])
    assert values(rows, "before_bits", 1) == pytest.approx([4 / math.log(2), 1 / math.log(2)])
    rows = Gain(GainParams(per="token")).run(lm, Entities(EDITS[:2], EDITS)).rows
    assert values(rows, "bits", 1) == pytest.approx([0, -4 / math.log(2)])


def test_the_gain_of_an_edited_model_is_eq_9_at_every_block() -> None:
    lm = tiny.lm("llama")
    params = LKSParams(block=9, lr=0.05, max_epochs=2, form="residual", batch_size=4)
    edits = EDITS[:2]
    rows = Gain(GainParams("edited", editor=params)).run(lm, Entities(edits, edits), seed=3).rows
    assert {row.block for row in rows} == {0, 1, 2}  # after the last block no change reaches the answer

    def bits() -> list[float]:
        found = []
        for edit in edits:
            (row,) = lm.encode([edit.prompt], [edit.target])
            logprobs = hooked(lm, row.ids, []).log_softmax(-1)[row.n_prompt - 1 : -1]
            found.append(
                -logprobs[torch.arange(len(row.answer)), torch.tensor(row.answer)].sum().item() / math.log(2)
            )
        return found

    before = bits()
    assert values(rows, "before_bits", 1) == pytest.approx(before, rel=1e-4)
    with LKS(replace(params, block=1)).edit(lm, edits, 3).applied(lm):
        after = bits()
    assert values(rows, "after_bits", 1) == pytest.approx(after, rel=1e-4)
    assert values(rows, "bits", 1) == pytest.approx(
        [a - b for a, b in zip(before, after, strict=True)], rel=1e-3
    )
    assert sum(values(rows, "bits", 1)) > 0


def test_the_probe_picks_the_nearer_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two entities, one block: the first lies along the true statement, the second at the same angle to both;
    the control is the wrong way round.
    """
    lm = tiny.lm("llama")
    lm.model.model.layers = lm.model.model.layers[:1]
    made = torch.zeros(1, 8, 1, lm.dim)
    entity, other, true, false = made.view(4, 2, lm.dim)
    entity[0, 0], true[0, 0], false[0, 1] = 2.0, 3.0, 1.0
    entity[1, :2], true[1, 0], false[1, 1] = 1.0, 1.0, 5.0
    other[:, 1] = 1.0
    monkeypatch.setattr(probe, "captured", lambda *_: made)
    rows = StateProbe(ProbeParams()).run(lm, Entities(EDITS[:2], EDITS)).rows
    assert values(rows, "accuracy", 0) == [1, 0.5] and values(rows, "control", 0) == [0, 0]
    assert values(rows, "cosine_true", 0) == pytest.approx([1, math.sqrt(0.5)])
    assert values(rows, "cosine_false", 0) == pytest.approx([0, math.sqrt(0.5)])


@pytest.mark.parametrize("entity", ["alone", "prompt"])
@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_probe_is_three_forward_passes(family: str, entity: str) -> None:
    lm = tiny.lm(family)
    same = replace(EDITS[3], ground_truth=EDITS[3].target)
    found = StateProbe(ProbeParams(entity)).run(lm, Entities([*EDITS[:3], same], EDITS))  # type: ignore[arg-type]
    assert list(found.left_out.values()) == [1] and len(found.rows) == 3 * 4 * 4
    for i, edit in enumerate(EDITS[:3]):
        text = edit.subject if entity == "alone" else edit.prompt
        (name,) = lm.encode([text], [""], [edit.subject])
        assert name.subject
        with torch.no_grad():
            own = lm.model(torch.tensor([name.ids]), output_hidden_states=True).hidden_states[2][
                0, name.subject[1]
            ]
            true, false = (
                lm.model(
                    torch.tensor([lm.encode([edit.prompt], [answer])[0].ids]), output_hidden_states=True
                ).hidden_states[2][0, -1]
                for answer in (edit.ground_truth, edit.target)
            )
        cosines = [torch.cosine_similarity(own, one, dim=0).item() for one in (true, false)]
        assert values(found.rows, "cosine_true", 1)[i] == pytest.approx(cosines[0], abs=1e-5)
        assert values(found.rows, "cosine_false", 1)[i] == pytest.approx(cosines[1], abs=1e-5)
        assert values(found.rows, "accuracy", 1)[i] == (cosines[0] > cosines[1])


@pytest.mark.parametrize("name", ["probe", "swap", "gain"])
def test_whoever_else_is_studied_changes_nobodys_rows(name: str) -> None:
    lm = tiny.lm("mistral")
    study = STUDIES[name].for_model("micro-x", "world", 3)
    together, alone = (study.run(lm, Entities(edits, BOTH.pool), 1).rows for edits in (EDITS, EDITS[1:2]))
    theirs = {
        (row.block, row.site, row.quantity): row.value for row in together if row.case_id == EDITS[1].case_id
    }
    mine = {(row.block, row.site, row.quantity): row.value for row in alone}
    assert len(mine) >= 12 and mine == pytest.approx(theirs, abs=1e-4)


def test_parameters_have_defaults_that_can_be_overridden() -> None:
    assert Gain.for_model("any", "world", 5).params == GainParams()
    assert StateProbe.for_model("any", "world", 5, {"entity": "prompt"}).params == ProbeParams("prompt")
    edited = Gain.for_model("micro-llama", "world", 100, {"blocks_from": "edited"})
    assert edited.params.editor == LKS.for_model("micro-llama", "world", 100).params
    for wrong in ({"blocks_from": "nowhere"}, {"block_from": "donor"}, {"editor": "x"}):
        with pytest.raises(UserError):
            Gain.for_model("micro-llama", "world", 5, wrong)
    with pytest.raises(
        UserError, match="Unknown model 'any'"
    ):  # the rule for untuned models asks for its shape
        Gain.for_model("any", "world", 5, {"blocks_from": "edited"})


def test_the_model_is_left_as_it_was() -> None:
    lm = tiny.lm("gpt2")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    for name in STUDIES:
        STUDIES[name].for_model("micro-x", "world", 3).run(lm, BOTH)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in lm.model.modules())
