"""Stages of a cell: how prompts are put, answers taken over from the unedited model, what a stored cell is
given later, failures of a stage.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from baselines.none import Unedited as NoEdits
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.edits import Case, Context, Edit, make_case
from lks.errors import UserError
from lks.evaluation import fluency, perplexity, stages
from lks.evaluation.prompt_formats import available, wrapped
from lks.evaluation.readouts import (
    SAMPLE,
    Answer,
    Asking,
    ReusableAnswers,
    ReuseError,
    acts_of,
    ask,
    key_of,
    same,
)
from lks.evaluation.stages import EditedDraw, UneditedAnswers
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from lks.results.cells import Cell, Measurements, Outcome
from lks.runs.cell import LoadedResources, run
from tests.helpers import tiny
from tests.helpers.stores import write_answers
from tests.lks.evaluation.test_readout import plainly
from tests.lks.runs.test_cell import TinyBench

CASES = tuple(
    make_case(e, (f"People say that {e.subject} was born in",), ((f"{e.subject} works for", "Oslo"),))
    for e in tiny.edits(5)
)
SPARE = tuple(make_case(e, (), ()) for e in tiny.training())
TEMPLATE = "{{ bos_token }}{% for m in messages %}[user] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[answer]\n{% endif %}"


def quiet(stage: str, done: float) -> None:
    pass


def chatting(family: str) -> LM:
    """A model whose tokenizer has a chat template that ends with a newline."""
    lm = tiny.lm(family)
    lm.tokenizer.chat_template = TEMPLATE
    return lm


# How prompts are put.


@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_rivals_likelihood_is_that_of_a_plain_forward_pass(family: str) -> None:
    lm = tiny.lm(family)
    answers = ask(lm, CASES)
    assert {a.rival for a in answers if a.kind != "locality"} == {c.edit.ground_truth for c in CASES}
    for one in answers:
        if one.kind == "locality":
            assert (one.rival, one.rival_tokens, one.rival_logprob) == ("", 0, None)
            continue
        ids, _, _, logprob = plainly(lm, one.prompt, one.rival)
        assert one.rival_tokens == len(ids) and one.rival_logprob == pytest.approx(logprob, rel=1e-3)
        assert one.answer_logprob == pytest.approx(plainly(lm, one.prompt, one.answer)[3], rel=1e-3), (
            "the rival leaves the prefill as it is"
        )


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ("bare", "Ada Moss was born in "),
        ("qa", "Q: Ada Moss was born in\nA:"),
        ("given", "The birthplace of Ada Moss is Oslo. Ada Moss was born in "),
        ("chat", "<s>[user] Ada Moss was born in \n[answer]\n"),
    ],
)
def test_a_prompt_in_its_context(context: Context, says: str) -> None:
    assert (
        wrapped(context, chatting("llama"), "Ada Moss was born in ", "The birthplace of Ada Moss is Oslo.")
        == says
    )


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("context", ["qa", "given", "chat"])
def test_answers_in_a_context_are_those_of_plain_passes(family: str, context: Context) -> None:
    lm = chatting(family)
    edits = [replace(c, probes=c.probes[:2]) for c in CASES[:2]]
    for case, one in zip(
        (c for c in edits for _ in c.probes), ask(lm, edits, Asking(context=context)), strict=True
    ):
        probe = case.probes[one.probe_index if one.kind == "edit" else 1]
        assert one.context == context and one.prompt == wrapped(
            context, lm, probe.prompt, f"{case.edit.prompt} {case.edit.target}"
        )
        ids, tf, ar, logprob = plainly(lm, one.prompt, one.answer)
        assert (one.answer_ids, one.tf_ids, one.ar_ids) == (tuple(ids), tuple(tf), tuple(ar))
        assert one.answer_logprob == pytest.approx(logprob, rel=1e-3)
        assert lm.tokenizer.decode(ids).strip() == one.answer


@pytest.mark.parametrize("family", tiny.MODELS)
def test_a_chat_turn_begins_once_and_keeps_its_last_newline(family: str) -> None:
    lm = chatting(family)
    (row,) = lm.encode([wrapped("chat", lm, "Ada Moss was born in")], ["New Port"])
    bos = lm.tokenizer.bos_token_id
    assert row.ids[0] == bos and bos not in row.ids[1:], "the template's own, once"
    turn = [{"role": "user", "content": "Ada Moss was born in"}]
    assert (
        row.ids[: row.n_prompt]
        == lm.tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    )
    assert "\n" in lm.tokenizer.decode(row.ids[row.n_prompt - 1]), "the last prompt token"
    assert lm.tokenizer.decode(row.answer) == "New Port", "no space between the newline and the answer"


def test_without_a_template_there_is_no_chat(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    assert not available("chat", lm) and available("chat", chatting("llama")) and available("qa", lm)
    edited = EditedDraw(lm, NoPatch(), CASES, SPARE, 0, 1, 0, UneditedAnswers(None))
    assert stages.answers(edited, lambda done: None, "chat") == []
    with pytest.raises(ValueError, match="no stage 'songs'"):
        stages.measure("songs", edited, lambda done: None)


# Answers taken over.


class Still(NoPatch):
    """Says of every prompt that it does nothing there."""

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool]:
        return [False] * len(prompts)


class Lying(WeightPatch):
    """Says so too, and changes everything."""

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool]:
        return [False] * len(prompts)


def noise(lm: LM, size: float) -> dict[str, torch.Tensor]:
    weight = lm.mlp_output(2).weight
    return {
        lm.parameter_name(lm.mlp_output(2)): size
        * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    }


@contextmanager
def prefilled(lm: LM) -> Iterator[list[int]]:
    """Rows of each pass that begins without a cache."""
    rows: list[int] = []

    def look(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs.get("past_key_values") is None:
            rows.append(len(kwargs["input_ids"]))

    handle = lm.model.register_forward_pre_hook(look, with_kwargs=True)
    yield rows
    handle.remove()


def many(count: int) -> list[Case]:
    return [replace(c, edit=replace(c.edit, case_id=f"{i}-{c.case_id}")) for i in range(count) for c in CASES]


def test_where_nothing_acts_only_a_sample_is_asked() -> None:
    lm, cases = tiny.lm("llama"), many(4)
    unedited = ask(lm, cases)
    known = ReusableAnswers({key_of(a): a for a in unedited}, acts_of(Still(), lm))
    with prefilled(lm) as rows:
        again = ask(lm, cases, Asking(known=known))
    assert sum(rows) == SAMPLE < len(unedited) == 60
    assert again == [replace(a, fired=False, kl=0.0 if a.kind == "locality" else None) for a in unedited]


def test_what_the_unedited_model_was_not_asked_is_asked() -> None:
    lm = tiny.lm("llama")
    unedited = ask(lm, CASES)
    known = ReusableAnswers({key_of(a): a for a in unedited if a.kind != "edit"}, acts_of(Still(), lm))
    with prefilled(lm) as rows:
        again = ask(lm, CASES, Asking(known=known))
    assert sum(rows) == 5 + 10 and [a.fired for a in again] == [None, False, False] * 5
    with prefilled(lm) as rows:  # a patch that proves nothing
        assert all(
            same(a, b)
            for a, b in zip(
                ask(lm, CASES, Asking(known=ReusableAnswers(known.answers, acts_of(NoPatch(), lm)))),
                unedited,
                strict=True,
            )
        )
    assert sum(rows) == 15


def test_a_patch_that_lies_is_found_out() -> None:
    lm = tiny.lm("llama")
    known = {key_of(a): a for a in ask(lm, CASES)}
    patch = Lying(noise(lm, 0.3))
    with patch.applied(lm), pytest.raises(ReuseError, match=r"of 15 answers differ"):
        ask(lm, CASES, Asking(known=ReusableAnswers(known, acts_of(patch, lm))))


def stored(folder: Path, lm: LM, cases: Sequence[Case]) -> UneditedAnswers:
    """The unedited model's answers on disk, as a cell finds them."""
    write_answers(folder, "c", "answers", ask(lm, cases))
    return UneditedAnswers(folder / "cells" / "c")


def test_after_a_lie_everything_is_asked_and_it_is_noted(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    patch, known = Lying(noise(lm, 0.3)), stored(tmp_path, lm, CASES)
    edited = EditedDraw(lm, patch, CASES, SPARE, 0, 1, 0, known)
    made = stages.answers(edited, lambda done: None)
    with patch.applied(lm):
        plain = ask(lm, CASES)
    assert [replace(a, kl=None) for a in made] == plain
    assert all((a.kl is not None and a.kl > 0) == (a.kind == "locality") for a in made)
    assert "differ from the unedited model's" in edited.notes["not taken over"]


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("scope", ["exact", "fuzzy"])
def test_lks_answers_the_same_with_and_without_what_is_known(family: str, scope: str, tmp_path: Path) -> None:
    lm = tiny.lm(family)
    table = torch.randn(1, 2, lm.dim, generator=torch.Generator().manual_seed(7)) * 10
    patch = KnowledgeBlockPatch([["Mara Kelorin"], ["Zoë Quist"]], table, (1,), "last", scope)  # type: ignore[arg-type]
    known = stored(tmp_path, lm, CASES)
    with_it = EditedDraw(lm, patch, CASES, SPARE, 0, 1, 0, known)
    made = stages.answers(with_it, lambda done: None)
    plain = stages.answers(replace(with_it, unedited=UneditedAnswers(None)), lambda done: None)
    assert (
        all(same(a, b) and a.fired == b.fired for a, b in zip(made, plain, strict=True)) and not with_it.notes
    )
    assert [a.fired for a in made] == [a.subject in ("Mara Kelorin", "Zoë Quist") for a in made]
    assert all((a.kl == 0) == (not a.fired) for a in made if a.kind == "locality")
    assert all(a.kl is None for a in made if a.kind != "locality") and all(b.kl is None for b in plain)
    before = known.answers("answers")
    assert not any(same(a, before[key_of(a)]) for a in made if a.fired)


# What a stored cell is given later.


class Counted(NoEdits):
    """Changes a weight a little, and counts how often it was asked to."""

    calls = 0

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        Counted.calls += 1
        return WeightPatch(noise(lm, 0.05))


class Wrecking(NoEdits):
    """Makes every text unlikely: all logits are ten times what they were."""

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        return WeightPatch({"lm_head.weight": 9 * lm.vocabulary_projection.weight})


CELL = Cell("micro-tiny", "world", "ft", 2, 0, 2, records=len(CASES))


def measured(
    folder: Path,
    extras: Measurements | None = None,
    method: type = Counted,
    bench: LoadedResources | None = None,
) -> Outcome:
    return run(CELL, method, folder, quiet, bench or TinyBench(CASES + SPARE), extras)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Shards of the cell: their bytes and when they were written."""
    return {
        path.stem: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (folder / "cells" / CELL.id).glob("*.parquet")
    }


def test_stages_have_these_names() -> None:
    everything = Measurements(
        ("qa", "chat"), fluency=True, gates=True, ability=("b", "a"), documents=5, overhead=True
    )
    names = (
        "answers",
        "passages",
        "answers-qa",
        "answers-chat",
        "generations",
        "decisions",
        "ability-a+b-5",
        "overhead",
    )
    assert everything.stages() == names and everything.stages("scope") == ("decisions",)
    assert Measurements().stages() == ("answers", "passages") and Measurements(ability=("a",)).stages()[
        2:
    ] == ("ability-a",)


def test_a_stored_cell_is_given_what_it_lacks_without_editing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counted.calls = 0
    bench = TinyBench(CASES + SPARE)
    first = measured(tmp_path, bench=bench)
    before = files(tmp_path)
    assert first.status == "ok" and set(before) == {"answers", "passages"} and Counted.calls == 2
    assert set(first.costs.stage_s) == {"passages"}
    monkeypatch.setattr(fluency, "TOKENS", 5)
    second = measured(tmp_path, Measurements(("qa",), fluency=True), bench=bench)
    after = files(tmp_path)
    assert Counted.calls == 2 and second.status == "ok" and not second.failed
    assert set(after) == {"answers", "passages", "answers-qa", "generations"} == second.stages
    assert {name: after[name] for name in before} == before, "what there was is left alone"
    assert (second.costs.edit_s, second.costs.ask_s) == (first.costs.edit_s, first.costs.ask_s)
    assert set(second.costs.stage_s) == {"passages", "answers-qa", "generations"}
    rows = pq.read_table(tmp_path / "cells" / CELL.id / "answers-qa.parquet").to_pylist()
    assert {row["context"] for row in rows} == {"qa"} and {row["draw"] for row in rows} == {0, 1}
    asked = pq.read_table(tmp_path / "cells" / CELL.id / "answers.parquet").to_pylist()
    key = ("draw", "case_id", "kind", "probe_index")
    assert [tuple(row[name] for name in key) for row in rows] == [
        tuple(row[name] for name in key) for row in asked
    ]


def test_later_answers_are_those_of_the_patches_that_were_left(tmp_path: Path) -> None:
    measured(tmp_path / "later")
    measured(tmp_path / "later", Measurements(("qa",)))
    measured(tmp_path / "once", Measurements(("qa",)))
    assert {name: made for name, (made, _) in files(tmp_path / "later").items()} == {
        name: made for name, (made, _) in files(tmp_path / "once").items()
    }


class Prepared(Counted):
    """Edits only after it was prepared."""

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: object = None) -> float:
        self.ready = True
        return 0.0

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        assert self.ready
        return super().edit(lm, edits)


def test_patches_that_were_deleted_are_made_again_by_a_prepared_editor(tmp_path: Path) -> None:
    measured(tmp_path, method=Prepared)
    shutil.rmtree(tmp_path / "runs")
    outcome = measured(tmp_path, Measurements(("qa",)), method=Prepared)
    assert not outcome.failed and set(files(tmp_path)) == {"answers", "passages", "answers-qa"}


def test_a_stage_that_fails_leaves_the_answers_whole_and_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> list[object]:
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr(fluency, "TOKENS", 5)
    bench, extras = TinyBench(CASES + SPARE), Measurements(("qa",), fluency=True)
    with monkeypatch.context() as patch:
        patch.setattr(fluency, "write", broken)
        outcome = measured(tmp_path, extras, bench=bench)
    assert outcome.status == "ok" and set(outcome.failed) == {"generations"}
    assert re.fullmatch(
        r"error: RuntimeError: no ink \(lks/evaluation/stages\.py:\d+\)", outcome.failed["generations"]
    )
    assert outcome.stages == {"answers", "passages", "answers-qa"} == set(files(tmp_path))
    before, Counted.calls = files(tmp_path), 0
    again = measured(tmp_path, extras, bench=bench)
    assert again.status == "ok" and not again.failed and "generations" in again.stages and Counted.calls == 0
    assert {name: made for name, made in files(tmp_path).items() if name != "generations"} == before


def test_a_collapsed_model_is_asked_for_no_abilities_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, extras = TinyBench(CASES + SPARE), Measurements(ability=("made_sentiment",), documents=3)
    outcome = measured(tmp_path, extras, Wrecking, bench)
    (stage,) = outcome.failed
    assert outcome.status == "ok" and stage == "ability-made_sentiment-3"
    assert outcome.failed[stage].startswith("collapsed: perplexity of plain text is ")
    assert set(files(tmp_path)) == {"answers", "passages"} and stage in outcome.stages
    with monkeypatch.context() as patch:
        patch.setattr(
            perplexity, "measure_passages", lambda *args, **kwargs: pytest.fail("the stage was run again")
        )
        again = measured(tmp_path, extras, Wrecking, bench)
    assert again.failed == outcome.failed and again.costs.stage_s == outcome.costs.stage_s


def test_plain_texts_are_read_under_the_first_draws_and_abilities_under_one() -> None:
    lm = tiny.lm("llama")
    edited = [EditedDraw(lm, NoPatch(), CASES, SPARE, draw, 5, 0, UneditedAnswers(None)) for draw in range(5)]
    assert [len(stages.measure("passages", one, lambda done: None)) > 0 for one in edited] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert stages.measure("ability-made", edited[1], lambda done: None) == []


def test_answers_are_kept_as_they_are_read(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    answers = ask(lm, CASES)
    known = stored(tmp_path, lm, CASES)
    assert list(known.answers("answers").values()) == answers and known.answers(
        "answers-qa"
    ) == {} == UneditedAnswers(None).answers("answers")
    assert isinstance(answers[0], Answer) and known.ability("ability-x") == []


def test_a_test_of_ability_that_does_not_exist_is_told_before_any_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: object) -> None:
        raise UserError("Unknown test of ability")

    monkeypatch.setattr("lks.runs.cell.TaskSuite", unknown)
    Counted.calls = 0
    with pytest.raises(UserError, match="Unknown test of ability"):
        measured(tmp_path, Measurements(ability=("made_sentimnt",)))
    assert Counted.calls == 0 and not list(tmp_path.glob("cells/*/outcome.json"))
