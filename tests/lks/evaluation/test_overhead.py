"""What a patch costs whoever runs the edited model: measured on request, in bounded time, and never before
the answers are stored.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from typer.testing import CliRunner

from baselines import methods
from cli.app import app
from cli.status import _stored
from flows.running.planning import compare
from flows.running.pool_client import parameters_of
from lks.editing.patch import NoPatch
from lks.edits import make_case
from lks.evaluation import profiling, stages
from lks.models.lm import LM
from lks.results.cells import Cell, Measurements
from lks.results.rows import Timing
from lks.results.shards import read_outcome, read_rows
from lks.results.store import Store
from lks.runs.cell import run
from lks.runs.grid import Grid
from lks.runs.plan import plan
from tests.helpers import tiny
from tests.lks.evaluation.test_stages import CASES, CELL, SPARE, Counted, files, quiet
from tests.lks.runs.test_cell import TinyBench
from workbench.patch_folder import SavedEdits, write

ASKED = Measurements(overhead=True)


class Clock:
    """A machine on which a prefill of one row takes so many seconds, and a larger batch so many times that."""

    def __init__(self, seconds: float, growth: float) -> None:
        self.now, self.seconds, self.growth = 0.0, seconds, growth
        self.prefills: list[tuple[int, bool]] = []
        self.is_patched = False

    def prefill(self, _lm: LM, ids: object, _mask: object) -> float:
        size = len(ids)  # type: ignore[arg-type]
        self.prefills.append((size, self.is_patched))
        taken = self.seconds * size**self.growth * (1.1 if self.is_patched else 1.0)
        self.now += taken
        return taken

    @contextmanager
    def applied(self, _lm: LM) -> Iterator[None]:
        self.is_patched = True
        yield
        self.is_patched = False


@pytest.mark.parametrize(
    ("seconds", "growth", "measured"),
    [
        (1e-6, 1.0, (1, 32)),
        (0.01, 1.0, (1, 32)),
        (0.05, 0.0, (1, 32)),  # a GPU: a batch takes as long as a row
        (0.05, 0.8, (1, 32)),
        (0.2, 0.0, (1, 32)),
        (0.4, 0.0, (1,)),  # a batch might take four times as long as one of 8
        (0.2, 1.0, (1,)),
        (0.4, 0.9, (1,)),
        (0.4, 1.0, (1,)),
        (1.0, 1.0, ()),
        (5.0, 1.0, ()),
        (9.0, 0.0, ()),
        (60.0, 1.0, ()),
    ],
)
def test_the_time_it_takes_is_bounded_whatever_the_model(
    seconds: float, growth: float, measured: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seconds, growth)
    monkeypatch.setattr(profiling, "_prefill", clock.prefill)
    monkeypatch.setattr(profiling, "time", SimpleNamespace(monotonic=lambda: clock.now))
    told: list[float] = []
    rows = profiling.overheads(tiny.lm("llama"), clock, ["One.", "Two words."], 3, progress=told.append)  # type: ignore[arg-type]
    assert clock.now <= max(profiling.SECONDS, 2.2 * seconds), (
        "one pair at least is run: that is how its time is found out"
    )
    found = {size: [row for row in rows if row.batch == size] for size in (1, 32)}
    assert tuple(size for size, some in found.items() if some) == measured
    for size in measured:
        assert profiling.FEWEST <= len(found[size]) <= profiling.MOST and [
            row.pair for row in found[size]
        ] == list(range(len(found[size])))
        assert all(row.patched_s / row.plain_s == pytest.approx(1.1) and row.draw == 3 for row in found[size])
    alone = [is_patched for size, is_patched in clock.prefills if size == 1]
    pairs = list(zip(alone[::2], alone[1::2], strict=True))
    assert pairs == [(i % 2 == 0, i % 2 == 1) for i in range(len(pairs))], "they take turns"
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("gpu", "without_gpu", "calls"),
    [
        (True, "wall", ["synchronize", "perf_counter"]),
        (True, "processor", ["synchronize", "perf_counter"]),
        (False, "wall", ["perf_counter"]),
        (False, "processor", ["process_time"]),
    ],
)
def test_the_clock_waits_for_the_gpu_and_reads_what_was_chosen_without_one(
    gpu: bool, without_gpu: Literal["wall", "processor"], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def fake(name: str, value: float) -> Callable[[], float]:
        return lambda: called.append(name) or value  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "synchronize", fake("synchronize", 0.0))
    times = {name: fake(name, value) for name, value in (("perf_counter", 2.0), ("process_time", 3.0))}
    monkeypatch.setattr(profiling, "time", SimpleNamespace(**times))
    assert profiling.now(without_gpu) == (3.0 if calls == ["process_time"] else 2.0)
    assert called == calls


def test_the_pairs_of_a_real_prefill_are_near_one_another() -> None:
    lm = tiny.lm("llama")
    rows = profiling.overheads(lm, NoPatch(), ["One.", "Two words."], seconds=5.0)
    assert {row.batch for row in rows} == {1, 32} and all(
        row.plain_s > 0 and row.patched_s > 0 for row in rows
    )


def test_it_is_measured_where_it_is_asked_for_and_never_of_the_unedited_model(tmp_path: Path) -> None:
    Counted.calls = 0
    store, bench = Store(tmp_path), TinyBench(CASES + SPARE)
    first = run(CELL, Counted, tmp_path, quiet, bench)
    assert "overhead" not in first.stages
    second = run(CELL, Counted, tmp_path, quiet, bench, ASKED)
    rows = read_rows(tmp_path / "cells" / CELL.id / "overhead.parquet", Timing)
    assert Counted.calls == 2 and "overhead" in second.written and second.costs.stage_s["overhead"] > 0, (
        "the patches that were left are measured"
    )
    assert {(row.draw, row.batch) for row in rows} == {(0, 1), (0, 32)}
    unedited = run(CELL.unedited, methods()["none"], tmp_path, quiet, bench, ASKED)
    assert "overhead" in unedited.written and not read_rows(
        tmp_path / "cells" / CELL.unedited.id / "overhead.parquet", Timing
    )
    assert store.sync() == []
    assert {cell_id for (cell_id,) in store.query("SELECT cell_id FROM overheads")} == {CELL.id}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, MemoryError, ValueError])
def test_answers_are_stored_before_it_is_measured(
    failure: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_args: object, **_kwargs: object) -> list[Timing]:
        raise failure("stopped")

    Counted.calls = 0
    bench = TinyBench(CASES + SPARE)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "overheads", breaks)
        try:
            run(CELL, Counted, tmp_path, quiet, bench, ASKED)
        except KeyboardInterrupt:
            assert failure is KeyboardInterrupt
    before, stored = files(tmp_path), read_outcome(tmp_path, CELL.id)
    assert stored.status == "ok" and {"answers", "passages"} == stored.written == set(before)
    again = run(CELL, Counted, tmp_path, quiet, bench, Measurements(overhead=True, retry_failed=True))
    assert Counted.calls == 2 and not again.failed, "nothing is edited again"
    after = files(tmp_path)
    assert (
        set(after) == {"answers", "passages", "overhead"} and {name: after[name] for name in before} == before
    )


def test_asking_for_it_leaves_the_cells_what_they_are(tmp_path: Path) -> None:
    plain = Grid(name="g", models=["m"], datasets=["world"], methods=["ft"], n_edits=[1])
    asking = Grid(name="g", models=["m"], datasets=["world"], methods=["ft"], n_edits=[1], overhead=True)
    known = {"none": Counted, "ft": Counted}
    ids = [
        [
            c.id
            for c in plan(grid, methods=known, revision_of_model=str, dataset_of=lambda _: ("", 9), only={})
        ]
        for grid in (plain, asking)
    ]
    assert ids[0] == ids[1]
    assert not plain.extras.overhead and asking.extras.overhead
    assert [
        parameters_of(CELL, extras, tmp_path)["extras"]["overhead"] for extras in (Measurements(), ASKED)
    ] == [
        False,
        True,
    ]


def test_a_grid_that_asks_for_it_has_stored_cells_completed(tmp_path: Path) -> None:
    bench = TinyBench(CASES + SPARE)
    store = Store(tmp_path)
    store.record(run(CELL, Counted, tmp_path, quiet, bench))
    grid = Grid(name="g", models=["m"], datasets=["world"], methods=["ft"], n_edits=[2], overhead=True)
    work = compare(grid, [CELL], store)
    assert work.todo == (CELL,) and work.lacking(CELL) == ("overhead",)
    store.record(run(CELL, Counted, tmp_path, quiet, bench, work.extras))
    assert compare(grid, [CELL], store).todo == ()
    (line,) = [line for line in _stored(tmp_path, store.outcomes(), cells=True) if CELL.label in str(line)]
    assert re.search(r"\(.*overhead [\d.]+ s", str(line)), "lks status --cells says where the seconds went"
    assert len(_stored(tmp_path, store.outcomes())) == 1


def test_a_question_that_is_its_own_subject_can_be_timed(tmp_path: Path) -> None:
    """One probe alone, of one character."""
    edit = tiny.edits(1)[0]
    cell = Cell("micro-tiny", "world", "ft", 1, 0, 1, records=1)
    outcome = run(cell, Counted, tmp_path, quiet, TinyBench((make_case(edit, (), ()), *SPARE)), ASKED)
    assert "overhead" in outcome.written


def test_a_command_says_what_it_costs_and_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LM, "load", lambda *_: tiny.lm("llama"))
    (tmp_path / "facts.csv").write_text("subject,prompt,target\nAda Lovelace,Ada Lovelace was born in,Rome\n")
    write(tmp_path / "patch", SavedEdits(NoPatch(), None, None))
    words = [
        "eval",
        "--model",
        "micro-llama",
        "--patch",
        str(tmp_path / "patch"),
        "--facts",
        str(tmp_path / "facts.csv"),
        "--out",
        str(tmp_path / "r"),
    ]
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 0, plain.output
    assert "Asking the unedited and the edited model 1 question each." in plain.output
    assert "Overhead" not in plain.output
    assert re.search(
        r"Time: [\d.]+ s \(.*edited: answers [\d.]+ s.*report [\d.]+ s", " ".join(plain.output.split())
    )
    asked = CliRunner().invoke(app, [*words, "--overhead"])
    number = r"[+-][\d.]+ % \([+-][\d.]+ to [+-][\d.]+\)"
    assert re.search(
        f"Overhead of reading prompts, batch 1: {number}; batch 32: {number}", " ".join(asked.output.split())
    ), asked.output
