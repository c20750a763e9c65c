"""Measurements in a folder of the user's own: `LKS_STAGES`. One module and one SQL file are all that one needs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from baselines.none import Unedited
from lks.errors import UserError
from lks.results.cells import Measurements
from lks.results.rows import PASSAGES, Passage, columns
from lks.results.shards import read_outcome
from lks.results.stages import STAGES, Stage, load_folder, register
from lks.results.store import Store
from lks.runs.cell import run
from lks.runs.grid import Grid
from lks.runs.plan import plan
from tests.helpers.root import ROOT
from tests.lks.runs.test_cell import TinyBench, cell, quiet

PAGE = (ROOT / "docs" / "add-a-measurement.md").read_text(encoding="utf-8")
ASKED = Measurements(also=("answer_length",))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The files of the page's worked example; what is registered from them is gone afterwards."""
    before, place = dict(STAGES), tmp_path / "measurements"
    place.mkdir()
    for name, content in re.findall(r"cat > measurements/(\S+) <<'END'\n(.*?)\nEND\n", PAGE, re.DOTALL):
        (place / name).write_text(content + "\n")
    assert sorted(file.name for file in place.iterdir()) == ["answer_length.py", "answer_length.sql"]
    yield place
    STAGES.clear()
    STAGES.update(before)


def test_a_stage_is_measured_stored_and_asked_in_sql(folder: Path, tmp_path: Path) -> None:
    assert load_folder(folder) == ["answer_length"]
    bench, one, results = TinyBench(), cell("none", 2, 2), tmp_path / "r"
    store = Store(results)
    first = run(one, Unedited, results, quiet, bench)  # type: ignore[arg-type]
    outcome = run(one, Unedited, results, quiet, bench, ASKED)  # type: ignore[arg-type]
    assert set(outcome.shards) - set(first.shards) == {f"cells/{one.id}/answer_length.parquet"}
    assert outcome.costs.edit_s == first.costs.edit_s and "answer_length" in outcome.costs.stage_s
    store.record(outcome)
    rows = store.query(
        "SELECT draw, count(*), min(answer_tokens), max(answer_tokens) FROM answer_lengths GROUP BY 1 ORDER BY 1"
    )
    assert [(draw, count) for draw, count, _, _ in rows] == [(0, 2), (1, 2)]
    assert all(1 <= least <= most <= 30 for _, _, least, most in rows)
    (found,) = store.query("SELECT method, longer_by FROM mean_answer_length")
    assert found[0] == "none" and isinstance(found[1], float)


def test_without_the_folder_the_shards_stay_and_the_rest_is_read(folder: Path, tmp_path: Path) -> None:
    load_folder(folder)
    one, results = cell("none", 2, 2), tmp_path / "r"
    store = Store(results)
    outcome = run(one, Unedited, results, quiet, TinyBench(), ASKED)  # type: ignore[arg-type]
    del STAGES["answer_length"]
    assert store.sync() == [] and store.done() == {one.id}
    assert store.query("SELECT count(*) > 0 FROM answers") == [(True,)]
    assert read_outcome(results, one.id) == outcome
    assert (results / "cells" / one.id / "answer_length.parquet").exists()


def test_the_variable_names_the_folder(folder: Path) -> None:
    code = "from lks.results.stages import further; print(further())"
    environment = {**os.environ, "LKS_STAGES": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "['answer_length']"


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Stage("passages", PASSAGES, ("draw",), "own"), "name already"),
        (Stage("own", PASSAGES, ("draw",), "cells"), "name already"),
        (Stage("own-one", PASSAGES, ("draw",), "own"), "letters, digits and underscores"),
        (Stage("own", PASSAGES, ("draw",), "own"), "begin with 'own-'"),
        (
            Stage("own", columns(Passage, "own-p", 1), ("draw", "case_id"), "own"),
            "columns that it lacks: case_id",
        ),
    ],
)
def test_a_stage_that_does_not_fit_is_refused(stage: Stage, said: str) -> None:
    before = dict(STAGES)
    with pytest.raises(UserError, match=said):
        register(stage)
    assert before == STAGES


def test_what_is_no_stage_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        load_folder(tmp_path / "none")
    (tmp_path / "empty.py").write_text("STAGES = []\n")
    with pytest.raises(UserError, match=r"empty\.py defines no STAGE"):
        load_folder(tmp_path)


def test_a_grid_that_asks_for_an_unknown_stage_is_refused_before_any_work() -> None:
    grid = Grid(name="g", models=["m"], datasets=["d"], methods=["none"], n_edits=[1], also=["answer_lenght"])
    with pytest.raises(UserError, match="answer_lenght"):
        plan(grid, methods={}, revision_of_model=lambda name: "", dataset_of=lambda name: ("", 1), only={})
