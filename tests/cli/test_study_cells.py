"""Studies as cells: planned, run once, stored, averaged; the command that recommends a block."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.study import BlockPoint, advice, best_block, lowest_tied
from flows.running.cell_runner import CellRunner
from flows.running.planning import cells_of, compare
from flows.running.progress import LineProgress
from lks.errors import TooManyEdits, UserError
from lks.results.cells import STUDY, Cell, Costs, Measurements, Outcome
from lks.results.shards import read_rows, write_outcome, write_stage
from lks.results.store import Store
from lks.results.study_rows import StudyRow
from lks.runs.grid import Grid
from lks.statistics import interval, t_quantile

CELL = Cell("micro-llama", "world", "swap", 3, 0, 1, measure="study")


def grid(**changes: object) -> Grid:
    return Grid.model_validate(
        {
            "name": "g",
            "models": ["micro-llama"],
            "datasets": ["world"],
            "methods": ["probe"],
            "n_edits": [4],
            "measure": "study",
            **changes,
        }
    )


def test_studies_are_planned_without_an_unedited_model() -> None:
    cells = cells_of(
        grid(
            methods=["*", {"method": "probe", "entity": "prompt"}, {"method": "gain", "blocks_from": "donor"}]
        )
    )
    assert sorted((c.method, c.variant) for c in cells) == [
        ("gain", ()),
        ("probe", ()),
        ("probe", (("entity", "prompt"),)),
        ("swap", ()),
        ("tracing", ()),
    ]
    assert {c.measure for c in cells} == {"study"} and cells[
        0
    ].label == "gain | micro-llama | world | T=4 | study"
    assert {c.parameters for c in cells if c.method == "probe"} == {
        '{"entity": "alone"}',
        '{"entity": "prompt"}',
    }
    assert [c.method for c in cells_of(grid(methods=["probe", "swap"]), "method=swap")] == ["swap"]
    assert Measurements().stages("study") == (STUDY,) and len({c.id for c in cells}) == 5
    (edited,) = cells_of(grid(methods=[{"method": "gain", "blocks_from": "edited"}]))
    assert '"lambda_edit"' in edited.parameters  # another preset of LKS is another cell


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ["prob"]}, "Unknown study 'prob'. Did you mean 'probe'"),
        ({"methods": ["lks"]}, "Unknown study 'lks'.*Known: gain, probe, swap, tracing"),
        (
            {"methods": [{"method": "probe", "entitty": "alone"}]},
            "Unknown parameter 'entitty'. Did you mean 'entity'",
        ),
        ({"methods": [{"method": "gain", "blocks_from": "nowhere"}]}, "blocks_from='nowhere'"),
        ({"measure": "answers"}, "Unknown method 'probe'"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        cells_of(grid(**changes))


def test_more_entities_than_there_are() -> None:
    with pytest.raises(TooManyEdits, match="T=2000: 2000 records of dataset 'world', which has 1000"):
        cells_of(grid(n_edits=[2000]))


def test_curves_are_means_clustered_by_subject(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given = {"Ann": (("a1", 1.0, 3.0), ("a2", 1.0, 1.0)), "Bob": (("b1", 0.0, -1.0),)}
    rows = [
        StudyRow(0, case, subject, 2, "subject_last", quantity, value)
        for subject, cases in given.items()
        for case, first, bits in cases
        for quantity, value in (("first", first), ("bits", bits))
    ]
    write_stage(tmp_path, CELL.id, STUDY, rows)
    store.record(Outcome(CELL, "ok", "", (f"cells/{CELL.id}/study.parquet",), Costs(), {}))
    curves = {row[2]: row for row in store.query("SELECT * FROM study_curves")}
    # first: mean 2/3; pulls Ann (2 - 4/3)/3 = 2/9, Bob -2/9.
    # bits: mean 1; pulls Ann (4 - 2)/3 = 2/3, Bob (-1 - 1)/3.
    value, error = 2 / 3, math.sqrt(2) * 2 / 9
    assert curves["first"][:5] == (CELL.id, "subject_last", "first", 2, pytest.approx(value))
    assert curves["first"][5:] == (*(pytest.approx(edge) for edge in interval(value, error, 2)), 3, 2)
    half = t_quantile(1) * math.sqrt(2) * 2 / 3
    assert curves["bits"][4:] == (pytest.approx(1), pytest.approx(1 - half), pytest.approx(1 + half), 3, 2)


def test_one_subject_says_nothing_about_its_spread(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_stage(
        tmp_path,
        CELL.id,
        STUDY,
        [StudyRow(0, "a", "Ann", 0, "last", quantity, 0.5) for quantity in ("bits", "clean")],
    )
    store.record(Outcome(CELL, "ok", "", (f"cells/{CELL.id}/study.parquet",), Costs(), {}))
    assert store.query("SELECT quantity, low, high FROM study_curves ORDER BY 1") == [
        ("bits", None, None),
        ("clean", 0, 1),
    ]


def test_a_cell_runs_once_and_keeps_its_rows(tmp_path: Path) -> None:
    asked = grid(methods=["swap", "gain", "probe", "tracing"])
    cells = cells_of(asked)
    bench = CellRunner(tmp_path, LineProgress(lambda line: None), asked.extras)
    store = Store(tmp_path)
    for cell in cells:
        outcome = bench.run(cell)
        assert (outcome.status, outcome.shards) == (
            "ok",
            (f"cells/{cell.id}/study.parquet",),
        ) and outcome.provenance["left out"] == "none"
        assert outcome.costs.ask_s > 0 and outcome.provenance["title"]
        store.record(outcome)
    assert compare(asked, cells, store).todo == ()
    swap = next(cell for cell in cells if cell.method == "swap")
    rows = read_rows(tmp_path / "cells" / swap.id / "study.parquet", StudyRow)
    assert len(rows) == 4 * (1 + 6 * 4) and {row.block for row in rows} == {-1, *range(6)}
    again = bench.run(swap)  # stored: read, not run
    assert again.costs.ask_s == store.query("SELECT ask_s FROM cells WHERE cell_id = ?", [swap.id])[0][0]
    (first,) = store.query(
        "SELECT value FROM study_curves WHERE cell_id = ? AND quantity = 'first' AND block = 2", [swap.id]
    )
    assert first == (
        1.0,
    )  # docs/testbed.md: at the block where this model's facts are, the donor's answer is always given


def test_a_failed_cell_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr("lks.studies.swap.exchanged", fail)
    (cell,) = cells_of(grid(methods=["swap"]))
    outcome = CellRunner(tmp_path, LineProgress(lambda line: None), Measurements()).run(cell)
    assert (outcome.status, outcome.shards) == ("error", ()) and outcome.reason.startswith(
        "ValueError: no such thing (lks/"
    )


def test_the_command_recommends_a_block_and_reuses_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["study", "layers", "--model", "micro-llama", "--entities", "20", "--results", str(tmp_path)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert (
        "gain, bits" in first.output and "block = " in first.output and "20 entities of world" in first.output
    )
    assert len(list((tmp_path / "cells").iterdir())) == 3
    monkeypatch.setattr("lks.runs.cell.run", lambda *_: pytest.fail("run again"))
    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0 and second.output.strip() in first.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "micro-lama"], "Did you mean 'micro-llama'"),
        (["--model", "micro-llama", "--source", "edit"], "--source 'edit': use donor"),
        (["--model", "micro-llama", "--entities", "2000"], "which has 1000"),
        (["--model", "micro-llama", "--entities", "2", "--records", "2"], "No entity of 'world' has a donor"),
    ],
)
def test_what_the_command_cannot_do_it_says(arguments: list[str], says: str, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["study", "layers", *arguments, "--results", str(tmp_path)])
    assert said.exit_code == 2 and says in " ".join(said.output.split())


def curve(*points: tuple[float, float, float]) -> dict[int, BlockPoint]:
    return {block: BlockPoint("bits", block, *point) for block, point in enumerate(points)}


def test_the_largest_gain_is_recommended_and_the_lowest_that_ties_is_named() -> None:
    gain = curve((1, 0.5, 1.5), (4, 3.5, 4.4), (5, 4.2, 5.8), (5, 4.2, 5.8), (2, 1, 3))
    assert (best_block(gain), lowest_tied(gain)) == (2, 1)
    said = advice({"bits": gain})
    assert said.startswith("Block 2: ") and "Block 1 is the lowest whose" in said and "block = 2" in said
    clear = curve((1, 0.5, 1.5), (4, 3.5, 4.4))
    assert lowest_tied(clear) == 1 and "lowest" not in advice({"bits": clear})


def test_no_gain_is_no_recommendation() -> None:
    said = advice({"bits": curve((-1, -2, 0), (0.1, -0.5, 0.7))})
    assert said.startswith("No block can be recommended") and "block = " not in said


def test_known_1000_is_read_and_checked(tmp_path: Path) -> None:
    from lks.data.datasets import load
    from lks.errors import DataError

    (tmp_path / "known_1000").mkdir()
    file = tmp_path / "known_1000" / "known_1000.json"
    file.write_text(
        '[{"subject": "Vinson Massif", "attribute": "Antarctica", "prompt": "Vinson Massif is in", "template": "{} is in"}]'
    )
    (case,) = load("known1000", tmp_path).cases
    assert (case.edit.subject, case.edit.prompt, case.edit.ground_truth, case.edit.target) == (
        "Vinson Massif",
        "Vinson Massif is in",
        "Antarctica",
        "Antarctica",
    )
    file.write_text('[{"subject": "Vinson Massif", "attribute": "Antarctica", "prompt": "It is in"}]')
    with pytest.raises(
        DataError, match="record 0: field 'prompt': subject 'Vinson Massif' is not found in 'It is in'"
    ):
        load("known1000", tmp_path)
    file.write_text('[{"subject": "Vinson Massif", "prompt": "Vinson Massif is in"}]')
    with pytest.raises(DataError, match="field 'attribute' is missing"):
        load("known1000", tmp_path)


def test_a_shard_of_a_study_without_rows_is_whole(tmp_path: Path) -> None:
    """No entity had a donor: the cell is done all the same."""
    store = Store(tmp_path)
    write_stage(tmp_path, CELL.id, STUDY, [])
    write_outcome(
        tmp_path, Outcome(CELL, "ok", "", (f"cells/{CELL.id}/study.parquet",), Costs(), {"left out": "3"})
    )
    assert store.done() == {CELL.id} and store.query("SELECT * FROM study_curves") == []
