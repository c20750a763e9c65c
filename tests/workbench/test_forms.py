"""Editing and asking in one form: bare, Q and A, or in the chat template."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from baselines._in_context.retrieval_patch import FactsInFront
from cli.app import app
from lks.data import synthetic_world
from lks.data.fact_validation import UserFact
from lks.data.user_facts import Facts, read_facts
from lks.errors import UserError
from lks.evaluation.prompt_formats import wrapped
from lks.models.lm import LM
from lks.results.shards import read_answers
from tests.helpers import tiny
from workbench.compare_answers import reply
from workbench.editing import EditRequest, answers, edit_model, update_model
from workbench.forms import dataset_in, edits_in, settled
from workbench.patch_folder import SavedEdits, read, write
from workbench.patch_tools import merge
from workbench.scoring import score
from workbench.serving.protocol import Message
from workbench.serving.service import ModelService, Rules

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + ' ' + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
QUICK = {"max_epochs": "30", "lambda_edit": "0.5", "locality_prompts": "4", "locality_pool": "4"}


def facts_of(first: int, last: int, asked: bool = True) -> Facts:
    """Facts of the made world; `asked`: their prompts end as questions do."""
    edits = [case.edit for case in synthetic_world.cases()[first:last]]
    return Facts(
        "people",
        tuple(
            UserFact(0, e.subject, f"{e.prompt}?" if asked else e.prompt, e.target, e.case_id) for e in edits
        ),
    )


@pytest.fixture(scope="module")
def lm() -> LM:
    """A model with a chat template, which it has never seen in use."""
    made = LM.load("micro-llama", "cpu")
    made.tokenizer.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def made(lm: LM) -> SavedEdits:
    return edit_model(lm, facts_of(0, 3), EditRequest(changes=QUICK))


def test_what_was_trained_as_chat_is_asked_as_chat(lm: LM, made: SavedEdits) -> None:
    assert made.form == "auto" and made.facts == facts_of(0, 3)
    check = answers(lm, made.patch, facts_of(0, 3).dataset(), form=made.form)
    assert (check.before, check.after, check.asked_in) == (0, 3, "3 prompts in the chat template")
    fact = facts_of(0, 3).facts[0]
    said = reply(lm, made.patch, fact.prompt, 4, made.form)
    assert said.form == "chat" and said.edited.text.startswith(fact.target) and said.subject == fact.subject


def test_a_missed_prompt_is_told_as_the_user_gave_it(lm: LM) -> None:
    check = answers(
        lm,
        edit_model(lm, facts_of(0, 1), EditRequest(changes=QUICK | {"max_epochs": "1"})).patch,
        facts_of(4, 5).dataset(),
        form="auto",
    )
    assert [one.prompt for one in check.those("no")] == [facts_of(4, 5).facts[0].prompt]


def test_all_prompts_of_an_edit_are_put_in_the_form_that_fits_each(lm: LM) -> None:
    edit = replace(
        facts_of(0, 1).dataset().cases[0].edit,
        training_paraphrases=("Who is it?", "It is"),
        training_locality=("Ada is", "Say it."),
    )
    (asked,) = edits_in("auto", lm, [edit])
    assert asked.prompt == wrapped("chat", lm, edit.prompt)
    assert asked.training_paraphrases == (wrapped("chat", lm, "Who is it?"), "It is")
    assert asked.training_locality == ("Ada is", wrapped("chat", lm, "Say it."))
    assert edits_in("auto", lm, [asked]) == [asked], "what is in the template already stays"
    assert edits_in("bare", lm, [edit]) == [edit]


def test_a_lead_in_goes_where_the_question_is(lm: LM) -> None:
    edit = facts_of(0, 1).dataset().cases[0].edit
    (lead, behind) = (f"Tell me: {edit.prompt}", f"Question: {edit.prompt} Answer:")
    (asked,) = edits_in("auto", lm, [replace(edit, training_paraphrases=(lead, behind))])
    assert asked.training_paraphrases == (wrapped("chat", lm, lead), wrapped("chat", lm, behind))
    written = wrapped("chat", lm, edit.prompt)
    (asked,) = edits_in(
        "auto", lm, [replace(edit, prompt=written, training_paraphrases=(f"Tell me: {written}",))]
    )
    assert asked.prompt == written and asked.training_paraphrases == (wrapped("chat", lm, lead),)


def test_the_form_is_kept_and_an_update_keeps_to_it(lm: LM, made: SavedEdits, tmp_path: Path) -> None:
    write(tmp_path / "patch", made)
    saved = read(tmp_path / "patch")
    assert (
        saved.origin == made.origin
        and json.loads((tmp_path / "patch" / "edit.json").read_text())["form"] == "auto"
    )
    assert "assistant" not in (tmp_path / "patch" / "facts.jsonl").read_text()
    after, _ = update_model(lm, saved, facts_of(3, 4))
    assert after.form == "auto" and answers(lm, after.patch, facts_of(0, 4).dataset(), form="auto").after == 4
    again, _ = update_model(
        lm,
        edit_model(lm, facts_of(0, 1), EditRequest("ft", {"max_epochs": "1"}, form="chat")),
        facts_of(1, 2, asked=False),
    )
    assert again.form == "chat"


def test_a_patch_from_before_forms_is_bare(made: SavedEdits, tmp_path: Path) -> None:
    write(tmp_path, made)
    old = json.loads((tmp_path / "edit.json").read_text())
    del old["form"]
    (tmp_path / "edit.json").write_text(json.dumps(old))
    assert read(tmp_path).form == "bare" and SavedEdits(made.patch, None, None).form == "bare"


def test_patches_of_different_forms_are_not_merged(lm: LM, made: SavedEdits) -> None:
    assert made.origin is not None
    with pytest.raises(UserError, match="--form auto and --form bare"):
        merge(made, replace(made, origin=replace(made.origin, form="bare")))


def test_facts_that_become_text_stay_as_they_are(lm: LM) -> None:
    patch = edit_model(lm, facts_of(0, 2), EditRequest("ice")).patch
    assert isinstance(patch, FactsInFront) and [fact.prompt for fact in patch.facts] == [
        fact.prompt for fact in facts_of(0, 2).facts
    ]


def test_the_server_asks_a_chat_as_it_was_trained(lm: LM) -> None:
    service = ModelService(lm, {}, Rules(100))
    (edit,) = edits_in("auto", lm, [facts_of(0, 1).dataset().cases[0].edit])
    (asked,) = service._chat([Message(role="user", content=facts_of(0, 1).facts[0].prompt)])
    assert asked == lm.encode([edit.prompt], [""])[0].ids == service._tokens(edit.prompt)


def test_scores_are_taken_in_the_patchs_form_and_say_which(lm: LM, made: SavedEdits, tmp_path: Path) -> None:
    scored = score(lm, made, facts_of(0, 3), tmp_path)
    assert (
        scored.what == "people (3 prompts in the chat template)" and scored.edited.cell.dataset == scored.what
    )
    rows = read_answers(tmp_path / "cells" / scored.edited.cell.id / "answers.parquet")
    assert {row.prompt for row in rows if row.kind == "edit"} == {
        wrapped("chat", lm, fact.prompt) for fact in facts_of(0, 3).facts
    }
    assert all(row.ar_ids == row.answer_ids for row in rows if row.kind == "edit")


def test_a_dataset_put_otherwise_is_another_one(lm: LM) -> None:
    dataset = facts_of(0, 2).dataset()
    assert dataset_in("bare", lm, dataset) is dataset
    assert len({dataset_in(form, lm, dataset).revision for form in ("bare", "qa", "chat")}) == 3  # type: ignore[arg-type]
    mixed = Facts("m", (*facts_of(0, 2).facts, *facts_of(2, 3, asked=False).facts)).dataset()
    assert dataset_in("auto", lm, mixed).name == "m (2 prompts in the chat template, 1 bare)"


def test_a_model_without_a_template_is_asked_bare_and_refuses_chat() -> None:
    lm = tiny.lm("llama")
    assert settled("auto", lm) == "bare" and settled("qa", lm) == "qa"
    with pytest.raises(UserError, match="no chat template"):
        settled("chat", lm)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("edit", "--facts", "FACTS", "--out", "new", "--form", "chat"), "has no chat template"),
        (
            ("edit", "--facts", "FACTS", "--out", "patch", "--update", "--form", "qa"),
            "--update keeps the method, parameters, seed and form",
        ),
        (("ask", "--patch", "patch", "--chat", "x"), "has no chat template"),
        (("ask", "--patch", "patch", "--form", "chat", "x"), "has no chat template"),
        (("ask", "--patch", "patch", "--chat", "--form", "qa", "x"), "--chat means --form chat"),
        (("eval", "--patch", "patch", "--form", "chat"), "has no chat template"),
        (("edit", "--facts", "FACTS", "--out", "new", "--form", "talk"), "'talk'"),
    ],
)
def test_a_form_that_cannot_be_is_told_before_the_model_is_loaded(
    made: SavedEdits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    def never(*args: object) -> LM:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LM, "load", never)
    monkeypatch.chdir(tmp_path)
    write(Path("patch"), made)
    Path("facts.csv").write_text("subject,prompt,target\nAda Lovelace,Where was Ada Lovelace born?,Rome\n")
    done = CliRunner().invoke(
        app, [*("facts.csv" if word == "FACTS" else word for word in words), "--model", "micro-llama"]
    )
    assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\nWhat is the job of Lena Okafor?<|im_end|>\n<|im_start|>assistant\n",
        "<start_of_turn>user\nWo arbeitet Lena Okafor?<end_of_turn>\n<start_of_turn>model\n",
        "<|start_header_id|>user<|end_header_id|>\n\nLena Okafor?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "Question: what does Lena Okafor do?\nAnswer:\n",
    ],
)
def test_a_prompt_may_end_with_a_new_line(prompt: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps({"subject": "Lena Okafor", "prompt": prompt, "target": "plumber"}))
    (fact,) = read_facts(file).facts
    assert fact.prompt == prompt


@pytest.mark.parametrize(
    "fields", [{"prompt": "Lena is a "}, {"prompt": "\nLena is a"}, {"target": "plumber\n"}]
)
def test_other_white_space_is_taken_away(fields: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(json.dumps({"subject": "Lena", "prompt": "Lena is a", "target": "plumber"} | fields))
    (fact,) = read_facts(file).facts
    assert (fact.prompt, fact.target) == ("Lena is a", "plumber")
