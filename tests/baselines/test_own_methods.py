"""Methods in a folder of the user's own: `LKS_METHODS`."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import baselines
import lks.editing.patch
from lks.errors import UserError

METHOD = """
from dataclasses import dataclass
from lks.editing.editor import Editor, always
from lks.editing.patch import NoPatch, WeightPatch

@dataclass(frozen=True)
class P:
    size: float = 1.0

class OwnPatch(WeightPatch):
    kind = "own"

class Own(Editor[P]):
    title, source, changes, regime, params_type = "Own", "here", "weights", "simultaneous", P
    presets = {"default": always(P())}

    def edit(self, lm, edits, seed=0, progress=None, after=None):
        return NoPatch()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As if `LKS_METHODS` had named it when the program began."""
    monkeypatch.setattr(baselines, "__path__", [*list(baselines.__path__)[:1], str(tmp_path)])
    baselines.methods.cache_clear()
    importlib.invalidate_caches()
    yield tmp_path
    monkeypatch.undo()
    baselines.methods.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("baselines.own", "baselines.two"))]:
        del sys.modules[name]


def test_a_method_and_its_patch_are_found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "own.py").write_text(METHOD)
    known = baselines.methods()
    assert known["own"].title == "Own" and "lks" in known and "ft" in known
    place = tmp_path_factory.mktemp("patch")
    sys.modules["baselines.own"].OwnPatch({"w": torch.ones(2)}).save(place)
    assert type(lks.editing.patch.load(place)).__name__ == "OwnPatch"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ft.py", METHOD, "is the name of a method"),
        ("two.py", METHOD + METHOD.replace("class Own(", "class Other("), "exactly one Editor, it defines 2"),
    ],
)
def test_what_is_no_method_is_told(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=said):
        baselines.methods()


def test_the_variable_names_the_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "LKS_METHODS": str(tmp_path / "none")}
    code = "from baselines import methods; methods()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert f"LKS_METHODS={tmp_path / 'none'}: no such folder" in done.stderr
