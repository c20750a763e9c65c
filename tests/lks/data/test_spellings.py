"""`lks.data.answer_aliases`: other names of an answer, and what they are worth on the paper's datasets."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lks.data.answer_aliases import FILE, Spellings, tellable
from lks.data.datasets import DATASETS, Published, load
from lks.edits import Edit, make_case
from lks.errors import DataError
from tests.helpers.root import ROOT

STATES = {
    "United States": ["USA", "America", "U", "🇺🇸", "the"],
    "Mexico": ["MX", "Georgia"],
    "Georgia": ["Sakartvelo"],
    "America": ["The Americas"],
}
EDIT = Edit("0", "Anna Toll", "Anna Toll lives in", "United States", "Mexico")


def put(folder: Path, content: object) -> None:
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("answer", "others"),
    [
        ("United States", ("USA", "America")),
        (" USA ", ("United States", "America")),
        ("usa", ()),
        ("America", ("The Americas",)),  # a label before it is another's alias
        ("Georgia", ("Sakartvelo",)),
        ("MX", ("Mexico", "Georgia")),
        ("U", ("United States", "USA", "America")),
        ("nowhere", ()),
        ("", ()),
    ],
)
def test_an_answer_has_the_other_names_of_what_it_names(answer: str, others: tuple[str, ...]) -> None:
    assert Spellings(STATES).of(answer) == others


def test_an_alias_of_two_things_has_no_other_names() -> None:
    spellings = Spellings({"Paris": ["City"], "London": ["City"]})
    assert spellings.of("City") == ()
    assert spellings.of("Paris") == ("City",)


TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Z"]), max_size=5)


@given(st.dictionaries(TEXT, st.lists(TEXT, max_size=4), max_size=5), TEXT)
def test_other_names_are_never_the_answer_and_go_both_ways(
    aliases: dict[str, list[str]], answer: str
) -> None:
    spellings = Spellings(aliases)
    for asked in (answer, *aliases):
        found = spellings.of(asked)
        assert asked.strip() not in found
        assert len(set(found)) == len(found)
        assert all(tellable(name) for name in found)
        names = {name for label, others in aliases.items() for name in (label, *others)}
        assert set(found) <= names


def test_names_that_are_noise_are_told() -> None:
    assert [name for name in ("fr", "F", "🇫🇷", "The", "F.", "U.S.", "日本", "") if tellable(name)] == [
        "fr",
        "U.S.",
        "日本",
    ]


def test_the_file_is_looked_for_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, beside = tmp_path / "named", tmp_path / "beside"
    monkeypatch.setattr("lks.data.answer_aliases.BESIDE", beside)
    monkeypatch.delenv("LKS_DATA", raising=False)
    assert Spellings.load().of("USA") == ()
    put(beside, STATES)
    assert Spellings.load().of("MX") == ("Mexico", "Georgia")
    monkeypatch.setenv("LKS_DATA", str(named))
    assert Spellings.load().of("MX") == ()
    put(named, {" Mexico ": [" MX "]})
    assert Spellings.load().of("MX") == ("Mexico",)
    assert Spellings.load(beside).of("MX") == ("Mexico", "Georgia")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ([], "the file must be an object, not []"),
        ({"a": "b"}, "field 'a' must be a list, not 'b'"),
        ({"a": [1]}, "field 'a' (entry 1) must be a string, not 1"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    put(tmp_path, content)
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path / FILE))}.*{re.escape(complaint)}"):
        Spellings.load(tmp_path)


# In cases


def test_a_case_has_spellings_rivals_and_strata() -> None:
    locality = (("ANNA TOLL works for", "MX"), ("Bo Ek works for", "Mexico"))
    case = make_case(EDIT, ("Anna Toll's home is in",), locality, Spellings(STATES).of)
    assert [(p.kind, p.accepted, p.stratum, p.rival) for p in case.probes] == [
        ("edit", ("USA", "America"), "", "Mexico"),
        ("paraphrase", ("USA", "America"), "", "Mexico"),
        ("locality", ("Mexico", "Georgia"), "same_subject", ""),
        ("locality", ("MX", "Georgia"), "other", ""),
    ]
    assert {p.accepted for p in make_case(EDIT, (), locality).probes} == {()}


def test_the_old_answer_is_a_rival_and_no_spelling_of_the_target() -> None:
    case = make_case(Edit("0", "Bo", "Bo is in", "United States", " usa"), (), (), Spellings(STATES).of)
    assert (case.probes[0].accepted, case.probes[0].rival) == (("America",), " usa")
    same = make_case(
        Edit("0", "Bo", "Bo is in", "United States", "united states "), (), (), Spellings(STATES).of
    )
    assert (same.probes[0].accepted, same.probes[0].rival) == (("USA", "America"), "")


def test_the_revision_follows_the_spellings_that_are_used(tmp_path: Path) -> None:
    record = {
        "subject": "Anna Toll", "prompt": "Anna Toll lives in", "target": "United States", "ground_truth": "Mexico",
        "generality": "Anna Toll's home is in", "locality": {"prompt": "Anna Toll works as a", "target": "baker"},
    }  # fmt: skip
    (tmp_path / "lks").mkdir()
    (tmp_path / "lks/zsre_eval_data.json").write_text(json.dumps([record]), encoding="utf-8")
    without = load("zsre", tmp_path)
    put(tmp_path, {"Bern": ["Berne"]})
    assert load("zsre", tmp_path).revision == without.revision
    put(tmp_path, STATES)
    spelt = load("zsre", tmp_path)
    assert [probe.accepted for probe in spelt.cases[0].probes] == [("USA", "America"), ("USA", "America"), ()]
    put(tmp_path, STATES | {"United States": ["USA"]})
    assert len({without.revision, spelt.revision, load("zsre", tmp_path).revision}) == 3


@pytest.mark.parametrize(
    ("name", "with_others", "other_stratum"), [("zsre", 2148, 15), ("counterfact", 7484, 81)]
)
def test_how_many_published_targets_have_other_spellings(
    name: str, with_others: int, other_stratum: int
) -> None:
    folder = Path(os.environ.get("LKS_DATA") or ROOT.resolve().parent / "shared/data")
    entry = DATASETS[name]
    assert isinstance(entry, Published)
    if not (folder / entry.file).is_file() or not (folder / FILE).is_file():
        pytest.skip("the published data is not on this machine")
    cases = load(name, folder).cases
    assert sum(bool(case.probes[0].accepted) for case in cases) == with_others
    assert sum(probe.stratum == "other" for case in cases for probe in case.probes) == other_stratum
    assert sum(bool(case.probes[0].rival) for case in cases) == {"zsre": 9999, "counterfact": 10_000}[name]


def test_the_made_world_has_rivals_and_strata_but_no_other_spellings() -> None:
    for case in load("world").cases:
        for probe in case.probes:
            assert probe.accepted == ()
            assert probe.rival == ("" if probe.kind == "locality" else case.edit.ground_truth)
            assert probe.stratum == ("same_subject" if probe.kind == "locality" else "")
