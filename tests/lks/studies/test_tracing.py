"""Causal tracing: against whole forward passes with hooks, on every architecture; what noise and restoring
must give.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lks.edits import Edit
from lks.models.lm import LM
from lks.results.study_rows import StudyRow
from lks.studies.base import Entities
from lks.studies.blockwise import captured
from lks.studies.causal_tracing import KINDS, SITES, Tracing, TracingParams, _noise, _prompts, _spread
from tests.helpers import tiny
from tests.lks.studies.test_study import hooked, values

EDITS = tiny.edits(4)
ALL = Entities(EDITS, EDITS)


def knowing(family: str, edits: Sequence[Edit] = EDITS) -> LM:
    """A tiny model that answers right: the first token of each answer is written at the final state of its
    prompt.
    """
    lm = tiny.lm(family)
    lm.model.lm_head.weight = nn.Parameter(
        lm.vocabulary_projection.weight.detach().clone(), requires_grad=False
    )
    for row in lm.encode([edit.prompt for edit in edits], [edit.ground_truth for edit in edits]):
        with torch.no_grad():
            final = lm.decoder(torch.tensor([row.ids[: row.n_prompt]])).last_hidden_state[0, -1]
            lm.vocabulary_projection.weight[row.answer[0]] = final / final.norm() * 1.5
    return lm


def traced(
    lm: LM, params: TracingParams, seed: int = 0, edits: Sequence[Edit] = EDITS, batch_tokens: int = 8192
) -> list[StudyRow]:
    return Tracing(params).run(lm, Entities(edits, edits), seed, batch_tokens=batch_tokens).rows


def naive(
    lm: LM, params: TracingParams, case: int, drawn: Tensor, restored: Sequence[tuple[nn.Module, int, Tensor]]
) -> float:
    """Mean probability of the answer over samples of the noise, by whole forward passes."""
    (row,) = lm.encode([EDITS[case].prompt], [EDITS[case].ground_truth], [EDITS[case].subject])
    ids, span = row.ids[: row.n_prompt], row.subject
    assert span
    embeddings = lm.model.get_input_embeddings()
    found = []
    for sample in drawn:
        states = embeddings(torch.tensor(ids))[span[0] : span[1] + 1] + sample
        blurred = [(embeddings, span[0] + i, state) for i, state in enumerate(states)]
        found.append(hooked(lm, ids, [*blurred, *restored])[-1].softmax(-1)[row.answer[0]].item())
    return sum(found) / len(found)


@pytest.mark.parametrize("family", tiny.MODELS)
def test_every_effect_is_that_of_a_whole_forward_pass(family: str) -> None:
    lm, params = knowing(family), TracingParams(noise=1.0, samples=2, window=2)
    rows = traced(lm, params, seed=5)
    prompts = list(
        _prompts(
            EDITS,
            lm.encode([e.prompt for e in EDITS], [e.ground_truth for e in EDITS], [e.subject for e in EDITS]),
        )
    )
    noise = _noise(lm, prompts, 2, _spread(lm, prompts), 5)
    assert values(rows, "known", -1) == [1] * 4
    for case in (0, 2):
        prompt = prompts[case]
        own = [row for row in rows if row.case_id == EDITS[case].case_id]
        corrupted = naive(lm, params, case, noise[case], [])
        assert values(own, "corrupted", -1) == pytest.approx([corrupted], abs=1e-5)
        assert values(own, "clean", -1)[0] == pytest.approx(
            hooked(lm, prompt.ids, [])[-1].softmax(-1)[prompt.answer].item(), abs=1e-5
        )
        for site, at in zip(SITES, prompt.sites, strict=True):
            for kind, module in zip(KINDS, (lm.block, lm.mlp_output, lm.attention_output), strict=True):
                for block, window in ((0, range(1)), (2, range(1, 3)), (3, range(2, 4))):
                    blocks = range(block, block + 1) if kind == "state" else window
                    parts = [module(b) for b in blocks]
                    clean = captured(lm, [prompt.ids], [[at]], parts)[:, 0, 0]
                    wanted = naive(
                        lm,
                        params,
                        case,
                        noise[case],
                        [(part, at, state) for part, state in zip(parts, clean, strict=True)],
                    )
                    (effect,) = [
                        row.value for row in own if (row.site, row.quantity, row.block) == (site, kind, block)
                    ]
                    assert effect == pytest.approx(wanted - corrupted, abs=1e-5), (site, kind, block)


@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_last_state_of_all_brings_the_clean_probability_back(family: str) -> None:
    rows = traced(knowing(family), TracingParams(samples=3))
    last = [row.value for row in rows if (row.site, row.quantity, row.block) == ("last", "state", 3)]
    clean, corrupted = values(rows, "clean", -1), values(rows, "corrupted", -1)
    assert [effect + before for effect, before in zip(last, corrupted, strict=True)] == pytest.approx(
        clean, abs=1e-5
    )
    assert max(abs(a - b) for a, b in zip(clean, corrupted, strict=True)) > 0.01
    none = [row.value for row in rows if (row.site, row.quantity, row.block) == ("subject_last", "state", 3)]
    assert none == pytest.approx([0] * 4, abs=1e-6)  # after the last block nobody reads it


def test_without_noise_nothing_is_lost() -> None:
    rows = traced(knowing("llama"), TracingParams(noise=0.0, samples=1))
    assert values(rows, "clean", -1) == pytest.approx(values(rows, "corrupted", -1), abs=1e-5)
    assert [row.value for row in rows if row.block >= 0] == pytest.approx([0] * (4 * 4 * 2 * 3), abs=1e-5)


def test_noise_is_drawn_anew_for_each_seed_and_the_same_in_every_batch() -> None:
    lm, params = knowing("mistral"), TracingParams(samples=2)
    whole, single, other = traced(lm, params), traced(lm, params, batch_tokens=1), traced(lm, params, seed=1)

    def by_place(rows: Sequence[StudyRow]) -> dict[tuple[object, ...], float]:
        return {(row.case_id, row.block, row.site, row.quantity): row.value for row in rows}

    assert by_place(whole) == by_place(traced(lm, params))
    assert by_place(single) == pytest.approx(by_place(whole), abs=1e-5)
    assert values(other, "corrupted", -1) != pytest.approx(values(whole, "corrupted", -1), abs=1e-4)


def test_what_the_model_does_not_know_is_counted_and_left_out() -> None:
    lm = knowing("llama", EDITS[:2])
    found = Tracing(TracingParams(samples=1)).run(lm, ALL)
    right = [row.case_id for row in found.rows if row.quantity == "known" and row.value == 1]
    assert {row.case_id for row in found.rows if row.quantity == "known"} == {edit.case_id for edit in EDITS}
    assert {"0", "1"} <= set(right) < {"0", "1", "2", "3"}
    assert {row.case_id for row in found.rows if row.quantity != "known"} == set(right)
    assert sum(found.left_out.values()) == 4 - len(right)


def test_windows_lie_around_their_block() -> None:
    assert [TracingParams(window=10).blocks(block, 48) for block in (0, 20, 47)] == [
        range(5),
        range(15, 25),
        range(42, 48),
    ]
    assert [TracingParams().blocks(10, count) for count in (32, 28)] == [range(5, 15), range(5, 15)]
    assert [TracingParams().blocks(block, 6) for block in (0, 3, 5)] == [range(1), range(2, 4), range(4, 6)]
    assert [TracingParams(window=1).blocks(block, 4) for block in (0, 3)] == [range(1), range(3, 4)]
