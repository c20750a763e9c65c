"""The scope stage: right decisions and rates on made cases, whatever the method."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.grace import Grace, GraceParams
from baselines.ice import ICE, ICEParams
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.edits import Case, make_case
from lks.evaluation.gate_decisions import acted, decide, variants
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from lks.results.decisions import Decision
from tests.helpers import tiny

EDITS = [
    replace(e, aliases=(f"Dr {e.subject}", "The Singer")) if e.subject == "Ada Moss" else e
    for e in tiny.edits(5)
]
CASES = [
    make_case(e, (f"The place where {e.subject} was born is",), ((f"{e.subject} works for", "Oslo"),))
    for e in EDITS
]
SPARE = [make_case(e, (), ()) for e in [EDITS[0], *tiny.training(4)]]
IN_SCOPE = {"edit", "paraphrase", "locality", "typo", "case", "alias"}


@pytest.fixture(autouse=True)
def abilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two GSM8K questions, one that mentions somebody and one that no model of these could hold; no other
    test of abilities.
    """
    (tmp_path / "gsm8k").mkdir()
    lines = ('{"question": "How many pets has Mara Kelorin?"}', f'{{"question": "{"How many? " * 60}"}}')
    (tmp_path / "gsm8k" / "test.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    yield


def knowledge(lm: LM, names: list[list[str]], scope: str = "exact") -> KnowledgeBlockPatch:
    return KnowledgeBlockPatch(names, torch.zeros(1, len(names), lm.dim), (1,), "last", scope)  # type: ignore[arg-type]


def spelt(cases: list[Case]) -> list[list[str]]:
    return [[case.edit.subject, *case.edit.aliases] for case in cases]


def by_set(made: list[Decision]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for one in made:
        found.setdefault(one.probe_set, []).append(one)
    return found


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])  # of bytes: the others have no token for some letters
def test_the_exact_scope_finds_all_but_typos_and_nobody_else(family: str) -> None:
    lm = tiny.lm(family)
    made = by_set(decide(lm, knowledge(lm, spelt(CASES)), CASES, SPARE, draw=3))
    assert {name: len(rows) for name, rows in made.items()} == {
        "edit": 5, "paraphrase": 5, "locality": 5, "typo": 5, "case": 5, "alias": 1, "others": 4, "gsm8k": 1, "plain": 500
    }  # fmt: skip
    for name in ("edit", "paraphrase", "locality", "case", "alias"):
        assert all(one.fired and one.subjects_found == (one.subject_expected,) for one in made[name]), name
    assert not any(one.fired for name in ("typo", "others", "plain") for one in made[name])
    assert [one.subjects_found for one in made["gsm8k"]] == [("Mara Kelorin",)]
    assert all(one.draw == 3 for rows in made.values() for one in rows)
    assert [one.subject_expected for one in made["typo"]] == [e.subject for e in EDITS]
    assert [(one.probe, one.case_id) for one in made["others"]] == [(i, f"t{i}") for i in range(4)]
    assert not any(one.subject_expected for one in made["others"] + made["plain"] + made["gsm8k"])


def test_the_fuzzy_scope_forgives_typos() -> None:
    lm = tiny.lm("gpt2")
    typos = by_set(decide(lm, knowledge(lm, spelt(CASES), "fuzzy"), CASES, (), 0))["typo"]
    assert sum(one.subjects_found == (one.subject_expected,) for one in typos) >= 4


def test_a_retriever_with_a_threshold_has_rates_of_its_own() -> None:
    lm = tiny.lm("gpt2")
    made = by_set(decide(lm, ICE(ICEParams(threshold=0.5)).edit(lm, EDITS), CASES, SPARE, 0))
    assert all(one.subjects_found == (one.subject_expected,) for one in made["edit"] + made["case"])
    assert not any(one.fired for one in made["plain"])
    always = by_set(decide(lm, ICE(ICEParams()).edit(lm, EDITS), CASES, SPARE, 0, probes=3))
    assert all(one.fired and len(one.subjects_found) == 1 for rows in always.values() for one in rows)
    assert all(one.subjects_found == (one.subject_expected,) for one in always["edit"])


@pytest.mark.parametrize("eps", [1e-4, 1e4])
def test_a_code_book_fires_within_its_radius(eps: float) -> None:
    lm = tiny.lm("qwen2")
    patch = Grace(GraceParams(block=2, eps=eps, n_iter=1)).edit(lm, EDITS[:1])
    made = by_set(decide(lm, patch, CASES[:1], SPARE, 0, probes=4))
    assert [one.subjects_found for one in made["edit"]] == [("Mara Kelorin",)]
    assert all(one.fired == (eps > 1) for name, rows in made.items() if name != "edit" for one in rows)


def test_a_patch_that_names_no_subjects_has_a_rate_of_firing_alone() -> None:
    lm = tiny.lm("llama")
    patch = ICE(ICEParams(threshold=0.5)).edit(lm, EDITS)
    named = decide(lm, patch, CASES, SPARE, 0, probes=5)
    patch.subjects = ()
    made = decide(lm, patch, CASES, SPARE, 0, probes=5)
    assert [one.fired for one in made] == [one.fired for one in named]
    assert {one.subjects_found for one in made} == {(), ("",)} and {one.subject_expected for one in made} == {
        ""
    }


@pytest.mark.parametrize("patch", [NoPatch(), WeightPatch({})])
def test_a_patch_without_a_gate_decides_nothing(patch: Patch) -> None:
    assert decide(tiny.lm("llama"), patch, CASES, SPARE, 0, probes=2) == []


def test_few_prompts_are_asked_and_two_runs_agree() -> None:
    lm = tiny.lm("mistral")
    one, other = (
        decide(lm, knowledge(lm, spelt(CASES)), CASES, SPARE, 0, probes=2, seed=1) for _ in range(2)
    )
    counts = Counter(d.probe_set for d in one)
    assert (
        one == other and max(counts.values()) == 2 and set(counts) == {*IN_SCOPE, "others", "gsm8k", "plain"}
    )
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in lm.model.modules())


def test_batches_do_not_change_a_decision() -> None:
    lm = tiny.lm("gpt2")
    patch = ICE(ICEParams(threshold=0.3)).edit(lm, EDITS)
    prompts = [probe.prompt for case in CASES for probe in case.probes] + ["Oslo", "Nobody"]
    assert (
        acted(lm, patch, prompts, batch_tokens=1)
        == acted(lm, patch, prompts)
        == acted(lm, patch, prompts[::-1])[::-1]
    )


def test_a_prompt_that_goes_on_where_another_ends_is_decided_anew() -> None:
    """Alone in their batches, one after the other, they look like one prompt that is being continued."""
    lm = tiny.lm("gpt2")

    class Running(KnowledgeBlockPatch):
        def fires(self, lm: LM, prompts: object) -> None:  # type: ignore[override]
            return None

    patch = Running([["Mara"], ["Mara Moss"]], torch.zeros(1, 2, lm.dim), (1,), "last", "exact")
    ids = lm.encode(["We love Mara Moss"], [""])[0].ids
    prompts = [str(lm.tokenizer.decode(ids[:n])) for n in range(1, len(ids) + 1)]
    assert acted(lm, patch, prompts, batch_tokens=1) == acted(lm, patch, prompts)
    assert acted(lm, patch, prompts, batch_tokens=1)[-1] == ("Mara Moss",)  # type: ignore[index]


def test_variants_keep_all_but_the_spelling_of_the_subject() -> None:
    made = variants(CASES, 100, seed=0)
    for one in made:
        frame = next(e.prompt for e in EDITS if e.case_id == one.case_id).replace(one.subject_expected, "{}")
        before, after = frame.split("{}")
        assert one.prompt.startswith(before) and one.prompt.endswith(after)
        spelling = one.prompt[len(before) : len(one.prompt) - len(after)]
        assert spelling != one.subject_expected
        assert one.probe_set != "case" or spelling == one.subject_expected.lower()
        assert one.probe_set != "alias" or spelling in ("Dr Ada Moss", "The Singer")
        assert one.probe_set != "typo" or abs(len(spelling) - len(one.subject_expected)) <= 1
    assert [one.prompt for one in variants(CASES[3:], 100, seed=0)] == [
        one.prompt for one in made if one.case_id in ("3", "4")
    ]
    assert {one.prompt for one in variants(CASES, 100, seed=1)} != {one.prompt for one in made}


def test_a_spelling_that_is_somebody_elses_name_is_no_variant() -> None:
    twins = [
        replace(EDITS[0], aliases=("The Band",)),
        replace(EDITS[1], aliases=("the band",)),
        replace(EDITS[2], subject="zoë quist"),
    ]
    made = variants([make_case(e, (), ()) for e in [*twins, EDITS[2]]], 10)
    assert not [one for one in made if one.probe_set == "alias"]
    assert {one.case_id for one in made if one.probe_set == "case"} == {"0", "1"}
    small = replace(EDITS[0], subject="oslo", prompt="Where is oslo?")
    assert variants([make_case(small, (), ())], 10) == []  # four letters, no capital, no alias
