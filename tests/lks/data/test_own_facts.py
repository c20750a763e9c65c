"""Datasets of the user's own: files of facts in the folder `LKS_FACTS`."""

import json
from pathlib import Path

import pytest

from lks.data.datasets import load, names
from lks.errors import DataError, UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LKS_FACTS", str(tmp_path))
    return tmp_path


def test_each_file_is_a_dataset(folder: Path) -> None:
    fact = {
        "subject": "Mara Kel",
        "prompt": "Mara Kel is on the staff of",
        "target": "Falcon Lines",
        "paraphrases": ["The employer of Mara Kel is"],
    }
    (folder / "staff.jsonl").write_text(json.dumps(fact))
    (folder / "pets.txt").write_text("Emil Sander | pet | marmot")
    (folder / "pets.toml").write_text('pet = "The pet that {} keeps is a"')
    (folder / "notes.md").write_text("no facts")
    assert names()[-2:] == ("pets", "staff")
    assert [case.edit.prompt for case in load("pets").cases] == ["The pet that Emil Sander keeps is a"]
    before = load("staff")
    assert (before.name, [probe.kind for probe in before.cases[0].probes]) == (
        "staff",
        ["edit", "paraphrase"],
    )
    (folder / "staff.jsonl").write_text(json.dumps(fact | {"target": "Trident Steel"}))
    assert load("staff").revision != before.revision
    (folder / "pets.toml").write_text('pet = "{} has a"')
    assert [case.edit.prompt for case in load("pets").cases] == ["Emil Sander has a"]


def test_bad_facts_and_names_are_told(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"subject": "Ada", "prompt": "Who is it?", "target": "x"}')
    with pytest.raises(DataError, match="line 1"):
        load("bad")
    (folder / "zsre.jsonl").write_text("")
    with pytest.raises(DataError, match="the name of a dataset of lks-grid"):
        load("zsre")


def test_without_the_folder_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LKS_FACTS", str(tmp_path / "none"))
    with pytest.raises(UserError, match="dataset"):
        load("staff")
