"""Reports of scope cells: rates, figure, page, terminal; nothing of them in other tables, nothing where there
are none.
"""

import csv
import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from lks.results.cells import Cell, Costs, Outcome
from lks.results.decisions import Decision
from lks.results.shards import write_stage
from lks.results.store import Store
from reports import RenderedReport, render
from reports.tables import scope_rates as scope

FILES = ("data/scope.csv", "figures/scope.svg", "figures/scope.pdf", "figures/scope.png")
VARIANTS = {"official": "none", "exact": "none", "exact+gate": "relation"}


def cell(kind: str, n_edits: int, dataset: str = "zsre", seed: int = 0) -> Cell:
    scope, gate = kind.removesuffix("+gate"), VARIANTS[kind]
    parameters = f'{{"block": -1, "gate": "{gate}", "probes": 500, "scope": "{scope}"}}'
    variant = (*((("gate", gate),) if gate != "none" else ()), ("scope", scope))
    return Cell("mini-zsre-1000", dataset, "lks", n_edits, seed, 1, variant, parameters, measure="scope")


def put(store: Store, one: Cell, fired: int, others: int = 8, status: str = "ok") -> None:
    """Record a cell that is right on its own prompt and fires on so many prompts about others."""
    made = [
        Decision(0, "edit", 0, "a", ("Ann",), "Ann"),
        Decision(0, "locality", 0, "a", ("Ann",) if fired else (), "Ann"),
    ]
    made += [Decision(0, "others", i, str(i), ("Ann",) if i < fired else (), "") for i in range(others)]
    made += [Decision(0, "rte", 0, "", (), "")]
    shards = (write_stage(store.results, one.id, "decisions", made),) if status == "ok" else ()
    provenance = {"title": "LKS", "device": "cpu", "finished": "2026-01-01T00:00:00"}
    store.record(
        Outcome(one, status, "" if status == "ok" else "disk on fire <x>", shards, Costs(), provenance)
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store") / "results")
    for n_edits, fired in ((1, 0), (100, 2), (1000, 8)):
        put(store, cell("official", n_edits), fired)
        put(store, cell("exact", n_edits), 0)
    put(store, cell("exact", 1, seed=1), 1, others=2)
    put(store, cell("exact", 1, "counterfact"), 0)
    put(store, cell("exact+gate", 100), 0, status="diverged")
    return store.results


@pytest.fixture(scope="module")
def report(results: Path) -> RenderedReport:
    return render(results)


def test_the_csv_has_every_rate_and_the_published_ones(report: RenderedReport) -> None:
    rows = list(csv.DictReader(io.StringIO((report.folder / "data/scope.csv").read_text())))
    ours = {(r["dataset"], r["scope"], r["n_edits"], r["probe_set"]): r for r in rows if r["dataset"]}
    assert (
        ours["zsre", "official", "100", "others"]["fired"] == "25.0000"
        and ours["zsre", "official", "100", "others"]["probes"] == "8"
    )
    assert (
        ours["zsre", "exact", "1", "others"]["fired"] == "10.0000"
    )  # two seeds pooled by their prompts: 1 of 10
    assert (
        ours["zsre", "exact", "1000", "edit"]["right_subject"] == "100.0000"
        and not ours["zsre", "exact", "1", "others"]["right_subject"]
    )
    assert ours["counterfact", "exact", "1", "rte"]["wrong_subject"] == "0.0000"
    published = [(r["n_edits"], r["reference_low"], r["reference_high"]) for r in rows if not r["dataset"]]
    assert published == [
        ("1", "0.2", "0.2"),
        ("100", "7.4", "7.4"),
        ("1000", "47", "47"),
        ("10000", "84", "87"),
    ]
    assert all(r["source"] for r in rows if not r["dataset"])


def test_the_figure_has_a_panel_for_each_dataset_and_the_published_points(report: RenderedReport) -> None:
    svg = (report.folder / "figures" / "scope.svg").read_text()
    for text in (
        "mini-zsre-1000 on zsre",
        "mini-zsre-1000 on counterfact",
        "the authors' rules, measured before",
        "exact",
        "10k",
    ):
        assert f">{text}<" in svg


def test_the_page_shows_figure_table_and_failures_and_stands_on_its_own(report: RenderedReport) -> None:
    text = report.page.read_text()
    assert text.count("<svg") == 1 and 'href="#scope"' in text
    assert "url(" not in text and "<?xml" not in text and "diverged: disk on fire &lt;x&gt;" in text
    assert all(f'href="{name}"' in text for name in FILES)
    assert "No model has been asked yet" in text and 'id="leaderboard"' not in text
    assert re.search(r"<code>cpu</code></td>\s*<td[^>]*>9</td>", text)  # provenance counts them


def test_other_tables_have_no_rows_of_scope_cells(report: RenderedReport) -> None:
    rows = list(csv.DictReader(io.StringIO((report.folder / "tables/table1.csv").read_text())))
    assert not any(row["value"] for row in rows)
    assert (report.folder / "data/results.csv").read_text().count("\n") == 1
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report.terminal)
    text = console.export_text()
    assert "s per" not in text and "Edit scope" in text
    line = next(line.split() for line in text.splitlines() if " 1,000 " in line)
    assert line == ["1,000", "official", "100", "100", "100", "0"]


def test_without_scope_cells_nothing_is_said_of_them(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    shutil.rmtree(copy / "cells")
    written = render(copy)
    assert not [name for name in FILES if (written.folder / name).exists()]
    text = written.page.read_text()
    assert "Nothing has been run yet." in text and "<svg" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.02, "0.02"),
        (7.44, "7.4"),
        (99.3, "99.3"),
        (99.96, "99.96"),
        (100.0, "100"),
        (99.999, "100"),
    ],
)
def test_percent_shows_what_is_small(value: float | None, text: str) -> None:
    assert scope.percent(value) == text
