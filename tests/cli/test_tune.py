"""The command `lks tune` as a user runs it, and the preset file that it writes in grids and `lks edit`."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import flows.running.planning
from baselines import methods
from cli.app import app
from lks.editing.preset_files import read_presets
from lks.models.lm import LM
from lks.results.store import Store
from tests.helpers import real

PRESET = '[[preset]]\nmethod = "ft"\nmodel = "micro-llama"\n[preset.parameters]\nlr = 0.002\n'
SMALL = ("--dataset", "world", "--records", "30", "--edits", "2", "--minutes", "0.1")


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("ftt", "--model", "micro-llama"), ["Unknown method 'ftt'", "Did you mean 'ft'"]),
        (("ft", "--model", "micro-lama"), ["Unknown model 'micro-lama'", "Did you mean 'micro-llama'"]),
        (("none", "--model", "micro-llama"), ["declares nothing to tune", "search_space"]),
        (("ft", "--model", "micro-llama", "--objective", "ar"), ["Unknown objective 'ar'", "ar-hm"]),
        (("ft", "--model", "micro-llama", "--dataset", "wrld"), ["Unknown dataset 'wrld'"]),
        (("ft", "--model", "micro-llama", "--edits", "400"), ["--edits 400", "Lower --edits"]),
        (("ft", "--model", "micro-llama", "--out", "OTHER"), ["was not written by lks tune"]),
    ],
)
def test_what_cannot_work_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], parts: list[str]
) -> None:
    def never(*args: object) -> LM:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LM, "load", never)
    (tmp_path / "other.toml").write_text("mine = 1\n")
    given = [word.replace("OTHER", str(tmp_path / "other.toml")) for word in words]
    dataset = () if "--dataset" in given else ("--dataset", "world")
    done = lks("tune", *given, *dataset, "--results", tmp_path / "results")
    assert done.exit_code == 2, done.output
    line = " ".join(done.stderr.split())
    assert line.startswith("error: ")
    for part in parts:
        assert part in line, line
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_search_from_the_command_to_the_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    done = lks("tune", "FT-M", "--model", "micro-llama", *SMALL, "--results", results)
    assert done.exit_code == 0, done.output
    folder = results / "tuning" / "ft-micro-llama-world-T2-ar-hm"
    assert (folder / "trials.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "preset.toml").read_text()
    for part in (
        "# Written by `lks tune`.",
        "development cases of world",
        "seed 0",
        "lks-grid",
        "# chosen: HM",
    ):
        assert part in text, text
    (stored,) = read_presets(folder / "preset.toml")
    assert (stored.method, stored.model, stored.edits) == ("ft", "micro-llama", 2)
    assert stored.whole(methods()["ft"].params_type)
    assert "default" in done.output and "Rel" in done.output and "rung 1 of" in done.output
    splits = Store(results).query("SELECT DISTINCT split FROM cells")
    assert splits == [("development",)]

    again = lks("tune", "ft", "--model", "micro-llama", *SMALL, "--results", results)
    assert again.exit_code == 0 and "rung 1 of" not in again.output, "stored trials are not run again"
    assert (folder / "preset.toml").read_text() == text

    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"subject": "Mara Kel", "prompt": "Mara Kel plays the", "target": "harp"}\n')
    edited = lks(
        "edit", "--model", "micro-llama", "--method", "ft", "--facts", facts, "--out", tmp_path / "patch",
        "--preset", folder / "preset.toml",
    )  # fmt: skip
    assert edited.exit_code == 0 and "FT-M, preset file preset.toml" in edited.output, edited.output


def test_a_preset_file_is_checked_before_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.running.planning, "revision_of_model", lambda name: "0" * 16)
    (tmp_path / "grids.toml").write_text(
        '[g]\nmodels = ["micro-llama"]\ndatasets = ["world"]\nmethods = ["ft"]\nn_edits = [1]\n'
    )
    monkeypatch.setenv("LKS_GRIDS", str(tmp_path / "grids.toml"))
    file = tmp_path / "mine.toml"
    grid = ("grid", "--grid", "g", "--dry-run", "--results", tmp_path / "results")
    for text, part in (
        (PRESET.replace("lr =", "lrr ="), "Unknown parameter 'lrr'. Did you mean 'lr'"),
        (PRESET.replace("micro-llama", "micro-mistral"), "which grid 'g' does not use"),
    ):
        file.write_text(text)
        done = lks(*grid, "--preset", file)
        assert done.exit_code == 2 and part in " ".join(done.stderr.split()), done.output
    file.write_text(PRESET)
    assert "ft (mine.toml)" in lks(*grid, "--preset", file).output
    assert "mine.toml" not in lks(*grid).output
    monkeypatch.setenv("LKS_PRESETS", str(tmp_path / "presets"))
    done = lks(*grid)
    assert done.exit_code == 2 and "no such folder" in done.stderr
    (tmp_path / "presets").mkdir()
    file.rename(tmp_path / "presets" / "mine.toml")
    assert "ft (mine.toml)" in lks(*grid).output


def test_a_preset_of_an_update_is_refused(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("subject,prompt,target\nAda,Ada was born in,Rome\n")
    (tmp_path / "mine.toml").write_text(PRESET)
    words = ("edit", "--model", "micro-llama", "--facts", tmp_path / "facts.csv", "--out", tmp_path / "patch")
    done = lks(*words, "--update", "--preset", tmp_path / "mine.toml")
    assert done.exit_code == 2 and "--update keeps the method" in done.stderr
    done = lks(*words, "--method", "lora", "--preset", tmp_path / "mine.toml")
    assert done.exit_code == 2 and "which LoRA on micro-llama does not use" in " ".join(done.stderr.split())
    assert tomllib.loads(PRESET)["preset"][0]["method"] == "ft"


@pytest.mark.slow
def test_a_search_on_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = real.model_folder()
    words = ("--dataset", "worldfacts", "--records", "15", "--edits", "1", "--minutes", "0.1")
    done = lks("tune", "ft-m", "--model", model, *words, "--results", tmp_path, "--out", tmp_path / "my.toml")
    assert done.exit_code == 0, done.output
    (stored,) = read_presets(tmp_path / "my.toml")
    params = stored.whole(methods()["ft"].params_type)
    assert 0 <= params.block < 30 and stored.model == str(model)  # type: ignore[attr-defined]
