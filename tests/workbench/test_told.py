"""What a user reads after an edit: harm, lengths, and what to do."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

import baselines
import workbench.editing
from cli.display import _short
from lks.data.fact_validation import UserFact
from lks.data.user_facts import Facts
from lks.editing.editor import SHORT, Editor
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.edits import Case
from lks.evaluation.endings import Says
from lks.evaluation.readouts import Asking
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from lks.results.answers import Answer
from tests.helpers import real, tiny
from workbench.advice import changed, on_misses, on_troubles
from workbench.editing import EditRequest, RecallAnswer, RecallCheck, answers, edit_model
from workbench.health import TOKENS, Health, _circles, _first, _marks, look
from workbench.lengths import by_length, too_long
from workbench.patch_folder import EditRecord, ModelIdentity
from workbench.presets import editor_for

PROMPTS = ["Mara Kel is on the staff of", "The pet that Emil Sander keeps is a"]
METHODS = sorted(baselines.methods())


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama", "cpu")


def writing(lm: LM, token: int) -> Patch:
    """A patch that makes one token likeliest wherever the model is."""
    ids, mask = lm.pad([encoded.ids for encoded in lm.encode(PROMPTS, ["", ""])])
    with torch.no_grad():
        state = lm.decoder(input_ids=ids, attention_mask=mask).last_hidden_state.flatten(0, 1).mean(0)
    name = next(
        name for name, weight in lm.model.named_parameters() if weight is lm.vocabulary_projection.weight
    )
    delta = torch.zeros_like(lm.vocabulary_projection.weight)
    delta[token] = 1000 * state / state.norm()
    return WeightPatch({name: delta})


def test_a_sound_model_is_told_from_one_that_repeats_a_word_or_writes_a_special_token(lm: LM) -> None:
    assert look(lm, NoPatch(), PROMPTS) == Health(1.0, 2)
    word = lm.encode(["the"], [""])[0].ids[-1]
    broken = look(lm, writing(lm, word), PROMPTS)
    assert broken.verdict == "collapsed" and broken.circling == 2 and not broken.special
    marked = look(lm, writing(lm, min(_marks(lm))), PROMPTS)
    assert (marked.special, marked.with_special, marked.circling) == (_marks(lm)[min(_marks(lm))], 2, 0)
    assert "after 2 of 2 answers" in " ".join(marked.troubles)


def test_prompts_that_fill_the_window_are_left_out(lm: LM) -> None:
    assert look(lm, NoPatch(), ["Mara Kel is here and " * 200, PROMPTS[0]]).looked == 1


class Watched(KnowledgeBlockPatch):
    """A patch that counts how often it is applied."""

    times = 0

    def applied(self, lm: LM) -> Any:
        """Count."""
        type(self).times += 1
        return super().applied(lm)


def test_a_patch_that_provably_leaves_plain_text_alone_is_not_asked_about_it(lm: LM) -> None:
    patch = Watched([["Mara Kel"]], torch.zeros(1, 1, lm.dim), (2,), "last", "exact", "all")
    assert look(lm, patch, PROMPTS).ratio == 1.0
    assert Watched.times == 1, "applied for the free text alone"


def test_special_tokens_of_a_converted_tokenizer_are_known_by_their_looks() -> None:
    marks = _marks(real.tokenizer_only("gemma3-270m"))
    assert "<start_of_image>" in marks.values() and "<eos>" not in marks.values()
    assert not any(text.isspace() for text in marks.values())
    assert _first([-1, min(marks)], marks) == marks[min(marks)] and _first([], marks) == ""


def test_circles_are_short_and_whole() -> None:
    start = list(range(100, 100 + TOKENS // 2))
    for period in (1, 2, 3, 4):
        assert _circles(start + [i % period for i in range(TOKENS - len(start))])
    assert not _circles(start + [i % 6 for i in range(TOKENS - len(start))])
    assert not _circles([1] * 8), "it has come to an end"


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (Health(3.1, 2), "perplexity on plain text is 3.1 times"),
        (Health(float("nan"), 2), "beyond all measure"),
        (Health(1.0, 2, "<x>", 1), "writes <x> after 1 of 2 answers"),
        (Health(1.0, 8, "", 0, 2), "the same few words after 2 of 8"),
        (Health(1.1, 8, "", 0, 1), ""),
    ],
)
def test_troubles_name_what_is_wrong_and_a_setting_the_method_has(health: Health, said: str) -> None:
    assert said in " ".join(health.troubles) and bool(health.troubles) == bool(said)
    told = on_troubles(health, origin("ft"))
    assert ("--set lr=0.00025 or --set max_epochs=12" in told) == bool(said) == bool(told)
    assert not said or "another method" in on_troubles(health, origin("ice"))


def origin(name: str, history: tuple[str, ...] = ("edited",)) -> EditRecord:
    method = baselines.methods()[name]
    editor, tuned = editor_for(method, "somebody/else", (32, 4096), (1, ""), {})
    given = {field.name: getattr(editor.params, field.name) for field in fields(method.params_type)}
    return EditRecord(
        1,
        name,
        method.title,
        given,
        {},
        tuned,
        ModelIdentity("x", "y", 32, 4096, 9),
        0,
        1.0,
        1.0,
        {},
        history,
    )


def check(*rows: tuple[Says, bool | None, int]) -> RecallCheck:
    return RecallCheck(
        len(rows),
        len(rows),
        0,
        tuple(RecallAnswer("p", "42", tokens, "420", says, acts) for says, acts, tokens in rows),
    )


@pytest.mark.parametrize("name", METHODS)
def test_advice_names_a_parameter_that_the_method_has_with_its_value_doubled(name: str) -> None:
    method, made = baselines.methods()[name], origin(name)
    names = {field.name for field in fields(method.params_type)}
    assert {method.effort, method.step} <= names | {""}
    assert method.made_for is not None or not names, "tells for which lengths it was made"
    told = " ".join(on_misses(check(("no", None, 1)), made))
    if method.effort:
        value = made.parameters[method.effort]
        assert isinstance(value, int) and f"--set {method.effort}={2 * value}" in told
        editor_for(method, "somebody/else", (32, 4096), (1, ""), {method.effort: str(2 * value)})
    else:
        assert told == "" and not {"steps", "epochs", "max_epochs", "n_iter", "max_steps", "lr"} & names


def test_training_is_not_advised_where_it_cannot_help() -> None:
    lks = origin("lks")
    assert on_misses(check(("answered", True, 1)), lks) == []
    (begins,) = on_misses(check(("begins", True, 1)), lks)
    assert '"42."' in begins and "--set" not in begins
    (closed,) = on_misses(check(("no", False, 1), ("no", False, 1)), lks)
    assert "2 prompts" in closed and "does not act" in closed and "--set" not in closed
    both = on_misses(check(("no", False, 1), ("no", True, 1), ("begins", None, 1)), lks)
    assert len(both) == 3 and "--set max_epochs=" in both[2] and "1 fact " in both[2]
    assert on_misses(check(("no", None, 1)), origin("ice", ("edited", "more"))) == [
        "What may help with 1 fact not answered: edit all facts at once (--overwrite)."
    ]
    assert on_misses(check(("no", None, 1)), None) == []


def test_a_setting_keeps_its_type() -> None:
    assert changed(origin("ft"), "max_epochs", 2) == "--set max_epochs=50"
    assert changed(origin("ft"), "lr", 0.5) == "--set lr=0.00025"
    assert changed(replace(origin("ft"), parameters={"max_epochs": 1}), "max_epochs", 0.5) == ""
    assert changed(origin("wise"), "retrieve", 2) == changed(origin("ft"), "", 2) == ""


LONG = "the road leaves the river, climbs through eleven narrow bends cut into red rock and ends at a stone hut with a green copper roof of old"


def facts(*targets: str, prompt: str = "Halvern Pass is where") -> Facts:
    return Facts(
        "f",
        tuple(
            UserFact(i, "Halvern Pass", f"{prompt} {i}", target, f"id{i}") for i, target in enumerate(targets)
        ),
    )


def test_far_longer_answers_are_told_before_any_work_with_the_methods_for_them() -> None:
    lm, lks = real.tokenizer_only("smollm2-135m"), baselines.methods()["lks"]
    assert too_long(lm, lks, facts("Oslo", "a stone hut with a green copper roof")) == []
    about, other = too_long(lm, lks, facts("Oslo", LONG + " " + LONG, LONG + " " + LONG[:60]))
    assert (
        "2 of 3 targets are far longer than LKS was made for" in about
        and "zsRE and CounterFact has 16 at most" in about
    )
    assert "ice" in other and "ft" in other and "lks" not in other and "memit" not in other
    (prompts, _) = too_long(lm, lks, facts("Oslo", prompt=f"Halvern Pass: {LONG} {LONG}, and"))
    assert "1 of 1 prompt is far longer" in prompts
    assert "No method here" in too_long(lm, lks, facts(" ".join([LONG] * 12)))[-1]
    assert too_long(lm, baselines.methods()["ft"], facts(LONG + " " + LONG)) == []
    assert too_long(lm, baselines.methods()["none"], facts(LONG * 9)) == []


def test_what_is_far_longer_follows_the_method_and_not_its_name() -> None:
    class Given(Editor[None]):  # type: ignore[misc]
        """A method of somebody else's."""

        title = "Mine"

    lm = tiny.lm("llama")
    assert too_long(lm, Given, facts(LONG)) == []
    Given.made_for = replace(SHORT, target=3, source="my data")
    assert "Mine was made for" in too_long(lm, Given, facts(LONG))[0]


def test_answers_are_counted_by_length_where_lengths_vary() -> None:
    assert (
        by_length(check())
        == by_length(check(("no", None, 3), ("no", None, 12)))
        == by_length(check(("no", None, 20), ("no", None, 40)))
        == ""
    )
    told = by_length(
        check(("answered", None, 2), ("begins", None, 8), ("answered", None, 30), ("no", None, 33))
    )
    assert told == "1 to 8 tokens: 1 of 2; 17 to 32 tokens: 1 of 1; 33 and more tokens: 0 of 1"


def test_a_text_is_cut_behind_where_the_answer_would_end() -> None:
    assert _short("420.", "42") == "'420.'"
    assert _short("x" * 99, "42") == repr("x" * 26) + "..."


def test_a_prefix_is_not_counted_as_the_answer(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text from both models; the unedited one is asked freely only where its first tokens look like
    the answer.
    """
    texts = {
        "The arches": "420.",
        "The town": "Yorkshire",
        "The city": "Oslo, Norway. It",
        "The river": "the Ina",
    }
    asked: list[tuple[bool, int]] = []

    def ask(lm: LM, cases: list[Case], how: Asking, progress: object) -> list[Answer]:
        asked.append((how.wild, len(cases)))
        return [spoken(case, texts[case.edit.subject], how.wild) for case in cases]

    monkeypatch.setattr(workbench.editing, "ask", ask)
    rows = zip(texts, ("42", "York", "Oslo", "Tana"), strict=True)
    given = Facts(
        "f", tuple(UserFact(0, subject, f"{subject} is", target, subject) for subject, target in rows)
    )
    found = answers(lm, NoPatch(), given.dataset())
    assert [one.says for one in found.said] == ["begins", "begins", "answered", "no"]
    assert (found.after, found.before, [one.text for one in found.those("begins")]) == (
        1,
        1,
        ["420.", "Yorkshire"],
    )
    assert asked == [(False, 4), (True, 3), (True, 4)]


def spoken(case: Case, text: str, wild: bool) -> Answer:
    edit = case.edit
    right = text.startswith(edit.target)
    ids = ((1,), (1,), (1,)) if right else ((1,), (2,), (2,))
    said = Answer(
        0,
        case.case_id,
        edit.subject,
        "edit",
        0,
        edit.prompt,
        edit.target,
        *ids,
        text[: len(edit.target)],
        -1.0,
    )
    return replace(said, wild_text=text if wild else None)


def facts_on(prompts: list[str], targets: list[str]) -> Facts:
    subjects = ("Mara Kel", "Emil Sander")
    return Facts(
        "f", tuple(UserFact(0, s, p, t, s) for s, p, t in zip(subjects, prompts, targets, strict=True))
    )


def test_facts_of_an_edit_that_does_not_act_are_noticed(lm: LM) -> None:
    made = edit_model(lm, facts_on(PROMPTS, ["flute", "flute"]), EditRequest(changes={"max_epochs": "1"}))
    elsewhere = Facts("f", (UserFact(0, "Nora Brask", "Nora Brask plays the", "zzz", "1"),))
    found = answers(lm, made.patch, elsewhere.dataset())
    assert [one.acts for one in found.said] == [False]
    assert "does not act" in on_misses(found, made.origin)[0]
