"""Results folders in trouble: many writers at once, shards cut short, results of a newer program."""

import json
import multiprocessing
import random
import sys
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from lks.errors import StoreError
from lks.results.cells import ANSWERS, GENERATIONS, PASSAGES, Cell, Costs, Outcome
from lks.results.rows import Generation
from lks.results.shards import write_outcome, write_stage
from lks.results.store import Store
from tests.helpers import fakes
from tests.helpers.stores import answers_of, put, write_answers

RACERS = 6
OWN = 4
"""Cells that each process has for itself; beside these all record the same ones."""
SHARED = (100, 101)
CELL = Cell("micro-llama", "world", "ft", 1, 0, 2)
CUTS = 5


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def numbered(number: int) -> Cell:
    return Cell("micro-llama", "world", "ft", 1, number, 2)


def race(results: str, racer: int, start: Barrier) -> None:
    """Record cells at the same time as others do; a part of them are the same cells."""
    store = Store(Path(results))
    start.wait(120)
    for number in [*range(racer * OWN, (racer + 1) * OWN), *SHARED]:
        cell = numbered(number)
        shard = write_answers(store.results, cell.id, ANSWERS, answers_of(cell, {}))
        store.record(Outcome(cell, "ok", "", (shard,), Costs(), {"racer": str(racer)}))


@pytest.mark.slow
def test_six_processes_record_into_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(RACERS)
    racers = [
        context.Process(target=race, args=(str(tmp_path / "r"), racer, start)) for racer in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(150)
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    wanted = {numbered(number).id for number in [*range(RACERS * OWN), *SHARED]}
    store = Store(tmp_path / "r")
    recorded = store.query("SELECT cell_id, count(*) FROM cells GROUP BY ALL")
    assert sorted(recorded) == sorted((cell_id, 1) for cell_id in wanted)
    rows = len(answers_of(CELL, {}))
    assert sorted(store.query("SELECT cell_id, count(*) FROM answers GROUP BY ALL")) == sorted(
        (cell_id, rows) for cell_id in wanted
    )
    before = store.query("FROM answers ORDER BY ALL")
    assert store.sync() == []
    assert not [path for path in store.results.rglob("*") if path.name.endswith(".part")]
    (store.results / "lks.duckdb").unlink()
    assert store.done() == wanted and store.query("FROM answers ORDER BY ALL") == before


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.Cells:
    """A grid of fake cells that leave empty shards."""
    (tmp_path / "grids.toml").write_text(fakes.GRIDS)
    for name, value in (
        ("LKS_GRIDS", str(tmp_path / "grids.toml")),
        ("LKS_GRID", "tiny"),
        ("COLUMNS", "200"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "reports", fakes.fake_reports())
    made = fakes.Cells()
    fakes.install(made, monkeypatch.setattr)
    return made


def test_a_shard_of_any_length_but_its_own_is_named_and_its_cell_is_not_done(tmp_path: Path) -> None:
    store, drawn = Store(tmp_path / "r"), random.Random(5)
    put(
        store,
        CELL,
        "FT-M",
        answers_of(CELL, {}),
        stages={GENERATIONS: [Generation(0, "edit", 0, "Ann", "p", "t", 1)], PASSAGES: []},
    )
    assert store.done() == {CELL.id}
    for shard in sorted(store.results.glob("cells/*/*.parquet")):
        content = shard.read_bytes()
        for length in [0, len(content) - 1, *drawn.choices(range(1, len(content) - 1), k=CUTS)]:
            shard.write_bytes(content[:length])
            (warning,) = store.sync()
            assert str(shard) in warning and "Run its cell again" in warning and "\n" not in warning, (
                length,
                warning,
            )
            assert store.query(
                "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM generations)"
            ) == [(0, 0)]
        assert store.done() == set()
        shard.write_bytes(content)
        assert store.done() == {CELL.id}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_lks_grid_makes_cut_shards_again(cells: fakes.Cells, tmp_path: Path) -> None:
    results = tmp_path / "r"
    assert lks("grid", "--results", results).exit_code == 0
    whole, drawn = {path: path.read_bytes() for path in results.glob("cells/*/*.parquet")}, random.Random(7)
    cut = drawn.sample(sorted(whole), 3)
    for shard in cut:
        shard.write_bytes(whole[shard][: drawn.randrange(len(whole[shard]))])
    cells.ran.clear()
    assert lks("grid", "--results", results).exit_code == 0
    damaged = {shard.parent.name for shard in cut}
    assert {
        cell.id for cell in (outcome.cell for outcome in Store(results).outcomes()) if cell.label in cells.ran
    } == damaged
    assert {path: path.read_bytes() for path in results.glob("cells/*/*.parquet")} == whole


def newer_protocol(store: Store) -> None:
    (store.results / "protocol.json").write_text(json.dumps({"protocol": 99}))


def newer_shard(store: Store) -> None:
    path = next(store.results.glob("cells/*/answers.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"schema": "lks-answers", "schema_version": "99"}), path)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("newer", [newer_protocol, newer_shard])
@pytest.mark.parametrize("command", ["grid", "report", "status"])
def test_results_of_a_newer_program_are_refused_and_kept(
    command, newer, recorded, cells, tmp_path, monkeypatch
) -> None:
    monkeypatch.delitem(sys.modules, "reports")
    store = Store(tmp_path / "r")
    put(store, replace(CELL, model="micro-fake"), "FT-M", answers_of(CELL, {}))
    if recorded:
        store.sync()
    newer(store)
    before = {path: path.read_bytes() for path in store.results.glob("cells/*/*")}
    result = lks(command, "--results", store.results)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert (
        line.startswith("error: ") and "99" in line and ("--results" in line or "Update the program" in line)
    )
    assert cells.ran == []
    assert {path: path.read_bytes() for path in store.results.glob("cells/*/*")} == before


def test_one_newer_shard_leaves_the_catalogue_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "r")
    put(store, CELL, "FT-M", answers_of(CELL, {}))
    store.sync()
    put(store, numbered(7), "FT-M", answers_of(numbered(7), {}))
    path = store.results / "cells" / numbered(7).id / "answers.parquet"
    pq.write_table(
        pq.read_table(path).replace_schema_metadata({"schema": "lks-answers", "schema_version": "99"}), path
    )
    with pytest.raises(StoreError, match="version 99"):
        store.sync()
    assert store.query("SELECT cell_id FROM cells") == [(CELL.id,)]
    write_stage(store.results, numbered(7).id, ANSWERS, answers_of(numbered(7), {}))
    write_outcome(
        store.results,
        replace(store.outcomes()[0], cell=numbered(7), shards=(f"cells/{numbered(7).id}/answers.parquet",)),
    )
    assert store.done() == {CELL.id, numbered(7).id}
