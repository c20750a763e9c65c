"""Preset files: what is read, what is refused, and which parameters a method gets."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from baselines import methods
from baselines.ft import FTParams
from lks.editing.editor import ADDED
from lks.editing.preset_files import (
    FILES,
    StoredPreset,
    check_presets,
    check_used,
    preset_text,
    presets_in_use,
    read_presets,
)
from lks.errors import UserError
from lks.method.lks import LKS

FT = '[[preset]]\nmethod = "ft"\nmodel = "micro-llama"\n[preset.parameters]\nlr = 0.25\n'
WHOLE = "block = 3\nmax_epochs = 7\nbatch_size = 2\nstop_loss = 0.5\nmax_change = 0.0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "presets"
    made.mkdir()
    monkeypatch.setenv("LKS_PRESETS", str(made))
    return made


def ft(model: str = "micro-llama", n_edits: int = 10, **overrides: str) -> FTParams:
    params = methods()["ft"].for_model(model, "world", n_edits, overrides).params
    assert isinstance(params, FTParams)
    return params


def test_a_file_replaces_some_parameters_of_the_preset(folder: Path) -> None:
    before = ft()
    (folder / "a.toml").write_text(FT)
    assert ft() == FTParams(before.block, 0.25, before.max_epochs, before.batch_size)
    assert ft(lr="0.5").lr == 0.5, "what is set by hand comes first"
    assert ft("micro-mistral").lr == before.lr, "another model's"
    assert methods()["ft_l"].for_model("micro-llama", "world", 1).params.lr != 0.25  # type: ignore[attr-defined]


def test_a_whole_preset_needs_neither_preset_nor_rule(folder: Path) -> None:
    text = FT.replace("micro-llama", "nobody/knows") + WHOLE
    (folder / "a.toml").write_text(text)
    assert ft("nobody/knows") == FTParams(3, 0.25, 7, 2, 0.5, 0.0)
    assert not methods()["ft"].by_rule("nobody/knows") and methods()["lora"].by_rule("nobody/knows")


def test_the_nearest_T_is_taken(folder: Path) -> None:
    for edits in (10, 100):
        text = FT.replace("[preset.p", f"edits = {edits}\n[preset.p").replace("0.25", f"0.{edits}")
        (folder / f"{edits}.toml").write_text(text)
    assert [ft(n_edits=n).lr for n in (1, 10, 99, 100, 5000)] == [0.10, 0.10, 0.10, 0.100, 0.100]


def test_files_of_the_option_come_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.toml").write_text(FT)
    (tmp_path / "b.toml").write_text(FT.replace("0.25", "0.75"))
    with presets_in_use([tmp_path / "b.toml"]):
        assert ft().lr == 0.75
        check_used([("ft", "micro-llama")], "grid 'g'")
        with pytest.raises(
            UserError, match=r"--preset .*b.toml holds ft for micro-llama, which grid 'g' does"
        ):
            check_used([("lks", "micro-llama"), ("ft", "micro-mistral")], "grid 'g'")
    assert ft().lr == 0.25
    with pytest.raises(KeyError):
        import os

        os.environ[FILES]


def test_a_folder_is_the_same_model_by_any_path(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "model").mkdir()
    (folder / "a.toml").write_text(FT.replace("micro-llama", str(tmp_path / "model")) + WHOLE)
    monkeypatch.chdir(tmp_path)
    assert ft("./model").lr == 0.25


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[[preset", ["is not valid TOML"]),
        ("", ["holds no preset", "[[preset]]"]),
        ("[preset]\n", ["holds no preset"]),
        ("preset = [1]\n", ["preset 1 is not a table"]),
        ("lr = 1\n", ["Unknown key 'lr'", "[[preset]]"]),
        (FT.replace("method = ", "metod = "), ["Unknown key 'metod'", "Did you mean 'method'"]),
        (FT.replace('model = "micro-llama"\n', ""), ['it needs model = "NAME"']),
        (FT.replace("[preset.p", "edits = 0\n[preset.p"), ["edits = 0", "whole number"]),
        (FT.replace("lr = 0.25\n", ""), ["it gives no parameters"]),
        (FT.replace('"ft"', '"fft"'), ["Unknown method 'fft'", "Did you mean 'ft'", "preset 1"]),
        (
            FT.replace("lr =", "lrr ="),
            ["Unknown parameter 'lrr'", "Did you mean 'lr'", "(ft for micro-llama)"],
        ),
        (FT.replace("0.25", '"high"'), ["parameter lr = 'high'", "valid number"]),
        (FT.replace("0.25", "nan"), ["parameter lr = nan", "finite"]),
        (FT.replace("0.25", "2026-01-01"), ["parameter lr = datetime.date"]),
        (FT + "batch_size = 1.5\n", ["parameter batch_size = 1.5", "integer"]),
        (FT + "batch_size = true\n", ["parameter batch_size = True", "integer"]),
        (FT + FT, ["preset 2", "already by preset 1", "Remove one"]),
    ],
)
def test_a_wrong_file_is_one_clear_line(folder: Path, text: str, parts: list[str]) -> None:
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        check_presets(methods())
    line = str(caught.value)
    assert "\n" not in line and "wrong.toml" in line
    for part in parts:
        assert part in line, line


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"Preset file .*none.toml cannot be read: No such file"):
        read_presets(tmp_path / "none.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(UserError, match=r"long.toml has 2,097,152 bytes"):
        read_presets(tmp_path / "long.toml")
    monkeypatch.setenv("LKS_PRESETS", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"LKS_PRESETS=.*none: no such folder\. Make it, or unset"):
        ft()


def test_a_file_that_gives_too_little_is_told(folder: Path) -> None:
    method = methods()["none"]
    (folder / "a.toml").write_text(FT)
    assert method.preset_file("micro-llama") is None

    class Bare(LKS):
        presets = {}  # noqa: RUF012

        @classmethod
        def registry_name(cls) -> str:
            return "ft"

        @classmethod
        def untuned(cls, blocks, dim):
            return None

    with pytest.raises(UserError, match=r"must give all parameters\. Add block, .*hypernetwork"):
        Bare.for_model("micro-llama", "world", 1)


@dataclass(frozen=True, slots=True)
class GrownParams:
    lr: float
    later: bool = field(default=False, metadata=ADDED)


def test_a_parameter_that_was_added_later_has_its_default() -> None:
    stored = StoredPreset(Path("a"), 1, "m", "x", 1, {"lr": 1})
    assert stored.whole(GrownParams) == GrownParams(1.0)
    assert StoredPreset(Path("a"), 1, "m", "x", 1, {"later": True}).whole(GrownParams) is None


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_preset_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    method = methods()[name]
    for model in ("llama-2-7b-chat", "micro-llama"):
        params = method.for_model(model, "world", 10).params
        text = preset_text(name, model, 10, params, ["Made by hand.", 'a "quoted"\nline'])
        if name == "none":
            continue
        (tmp_path / "a.toml").write_text(text, encoding="utf-8")
        (stored,) = read_presets(tmp_path / "a.toml")
        assert stored.whole(method.params_type) == params
        assert (stored.method, stored.model, stored.edits) == (name, model, 10)
        (tmp_path / "a.toml").unlink()
