"""The shape of the code: which package may import which, and what is named in one place only."""

import ast
import graphlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.helpers.root import ROOT

MAY_IMPORT = {
    "lks": set(),
    "baselines": {"lks"},
    "reports": {"lks"},
    "workbench": {"lks", "baselines", "reports"},
    "flows": {"lks", "baselines", "reports"},
    "cli": {"lks", "baselines", "reports", "workbench", "flows"},
}
FLOORS = (
    "errors progress statistics",
    "io",
    "scope",
    "edits",
    "data",
    "results",
    "models",
    "llm",
    "editing",
    "method",
    "evaluation",
    "prompts testbed studies",
    "runs",
)
"""Rooms of `lks` and the modules beside them, from the ground up; those of one floor do not know each other.
"""
MAKES_MODELS = {"interchange.py"}
MOST_MODULES = 20
"""In one folder, `__init__.py` aside."""
OF_NO_PACKAGE = {"fuzz", "helpers", "project", "torture"}
"""Folders of tests that stand for no package."""
FILES = [
    pytest.param(file, id=str(file.relative_to(ROOT)))
    for package in MAY_IMPORT
    for file in sorted((ROOT / package).rglob("*.py"))
]


def package_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0]


def imported(file: Path, for_types: bool = True) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    types = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    left_out = set() if for_types else {part for node in types for part in ast.walk(node)}
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            yield node.module or ""


@pytest.mark.parametrize("file", FILES)
def test_imports_point_one_way(file: Path):
    package = package_of(file)
    for module in imported(file):
        top = module.split(".")[0]
        assert top not in MAY_IMPORT or top == package or top in MAY_IMPORT[package], (
            f"{file} imports {module}"
        )
        assert top != "tests", f"{file} imports {module}"


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda file: file.stem)
def test_benchmarks_run_without_the_tests(file: Path):
    assert not any(module.split(".")[0] == "tests" for module in imported(file))


def floor_of(module: str) -> int | None:
    """On which floor a module of `lks` is; None for the front of the package."""
    room = module.split(".")[1] if module.count(".") else ""
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms.split()), None)


@pytest.mark.parametrize("file", [param for param in FILES if package_of(param.values[0]) == "lks"])
def test_rooms_of_lks_are_built_on_lower_ones(file: Path):
    """Late imports count, too; those for types alone do not."""
    own = file.relative_to(ROOT).with_suffix("").parts
    if own == ("lks", "__init__"):
        return
    floor = floor_of(".".join(own))
    assert floor is not None, f"{file} is in no room of FLOORS"
    for module in imported(file, for_types=False):
        if module.split(".")[0] == "lks" and own[1] != module.split(".")[1]:
            below = floor_of(module)
            assert below is not None and below < floor, (
                f"{file} imports {module}, which is not on a lower floor"
            )


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(file: Path, modules: Mapping[str, Path]) -> set[str]:
    """Return which of some modules a file imports, `from package import module` among them.

    Late imports count, and those for types alone; that a module's package is imported with it does not.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{name.name}" for name in node.names}
            found.update(name if name in modules else node.module for name in full)
    return found & set(modules)


def cycle_among(imports: Mapping[str, set[str]]) -> list[str]:
    """Return modules of which each is imported by the next, the first one again at the end; [] if none are."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle():
    modules = {
        module_of(file): file
        for package in (*MAY_IMPORT, "benchmarks")
        for file in sorted((ROOT / package).rglob("*.py"))
    }
    imports = {module: imported_modules(file, modules) for module, file in modules.items()}
    assert sum(map(len, imports.values())) > 1000
    assert not cycle_among(imports)


def test_a_circle_would_be_found(tmp_path: Path):
    files = {
        "a": "def late():\n    from a import b\n",
        "a.b": "import typing\nif typing.TYPE_CHECKING:\n    from a.c import C\n",
        "a.c": "import a\n",
    }
    modules = {name: tmp_path / f"{name}.py" for name in files}
    for name, text in files.items():
        modules[name].write_text(text)
    imports = {module: imported_modules(file, modules) for module, file in modules.items()}
    assert imports == {"a": {"a.b"}, "a.b": {"a.c"}, "a.c": {"a"}}
    assert sorted(cycle_among(imports)[1:]) == ["a", "a.b", "a.c"]
    assert not cycle_among({**imports, "a.c": set()})


@pytest.mark.parametrize("file", FILES)
def test_only_flows_and_the_command_line_import_prefect(file: Path):
    assert package_of(file) in ("flows", "cli") or not any(
        module.split(".")[0] == "prefect" for module in imported(file)
    )


@pytest.mark.parametrize("file", FILES)
def test_model_families_are_told_apart_in_one_place(file: Path):
    """Elsewhere a family may be a preset's key or part of a model's name, but nothing may depend on it."""
    from lks.models.architectures import ARCHITECTURES

    if package_of(file) == "lks" and file.name in {"architectures.py", *MAKES_MODELS}:
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.Match):
            texts = {
                n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
            assert not texts & set(ARCHITECTURES), (
                f"{file}:{node.lineno} tells model families apart; do it in lks/models/architectures.py"
            )
        if isinstance(node, ast.Attribute):
            assert node.attr != "model_type", (
                f"{file}:{node.lineno} asks for the model's family; do it in lks/models/architectures.py"
            )
    classes = re.compile(
        rf"({'|'.join(ARCHITECTURES)})(Config|ForCausalLM|Model|DecoderLayer|MLP|Attention)?", re.IGNORECASE
    )
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not {name for name in names if (found := classes.fullmatch(name)) and found[2]}, (
        f"{file} names a family's class; do it in lks/models/architectures.py"
    )


@pytest.mark.parametrize("file", FILES)
def test_no_method_is_special(file: Path):
    """Nothing but a method's own file depends on its name; the unedited model is known to `lks/runs/grid.py`
    and reports.
    """
    own = {f.stem for f in (ROOT / "baselines").glob("[!_]*.py")} | {"lks"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            texts = {
                n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
            assert not texts & (own - {"none"}), f"{file}:{node.lineno} compares with the name of a method"


@pytest.mark.parametrize("file", FILES)
def test_flow_modules_keep_their_annotations(file: Path):
    """Prefect cannot validate parameters whose annotations are strings."""
    assert package_of(file) not in ("flows", "cli") or not any(
        module == "__future__" for module in imported(file)
    )


def test_every_pinned_version_is_exact():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line), line
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines)


def test_class_names_are_unique():
    """A name stands for one class in the whole project, so that a search for it finds what it is."""
    places: dict[str, list[str]] = {}
    files = [
        file for package in (*MAY_IMPORT, "benchmarks") for file in sorted((ROOT / package).rglob("*.py"))
    ]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 400
    assert not {name: found for name, found in places.items() if len(found) > 1}


def folders_of(top: str) -> dict[str, list[str]]:
    """Names of the modules of each folder below one of the checkout, which is left out of the folders' names."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / top).rglob("*.py")):
        found.setdefault(file.parent.relative_to(ROOT / top).as_posix(), []).append(file.name)
    return found


@pytest.mark.parametrize("top", [*MAY_IMPORT, "benchmarks", "tests"])
def test_no_folder_has_too_many_modules(top: str):
    sizes = {folder: len(set(names) - {"__init__.py"}) for folder, names in folders_of(top).items()}
    assert not {folder: size for folder, size in sizes.items() if size > MOST_MODULES}


def test_folders_of_tests_mirror_the_packages():
    """A folder is a package, so that two modules may have one name; `tests.lks` is another one than `lks`."""
    folders = folders_of("tests")
    assert folders.pop(".") == ["__init__.py", "conftest.py"]
    assert all("__init__.py" in names and folder.count("/") < 2 for folder, names in folders.items())
    assert not {folder for folder in folders if not (ROOT / folder).is_dir()} - OF_NO_PACKAGE
    for package in MAY_IMPORT:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin == str(ROOT / package / "__init__.py")
