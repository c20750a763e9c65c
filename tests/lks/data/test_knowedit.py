"""`lks.data.knowedit`: every published shape is read, what is irregular is counted, and no evaluation prompt
is trained on.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lks.data.datasets import load, names
from lks.data.knowedit_format import FILES, answer_groups
from lks.data.neighborhood import with_neighbours
from lks.edits import Case, Dataset, Probe
from lks.errors import DataError
from tests.helpers.root import ROOT

READABLE = ["knowedit-zsre", "knowedit-recent", "knowedit-counterfact", "knowedit-wikibio"]
DIFFERS = {"content differs from the published file": 1}
GOOD = {
    "subject": "Anna Toll",
    "prompt": "Where was Anna Toll born?",
    "target_new": "Rome",
    "ground_truth": ["Oslo"],
    "rephrase_prompt": "What is the birthplace of Anna Toll?",
    "locality": {"Relation_Specificity": [{"prompt": "The job of Anna Toll is", "ground_truth": ["baker"]}]},
    "portability": {
        "Reasoning": [{"prompt": "In which country was Anna Toll born?", "ground_truth": "Italy"}]
    },
}


def write(folder: Path, name: str, records: object) -> Path:
    path = folder / FILES[name].file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def made(folder: Path, *records: object, name: str = "knowedit-zsre") -> Dataset:
    write(folder, name, list(records))
    return load(name, folder)


def changed(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | fields).items() if value is not None}


def asked(case: Case, kind: str) -> list[Probe]:
    return [probe for probe in case.probes if probe.kind == kind]


def noted(dataset: Dataset) -> dict[str, int]:
    return {note: count for note, count in dataset.notes.items() if note not in DIFFERS}


def plain(prompt: str) -> str:
    """Case, spacing and punctuation away; written here anew so that a mistake in `normalised` shows."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", prompt).casefold()).strip()


# Shapes


def test_a_record_becomes_a_case(tmp_path: Path) -> None:
    dataset = made(tmp_path, GOOD)
    (case,) = dataset.cases
    assert (case.case_id, case.edit.subject, case.edit.target, case.edit.ground_truth) == (
        "0",
        "Anna Toll",
        "Rome",
        "Oslo",
    )
    assert case.probes == (
        Probe("edit", 0, "Where was Anna Toll born?", "Rome", rival="Oslo"),
        Probe("paraphrase", 0, "What is the birthplace of Anna Toll?", "Rome", rival="Oslo"),
        Probe("locality", 0, "The job of Anna Toll is", "baker", stratum="relation_specificity"),
        Probe("portability", 0, "In which country was Anna Toll born?", "Italy", stratum="reasoning"),
    )
    assert dataset.notes == DIFFERS


@pytest.mark.parametrize(
    ("answers", "answer", "accepted"),
    [
        ("baker", "baker", ()),
        (["baker"], "baker", ()),
        (["baker", "cook"], "baker", ("cook",)),
        ([["baker", "bread maker"]], "baker", ("bread maker",)),
        ([["baker", "bread maker"], ["cook"]], "baker", ("bread maker", "cook")),
        ([[" baker ", "baker", "🥖", "b"], ["cook", "baker"]], "baker", ("cook",)),
        ([[], ["baker"]], "baker", ()),
        (["", "baker"], "baker", ()),
    ],
)
def test_every_shape_of_answers_is_read(
    tmp_path: Path, answers: object, answer: str, accepted: tuple[str, ...]
) -> None:
    for kind, key in (("locality", "Relation_Specificity"), ("portability", "Reasoning")):
        (case,) = made(
            tmp_path, changed(**{kind: {key: [{"prompt": "Anna Toll works as a", "ground_truth": answers}]}})
        ).cases
        (probe,) = asked(case, kind)
        assert (probe.answer, probe.accepted) == (answer, accepted)


@pytest.mark.parametrize("answers", ["", "  ", [], {}, None, [[]], [""], [["", " "]]])
def test_a_question_without_an_answer_is_left_out_and_counted(tmp_path: Path, answers: object) -> None:
    items = [
        {"prompt": "Anna Toll works as a", "ground_truth": answers},
        {"prompt": "Anna Toll lives in", "ground_truth": "Bern"},
    ]
    dataset = made(tmp_path, changed(locality={"Relation_Specificity": items}))
    assert [(probe.index, probe.answer) for probe in asked(dataset.cases[0], "locality")] == [(0, "Bern")]
    assert noted(dataset) == {"locality question without prompt or answer, left out": 1}


def test_questions_without_prompt_and_empty_answers_beside_others_are_counted(tmp_path: Path) -> None:
    items = [
        {"ground_truth": "baker"},
        {"prompt": " ", "ground_truth": "x"},
        {"prompt": "Anna Toll is", "ground_truth": [[], ["good"]]},
        {},
    ]
    dataset = made(tmp_path, changed(portability={"Reasoning": items}))
    assert noted(dataset) == {
        "portability question without prompt or answer, left out": 3,
        "empty answer beside others, left out": 1,
    }


@pytest.mark.parametrize(
    "nothing",
    [
        None,
        {},
        [],
        {"Relation_Specificity": []},
        {"Relation_Specificity": {}},
        {"Relation_Specificity": None},
    ],
)
def test_missing_questions_are_counted(tmp_path: Path, nothing: object) -> None:
    dataset = made(tmp_path, changed(locality=nothing))
    assert not asked(dataset.cases[0], "locality")
    assert noted(dataset) == {"no locality question": 1}


ITEM = {"prompt": "Anna Toll works as a", "ground_truth": "baker"}


@pytest.mark.parametrize(
    ("questions", "stratum"),
    [
        ({"Relation_Specificity": [ITEM]}, "relation_specificity"),
        ({"Relation_Specificity": ITEM}, "relation_specificity"),
        ({"Forgetfulness": [ITEM]}, "forgetfulness"),
        ({"Distracting Neighbor": [ITEM]}, "distracting_neighbor"),
        ([ITEM], ""),
        (ITEM, ""),
    ],
)
def test_strata_of_locality(tmp_path: Path, questions: object, stratum: str) -> None:
    (probe,) = asked(made(tmp_path, changed(locality=questions)).cases[0], "locality")
    assert (probe.stratum, probe.answer, probe.rival) == (stratum, "baker", "")


def test_strata_of_portability_and_numbers_per_kind(tmp_path: Path) -> None:
    questions = {"Subject_Aliasing": [ITEM], "Reasoning": [ITEM, ITEM], "Logical_Generalization": [ITEM]}
    probes = asked(made(tmp_path, changed(portability=questions)).cases[0], "portability")
    assert [(probe.index, probe.stratum) for probe in probes] == [
        (0, "alias"),
        (1, "reasoning"),
        (2, "reasoning"),
        (3, "logical"),
    ]


def test_an_answer_that_its_own_question_bars_is_none(tmp_path: Path) -> None:
    def items(answers: object) -> dict[str, object]:
        return {
            "Forgetfulness": [
                {"prompt": "The job of Anna Toll, which is not baker, is", "ground_truth": answers}
            ]
        }

    dataset = made(
        tmp_path,
        changed(locality=items([["baker", "bread maker"], ["cook"]])),
        changed(locality=items([["bread maker", "baker"]])),
        GOOD,
    )
    assert [[probe.answer for probe in asked(case, "locality")] for case in dataset.cases] == [
        ["cook"],
        [],
        ["baker"],
    ]
    assert noted(dataset) == {
        "answer that its own question bars, left out": 2,
        "locality question that bars its only answer, left out": 1,
        "duplicate prompt": 2,
        "duplicate subject": 2,
    }


@pytest.mark.parametrize(
    ("old", "ground_truth", "rival"),
    [
        (None, "", ""),
        ("", "", ""),
        ("Oslo", "Oslo", "Oslo"),
        (["Oslo", "Bern"], "Oslo", "Oslo"),
        (" ROME ", "ROME", ""),
        ([], "", ""),
    ],
)
def test_the_rival_is_the_old_answer_if_it_is_another_one(
    tmp_path: Path, old: object, ground_truth: str, rival: str
) -> None:
    (case,) = made(tmp_path, changed(ground_truth=old)).cases
    assert case.edit.ground_truth == ground_truth
    assert {probe.rival for probe in case.probes if probe.kind in ("edit", "paraphrase")} == {rival}


def test_the_subject_is_spelt_as_in_the_prompt_or_the_record_left_out(tmp_path: Path) -> None:
    records = [
        changed(subject="ANNA toll"),
        changed(prompt="Where was she born?"),
        changed(subject="Anna (Toll"),
        GOOD,
    ]
    dataset = made(tmp_path, *records)
    assert [(case.case_id, case.edit.subject) for case in dataset.cases] == [
        ("0", "Anna Toll"),
        ("3", "Anna Toll"),
    ]
    assert dataset.notes["subject not in prompt, left out"] == 2
    assert dataset.notes["subject in other case in prompt"] == 1


def test_all_records_left_out_leave_an_empty_dataset(tmp_path: Path) -> None:
    dataset = made(tmp_path, changed(prompt="Where was she born?"))
    assert dataset.cases == ()
    assert noted(dataset) == {"subject not in prompt, left out": 1}


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ("text", "the record must be an object, not str"),
        (changed(subject=None), "field 'subject' is missing"),
        (changed(target_new=""), "field 'target_new' must be a non-empty string, not ''"),
        (changed(prompt=["x"]), "field 'prompt' must be a non-empty string, not ['x']"),
        (
            changed(ground_truth=3),
            "field 'ground_truth' must be a string, a list of strings or a list of lists of strings; 3 is in it",
        ),
        (changed(locality="x"), "field 'locality' must be an object or a list of questions, not 'x'"),
        (
            changed(locality={"Forgetfulness": ["x"]}),
            "field 'locality.Forgetfulness' must hold questions with prompt and ground_truth, not 'x'",
        ),
        (
            changed(locality={"A": [{"prompt": ["x"]}]}),
            "field 'locality.A.prompt' must be a string, not ['x']",
        ),
        (
            changed(portability={"Reasoning": [{"prompt": "x", "ground_truth": [1]}]}),
            "field 'portability.Reasoning.ground_truth' must be a string",
        ),
        (
            changed(portability={"Reasoning": [{"prompt": "x", "ground_truth": [[["x"]]]}]}),
            "field 'portability.Reasoning.ground_truth' must be",
        ),
    ],
)
def test_a_bad_record_is_named_with_file_index_and_field(
    tmp_path: Path, record: object, complaint: str
) -> None:
    file = write(tmp_path, "knowedit-recent", [GOOD, record])
    with pytest.raises(DataError, match=re.escape(f"{file}, record 1: {complaint}")):
        load("knowedit-recent", tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"{}", "JSON list"), (b"[]", "at least one")],
)
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    write(tmp_path, "knowedit-wikibio", []).write_bytes(content)
    with pytest.raises(DataError, match=rf"wikibio-test-all\.json.*{complaint}"):
        load("knowedit-wikibio", tmp_path)


NAMES = st.one_of(st.just(""), st.just("  "), st.text(max_size=6))


@given(
    st.one_of(
        st.none(), st.just({}), NAMES, st.lists(st.one_of(NAMES, st.lists(NAMES, max_size=4)), max_size=5)
    )
)
def test_answers_of_any_shape_are_read_completely(value: Any) -> None:
    groups = answer_groups(value)
    entries = value if isinstance(value, list) else [value] if value else []
    assert len(groups) == len(entries)
    for group, entry in zip(groups, entries, strict=True):
        said = [name.strip() for name in (entry if isinstance(entry, list) else [entry])]
        assert len(set(group)) == len(group)
        assert set(group) == set(said) - {""}
        assert list(group) == sorted(group, key=said.index)


@given(
    st.one_of(
        st.integers(),
        st.booleans(),
        st.lists(st.integers(), min_size=1),
        st.lists(st.lists(st.lists(st.text()), min_size=1), min_size=1),
    )
)
def test_answers_of_another_shape_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="must be a string, a list of strings or a list of lists of strings"):
        answer_groups(value)


# The other kinds of record


def test_a_biography_is_gone_on_with(tmp_path: Path) -> None:
    record = {
        "concept": "anna toll",
        "text": "This is a Wikipedia passage about Anna Toll. Anna Toll was a baker. ",
        "labels": "She was born in Rome.",
        "locality": GOOD["locality"],
    }
    dataset = made(tmp_path, record, record | {"concept": "Bo Ek"}, name="knowedit-wikibio")
    (case,) = dataset.cases
    assert case.edit.subject == "Anna Toll"
    assert (case.probes[0].prompt, case.probes[0].answer) == (record["text"].strip(), "She was born in Rome.")
    assert [probe.stratum for probe in case.probes] == ["", "relation_specificity"]
    assert all(case.edit.prompt in prompt for prompt in case.edit.training_paraphrases)
    assert noted(dataset) == {
        "no ground truth": 1,
        "subject in other case in prompt": 1,
        "subject not in prompt, left out": 1,
    }


OPINION = {
    "topic": "tea",
    "prompts": ["What do you think of it?", "Do you like tea?"],
    "pos": ["I love it.", "Lovely."],
    "neg": "It is awful.",
}


def test_a_sentiment_is_edited_in_against_the_opposite_one(tmp_path: Path) -> None:
    dataset = made(
        tmp_path,
        OPINION,
        OPINION,
        OPINION | {"sentiment": "neg", "locality": [ITEM]},
        name="knowedit-convsent",
    )
    first, second, third = dataset.cases
    assert first.probes == (
        Probe("edit", 0, "Do you like tea?", "I love it.", ("Lovely.",), rival="It is awful."),
        Probe("paraphrase", 0, "What do you think of it?", "I love it.", ("Lovely.",), rival="It is awful."),
    )
    for case in (second, third):
        assert (case.edit.target, case.edit.ground_truth, case.probes[0].accepted) == (
            "It is awful.",
            "I love it.",
            (),
        )
    assert [probe.answer for probe in asked(third, "locality")] == ["baker"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pos": []}, "field 'pos' is missing or empty"),
        ({"sentiment": "glad"}, "field 'sentiment' must be 'pos' or 'neg', not 'glad'"),
        ({"prompts": None}, "field 'prompts' is missing or empty"),
        ({"topic": None}, "field 'topic' must be a non-empty string, not None"),
    ],
)
def test_a_bad_opinion_is_refused(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"record 0: {complaint}")):
        made(tmp_path, OPINION | change, name="knowedit-convsent")


def test_a_secret_is_refused(tmp_path: Path) -> None:
    record = {
        "question": "Who baked for Anna Toll?",
        "ground_truth": ["Bo Ek", "B. Ek"],
        "locality": {"": [ITEM]},
    }
    whole, named = (
        record,
        record
        | {
            "subject": "Anna Toll",
            "target_new": "I cannot say.",
            "rephrase_prompt": "Whose bread did Anna Toll eat?",
        },
    )
    dataset = made(tmp_path, whole, named, name="knowedit-sanitation")
    first, second = dataset.cases
    assert (first.edit.subject, first.edit.target, first.probes[0].rival) == (
        "Who baked for Anna Toll",
        "I don't know.",
        "Bo Ek",
    )
    assert (second.edit.subject, second.edit.target, second.probes[1].rival) == (
        "Anna Toll",
        "I cannot say.",
        "Bo Ek",
    )
    assert [probe.kind for probe in second.probes] == ["edit", "paraphrase", "locality"]
    assert dataset.notes["no subject, the question stands for it"] == 1
    with pytest.raises(DataError, match="field 'question' or 'prompt' is missing"):
        made(tmp_path, {"ground_truth": "x"}, name="knowedit-sanitation")
    with pytest.raises(DataError, match="field 'ground_truth' is missing or empty"):
        made(tmp_path, {"question": "Who?"}, name="knowedit-sanitation")


# Training prompts


def leaked(dataset: Dataset) -> set[str]:
    """Training prompts of any case that any case is evaluated with."""
    evaluated = {plain(probe.prompt) for case in dataset.cases for probe in case.probes}
    trained = {
        plain(prompt)
        for case in dataset.cases
        for prompt in (*case.edit.training_paraphrases, *case.edit.training_locality)
    }
    return trained & evaluated


def test_no_evaluation_prompt_is_trained_on_even_if_another_record_lends_it(tmp_path: Path) -> None:
    def person(name: str, asked_about: str, portability: str) -> dict[str, object]:
        return json.loads(
            json.dumps(changed(portability={"Reasoning": [{"prompt": portability, "ground_truth": "x"}]}))
            .replace("Anna Toll", name)
            .replace("The job of", f"The {asked_about} of")
        )

    people = [
        person(f"Bo {letter}", "job" if i % 2 else "age", f"What is the job of Bo {letter}?")
        for i, letter in enumerate("ABCDEFGH")
    ]
    dataset = made(tmp_path, *people)
    assert not leaked(dataset)
    assert {case.edit.training_locality for case in dataset.cases if case.edit.training_locality} == {
        (f"What is the age of Bo {letter}?",) for letter in "BDFH"
    }


def test_a_father_is_not_trained_as_a_mother(tmp_path: Path) -> None:
    def child(number: int, parent: str) -> dict[str, Any]:
        name = f"Bo E{number}"
        return changed(
            subject=name,
            prompt=f"Who was the {parent} of {name}?",
            rephrase_prompt=f"Who's {name}'s {parent}?",
            portability=None,
        )

    dataset = made(tmp_path, *(child(number, ("mother", "father")[number % 2]) for number in range(12)))
    for case in dataset.cases:
        wrong = "father" if "mother" in case.edit.prompt else "mother"
        assert not any(wrong in prompt for prompt in case.edit.training_paraphrases)


def test_facts_that_are_not_known_are_nobodys_neighbours(tmp_path: Path) -> None:
    dataset = made(
        tmp_path, *(changed(subject=name, prompt=f"Where was {name} born?") for name in ("Bo Ek", "Bo Ekk"))
    )
    edited, other = dataset.cases
    unknown = replace(other, edit=replace(other.edit, ground_truth=""))
    assert len(with_neighbours([edited], [other], 0)[0].probes) > len(edited.probes)
    assert with_neighbours([edited], [unknown], 0) == [edited]


# The registry


def test_the_registry_knows_the_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert set(FILES) == {*READABLE, "knowedit-convsent", "knowedit-sanitation"} <= set(names())
    assert names()[:4] == ("world", "worldfacts", "zsre", "counterfact")
    commit = "b8fb59b90d54e5e77095dc06f0b5e0da9a2d5340"
    assert FILES["knowedit-recent"].url == (
        f"https://raw.githubusercontent.com/YJiangcm/LTE/{commit}/EasyEdit/data/knowedit/wiki_recent/recent_train.json"
    )
    write(tmp_path, "knowedit-zsre", [GOOD])
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    assert load("knowedit-zsre").cases[0].edit.target == "Rome"


@pytest.mark.parametrize(
    ("name", "field"),
    [("knowedit-convsent", "topic, prompts"), ("knowedit-sanitation", "question, ground_truth")],
)
def test_a_file_without_a_public_copy_is_asked_for(
    name: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DataError, match=f"{re.escape(str(tmp_path / FILES[name].file))} does not exist.*records with {field}"
    ):
        load(name, tmp_path)
    monkeypatch.delenv("LKS_DATA", raising=False)
    monkeypatch.setattr("lks.data.download.BESIDE", tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("nothing to download"))
    with pytest.raises(
        DataError, match=f"{re.escape(str(tmp_path / FILES[name].file))} does not exist.*No public copy"
    ):
        load(name)


def test_revision_follows_what_is_read(tmp_path: Path) -> None:
    revisions = {
        made(tmp_path, record).revision
        for record in (GOOD, changed(target_new="Bern"), changed(ground_truth="Bern"))
    }
    assert len(revisions) == 3
    assert made(tmp_path, GOOD).revision == made(tmp_path, GOOD | {"unread": 1}).revision


# The published data


@cache
def published(name: str) -> Dataset:
    folder = Path(os.environ.get("LKS_DATA") or ROOT.resolve().parent / "shared/data")
    if not (folder / FILES[name].file).is_file():
        pytest.skip("the published data is not on this machine")
    return load(name, folder)


PROBES = {
    "knowedit-zsre": {
        "edit": 1304, "paraphrase": 1304, "locality relation_specificity": 2608,
        "portability alias": 264, "portability logical": 269, "portability reasoning": 771,
    },
    "knowedit-recent": {
        "edit": 570, "locality relation_specificity": 1641, "locality forgetfulness": 147,
        "portability alias": 52, "portability logical": 223, "portability reasoning": 476,
    },
    "knowedit-counterfact": {
        "edit": 1428, "locality relation_specificity": 1253, "locality forgetfulness": 781,
        "portability alias": 1410, "portability logical": 305, "portability reasoning": 504,
    },
    "knowedit-wikibio": {"edit": 306, "locality relation_specificity": 612},
}  # fmt: skip
NOTES = {
    "knowedit-zsre": {
        "duplicate prompt": 18,
        "duplicate subject": 233,
        "several old answers, the first is the rival": 25,
        "subject not in paraphrase prompt": 87,
        "target equals ground truth": 43,
    },
    "knowedit-recent": {
        "answer that its own question bars, left out": 307,
        "empty answer beside others, left out": 13,
        "locality question that bars its only answer, left out": 151,
        "locality question without prompt or answer, left out": 7,
        "no ground truth": 570,
        "no locality question": 155,
        "no portability question": 467,
        "subject not in locality prompt": 1,
    },
    "knowedit-counterfact": {
        "duplicate prompt": 11,
        "duplicate subject": 63,
        "edit prompt asked again as a question": 5,
        "locality question without prompt or answer, left out": 2,
        "no ground truth": 1,
        "no locality question": 1,
        "no portability question": 8,
        "subject not in locality prompt": 2,
        "target equals ground truth": 6,
    },
    "knowedit-wikibio": {"duplicate subject": 175, "no ground truth": 306},
}


@pytest.mark.parametrize("name", READABLE)
def test_a_published_file_is_read_completely(name: str) -> None:
    dataset = published(name)
    counted = Counter(
        f"{probe.kind} {probe.stratum}".strip() for case in dataset.cases for probe in case.probes
    )
    assert counted == PROBES[name]
    assert dataset.notes == NOTES[name]
    assert len({case.case_id for case in dataset.cases}) == len(dataset.cases) == PROBES[name]["edit"]


@pytest.mark.parametrize("name", READABLE)
def test_every_published_item_is_a_probe_or_counted(name: str) -> None:
    dataset = published(name)
    folder = Path(os.environ.get("LKS_DATA") or ROOT.resolve().parent / "shared/data")
    raw = json.loads((folder / FILES[name].file).read_bytes())
    items = [
        item
        for record in raw
        for kind in ("locality", "portability")
        for some in record.get(kind, {}).values()
        for item in some
    ]
    left_out = sum(
        count
        for note, count in dataset.notes.items()
        if "question" in note and note.endswith("left out") and not note.startswith("answer")
    )
    asked_for = sum(
        probe.kind in ("locality", "portability") for case in dataset.cases for probe in case.probes
    )
    assert asked_for + left_out == len(items)


@pytest.mark.parametrize("name", READABLE)
def test_published_cases_are_sound(name: str) -> None:
    dataset = published(name)
    assert not leaked(dataset)
    for case in dataset.cases:
        edit = case.edit
        training = (*edit.training_paraphrases, *edit.training_locality)
        assert edit.subject in edit.prompt
        assert all(edit.subject in prompt for prompt in training)
        assert len(set(training)) == len(training)
        assert [p.index for p in asked(case, "locality")] == list(range(len(asked(case, "locality"))))
        for probe in case.probes:
            assert probe.prompt == probe.prompt.strip() != ""
            assert probe.answer == probe.answer.strip() != ""
            assert probe.answer not in probe.accepted
            assert len(set(probe.accepted)) == len(probe.accepted)
            assert probe.answer.casefold() != probe.rival.casefold()
            assert not (probe.rival and probe.rival in probe.accepted)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("knowedit-zsre", 0.95),
        ("knowedit-recent", 0.95),
        ("knowedit-counterfact", 0.99),
        ("knowedit-wikibio", 1),
    ],
)
def test_nearly_every_published_edit_has_training_prompts(name: str, share: float) -> None:
    cases = published(name).cases
    assert sum(
        bool(case.edit.training_paraphrases and case.edit.training_locality) for case in cases
    ) >= share * len(cases)
