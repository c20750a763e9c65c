"""`lks.data.datasets` and `lks.data.template_prompts`: strict reading, and training prompts that leak no
evaluation prompt.
"""

import hashlib
import io
import json
import logging
import re
import unicodedata
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lks.data import datasets
from lks.data.datasets import DATASETS, Published, find, load, parse
from lks.data.template_prompts import PromptSource, Record, TemplateSource, TrainingPrompts
from lks.data.templates import fits, normalised, stems, template, words
from lks.edits import Dataset
from lks.errors import DataError, UserError
from lks.io import hub
from tests.helpers.root import ROOT

LOG = logging.getLogger(__name__)
PAPER = ["zsre", "counterfact"]  # the datasets of the LKS paper
GOOD = {
    "subject": "Anna Toll",
    "prompt": "Where was Anna Toll born?",
    "target": "Rome",
    "ground_truth": "Oslo",
    "locality": {"prompt": "What is the profession of Anna Toll?", "target": "Baker"},
    "generality": "What is the birthplace of Anna Toll?",
}


def plain(prompt: str) -> str:
    """Case, spacing and punctuation away; written here anew so that a mistake in `normalised` shows."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", prompt).casefold()).strip()


def write(folder: Path, records: object, file: str = "lks/zsre_eval_data.json") -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def changed(path: tuple[str, ...], value: object) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(GOOD))
    *outer, last = path
    place = record
    for key in outer:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return record


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (changed(("target",), None), "field 'target' is missing"),
        (changed(("locality", "target"), None), "field 'locality.target' is missing"),
        (changed(("subject",), ""), "field 'subject' is empty"),
        (changed(("generality",), "  "), "field 'generality' is empty"),
        (changed(("ground_truth",), 3), "field 'ground_truth' must be a string, not 3"),
        (changed(("locality",), ["x"]), "field 'locality' must be an object, not ['x']"),
        (
            changed(("prompt",), "Where was she born?"),
            "field 'prompt': subject 'Anna Toll' is not found in 'Where was she born?', because it is not there",
        ),
        ("text", "the record must be an object, not 'text'"),
    ],
)
def test_a_bad_record_is_named_with_file_index_and_field(
    tmp_path: Path, record: object, complaint: str
) -> None:
    file = write(tmp_path, [GOOD, record])
    with pytest.raises(DataError, match=re.escape(f"{file}, record 1: {complaint}")):
        load("zsre", tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"{}", "JSON list"), (b"[]", "at least one")],
)
def test_a_file_that_is_no_list_of_records_is_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        parse(content, Path("x.json"))


def test_an_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match="Did you mean 'zsre'"):
        load("zsrE")


def test_cases_are_what_the_file_says(tmp_path: Path) -> None:
    write(tmp_path, [GOOD])
    dataset = load("zsre", tmp_path)
    case = dataset.cases[0]
    assert (case.case_id, case.edit.subject, case.edit.target, case.edit.ground_truth) == (
        "0",
        "Anna Toll",
        "Rome",
        "Oslo",
    )
    assert [(p.kind, p.prompt, p.answer) for p in case.probes] == [
        ("edit", "Where was Anna Toll born?", "Rome"),
        ("paraphrase", "What is the birthplace of Anna Toll?", "Rome"),
        ("locality", "What is the profession of Anna Toll?", "Baker"),
    ]
    assert dataset.notes == {"content differs from the published file": 1}


def test_irregular_records_are_counted_and_kept(tmp_path: Path) -> None:
    write(tmp_path, [GOOD, GOOD, changed(("target",), "Oslo"), changed(("generality",), "Born where?")])
    dataset = load("zsre", tmp_path)
    assert len(dataset.cases) == 4
    assert dataset.notes == {
        "content differs from the published file": 1,
        "duplicate prompt": 3,
        "duplicate subject": 3,
        "subject not in paraphrase prompt": 1,
        "target equals ground truth": 1,
    }


def test_revision_follows_content_and_derivation(tmp_path: Path) -> None:
    class Fixed:
        version = "fixed-1"

        def __init__(self, records: object) -> None:
            del records

        def prompts(self, record: Record) -> TrainingPrompts:
            return TrainingPrompts((f"Say: {record.prompt}",), (), 0)

    write(tmp_path, [GOOD])
    first = load("zsre", tmp_path)
    other_source = load("zsre", tmp_path, Fixed)
    write(tmp_path, [changed(("target",), "Bern")])
    assert len({first.revision, other_source.revision, load("zsre", tmp_path).revision}) == 3
    assert other_source.cases[0].edit.training_paraphrases == ("Say: Where was Anna Toll born?",)


def test_a_named_folder_must_hold_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cf_eval_data.json does not exist.*LKS_DATA"):
        load("counterfact")
    file = write(tmp_path, [GOOD])
    published = DATASETS["zsre"]
    assert isinstance(published, Published)
    assert find(published) == file


def test_download_is_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps([GOOD]).encode()
    published = Published("lks/x.json", "data/x.json", hashlib.sha256(content).hexdigest())
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert timeout > 0
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.delenv("LKS_DATA", raising=False)
    monkeypatch.setenv("LKS_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "is_reachable", lambda url: True)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert find(published) == find(published) == tmp_path / "data/lks/x.json"
    assert asked == [
        "https://raw.githubusercontent.com/Linuxin-xxx/LKS/a5ec5452a46f02fcef99082573855ee7d5af27b3/data/x.json"
    ]
    assert find(published).read_bytes() == content
    other = Published("lks/y.json", "data/y.json", "0" * 64)
    with pytest.raises(DataError, match=r"expected 0000.*set LKS_DATA"):
        find(other)
    assert [file.name for file in (tmp_path / "data/lks").iterdir()] == ["x.json"]


def test_no_connection_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(hub, "is_reachable", lambda url: True)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(DataError, match=r"cannot be downloaded.*no route.*set LKS_DATA"):
        datasets.download(Published("lks/x.json", "x.json", "0"), tmp_path / "x.json")


def test_the_world_is_a_dataset_too() -> None:
    dataset = load("world")
    assert dataset.name == "world"
    assert len(dataset.cases) > 100
    assert dataset.revision == load("world").revision


# The published data


@cache
def published(name: str) -> Dataset:
    entry = DATASETS[name]
    assert isinstance(entry, Published)
    beside = ROOT.resolve().parent / "shared/data" / entry.file
    if not beside.is_file():
        pytest.skip("the published data is not on this machine")
    return load(name, beside.parents[1])


@pytest.mark.parametrize("name", PAPER)
def test_no_evaluation_prompt_is_trained_on(name: str) -> None:
    dataset = published(name)
    assert len(dataset.cases) == 10_000
    evaluated = {plain(probe.prompt) for case in dataset.cases for probe in case.probes}
    for case in dataset.cases:
        edit = case.edit
        training = (*edit.training_paraphrases, *edit.training_locality)
        assert not {plain(prompt) for prompt in training} & evaluated
        assert len(set(training)) == len(training)
        assert all(edit.subject in prompt for prompt in training)
        assert 2 <= len(edit.training_paraphrases) <= 4
        assert 1 <= len(edit.training_locality) <= 6


@pytest.mark.parametrize("name", PAPER)
def test_most_paraphrases_come_from_other_records(name: str) -> None:
    cases = published(name).cases
    from_data = [
        sum(case.edit.prompt not in prompt for prompt in case.edit.training_paraphrases) for case in cases
    ]
    share = sum(count > 0 for count in from_data) / len(cases)
    LOG.info(
        "%s: %.1f %% of records have a paraphrase from other records, %.2f on average",
        name,
        100 * share,
        sum(from_data) / len(cases),
    )
    assert share > 0.9
    assert sum(len(case.edit.training_locality) >= 2 for case in cases) / len(cases) > 0.95


def test_nobody_is_asked_for_the_other_parent_in_training() -> None:
    """Training paraphrases of an edit about a father speak of no mother, and the other way round."""
    parents = {"mother": {"mother", "lady"}, "father": {"father", "fathered", "dad", "paternal"}}
    asked = 0
    for case in published("zsre").cases:
        edit = case.edit
        own = {
            parent
            for parent, spelt in parents.items()
            if spelt & words(edit.prompt.replace(edit.subject, "{}"))
        }
        if len(own) == 1:
            asked += 1
            (other,) = set(parents) - own
            for prompt in edit.training_paraphrases:
                assert not parents[other] & words(prompt.replace(edit.subject, "{}")), (edit.prompt, prompt)
    assert asked > 300


@pytest.mark.parametrize("name", PAPER)
def test_notes_of_the_published_files(name: str) -> None:
    notes = published(name).notes
    expected = {
        "zsre": {
            "duplicate subject": 633,
            "subject not in locality prompt": 15,
            "subject not in paraphrase prompt": 40,
            "target equals ground truth": 1,
        },
        "counterfact": {
            "duplicate prompt": 81,
            "duplicate subject": 369,
            "subject not in locality prompt": 81,
            "subject not in paraphrase prompt": 115,
        },
    }
    assert notes == expected[name]


# The derivation


def record(
    number: int, subject: str, edit: str, generality: str, locality: str, answer: str = "Rome"
) -> Record:
    return Record(
        str(number),
        subject,
        edit.format(subject),
        answer,
        "Oslo",
        generality.format(subject),
        locality.format(subject),
        "Baker",
    )


EDITS = [
    "Where was {} born?",
    "What is the birthplace of {}?",
    "{} was born in",
    "What is the job of {}?",
    "{} works as a",
]
GENERALITY = [
    "Where's {} born?",
    "What place was {} born in?",
    "{}'s birthplace is",
    "Which job has {}?",
    "{}'s job is",
    "{} earns money as a",
]
LOCALITY = [
    "What is the age of {}?",
    "What is the birthplace of {}?",
    "The age of {} is",
    "{}'s job is",
    "Who is the coach of {}?",
]
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["Anna Toll", "Bela Zund", "Anna", "the Ü"]),
        st.sampled_from(EDITS),
        st.sampled_from(GENERALITY),
        st.sampled_from(LOCALITY),
        st.sampled_from(["Rome", "Oslo", "baker"]),
    ),
    min_size=1,
    max_size=25,
)


@given(RECORDS)
@settings(deadline=None)
def test_made_records_leak_nothing_and_give_the_same_prompts_again(
    drawn: list[tuple[str, str, str, str, str]],
) -> None:
    records = [record(number, *values) for number, values in enumerate(drawn)]
    evaluated = {plain(text) for r in records for text in (r.prompt, r.generality, r.locality)}
    source, again = TemplateSource(records), TemplateSource(records)
    derived = [source.prompts(r) for r in records]
    assert [again.prompts(r) for r in reversed(records)] == derived[::-1]
    for r, prompts in zip(records, derived, strict=True):
        assert not {plain(text) for text in (*prompts.paraphrases, *prompts.locality)} & evaluated
        assert 2 <= len(prompts.paraphrases) <= 4
        assert 0 <= prompts.from_data <= len(prompts.paraphrases)
        assert all(text.count(r.subject) == 1 for text in prompts.locality)


def test_paraphrases_come_from_the_same_relation_and_locality_from_another() -> None:
    births = [
        record(
            i,
            name,
            "{} was born in",
            "{}'s birthplace is" if i % 2 else "{} came to life in",
            "{}'s age is" if i % 3 else "{} plays for",
        )
        for i, name in enumerate(
            ["Ada Ek", "Bo Ek", "Cy Ek", "Di Ek", "Ed Ek", "Fy Ek", "Gu Ek", "Hy Ek", "Io Ek"]
        )
    ]
    jobs = [
        record(10 + i, name, "{} works as a", "{}'s job is", "{}'s birthplace is")
        for i, name in enumerate(["Xi Ek", "Yo Ek", "Zu Ek"])
    ]
    source: PromptSource = TemplateSource(births + jobs)
    prompts = source.prompts(births[0])
    assert prompts.paraphrases[0] == "Ada Ek's birthplace is"
    assert prompts.from_data == 1
    assert "Ada Ek was born in" in prompts.paraphrases[1]  # after a lead-in
    assert prompts.locality == ("Ada Ek's age is",)


def test_a_mother_is_not_a_father() -> None:
    """Though each is asked for in many records, in the same words, and both are parents."""
    forms = ["Who is the {p} of {s}?", "Who's {s}'s {p}?", "Who was {s}'s {p}?"]
    records = []
    for i in range(24):
        parent, subject = ("mother", "father")[i % 2], f"Bo {chr(65 + i)}k"
        prompt, again = (forms[(i // 2 + n) % 3].format(p=parent, s=subject) for n in (0, 1))
        records.append(Record(str(i), subject, prompt, "Ann", "Eve", again, f"Where is {subject}?", "x"))
    source = TemplateSource(records)
    for r in records:
        own, other = ("mother", "father") if "mother" in r.prompt else ("father", "mother")
        prompts = source.prompts(r)
        assert prompts.from_data and all(own in text and other not in text for text in prompts.paraphrases)


def test_an_ambiguous_template_takes_prompts_of_its_own_kind_of_answer_first() -> None:
    def some(first: int, generality: str, old: str, new: str) -> list[Record]:
        return [
            Record(
                str(i),
                f"Ab {i}",
                f"Ab {i}, in",
                new,
                old,
                generality.format(f"Ab {i}"),
                f"Ab {i} is known to",
                "x",
            )
            for i in range(first, first + 30)
        ]

    years, towns = some(0, "{}, in the year", "1900", "1950"), some(100, "{}, in the town of", "Oslo", "Rome")
    asked = Record("900", "Zo 1", "Zo 1, in", "1950", "1910", "When is Zo 1?", "Zo 1 likes", "x")
    assert TemplateSource([*years, *towns, asked]).prompts(asked).paraphrases[0] == "Zo 1, in the year"


def test_templates_fit_only_in_the_same_form() -> None:
    edit = "{} was born in"
    assert fits("{}'s birthplace is", edit)
    assert fits("Where was {} born?", edit)
    assert not fits("The {} was born in", edit)
    assert not fits("{} was born in his", edit)
    assert not fits("{}, in...", edit)
    assert not fits("{} was born in which place?", edit)
    assert not fits("{}'s birthplace is", "Where was {} born?")
    assert not fits("How was {} born?", "Where was {} born?")


def test_normalising_and_templates() -> None:
    assert normalised("Where  was the ANNA Toll born?") == normalised("where was Anna Toll born")
    assert template("Anna and Anna", "Anna") is None
    assert template("What  is {x} of Anna?", "Anna") is None
    assert template("What  is Anna's age?", "Anna") == "What is {}'s age?"
    assert stems("Where is {} located?") == stems("The location of {} is")
