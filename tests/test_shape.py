"""The shape of the code: which package may import which, and what is named in one place only."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "lks": set(),
    "baselines": {"lks"},
    "reports": {"lks"},
    "workbench": {"lks", "baselines", "reports"},
    "flows": {"lks", "baselines", "reports", "workbench"},
}
MAKES_MODELS = {"recipe.py"}
FILES = [pytest.param(file, id=str(file.relative_to(ROOT))) for package in MAY_IMPORT for file in sorted((ROOT / package).glob("*.py"))]


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            yield node.module or ""


@pytest.mark.parametrize("file", FILES)
def test_imports_point_one_way(file: Path):
    package = file.parent.name
    for module in imported(file):
        top = module.split(".")[0]
        assert top not in MAY_IMPORT or top == package or top in MAY_IMPORT[package], f"{file} imports {module}"
        assert top != "tests", f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES)
def test_only_flows_import_prefect(file: Path):
    assert file.parent.name == "flows" or not any(module.split(".")[0] == "prefect" for module in imported(file))


@pytest.mark.parametrize("file", FILES)
def test_model_families_are_told_apart_in_one_place(file: Path):
    """Elsewhere a family may be a preset's key or part of a model's name, but nothing may depend on it."""
    from lks.architectures import ARCHITECTURES

    if file.parent.name == "lks" and file.name in {"architectures.py", *MAKES_MODELS}:
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.Match):
            texts = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not texts & set(ARCHITECTURES), f"{file}:{node.lineno} tells model families apart; do it in lks/architectures.py"
        if isinstance(node, ast.Attribute):
            assert node.attr != "model_type", f"{file}:{node.lineno} asks for the model's family; do it in lks/architectures.py"
    classes = re.compile(rf"({'|'.join(ARCHITECTURES)})(Config|ForCausalLM|Model|DecoderLayer|MLP|Attention)?", re.IGNORECASE)
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not {name for name in names if (found := classes.fullmatch(name)) and found[2]}, (
        f"{file} names a family's class; do it in lks/architectures.py"
    )


@pytest.mark.parametrize("file", FILES)
def test_no_method_is_special(file: Path):
    """Nothing but a method's own file depends on its name; the unedited model is known to `lks/grid.py` and reports."""
    own = {f.stem for f in (ROOT / "baselines").glob("[!_]*.py")} | {"lks"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            texts = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not texts & (own - {"none"}), f"{file}:{node.lineno} compares with the name of a method"


@pytest.mark.parametrize("file", FILES)
def test_flow_modules_keep_their_annotations(file: Path):
    """Prefect cannot validate parameters whose annotations are strings."""
    assert file.parent.name != "flows" or not any(module == "__future__" for module in imported(file))


def test_every_pinned_version_is_exact():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line), line
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines)
