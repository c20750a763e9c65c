"""Reports: golden tables, reasons for absent cells, the published values, and a page that stands on its own."""

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from lks.edits import ProbeKind
from lks.errors import StoreError
from lks.results.answers import Answer
from lks.results.cells import IMMEDIATE, Cell, Costs, Outcome
from lks.results.store import Store
from reports import RenderedReport, render
from reports.tables.formats import FORMS
from tests.helpers.root import ROOT
from tests.helpers.stores import write_answers

GOLDEN = ROOT / "tests" / "golden"
NAMES = ("Ann", "Bob", "Cleo", "Dan")


def answer(draw: int, subject: str, kind: ProbeKind, right: bool) -> Answer:
    """An answer of two tokens; a wrong one has the first token right under teacher forcing and none when
    generated.
    """
    prompt, said = f"{kind} <b>{subject}</b>", "text & more" if right else "less"
    given = (1, 2) if right else (1, 0)
    return Answer(
        draw,
        f"{subject}-{draw}",
        subject,
        kind,
        0,
        prompt,
        "wanted",
        (1, 2),
        given,
        given if right else (0, 0),
        said,
        -1.0,
    )


def answers_with(cell: Cell, wrong: dict[str, int]) -> list[Answer]:
    """Answers of which the first so many subjects' of a kind are wrong in every draw."""
    kinds: tuple[ProbeKind, ...] = ("edit", "paraphrase", "locality")
    return [
        answer(d, name, k, i >= wrong.get(k, 0))
        for d in range(cell.draws)
        for i, name in enumerate(NAMES)
        for k in kinds
    ]


def put(
    store: Store,
    cell: Cell,
    wrong: dict[str, int],
    title: str,
    reason: str = "",
    status: str = "ok",
    before: dict[str, int] | None = None,
) -> None:
    """Record a cell; with `before` one of a sequential method, with what was wrong right after each edit."""
    shards: tuple[str, ...] = ()
    if status == "ok":
        shards = (write_answers(store.results, cell.id, "ask", answers_with(cell, wrong)),)
    if before is not None:
        shards += (write_answers(store.results, cell.id, IMMEDIATE, answers_with(cell, before)),)
    costs = (
        Costs(1.0, 2.0 * cell.draws * cell.n_edits, 3.0, 400_000_000, 64_000_000)
        if status == "ok"
        else Costs()
    )
    regime = "simultaneous" if before is None else "sequential"
    provenance = {"title": title, "regime": regime, "device": "cpu", "finished": "2026-01-01T00:00:00"}
    store.record(Outcome(cell, status, reason, shards, costs, provenance))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store") / "results")
    all_wrong = {"edit": 4, "paraphrase": 4}
    for n_edits, draws in ((1, 2), (100, 1)):
        put(store, Cell("micro-llama", "world", "none", n_edits, 0, draws), all_wrong, "Unedited")
        put(
            store,
            Cell("micro-llama", "world", "lks", n_edits, 0, draws),
            {"paraphrase": 1, "locality": 2},
            "LKS",
        )
    put(store, Cell("micro-llama", "world", "ft", 1, 0, 2), {"paraphrase": 2}, "FT-M")
    put(
        store,
        Cell("micro-llama", "world", "ft", 100, 0, 1),
        {},
        "FT-M",
        "loss is NaN at step 12 <draw 0>",
        "diverged",
    )
    put(
        store,
        Cell("micro-llama", "world", "lks", 100, 0, 1, (("hypernetwork", "free"),), '{"h": "free"}'),
        {},
        "LKS",
        "out of memory",
        "oom",
    )
    put(store, Cell("llama-2-7b-chat", "zsre", "lks", 1000, 0, 1, records=1000), {"edit": 1}, "LKS")
    put(
        store,
        Cell("micro-llama", "world", "grace", 100, 0, 1),
        {"edit": 2, "locality": 2},
        "GRACE",
        before={"edit": 1},
    )
    for method, title in (("none", "Unedited"), ("ft", "FT-M")):
        variant = (("lr", "0.125"),) if method == "ft" else ()
        put(
            store,
            Cell("micro-llama", "world", method, 10, 0, 1, variant, split="development"),
            {"edit": 3},
            title,
        )
    return store.results


@pytest.fixture(scope="module")
def report(results: Path) -> RenderedReport:
    return render(results)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_absent_cells_say_why_on_the_page(report: RenderedReport) -> None:
    assert "loss is NaN at step 12 &lt;draw 0&gt;" in report.page.read_text()


def test_the_same_store_gives_the_same_bytes(results: Path, report: RenderedReport) -> None:
    before = contents(report.folder)
    assert set(before) == {"index.html", *report.files}
    (results / "lks.duckdb").unlink()
    shutil.rmtree(report.folder)
    render(results)
    assert contents(report.folder) == before


@pytest.mark.parametrize("width", [100, 120])
def test_the_terminal_table_fits(report: RenderedReport, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(report.terminal)
    text = console.export_text()
    assert "…" not in text
    lks = next(line.split() for line in text.splitlines() if " LKS " in line)
    assert lks[-11:] == [
        "sim",
        "100.0",
        "87.5",
        "75.0",
        "87.5",
        "100.0",
        "75.0",
        "50.0",
        "75.0",
        "2.00",
        "1.00",
    ]
    assert "diverged" in text and "oom" in text


def test_what_is_kept_is_told_in_terminal_page_and_csv(report: RenderedReport) -> None:
    # GRACE, generated answers: 3 of 4 edits right at once, 2 at the end; Bob alone has lost, so the mean is
    # 25 and the spread sqrt(0.75^2 + 3 * 0.25^2) / 4 = 0.2165, times t of 3 degrees of freedom = 68.9 (3.18;
    # the series is 0.1 % low).
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.terminal)
    _, kept = console.export_text().split("Reliability of sequential methods")
    line = next(line.split() for line in kept.splitlines() if "GRACE" in line)
    assert line == [
        "micro-llama",
        "100",
        "GRACE",
        "87.5",
        "75.0",
        "12.5",
        "±34.4",
        "75.0",
        "50.0",
        "25.0",
        "±68.8",
    ]
    assert 'href="tables/retention.csv"' in report.page.read_text()
    row = next(
        line
        for line in (report.folder / "data/retention.csv").read_text().splitlines()
        if ",ar_exact,locality," in line
    )
    assert ",100.0000,50.0000,50.0000,79." in row


def test_development_cells_are_never_among_the_results(report: RenderedReport) -> None:
    for name in ("tables/table1.csv", "tables/table1.md", "tables/table1.tex", "data/results.csv"):
        assert "0.125" not in (report.folder / name).read_text()
    assert {name for name in report.files if "development" in name} == {
        *(f"tables/development.{form}" for form in FORMS),
        "data/development.csv",
    }
    assert "| FT-M (lr=0.125) | simultaneous |" in (report.folder / "tables/development.md").read_text()
    above, below = report.page.read_text().split('<section id="development"')
    assert (
        "lr=0.125" not in above.split("</head>")[1]
        and "FT-M (lr=0.125)" in below
        and "micro-llama on world, development cases" in below
    )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.terminal)
    above, below = console.export_text().split("Development cases")
    assert "lr=0.125" not in above and "lr=0.125" in below


def test_files_of_what_is_gone_go_too(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    assert (copy / "report" / "data" / "retention.csv").exists()
    for folder in (copy / "cells").iterdir():
        if (
            '"development"' in (folder / "outcome.json").read_text()
            or (folder / f"{IMMEDIATE}.parquet").exists()
        ):
            shutil.rmtree(folder)
    written = render(copy)
    assert set(contents(written.folder)) == {"index.html", *written.files}
    assert not any(
        "development" in name or name.startswith(("data/retention", "figures/retention"))
        for name in written.files
    )
    assert 'id="development"' not in written.page.read_text()


def test_an_empty_store_gives_a_page_that_says_so(tmp_path: Path) -> None:
    Store(tmp_path / "results")
    paths = render(tmp_path / "results")
    assert "Nothing has been run yet." in paths.page.read_text()
    assert "Nothing of this has been measured yet." in (paths.folder / "tables/retention.md").read_text()


def test_a_folder_without_results_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no results"):
        render(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_damaged_cell_is_left_out_and_said(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    shard = copy / "cells" / Cell("micro-llama", "world", "lks", 100, 0, 1).id / "ask.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    paths = render(copy)
    assert len(paths.warnings) == 1 and str(shard) in paths.warnings[0]
    assert "Left out, because damaged" in paths.page.read_text()


def test_a_published_folder_has_numbers_figures_and_what_is_missing(results: Path, tmp_path: Path) -> None:
    from reports.publish import publish

    folder = tmp_path / "docs" / "first"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "old.svg").write_text("gone")
    known = render(results)
    publish(known, folder, [Cell("micro-llama", "world", "rome", 7, 0, 1)])
    assert {file.name for file in folder.iterdir()} == {"README.md", "results.csv", "overview.csv", "figures"}
    assert {file.name for file in (folder / "figures").iterdir()} == {
        Path(name).name for name in known.files if name.endswith(".svg")
    }
    page = (folder / "README.md").read_text()
    assert (folder / "results.csv").read_text() == (known.folder / "data/results.csv").read_text()
    assert "FT-M" in page and "| --- |" in page and "evaluation protocol" in page
    assert "- micro-llama on world, T = 7: rome" in page
    assert all((folder / name).is_file() for name in re.findall(r"\]\(([^)]+\.(?:svg|csv))\)", page))
    assert str(tmp_path) not in page and "lr=0.125" not in page


def test_parts_of_a_table_with_published_values_alone_are_not_published() -> None:
    from reports.publish import measured
    from reports.tables.model import Column, Table, TableRow, Value

    absent = TableRow(("LKS", Value(why="not run", published=97.4)), "llama-2-7b-chat, not run here")
    run, failed = (
        TableRow(("LKS", Value(50.0)), "micro-llama"),
        TableRow(("FT-M", Value(why="diverged")), "micro-llama"),
    )
    table = Table("table1", "Table 1", (Column("Method"), Column("Rel")), (absent, run, failed))
    assert measured(table).rows == (run, failed)
    assert measured(Table("table1", "Table 1", table.columns, (absent,))).rows == ()


def test_a_grid_is_named_only_for_publishing(results: Path) -> None:
    from typer.testing import CliRunner

    from cli.app import app

    done = CliRunner().invoke(app, ["report", "--results", str(results), "--grid", "micro"])
    assert done.exit_code == 2
