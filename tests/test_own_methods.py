"""Methods in a folder of the user's own: `LKS_METHODS`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

METHOD = """
from dataclasses import dataclass
from lks.editor import Editor, always
from lks.patch import NoPatch, WeightPatch

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


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LKS_METHODS": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_method_and_its_patch_are_found(tmp_path: Path):
    (tmp_path / "own.py").write_text(METHOD)
    done = python("from baselines import methods; print(methods()['own'].title, len(methods()))", tmp_path)
    assert done.stdout.startswith("Own "), done.stderr
    assert int(done.stdout.split()[1]) > 2
    save = f"""
import sys, torch
from pathlib import Path
from baselines import own
own.OwnPatch({{"w": torch.ones(2)}}).save(Path({str(tmp_path / "patch")!r}))
"""
    assert python(save, tmp_path).returncode == 0
    load = f"from pathlib import Path; import lks.patch; print(type(lks.patch.load(Path({str(tmp_path / 'patch')!r}))).__name__)"
    assert python(load, tmp_path).stdout.strip() == "OwnPatch"
    refused = python(load, tmp_path.parent)
    assert "not installed as a part of this program" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ft.py", METHOD, "is the name of a method"),
        ("two.py", METHOD + METHOD.replace("class Own(", "class Other("), "exactly one Editor, it defines 2"),
    ],
)
def test_what_is_no_method_is_told(tmp_path: Path, name: str, content: str, said: str):
    (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import app; app()", "list", "methods"],
        env={**os.environ, "LKS_METHODS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there(tmp_path: Path):
    assert "no such folder" in python("from baselines import methods; methods()", tmp_path / "none").stderr
