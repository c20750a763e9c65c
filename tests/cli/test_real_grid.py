"""A grid on the real model, run as a user runs it: two methods that make one edit each, and the report."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from lks.results.store import Store
from tests.helpers import real

GRID = """
[real]
models = ["{model}"]
datasets = ["worldfacts"]
methods = ["ft", "lks"]
n_edits = [1]
"""


@pytest.mark.usefixtures("prefect_server")
def test_a_grid_on_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, results = tmp_path / "grids.toml", tmp_path / "results"
    file.write_text(GRID.format(model=real.model_folder()))
    monkeypatch.setenv("LKS_GRIDS", str(file))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = CliRunner().invoke(app, ["grid", "--grid", "real", "--results", str(results)])
    assert done.exit_code == 0, done.output
    assert "FT-M (rule)" in done.output  # nobody has tuned a method for this model, and the table says so
    assert "LKS (rule)" in done.output

    reader = Store(results)
    outcomes = {outcome.cell.method: outcome for outcome in reader.outcomes()}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "none": "ok",
        "ft": "ok",
        "lks": "ok",
    }
    found = reader.query(
        "SELECT method, metric, value FROM metrics JOIN current_cells USING (cell_id) WHERE readout = 'tf_token'"
    )
    scores = {(method, metric): value for method, metric, value in found}
    assert scores["none", "reliability"] < 0.5 <= scores["lks", "reliability"]
    assert scores["ft", "reliability"] == 1.0
    assert scores["none", "locality"] == 1.0
    answers = reader.query(
        "SELECT count(*) FROM answers JOIN current_cells USING (cell_id) WHERE method = 'lks' AND wild_text IS NOT NULL"
    )
    assert answers[0][0] >= 9
    page = (results / "report" / "index.html").read_text(encoding="utf-8")
    assert "dequantised" in page or "Q4_1" in page or str(real.model_folder()) in page
