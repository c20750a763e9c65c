"""`lks ci` over cells whose answers are made here: what is fine, what is different, how golden results are
replaced, and what is refused.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import ci
from cli.app import app
from lks.io.atomic import write_whole
from lks.results.ability_rows import AbilityRow
from lks.results.answers import Answer
from lks.results.cells import ABILITY, PASSAGES, PROTOCOL, Cell, Costs, Outcome
from lks.results.rows import Passage
from lks.results.shards import read_outcome, read_rows, write_outcome, write_stage
from lks.results.store import Store
from reports.compare.regression import Tolerance, regress
from tests.helpers import fakes
from tests.helpers.answers_made import answer, answers, subjects
from tests.helpers.root import ROOT

GRIDS = """
[ci]
models = ["micro-fake"]
datasets = ["world"]
methods = ["none", "ft"]
n_edits = [50]
"""
NAMES = subjects(50)
PROVENANCE = {
    "title": "A method",
    "torch": "2.1",
    "python": "3.11.7",
    "device": "CPU, 1 threads",
    "finished": "2026-01-01T00:00:00",
}
STAGES = ("answers", PASSAGES, f"{ABILITY}-made-20")


def rows(wrong: int = 0) -> dict[str, list[object]]:
    """What a cell stores: 150 answers, of which so many paraphrases are wrong; ten texts; sixty documents of
    a test.
    """
    made = answers({"paraphrase": wrong}, NAMES)
    passages = [Passage(0, i, 10, -20.0 - i / 10) for i in range(10)]
    documents = [
        AbilityRow(0, f"made_{task}", "acc", i, 1.0, "yes", "yes", "") for task in "abc" for i in range(20)
    ]
    return dict(zip(STAGES, (made, passages, documents), strict=True))


def put(
    results: Path, cell: Cell, made: dict[str, list[object]], status: str = "ok", **failed: str
) -> Outcome:
    shards = (
        ()
        if status != "ok"
        else tuple(write_stage(results, cell.id, stage, of_stage) for stage, of_stage in made.items())
    )
    outcome = Outcome(
        cell,
        status,
        "" if status == "ok" else "no memory left",
        shards,
        Costs(1.0, 2.0, 3.0),
        PROVENANCE,
        failed,
    )  # type: ignore[arg-type]
    write_outcome(results, outcome)
    return outcome


class Runs:
    """Stands in for the grid: what is not stored is put there, as `wrong` and `status` say of a method;
    interrupted after so many cells.
    """

    def __init__(self) -> None:
        self.wrong: dict[str, int] = {}
        self.status: dict[str, str] = {}
        self.stop_after = 99
        self.ran: list[str] = []
        self.code = b"one"

    def __call__(self, grid: str, results: Path) -> None:
        assert grid == "ci"
        write_whole(results / "protocol.json", json.dumps({"protocol": PROTOCOL}).encode())
        for cell in ci._cells():
            if not (results / "cells" / cell.id / "outcome.json").exists():
                if len(self.ran) == self.stop_after:
                    raise KeyboardInterrupt
                self.ran.append(cell.method)
                put(results, cell, rows(self.wrong.get(cell.method, 0)), self.status.get(cell.method, "ok"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    (tmp_path / "grids.toml").write_text(GRIDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LKS_GRIDS", str(tmp_path / "grids.toml"))
    monkeypatch.setenv("COLUMNS", "200")
    fakes.install(fakes.Cells(), monkeypatch.setattr)
    made = Runs()
    monkeypatch.setattr("cli.run_grid.run_grid", made)
    monkeypatch.setattr(ci, "_code", lambda: made.code)
    monkeypatch.setattr(ci, "GOLDEN", tmp_path / "golden")
    return made


@pytest.fixture
def golden(runs: Runs, tmp_path: Path) -> Path:
    """Golden results, and `results-ci` that made them."""
    assert lks().exit_code == 2
    assert lks("accept", "--reason", "first").exit_code == 0
    runs.ran.clear()
    return tmp_path / "golden"


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, ["ci", *map(str, words)])


def said(result: Result) -> str:
    """The last sentence, on one line."""
    return " ".join(result.output.split())


def test_the_same_answers_are_fine(golden: Path) -> None:
    done = lks("--json", "found.json")
    assert (
        done.exit_code == 0
        and "Fine: all raw answers of 2 cells are those of the golden results." in said(done)
    )
    written = json.loads(Path("found.json").read_text())
    assert written["fine"] is True and written["sentence"].startswith("Fine") and written["faults"] == {}
    assert [match["items"]["changed"] for match in written["comparison"]["matches"]] == [0, 0]


def test_nothing_is_written_beside_golden_results(golden: Path) -> None:
    before = {file: file.read_bytes() for file in golden.rglob("*") if file.is_file()}
    assert lks().exit_code == 0
    assert {file: file.read_bytes() for file in golden.rglob("*") if file.is_file()} == before
    assert sorted(path.name for path in golden.iterdir()) == ["REASONS.md", "cells", "protocol.json"]


def test_changed_answers_are_different_and_the_cell_is_named(runs: Runs, golden: Path) -> None:
    # 20 of 50 paraphrases: Gen -40, EP -13.3; 13.3 % of 150 answers.
    runs.wrong = {"ft": 20}
    done = lks("--results", "other", "--json", "found.json")
    assert done.exit_code == 1
    assert "Different from the golden results: 1 cell of 2 (ft | micro-fake | world | T=50:" in said(done)
    assert "lks ci accept --reason" in done.output
    faults = json.loads(Path("found.json").read_text())["faults"]
    assert list(faults) == ["ft | micro-fake | world | T=50"]
    (why,) = faults.values()
    assert any(re.match(r"WILD Gen -40\.0 points", reason) for reason in why)
    assert any(re.match(r"13\.3 % of answers changed", reason) for reason in why)


def test_one_flipped_answer_is_fine_and_said(runs: Runs, golden: Path) -> None:
    runs.wrong = {"ft": 1}
    done = lks("--results", "other")
    assert done.exit_code == 0
    assert (
        "Fine: 1 of 300 raw answers differ from the golden results, in 1 cell of 2; no difference goes beyond the tolerance."
        in said(done)
    )


def test_a_cell_that_fails_now_is_different(runs: Runs, golden: Path) -> None:
    runs.status = {"ft": "oom"}
    done = lks("--results", "other")
    assert done.exit_code == 1 and "ok → oom: no memory left" in said(done)


def test_a_cell_that_is_missing_or_new_is_different(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "grids.toml").write_text(GRIDS.replace('["none", "ft"]', '["none"]'))
    done = lks()
    assert (
        done.exit_code == 1
        and "ft | micro-fake | world | T=50: missing, the golden results have it" in said(done)
    )
    (tmp_path / "grids.toml").write_text(GRIDS.replace('"ft"]', '"ft", "ft_l"]'))
    done = lks()
    assert done.exit_code == 1 and "ft_l | micro-fake | world | T=50: not in the golden results" in said(done)


def test_a_changed_parameter_is_named(golden: Path) -> None:
    """The cell has another id then."""
    (cell,) = (cell for cell in ci._cells() if cell.method == "ft")
    parameters = json.loads(cell.parameters)
    other = replace(cell, parameters=json.dumps(parameters | {"lr": 0.25}, sort_keys=True))
    shutil.rmtree(golden / "cells" / cell.id)
    put(golden, other, rows())
    done = lks()
    assert done.exit_code == 0 and f"Parameters differ in 1 cell: lr 0.25 → {parameters['lr']}." in said(done)


def test_other_questions_are_different(golden: Path) -> None:
    (cell,) = (cell for cell in ci._cells() if cell.method == "ft")
    put(
        golden,
        cell,
        rows() | {"answers": [answer(name, kind, True) for name in NAMES for kind in ("edit", "locality")]},
    )
    done = lks()
    assert (
        done.exit_code == 1
        and "0 questions of the golden results not asked, 50 asked that they do not have" in said(done)
    )


def test_a_further_stage_that_fails_is_different(golden: Path) -> None:
    (cell,) = (cell for cell in ci._cells() if cell.method == "ft")
    made = {stage: of_stage for stage, of_stage in rows().items() if stage != PASSAGES}
    put(Path("results-ci"), cell, made, passages="collapsed: not a number")
    done = lks()
    assert done.exit_code == 1 and "failed passages: – → collapsed: not a number" in said(done)
    assert "failed cell" in lks("accept", "--reason", "x").output


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("was", "now"):
        Store(tmp_path / name)
        put(tmp_path / name, FT, rows())
    return tmp_path / "was", tmp_path / "now"


FT = Cell("micro-fake", "world", "ft", 50, 0, 1)


@pytest.mark.parametrize(
    ("factor", "fine"), [(1.0, True), (1.0001, True), (1.1, False), (float("nan"), False)]
)
def test_perplexity_has_its_tolerance(sides: tuple[Path, Path], factor: float, fine: bool) -> None:
    # exp(0.1 * 24.5 / 10) is a perplexity of 127.8 % for a factor of 1.1, as the mean log p per token is
    # 2.045: + 22.7 %.
    put(sides[1], FT, rows() | {PASSAGES: [Passage(0, i, 10, factor * (-20.0 - i / 10)) for i in range(10)]})
    found = regress(*sides)
    assert found.fine is fine
    checks = {check.quantity: check for check in found.checks[0]}
    assert checks["answers"].value == 0
    assert ("perplexity" in checks) is (factor != 1.0)
    if factor == 1.1:
        assert (
            checks["perplexity"].value == pytest.approx(22.69, abs=0.01)
            and checks["perplexity"].clusters == 10
        )


@pytest.mark.parametrize(("wrong", "fine"), [(0, True), (1, True), (20, False)])
def test_ability_has_its_tolerance(sides: tuple[Path, Path], wrong: int, fine: bool) -> None:
    made = [replace(row, score=float(i >= wrong)) for i, row in enumerate(rows()[f"{ABILITY}-made-20"])]  # type: ignore[type-var]
    put(sides[1], FT, rows() | {f"{ABILITY}-made-20": made})
    found = regress(*sides)
    assert found.fine is fine
    (value,) = [check.value for check in found.checks[0] if check.quantity == "ability"] or [0.0]
    assert value == pytest.approx(-100 * wrong / 60)


def test_a_significant_difference_within_the_tolerance_is_none(sides: tuple[Path, Path]) -> None:
    put(sides[1], FT, rows(20))
    assert not regress(*sides).fine
    wide = regress(*sides, Tolerance(points=60, answers=30))
    assert wide.fine and wide.comparison.verdict == "no difference found"


def test_accept_replaces_golden_results_and_notes_why(runs: Runs, golden: Path) -> None:
    first = (golden / "REASONS.md").read_text()
    runs.wrong = {"ft": 20}
    assert lks("--results", "other").exit_code == 1
    done = lks("accept", "--results", "other", "--reason", "paraphrases are\nharder now")
    assert done.exit_code == 0 and "2 cells" in done.output
    noted = (golden / "REASONS.md").read_text()
    assert noted.startswith(first)
    (line,) = noted[len(first) :].splitlines()
    assert re.match(
        r"- \d{4}-\d\d-\d\d: paraphrases are harder now \(torch 2\.1, python 3\.11\.7, device CPU, 1 threads\) Different .*ft \|",
        line,
    )
    assert lks("--results", "other").exit_code == 0
    assert lks("--results", "results-ci").exit_code == 1
    assert not [path for path in golden.parent.iterdir() if path.name.endswith((".part", ".old"))]


@pytest.mark.parametrize("words", [[], ["--reason", "  "]])
def test_accept_needs_a_reason(golden: Path, words: list[str]) -> None:
    before = (golden / "REASONS.md").read_text()
    done = lks("accept", *words)
    assert done.exit_code == 2 and "without a reason" in said(done)
    assert (golden / "REASONS.md").read_text() == before


def test_accept_refuses_failed_and_missing_cells(runs: Runs, golden: Path) -> None:
    runs.status = {"ft": "oom"}
    assert lks("--results", "other").exit_code == 1
    done = lks("accept", "--results", "other", "--reason", "x")
    assert done.exit_code == 2 and "ft | micro-fake | world | T=50 (no memory left)" in said(done)
    cell = next(path for path in Path("results-ci/cells").iterdir())
    shutil.rmtree(cell)
    done = lks("accept", "--reason", "x")
    assert done.exit_code == 2 and "lacks 1 of 2 cells" in said(done)
    assert "holds no results of `lks ci`" in said(lks("accept", "--results", "nowhere", "--reason", "x"))


def test_missing_golden_results_are_named(runs: Runs) -> None:
    done = lks("--golden", "elsewhere")
    assert done.exit_code == 2 and "No golden results in elsewhere" in said(done)
    assert "lks ci accept --golden elsewhere" in said(done)


def test_golden_results_of_another_protocol_are_named_and_can_be_replaced(golden: Path) -> None:
    (golden / "protocol.json").write_text(json.dumps({"protocol": PROTOCOL - 1}))
    done = lks()
    assert done.exit_code == 2 and f"protocol {PROTOCOL - 1}" in said(done)
    assert lks("accept", "--reason", "a new protocol").exit_code == 0
    assert "Not compared" in (golden / "REASONS.md").read_text()
    assert lks().exit_code == 0


def test_a_damaged_golden_shard_is_different_not_an_error(golden: Path) -> None:
    shard = next(golden.glob("cells/*/answers.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    done = lks()
    assert done.exit_code == 1 and "damaged" in done.output and str(golden.name) in said(done)


def test_an_interrupted_run_goes_on(runs: Runs, golden: Path) -> None:
    runs.stop_after = 1
    assert lks("--results", "other").exit_code == 130
    assert runs.ran == ["none"]
    runs.stop_after = 99
    assert lks("--results", "other").exit_code == 0
    assert runs.ran == ["none", "ft"]


def test_results_of_other_code_are_not_taken_for_new_ones(runs: Runs, golden: Path) -> None:
    lks()
    assert runs.ran == []
    runs.code, runs.wrong = b"two", {"ft": 20}
    assert "The code has changed" in said(lks("accept", "--reason", "x"))
    done = lks()
    assert done.exit_code == 1 and runs.ran == ["none", "ft"] and "everything is run again" in said(done)


def test_a_folder_of_others_is_refused(runs: Runs) -> None:
    put(Path("mine"), FT, rows())
    done = lks("--results", "mine")
    assert (
        done.exit_code == 2 and "mine holds files that `lks ci` has not made" in said(done) and runs.ran == []
    )
    assert (Path("mine") / "cells" / FT.id).is_dir()


def test_code_and_versions_tell_runs_apart() -> None:
    found = json.loads(ci._code())
    assert len(found["code"]) == 64 and "torch" in found and "finished" not in found and "device" not in found


@pytest.mark.usefixtures("prefect_server")
def test_the_real_flow_fills_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `lks grid` itself, over cells that only write."""
    (tmp_path / "grids.toml").write_text(GRIDS.replace("[50]", "[1]"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LKS_GRIDS", str(tmp_path / "grids.toml"))
    cells = fakes.Cells()
    fakes.install(cells, monkeypatch.setattr)
    done = lks("--golden", "golden")
    assert done.exit_code == 2 and "No golden results" in said(done) and len(cells.ran) == 2
    assert lks("accept", "--golden", "golden", "--reason", "first").exit_code == 0
    assert "First golden results." in Path("golden/REASONS.md").read_text()


def test_shipped_golden_results_are_of_this_grid_and_small() -> None:
    """They are whole, of every cell of the grid `ci`, without a machine's path, and small enough for the
    repository.
    """
    golden = ROOT / "tests" / "golden" / "ci"
    outcomes = [read_outcome(golden, path.name) for path in sorted((golden / "cells").iterdir())]
    from flows.running.planning import named_grid

    grid = named_grid("ci", ROOT / "flows" / "grids.toml")
    wanted = {
        (method, n_edits, grid.draws.get(n_edits, 1))
        for method, _ in grid.entries()
        for n_edits in grid.n_edits
    }
    assert {(o.cell.method, o.cell.n_edits, o.cell.draws) for o in outcomes} == wanted and len(
        outcomes
    ) == len(wanted)
    for outcome in outcomes:
        assert (
            outcome.status == "ok" and not outcome.failed and set(grid.extras.stages()) <= outcome.stages
        ), outcome.cell.label
        assert read_rows(golden / outcome.shards[0], Answer)
    files = [file for file in golden.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 1_500_000
    assert {file.name for file in golden.iterdir()} == {"cells", "protocol.json", "REASONS.md"}
