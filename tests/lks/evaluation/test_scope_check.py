"""`lks.evaluation.scope_benchmark` and what it asks with; the rates of the scope indicators on real prompts."""

import json
import os
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cli.app import app
from lks.errors import DataError, TooManyEdits, UserError
from lks.evaluation.scope_benchmark import ScopeBenchmarkRow, cases, check
from lks.evaluation.scope_prompts import (
    EditSet,
    Outside,
    ScopePrompt,
    abilities,
    carrier,
    is_genuine,
    read_edits,
    split,
)
from lks.scope.exact import Mention
from lks.scope.indicator import ScopeKind
from lks.scope.misspellings import FORMS, Form, made_names, one_typo, written
from tests.helpers.root import ROOT

DATA = Path(os.environ.get("LKS_DATA") or ROOT.parent / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "lks" / "cf_eval_data.json").is_file(), reason="the published records are not here"
)
EDITS = EditSet((("Mara Kelorin", "The Singer Mk"), ("Jürgen O'Neil",)), (("Where is {} from?",), ("{} is",)))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("exact", "Jürgen O'Neil"),
        ("upper case", "JÜRGEN O'NEIL"),
        ("title case", None),
        ("lower case", "jürgen o'neil"),
        ("decomposed", "Ju\u0308rgen O'Neil"),
        ("full width", "Ｊüｒｇｅｎ Ｏ＇Ｎｅｉｌ"),
        ("typographic", "Jürgen O’Neil"),
        ("possessive", "Jürgen O'Neil's"),
        ("no diacritics", "Jurgen O'Neil"),
    ],
)
def test_forms_of_a_name(form: Form, expected: str | None) -> None:
    assert written(form, "Jürgen O'Neil", Random(0)) == expected


def test_a_typo_changes_one_place_and_no_digit() -> None:
    rng = Random(0)
    made = {one_typo("Apollo 17", rng) for _ in range(200)}
    assert all(typo and typo.endswith(" 17") and abs(len(typo) - 9) <= 1 for typo in made) and len(made) > 60
    assert one_typo("Oslo 1998", rng) is None


def test_made_names_are_distinct_and_the_same_each_time() -> None:
    assert len(set(made_names(500))) == 500 and made_names(20) == made_names(20) != made_names(20, seed=1)


def test_every_subject_is_asked_for_once_in_each_form_where_it_is_put() -> None:
    for form in FORMS:
        for case in cases(EDITS, form, seed=0):
            mention = case.text[case.start : case.end]
            assert EDITS.carriers[case.subject][0].format(mention) == case.text
    shared = EditSet((("Anna",), ("ANNA",)), (("{}",), ("{}",)))
    assert cases(shared, "exact", 0) == []


@pytest.mark.parametrize(
    ("text", "subject", "mention", "names", "genuine"),
    [
        ("Who built Chicago Opera House?", "Chicago Opera House", "Chicago", ["Chicago"], False),
        ("Who was Lord Chancellor of Ireland?", "Lord Chancellor of Ireland", "Ireland", ["Ireland"], True),
        ("Where is Chicago?", "", "Chicago", ["Chicago"], True),
        ("Where is Chicagos?", "", "Chicago", ["Chicago"], False),
        ("learned new tricks", "", "new tricks", ["New Tricks"], False),
        ("where is oslo", "", "oslo", ["Oslo"], True),
        ("where is Joan", "", "Joan", ["John"], False),
        ("a trip to Malmo", "", "Malmo", ["Malmö"], True),
    ],
)
def test_what_a_genuine_mention_is(
    text: str, subject: str, mention: str, names: list[str], genuine: bool
) -> None:
    start = text.index(mention)
    assert is_genuine(ScopePrompt(text, subject), Mention(0, start, start + len(mention)), names) is genuine


def test_carriers_have_one_whole_mention() -> None:
    assert carrier("Where is Oslo?", "Oslo") == "Where is {}?"
    assert carrier("Oslo or Oslo", "Oslo") is None and carrier("Oslos", "Oslo") is None


@pytest.mark.parametrize("kind", ["exact", "fuzzy", "official"])
def test_rows_tell_what_was_asked(kind: ScopeKind) -> None:
    outside = [
        Outside("others", (ScopePrompt("Mara Kelorin sings"), ScopePrompt("nobody at all"))),
        Outside("nothing", (), "not there"),
    ]
    rows = {row.what: row for row in check(kind, EDITS, outside, {"Mara Kelorin": ["Madame K", "MK"]})}
    assert rows["right subject: exact"] == ScopeBenchmarkRow(
        kind, "right subject: exact", 2, 100.0, "%", 99.9
    )
    assert rows["matched: others"].value == 50 and rows["matched wrongly: others"].value == 0
    assert rows["right subject: one typo"].cases == 2
    assert "matched: nothing" not in rows and "memory, per million names" not in rows
    if kind != "official":
        assert rows["right subject: alias"].passed
    assert "build, per million names" not in rows  # of so few it would say nothing


def test_a_missed_target_is_told() -> None:
    row = ScopeBenchmarkRow("exact", "x", 1, 0.2, "%", 0.1, most=True)
    assert (
        row.passed is False
        and ScopeBenchmarkRow("exact", "x", 1, 0.2).passed is None
        and ScopeBenchmarkRow("exact", "x", 1, 95, "%", 90).passed
    )


@pytest.mark.parametrize("line", ["{", "[]", '{"subject": ""}', '{"subject": "A", "aliases": "B"}'])
def test_a_bad_line_of_edits_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "edits.jsonl"
    file.write_text('{"subject": "A", "aliases": ["B"]}\n\n' + line)
    with pytest.raises(DataError, match="line 3"):
        read_edits(file)
    file.write_text('{"subject": "A", "aliases": ["B"]}\n')
    assert read_edits(file).names == (("A", "B"),)
    with pytest.raises(DataError, match="holds no edits"):
        read_edits(_written(tmp_path / "empty", ""))
    with pytest.raises(DataError, match="cannot be read"):
        read_edits(tmp_path / "nowhere")


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_ability_prompts_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "How many?"}\n')
    gsm, sst, rte = abilities(tmp_path)
    assert gsm.prompts == (ScopePrompt("How many?"),) and "no sst2/dev.tsv" in sst.note and not rte.prompts
    (tmp_path / "gsm8k" / "test.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="GSM8K"):
        abilities(tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    file = tmp_path / "edits.jsonl"
    file.write_text("\n".join(json.dumps({"subject": name}) for name in ["Mara Kelorin", "Karolina Stein"]))
    answer = CliRunner().invoke(
        app, ["scope", "check", "--edits", str(file), "--scope", "fuzzy", "--names", "5"]
    )
    assert (
        "right subject: one typo" in answer.output
        and "GSM8K was left out" in answer.output
        and "5 names" in answer.output
    )
    for wrong, said in (
        (["--scope", "exakt"], "Did you mean 'exact'"),
        (["--scope", ","], "Give some of"),
        (["--dataset", "zsrf"], "zsre"),
    ):
        answer = CliRunner().invoke(app, ["scope", "check", *wrong])
        assert answer.exit_code == 2 and said in answer.output
    answer = CliRunner().invoke(
        app, ["scope", "check", "--dataset", "world", "--n-edits", "50", "--scope", "official"]
    )
    assert answer.exit_code == 1 and "missed" in answer.output  # no fault of the command: the authors' rules


def test_datasets_without_others_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small dataset is edited whole; prompts of both published files are asked where they are."""
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    file = tmp_path / "knowedit" / "wiki_recent_train.json"
    file.parent.mkdir()
    file.write_text(
        json.dumps([{"subject": "Mara Kelorin", "prompt": "Mara Kelorin was born in", "target_new": "Oslo"}])
    )
    answer = CliRunner().invoke(app, ["scope", "check", "--dataset", "knowedit-recent", "--scope", "exact"])
    assert "1 names of knowedit-recent" in answer.output
    assert "counterfact was left out" in answer.output and "zsre was left out" in answer.output


@needs_data
@pytest.mark.parametrize("kind", ["exact", "fuzzy"])
def test_rates_on_real_prompts(kind: ScopeKind) -> None:
    """5,000 CounterFact edits, every fourth of the other prompts. The bounds leave room for the few cases
    that there are.
    """
    edits, rest = split("counterfact", 5000, DATA)
    few = EditSet(edits.names, tuple(c if i % 4 == 0 else () for i, c in enumerate(edits.carriers)))
    outside = [Outside("others", rest[::4]), *(Outside(o.name, o.prompts[::4]) for o in abilities(DATA))]
    rows = {row.what: row.value for row in check(kind, few, outside, {})}
    assert rows["right subject: exact"] >= 99.9
    for form in ("upper case", "decomposed", "full width", "typographic", "possessive"):
        assert rows[f"right subject: {form}"] >= 99, form
    assert rows["right subject: lower case"] >= 93
    assert kind == "exact" or rows["right subject: one typo"] >= 88
    for source in ("others", "GSM8K", "SST-2"):
        assert rows.get(f"matched wrongly: {source}", 0) <= 0.4, source


@needs_data
def test_more_edits_than_cases_are_refused() -> None:
    with pytest.raises(TooManyEdits, match="10001 were asked for"):
        split("counterfact", 10_001, DATA)
    assert issubclass(TooManyEdits, UserError)
