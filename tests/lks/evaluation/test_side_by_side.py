"""Draws asked together, each under its own patch, against each draw by itself."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from baselines import methods
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.edits import Case
from lks.evaluation.readouts import Asking, ask, ask_draws, same
from lks.evaluation.side_by_side import SideBySide, owned_by
from lks.evaluation.stages import EditedDraw, UneditedAnswers, answers, answers_of_draws
from lks.models.lm import LM
from lks.runs.cell import DRAWS_TOGETHER, ROWS_TOGETHER, together
from tests.helpers import tiny
from tests.helpers.stores import write_answers
from tests.lks.evaluation.test_stages import CASES, SPARE

METHODS = {
    "lks": {"max_epochs": "3"},
    "ft": {"max_epochs": "5"},
    "memit": {"steps": "4", "corpus_tokens": "4000"},
    "lora": {"epochs": "3"},
    "rome": {"steps": "4", "corpus_tokens": "4000"},
}
"""Knowledge blocks, a dense change, factors at several blocks, adapters of all blocks, a factor at one block.
"""


def patches_of(lm: LM, method: str, draws: Mapping[int, list[Case]]) -> dict[int, Patch]:
    made: dict[int, Patch] = {}
    for draw, cases in draws.items():
        editor = methods()[method].for_model("micro-tiny", "world", len(cases), METHODS[method])
        editor.prepare(lm)
        made[draw] = editor.edit(lm, [case.edit for case in cases], draw)
    return made


DRAWS = {0: CASES[:1], 1: CASES[1:3], 2: CASES[:2], 4: CASES[3:4]}
"""One case is edited in two draws, each with another seed."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("family", "batch_tokens"), [("llama", 60), ("gpt2", 4096)])
def test_every_draw_is_answered_as_by_itself(family: str, method: str, batch_tokens: int) -> None:
    lm = tiny.lm(family)
    patches = patches_of(lm, method, DRAWS)
    how = Asking(batch_tokens=batch_tokens)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    beside = SideBySide.of(lm, patches)
    assert beside is not None
    with beside.applied():
        asked = ask_draws(lm, DRAWS, how)
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    alone = []
    for draw, cases in DRAWS.items():
        with patches[draw].applied(lm):
            alone += ask(lm, cases, Asking(draw=draw))
    plain = ask_draws(lm, DRAWS, how)
    assert len(asked) == len(alone) == len(plain)
    for one, other in zip(asked, alone, strict=True):
        assert (one.draw, one.case_id, one.kind, one.fired) == (
            other.draw,
            other.case_id,
            other.kind,
            other.fired,
        )
        assert same(one, other), (one, other)
    assert (
        sum(not same(one, other) for one, other in zip(asked, plain, strict=True)) > len(plain) / 4
    )  # the patches do something


def test_hooks_are_gone_afterwards_however_it_ends() -> None:
    lm = tiny.lm("llama")
    beside = SideBySide.of(lm, patches_of(lm, "ft", {0: CASES[:1]}))
    assert beside is not None
    plain = ask(lm, CASES[:1])
    with pytest.raises(RuntimeError), beside.applied():
        raise RuntimeError
    assert ask(lm, CASES[:1]) == plain


def test_rows_without_an_owner_are_refused() -> None:
    lm = tiny.lm("llama")
    beside = SideBySide.of(lm, {0: NoPatch()})
    assert beside is not None
    ids = torch.tensor([[5, 6, 7]])
    with beside.applied(), torch.no_grad():
        with pytest.raises(ValueError, match="which draw"):
            lm.model(input_ids=ids, use_cache=True)
        with owned_by([0]):
            lm.model(input_ids=ids, use_cache=True)


def test_patches_that_cannot_act_by_row_are_asked_one_after_the_other() -> None:
    lm = tiny.lm("llama")
    head = lm.parameter_name(lm.vocabulary_projection)
    change = torch.randn_like(lm.vocabulary_projection.weight)
    assert (
        SideBySide.of(lm, {0: WeightPatch({head: change})}) is None
    )  # it is changed behind the decoder, which hooks do not see
    assert SideBySide.of(lm, patches_of(lm, "ft", {0: CASES[:1]}) | {1: _Strange()}) is None


class _Strange(NoPatch):
    """Of a kind that nobody knows how to apply by row."""

    kind = "known to nobody by row"

    def context_tokens(self, lm: LM) -> int:
        return 3


def test_answers_and_drift_of_several_draws_are_those_of_each(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    draws = {0: CASES[:2], 1: CASES[2:3]}
    patches = patches_of(lm, "ft", draws)
    edited = []
    for number, cases in draws.items():
        write_answers(tmp_path / str(number), "c", "answers", ask(lm, cases, Asking(draw=number)))
        edited.append(
            EditedDraw(
                lm,
                patches[number],
                cases,
                SPARE,
                number,
                2,
                0,
                UneditedAnswers(tmp_path / str(number) / "cells" / "c"),
            )
        )
    done: list[float] = []
    whole = answers_of_draws(edited, done.append)
    alone = [answer for one in edited for answer in answers(one, lambda part: None)]
    assert done == sorted(done) and done[-1] == 1.0
    assert [(a.draw, a.case_id, a.kind) for a in whole] == [(a.draw, a.case_id, a.kind) for a in alone]
    assert all(same(a, b) for a, b in zip(whole, alone, strict=True))
    moved = [(a.kl, b.kl) for a, b in zip(whole, alone, strict=True) if b.kl is not None]
    assert moved and all(a == pytest.approx(b, abs=1e-4) for a, b in moved)


@pytest.mark.parametrize(
    ("questions", "groups"),
    [
        ([], []),
        ([5], [range(1)]),
        ([ROWS_TOGETHER + 1] * 2, [range(1), range(1, 2)]),
        ([ROWS_TOGETHER // 2] * 3, [range(2), range(2, 3)]),
        ([5, ROWS_TOGETHER, 5, 5], [range(1), range(1, 2), range(2, 4)]),
        ([1] * (DRAWS_TOGETHER + 1), [range(DRAWS_TOGETHER), range(DRAWS_TOGETHER, DRAWS_TOGETHER + 1)]),
    ],
)
def test_groups_of_draws(questions: list[int], groups: list[range]) -> None:
    assert together(questions) == groups
