"""`lks edit` and `lks remove` with input that cannot work: told before a model is loaded."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from lks.data.user_facts import read_facts
from lks.editing.patch import NoPatch
from lks.models.lm import LM
from workbench.patch_folder import SavedEdits, read, write

FACTS = "subject,prompt,target\nAda Lovelace,Ada Lovelace was born in,Rome\n"


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One fact; loading a model is an error."""

    def never(*args: object) -> LM:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LM, "load", never)
    file = tmp_path / "facts.csv"
    file.write_text(FACTS)
    return file


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--model", "micro-lama"), "Did you mean 'micro-llama'"),
        (("--method", "mend"), "--training: zsre, or world"),
        (("--method", "mend", "--training", "zsr"), "or 'zsre'?"),
        (("--method", "lsk"), "Did you mean 'lks'"),
        (("--set", "blok=3"), "Did you mean 'block'"),
    ],
)
def test_what_cannot_work_is_told_at_once(
    facts: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    model = () if "--model" in more else ("--model", "micro-llama")
    done = lks("edit", *model, "--facts", facts, "--out", tmp_path / "patch", *more)
    assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output
    assert not (tmp_path / "patch").exists()


def test_the_model_is_looked_at_before_the_facts(facts: Path, tmp_path: Path) -> None:
    facts.write_text(FACTS + "no,prompt\n")
    done = lks("edit", "--model", "micro-lama", "--facts", facts, "--out", tmp_path / "patch")
    assert "Unknown model" in done.output


def test_a_relation_misspelt_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text("Ada Lovelace | birthplce | Rome\n")
    (tmp_path / "templates.toml").write_text(
        'birthplace = "The birthplace of {} is"\nemployer = "{} works for"\n'
    )
    (note,) = read_facts(tmp_path / "facts.txt", tmp_path / "templates.toml").notes
    assert "(or is 'birthplace' meant?)" in note


def test_who_cannot_be_removed_is_told_what_to_type(tmp_path: Path) -> None:
    write(tmp_path / "patch", SavedEdits(NoPatch(), None, None))
    done = lks("remove", tmp_path / "patch", "Ada Lovelace")
    assert done.exit_code == 2
    assert f"lks edit --update --without 'Ada Lovelace' --model MODEL --out {tmp_path / 'patch'}" in " ".join(
        done.output.split()
    )


def test_an_update_keeps_the_parameters_of_a_preset_file(tmp_path: Path) -> None:
    """FT-M is edited again with all facts, without the file that gave its parameters."""
    preset = tmp_path / "mine.toml"
    preset.write_text(
        '[[preset]]\nmethod = "ft"\nmodel = "micro-llama"\n[preset.parameters]\nmax_epochs = 2\nlr = 1e-3\n'
    )
    (tmp_path / "facts.csv").write_text(FACTS)
    (tmp_path / "more.csv").write_text(FACTS.replace("Ada Lovelace", "Grace Hopper"))
    words = ("edit", "--model", "micro-llama", "--out", tmp_path / "patch")
    first = lks(*words, "--method", "ft", "--facts", tmp_path / "facts.csv", "--preset", preset)
    assert first.exit_code == 0 and "preset file mine.toml" in first.output, first.output
    before = read(tmp_path / "patch").origin
    preset.unlink()
    again = lks(*words, "--facts", tmp_path / "more.csv", "--update")
    assert again.exit_code == 0 and "edited again with all facts" in " ".join(again.output.split())
    after = read(tmp_path / "patch").origin
    assert before and after and after.parameters == before.parameters and after.tuned == before.tuned
    assert after.parameters["max_epochs"] == 2
