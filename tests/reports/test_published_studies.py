"""Published studies: a file with every mean, and a page that speaks of studies alone where there is nothing else."""

import csv
from pathlib import Path

import pytest

from lks.results.cells import STUDY, Cell
from lks.results.store import Store
from reports import render
from reports.publish import publish
from tests.helpers.stores import put
from tests.reports.test_figures import WORLD, study_rows


def test_a_folder_of_studies_is_published_with_every_mean(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    put(store, Cell(*WORLD, "gain", 4, 0, 1, measure="study"), "gain", [], stages={STUDY: study_rows("gain")})
    publish(render(store.results), tmp_path / "docs")
    page = (tmp_path / "docs" / "README.md").read_text(encoding="utf-8")
    assert "[studies.csv](studies.csv)" in page and "results.csv" not in page and "fig7_gain.svg" in page
    assert not (tmp_path / "docs" / "results.csv").exists()
    with (tmp_path / "docs" / "studies.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    values: dict[tuple[str, str, str], list[float]] = {}
    for row in study_rows("gain"):
        values.setdefault((row.site, row.quantity, str(row.block)), []).append(row.value)
    found = {(row["site"], row["quantity"], row["block"]): float(row["value"]) for row in rows}
    assert found == {key: pytest.approx(sum(v) / len(v)) for key, v in values.items()}
    assert {(row["study"], row["entities"], row["model"]) for row in rows} == {("gain", "4", WORLD[0])}
