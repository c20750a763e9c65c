"""Reports: golden tables, reasons for absent cells, the published values, and a page that stands on its own."""

import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from lks.edits import ProbeKind
from lks.errors import StoreError
from lks.grid import IMMEDIATE, Cell, Costs, Outcome
from lks.shards import Answer, write_answers
from lks.statistics import interval
from lks.store import Store
from reports import ReportPaths, render, terminal_table
from reports.results import load
from reports.summary import sentences
from reports.tables import short

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("Ann", "Bob", "Cleo", "Dan")


def answer(draw: int, subject: str, kind: ProbeKind, right: bool) -> Answer:
    """An answer of two tokens; a wrong one has the first token right under teacher forcing and none when generated."""
    prompt = f"{kind} <b>{subject}</b>"
    given = (1, 2) if right else (1, 0)
    return Answer(draw, f"{subject}-{draw}", subject, kind, 0, prompt, "wanted", (1, 2), given, given if right else (0, 0), "text & more", -1.0)


def answers_with(cell: Cell, wrong: dict[str, int]) -> list[Answer]:
    """Answers of which the first so many subjects' of a kind are wrong in every draw."""
    kinds: tuple[ProbeKind, ...] = ("edit", "paraphrase", "locality")
    return [answer(d, name, k, i >= wrong.get(k, 0)) for d in range(cell.draws) for i, name in enumerate(NAMES) for k in kinds]


def put(
    store: Store, cell: Cell, wrong: dict[str, int], title: str, reason: str = "", status: str = "ok", before: dict[str, int] | None = None
) -> None:
    """Record a cell; with `before` one of a sequential method, with what was wrong right after each edit."""
    shards: tuple[str, ...] = ()
    if status == "ok":
        shards = (write_answers(store.results, cell.id, "ask", answers_with(cell, wrong)),)
    if before is not None:
        shards += (write_answers(store.results, cell.id, IMMEDIATE, answers_with(cell, before)),)
    costs = Costs(1.0, 2.0 * cell.draws * cell.n_edits, 3.0, 400_000_000, 64_000_000) if status == "ok" else Costs()
    regime = "simultaneous" if before is None else "sequential"
    provenance = {"title": title, "regime": regime, "device": "cpu", "finished": "2026-01-01T00:00:00"}
    store.record(Outcome(cell, status, reason, shards, costs, provenance))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store") / "results")
    all_wrong = {"edit": 4, "paraphrase": 4}
    for n_edits, draws in ((1, 2), (100, 1)):
        put(store, Cell("micro-llama", "world", "none", n_edits, 0, draws), all_wrong, "Unedited")
        put(store, Cell("micro-llama", "world", "lks", n_edits, 0, draws), {"paraphrase": 1, "locality": 2}, "LKS")
    put(store, Cell("micro-llama", "world", "ft", 1, 0, 2), {"paraphrase": 2}, "FT-M")
    put(store, Cell("micro-llama", "world", "ft", 100, 0, 1), {}, "FT-M", "loss is NaN at step 12 <draw 0>", "diverged")
    put(store, Cell("micro-llama", "world", "lks", 100, 0, 1, (("hypernetwork", "free"),), '{"h": "free"}'), {}, "LKS", "out of memory", "oom")
    put(store, Cell("llama-2-7b-chat", "zsre", "lks", 1000, 0, 1, records=1000), {"edit": 1}, "LKS")
    put(store, Cell("micro-llama", "world", "grace", 100, 0, 1), {"edit": 2, "locality": 2}, "GRACE", before={"edit": 1})
    for method, title in (("none", "Unedited"), ("ft", "FT-M")):
        variant = (("lr", "0.125"),) if method == "ft" else ()
        put(store, Cell("micro-llama", "world", method, 10, 0, 1, variant, split="development"), {"edit": 3}, title)
    return store.results


@pytest.fixture(scope="module")
def report(results: Path) -> ReportPaths:
    return render(results)


@pytest.mark.parametrize("name", ["table1.csv", "table1.md", "table1.tex", "results.csv", "retention.csv", "development.csv"])
def test_tables_are_the_golden_ones(report: ReportPaths, name: str) -> None:
    made = (report.folder / name).read_text()
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(made)
    assert made == (GOLDEN / name).read_text(), "check the difference; UPDATE_GOLDEN=1 takes the new one"


def test_the_golden_table_has_the_hand_worked_values(report: ReportPaths) -> None:
    # T=1: four subjects in two draws. Gen of LKS: one subject half right under TF token: (0.5 + 3) / 4 = 87.5; deviations
    # -0.375 and 3 x 0.125 per item, twice per subject: sqrt(0.75^2 + 3 * 0.25^2) / 8 = 0.10825.
    # Loc: two subjects half right: sqrt(4 * 0.5^2) / 8 = 0.125.
    # EP: pulls / 3 of Ann (-.09375 - .0625), Bob (.03125 - .0625), Cleo and Dan (.03125 + .0625): 0.0691.
    worked = ((1.0, 0.0), (0.875, 0.1082532), (0.75, 0.125), (0.875, 0.0690540))
    lks = next(line.split(",") for line in report.table_csv.read_text().splitlines() if line.startswith("tf_token,world,micro-llama,LKS,"))
    assert lks[4:10] == [
        "simultaneous",
        *(f"*{100 * p:.1f} ±{50 * (high - low):.1f}" for p, se in worked for low, high in [interval(p, se, 4)]),
        "2.00",
    ]
    assert lks[-1] == "1.00"  # preparation
    generated = next(line.split(",") for line in report.table_csv.read_text().splitlines() if line.startswith("ar_exact,world,micro-llama,LKS,"))
    assert [value.split()[0] for value in generated[5:9]] == ["*100.0", "*75.0", "*50.0", "*75.0"]


def test_absent_cells_say_why(report: ReportPaths) -> None:
    rows = [line.split(",") for line in report.table_csv.read_text().splitlines()]
    free = next(row for row in rows if row[3] == "LKS (hypernetwork=free)")
    assert free[5] == "not run" and free[10] == "oom"
    assert next(row for row in rows if row[3] == "FT-M")[10] == "diverged: loss is NaN at step 12 <draw 0>"
    assert "loss is NaN at step 12 &lt;draw 0&gt;" in report.page.read_text()


def test_published_values_stand_beside_ours_under_the_paper_s_read_out_only(report: ReportPaths) -> None:
    lines = [line for line in report.table_csv.read_text().splitlines() if "(paper)" in line]
    assert len(lines) == 1 and lines[0].startswith("tf_token,zsre[:1000],llama-2-7b-chat,LKS (paper),")
    assert lines[0].endswith("100.0,94.5,78.8,91.1,,")
    long = [line for line in report.results_csv.read_text().splitlines() if line.startswith("evaluation,zsre") and ",94.5," in line]
    assert len(long) == 1 and ",tf_token,generality," in long[0]


def test_locality_without_the_unedited_answers_is_a_dash_not_a_number(report: ReportPaths) -> None:
    line = next(line for line in report.table_csv.read_text().splitlines() if line.startswith("tf_token,zsre[:1000],llama-2-7b-chat,LKS,"))
    assert line.split(",")[-4:] == ["–", "–", "2.00", "1.00"]


def test_the_same_store_gives_the_same_bytes(results: Path, report: ReportPaths) -> None:
    before = {path.name: path.read_bytes() for path in report.folder.iterdir()}
    (results / "lks.duckdb").unlink()
    render(results)
    assert {path.name: path.read_bytes() for path in report.folder.iterdir()} == before


class Page(HTMLParser):
    """Collects what the page refers to and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"


def test_the_page_needs_no_network_and_is_well_formed(report: ReportPaths) -> None:
    text = report.page.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert {ref for ref in page.references if not ref.startswith("#")} == {
        *("table1.csv", "table1.md", "table1.tex", "results.csv", "retention.csv", "development.csv", "development.md"),
        *("overview.csv", "comparisons.csv"),
    }
    assert {ref[1:] for ref in page.references if ref.startswith("#")} <= set(page.ids)
    assert not re.search(r"url\(|@import|fetch\(", text)


def test_the_page_escapes_prompts_and_shows_right_and_wrong_answers(report: ReportPaths) -> None:
    text = report.page.read_text()
    assert "&lt;b&gt;Ann&lt;/b&gt;" in text and "<b>Ann</b>" not in text
    assert "text &amp; more" in text
    for verdict in ("right", "wrong", "unchanged", "changed"):
        assert f">{verdict}</td>" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_filters_and_sorting_work_in_a_browser(report: ReportPaths, tmp_path: Path) -> None:
    click = "document.querySelector('input[value=ar_exact]').click(); document.querySelector('input[name=n_edits]').click();"
    click += """document.querySelector('[data-readout=ar_exact] [data-sort="100-Rel"]').click();"""
    copy = tmp_path / "page.html"
    copy.write_text(report.page.read_text().replace("</body>", f"<script>{click}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{copy}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r'<div data-readout="ar_exact">', dom) and re.search(r'<div data-readout="tf_token" hidden', dom)
    assert re.search(r'<th class="t first"[^>]*data-t="1" hidden', dom) and not re.search(r'data-t="100" hidden', dom)
    table = re.search(r'<div data-readout="ar_exact">.*?</table>', dom, re.DOTALL)
    assert table is not None
    # 100 %, then 50 %, then 0 %, then the two that failed
    names = re.findall(r'<th scope="row">(.*?)</th>', table[0])
    assert names == ["LKS", "GRACE", "Unedited", "FT-M", "LKS (hypernetwork=free)"]


def test_the_summary_tells_the_best_and_the_gap_to_generation(results: Path) -> None:
    ran, led, generated = sentences(load(results).of("evaluation"))
    assert ran.startswith("7 of 9 cells have a result: FT-M, GRACE and LKS with 1 to 1,000 edits together")
    assert ran.endswith("without result: 1 × diverged and 1 × oom.")
    assert "LKS has the highest edit performance with the most edits: 87.5 ± 29.2 on micro-llama (T = 100)" in led
    assert "100 % of the edits and 75 % of their paraphrases come out wholly right" in generated


@pytest.mark.parametrize("width", [100, 120])
def test_the_terminal_table_fits(results: Path, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    text = console.export_text()
    assert "…" not in text
    lks = next(line.split() for line in text.splitlines() if " LKS " in line)
    assert lks[-11:] == ["sim", "100.0", "87.5", "75.0", "87.5", "100.0", "75.0", "50.0", "75.0", "2.00", "1.00"]
    assert "diverged" in text and "oom" in text


def test_what_is_kept_is_told_in_terminal_page_and_csv(results: Path, report: ReportPaths) -> None:
    # GRACE, generated answers: 3 of 4 edits right at once, 2 at the end; Bob alone has lost, so the mean is 25 and the spread
    # sqrt(0.75^2 + 3 * 0.25^2) / 4 = 0.2165, times t of 3 degrees of freedom = 68.9 (3.18; the series is 0.1 % low).
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    _, kept = console.export_text().split("Reliability of sequential methods")
    line = next(line.split() for line in kept.splitlines() if "GRACE" in line)
    assert line == ["micro-llama", "100", "GRACE", "87.5", "75.0", "12.5", "±34.4", "75.0", "50.0", "25.0", "±68.8"]
    assert report.page.read_text().count("<h4>What is kept</h4>") == 4  # one read-out each, of one block
    row = next(line for line in (report.folder / "retention.csv").read_text().splitlines() if ",ar_exact,locality," in line)
    assert ",100.0000,50.0000,50.0000,79." in row


def test_development_cells_are_never_among_the_results(results: Path, report: ReportPaths) -> None:
    for name in ("table1.csv", "table1.md", "table1.tex", "results.csv"):
        assert "0.125" not in (report.folder / name).read_text()
    assert report.others == tuple(
        report.folder / name for name in ("retention.csv", "overview.csv", "comparisons.csv", "development.csv", "development.md")
    )
    assert "| FT-M (lr=0.125) | simultaneous |" in (report.folder / "development.md").read_text()
    above, below = report.page.read_text().split('<h2 id="development">')
    assert "lr=0.125" not in above and "FT-M (lr=0.125)" in below
    assert "micro-llama on world, development cases" in below
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    above, below = console.export_text().split("Development cases")
    assert "lr=0.125" not in above and "lr=0.125" in below
    assert not any("lr=0.125" in sentence for sentence in sentences(load(results).of("evaluation")))


def test_files_of_what_is_gone_go_too(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    for folder in (copy / "cells").iterdir():
        if '"development"' in (folder / "outcome.json").read_text() or (folder / f"{IMMEDIATE}.parquet").exists():
            shutil.rmtree(folder)
    paths = render(copy)
    assert (
        [path.name for path in paths.others] == ["overview.csv", "comparisons.csv"]
        and not list(paths.folder.glob("development.*"))
        and not (paths.folder / "retention.csv").exists()
    )
    text = paths.page.read_text()
    assert "What is kept" not in text and "development" not in text.split("<main>")[1]


@pytest.mark.parametrize(("value", "text"), [(0, "–"), (0.00001, "–"), (0.0021, "0.0021"), (0.345, "0.34"), (12.345, "12.3"), (1250, "1,250")])
def test_seconds_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_an_empty_store_gives_a_page_that_says_so(tmp_path: Path) -> None:
    Store(tmp_path / "results")
    paths = render(tmp_path / "results")
    assert "Nothing has been run yet." in paths.page.read_text()
    assert "Nothing has been run yet." in paths.table_md.read_text()


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
