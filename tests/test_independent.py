"""The whole way from edits to numbers against a script that shares no code with it (`tests/independent.py`)."""

import ast
import sys
from pathlib import Path

import pytest

from baselines import methods
from lks.cell import Bench, run
from lks.grid import Cell
from lks.store import Store
from tests import independent

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "lks" / "weights" / "micro-llama"
T = 50


def quiet(stage: str, done: float) -> None:
    pass


def test_the_script_uses_nothing_of_this_project() -> None:
    tree = ast.parse(Path(independent.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"torch", "transformers", "safetensors", "pyarrow"}


def test_a_plain_script_finds_the_same_numbers(tmp_path: Path) -> None:
    store, bench = Store(tmp_path), Bench()
    shards: dict[str, Path] = {}
    cells = {name: Cell("micro-llama", "world", name, T, 0, 1, variant) for name, variant in (("none", ()), ("lks", (("max_epochs", "5"),)))}
    for name, cell in cells.items():
        outcome = run(cell, methods()[name], tmp_path, quiet, bench)
        assert outcome.status == "ok", outcome.reason
        store.record(outcome)
        shards[name] = tmp_path / outcome.shards[0]
    sql = "SELECT readout || ' ' || metric, value FROM metrics WHERE cell_id = ? AND metric IN ('reliability', 'generality', 'locality')"
    stored = {str(name): value for name, value in store.query(f"{sql} AND readout <> 'wild' AND readout <> 'likelihood'", [cells["lks"].id])}
    found = independent.scores(MODEL, tmp_path / "runs" / cells["lks"].id / "patch" / "0", shards["lks"])
    assert stored == pytest.approx(found, abs=1e-9) and len(found) == 12
    before = dict(store.query("SELECT metric, value FROM metrics WHERE cell_id = ? AND readout = 'ar_exact'", [cells["none"].id]))
    assert found["ar_exact reliability"] > float(str(before["reliability"])) + 0.2, "the edits do something"
    assert 0 < found["tf_token locality"] < 1, "and locality tells something"
