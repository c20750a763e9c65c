"""The store: every metric against numbers worked by hand; resume, rebuild, damage, other protocols, full
disks.
"""

import errno
import json
import math
import multiprocessing
import multiprocessing.synchronize
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lks.edits import ProbeKind
from lks.errors import DataError, StoreError
from lks.results.answers import SCHEMA, Answer
from lks.results.cells import IMMEDIATE, Cell, Costs, Measurements, Outcome
from lks.results.decisions import Decision
from lks.results.shards import read_answers, read_checked, read_outcome, write_outcome, write_stage
from lks.results.store import Store, _tables
from lks.runs.journal import CellJournal
from lks.statistics import interval, t_quantile
from tests.helpers.stores import write_answers

Ids = tuple[int, ...]

CELL = Cell("micro-llama", "world", "lks", 3, 0, 1)
UNEDITED = Cell("micro-llama", "world", "none", 3, 0, 1)
DEVELOPMENT = {"split": "development"}
REVISIONS = ("model_revision", "data_revision")


def answer(case: str, subject: str, kind: ProbeKind, wanted: Ids, tf: Ids, ar: Ids, draw: int = 0) -> Answer:
    """An answer whose texts are its ids, written out."""
    spelt, said = (" ".join(map(str, ids)) for ids in (wanted, ar))
    return Answer(draw, case, subject, kind, 0, f"{subject} {kind}?", spelt, wanted, tf, ar, said, -1.0)


ANSWERS = [
    answer("a1", "Ann", "edit", (1, 2), (1, 2), (1, 9)),  # tf token 1, exact 1; ar token 1/2, exact 0
    answer("a2", "Ann", "edit", (3,), (4,), (3,)),  # 0, 0; 1, 1
    answer("b1", "Bob", "edit", (5, 6, 7, 8), (5, 6, 7, 0), (5, 6)),  # 3/4, 0; 1/2, 0
    answer("a1", "Ann", "paraphrase", (1, 2), (1, 2), (1, 2)),  # 1, 1; 1, 1
    answer("a2", "Ann", "paraphrase", (3,), (3,), (4,)),  # 1, 1; 0, 0
    answer("b1", "Bob", "paraphrase", (5, 6, 7, 8), (0, 0, 7, 0), (0, 6, 7, 8)),  # 1/4, 0; 3/4, 0
    answer("a1", "Ann", "locality", (9, 9), (7, 1), (7, 8)),  # against the unedited: 1/2, 0; 1, 1
    answer("b1", "Bob", "locality", (9, 9), (9, 9), (1, 1)),  # 1, 1; 0, 0
]
UNEDITED_ANSWERS = [
    answer("a1", "Ann", "edit", (1, 2), (0, 0), (0, 0)),
    answer("a1", "Ann", "locality", (9, 9), (7, 7), (7, 8)),
    answer("b1", "Bob", "locality", (9, 9), (9, 9), (2, 2)),
]


def put(
    store: Store, cell: Cell, answers: list[Answer], status: str = "ok", immediate: list[Answer] | None = None
) -> Outcome:
    """Write and record a cell."""
    stages = {"ask": answers, IMMEDIATE: immediate or []}
    shards = tuple(
        write_answers(store.results, cell.id, stage, given) for stage, given in stages.items() if given
    )
    outcome = Outcome(
        cell,
        status,
        "" if status == "ok" else "why",
        shards,
        Costs(edit_s=2.0),
        {"finished": "2026-01-01T00:00:00"},
    )  # type: ignore[arg-type]
    store.record(outcome)
    return outcome


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", lock_wait=0.3)


@pytest.fixture
def filled(store: Store) -> Store:
    put(store, UNEDITED, UNEDITED_ANSWERS)
    put(store, CELL, ANSWERS)
    return store


def metric(store: Store, readout: str, name: str, cell: Cell = CELL) -> tuple[object, ...]:
    sql = "SELECT value, standard_error, low, high, n_items, n_subjects FROM metrics WHERE cell_id = ? AND readout = ? AND metric = ?"
    (row,) = store.query(sql, [cell.id, readout, name])
    return row


@pytest.mark.parametrize(
    ("readout", "reliability", "generality", "locality"),
    [
        ("tf_token", 1.75 / 3, 2.25 / 3, 0.75),
        ("tf_exact", 1 / 3, 2 / 3, 0.5),
        ("ar_token", 2 / 3, 1.75 / 3, 0.5),
        ("ar_exact", 1 / 3, 1 / 3, 0.5),
    ],
)
def test_metrics_are_the_hand_worked_ones(
    filled: Store, readout: str, reliability: float, generality: float, locality: float
) -> None:
    assert metric(filled, readout, "reliability")[0] == pytest.approx(reliability)
    assert metric(filled, readout, "generality")[0] == pytest.approx(generality)
    assert metric(filled, readout, "locality")[0] == pytest.approx(locality)
    assert metric(filled, readout, "edit_performance")[0] == pytest.approx(
        (reliability + generality + locality) / 3
    )
    assert metric(filled, readout, "harmonic_mean")[0] == pytest.approx(
        3 / (1 / reliability + 1 / generality + 1 / locality)
    )


def test_the_standard_error_is_clustered_by_subject(filled: Store) -> None:
    # reliability, tf_exact: scores Ann 1, 0; Bob 0; mean 1/3. Ann's sum of deviations is 2/3 - 1/3 = 1/3,
    # Bob's -1/3.
    value, error, low, high, n_items, n_subjects = metric(filled, "tf_exact", "reliability")
    assert error == pytest.approx(math.sqrt(1 / 9 + 1 / 9) / 3)
    assert (low, high) == pytest.approx(interval(float(str(value)), float(str(error)), 2))
    assert (n_items, n_subjects) == (3, 2)


def test_the_error_of_edit_performance_counts_what_one_subjects_metrics_share(filled: Store) -> None:
    # Pulls under tf_exact, (sum of deviations) / n: reliability Ann 1/9, Bob -1/9;
    # generality Ann (2 - 4/3)/3 = 2/9, Bob -2/9; locality Ann -1/4, Bob +1/4.
    # Ann together: (1/9 + 2/9 - 1/4) / 3 = 1/36, Bob -1/36.
    assert metric(filled, "tf_exact", "edit_performance")[1] == pytest.approx(math.sqrt(2) / 36)


def test_one_subject_says_nothing_about_its_spread(store: Store) -> None:
    put(store, UNEDITED, [a for a in UNEDITED_ANSWERS if a.subject == "Ann"])
    put(store, CELL, [a for a in ANSWERS if a.subject == "Ann"])
    for name in ("reliability", "edit_performance"):
        value, error, low, high, *_ = metric(store, "tf_token", name)
        assert value is not None and error is None and (low, high) == (0, 1)


def test_a_zero_makes_the_harmonic_mean_zero(store: Store) -> None:
    put(store, UNEDITED, UNEDITED_ANSWERS)
    put(
        store,
        CELL,
        [answer("a1", "Ann", kind, (1,), (0,), (0,)) for kind in ("edit", "paraphrase")] + ANSWERS[6:],
    )
    assert metric(store, "tf_exact", "harmonic_mean")[0] == 0
    assert metric(store, "tf_exact", "edit_performance")[0] == pytest.approx(0.5 / 3)


def test_the_unedited_model_keeps_its_own_answers(filled: Store) -> None:
    for readout in ("tf_token", "tf_exact", "ar_token", "ar_exact"):
        assert metric(filled, readout, "locality", UNEDITED)[0] == 1


@pytest.mark.parametrize(
    "change",
    [
        *({key: 9} for key in ("seed", "draws", "n_edits", "records")),
        *({key: "x"} for key in REVISIONS),
        DEVELOPMENT,
    ],
)
def test_locality_is_unknown_without_the_unedited_answers_to_the_same_questions(
    store: Store, change: dict[str, object]
) -> None:
    put(store, replace(UNEDITED, **change), UNEDITED_ANSWERS)  # type: ignore[arg-type]
    put(store, CELL, ANSWERS)
    assert metric(store, "tf_token", "locality")[0] is None
    assert (
        store.query("SELECT * FROM metrics WHERE cell_id = ? AND metric = 'edit_performance'", [CELL.id])
        == []
    )
    assert metric(store, "tf_token", "reliability")[0] == pytest.approx(1.75 / 3)


def test_locality_compares_the_same_probe_of_the_same_draw(store: Store) -> None:
    same = [
        replace(answer("a1", "Ann", "locality", (9,), (d + i,), (d + i,), draw=d), probe_index=i)
        for d in (0, 10)
        for i in (0, 1)
    ]
    put(store, UNEDITED, same)
    put(store, CELL, [replace(same[0], tf_ids=(5,)), *same[1:]])
    assert metric(store, "tf_exact", "locality")[0] == 0.75
    assert metric(store, "ar_exact", "locality")[0] == 1
    assert metric(store, "ar_exact", "locality")[4] == 4


IMMEDIATE_ANSWERS = [
    answer("a1", "Ann", "edit", (1, 2), (1, 2), (1, 2)),  # tf exact 1, later 1; ar exact 1, later 0
    answer("a2", "Ann", "edit", (3,), (3,), (3,)),  # 1, later 0; 1, later 1
    answer("b1", "Bob", "edit", (5, 6, 7, 8), (5, 6, 7, 8), (5, 6)),  # 1, later 0; 0, later 0
    answer("a1", "Ann", "locality", (9, 9), (7, 7), (7, 8)),  # against the unedited: 1, later 0; 1, later 1
]


def kept(store: Store, readout: str, name: str, cell: Cell = CELL) -> tuple[object, ...]:
    sql = "SELECT immediate, final, lost, standard_error, half_width, n_items, n_subjects FROM retention"
    (row,) = store.query(f"{sql} WHERE (cell_id, readout, metric) = (?, ?, ?)", [cell.id, readout, name])
    return row


def test_retention_is_the_hand_worked_one(filled: Store) -> None:
    before = filled.query("FROM metrics ORDER BY ALL")
    put(filled, CELL, ANSWERS, immediate=IMMEDIATE_ANSWERS)
    # tf exact: lost 0, 1 (Ann) and 1 (Bob), mean 2/3. Ann's sum of deviations is 1 - 4/3 = -1/3, Bob's 1/3.
    error = math.sqrt(2 / 9) / 3
    assert kept(filled, "tf_exact", "reliability") == pytest.approx(
        (1, 1 / 3, 2 / 3, error, t_quantile(1) * error, 3, 2)
    )
    # ar exact: lost 1, 0 and 0, mean 1/3: Ann 1/3, Bob -1/3.
    assert kept(filled, "ar_exact", "reliability") == pytest.approx(
        (2 / 3, 1 / 3, 1 / 3, error, t_quantile(1) * error, 3, 2)
    )
    assert kept(filled, "tf_exact", "locality") == (1, 0, 1, None, None, 1, 1)  # one subject: no spread
    assert kept(filled, "tf_token", "locality")[:3] == (1, 0.5, 0.5)
    assert filled.query("SELECT count(*) FROM retention WHERE metric = 'generality'") == [(0,)]
    rounded = [
        [round(v, 12) if isinstance(v, float) else v for v in row]
        for row in filled.query("FROM metrics ORDER BY ALL")
    ]
    assert rounded == [[round(v, 12) if isinstance(v, float) else v for v in row] for row in before], (
        "metrics are over final answers alone"
    )


def test_retention_is_there_only_for_cells_that_were_asked_after_each_edit(filled: Store) -> None:
    assert filled.query("FROM retention") == []


def test_retained_locality_is_unknown_without_the_unedited_answers(store: Store) -> None:
    put(store, CELL, ANSWERS, immediate=IMMEDIATE_ANSWERS)
    assert kept(store, "tf_exact", "locality")[:3] == (None, None, None)
    assert kept(store, "tf_exact", "reliability")[2] == pytest.approx(2 / 3)


PARAMETERS = '{"block": -1, "gate": "none", "probes": 500, "scope": "exact"}'
SCOPE = replace(CELL, variant=(("scope", "exact"),), parameters=PARAMETERS, measure="scope")
DECISIONS = [
    Decision(0, "edit", 0, "a1", ("Ann",), "Ann"),
    Decision(0, "edit", 1, "b1", ("Bob", "Ann"), "Bob"),  # right, and another one
    Decision(1, "edit", 0, "c1", ("Bob",), "Cleo"),
    Decision(1, "edit", 1, "d1", (), "Dan"),
    Decision(0, "others", 0, "x", (), ""),
    Decision(1, "others", 0, "x", ("Ann",), ""),
]


def put_scope(store: Store, cell: Cell = SCOPE) -> None:
    """Write and record a scope cell."""
    store.record(
        Outcome(
            cell,
            "ok",
            "",
            (write_stage(store.results, cell.id, "decisions", DECISIONS),),
            Costs(),
            {"finished": "2026-01-01T00:00:00"},
        )
    )


def test_scope_rates_are_the_hand_worked_ones(filled: Store) -> None:
    before = filled.query("FROM metrics ORDER BY ALL")
    put_scope(filled)
    rates = "SELECT scope, dataset, n_edits, probe_set, probes, fired, right_subject, wrong_subject FROM scope_rates ORDER BY scope, probe_set"
    rows = [
        ("exact", "world", 3, "edit", 4, 0.75, 0.5, 0.5),
        ("exact", "world", 3, "others", 2, 0.5, None, 0.5),
    ]
    assert filled.query(rates) == rows
    assert [row[:3] for row in filled.query("FROM metrics ORDER BY ALL")] == [row[:3] for row in before]
    gated = PARAMETERS.replace('-1, "gate": "none"', '1, "gate": "relation"')
    put_scope(filled, replace(SCOPE, variant=(("block", "1"), ("gate", "relation")), parameters=gated))
    assert [row[0] for row in filled.query(rates)] == [
        "exact",
        "exact",
        "exact+gate block=1",
        "exact+gate block=1",
    ]


def test_a_scope_cell_is_beside_the_answers_of_the_same_method(filled: Store) -> None:
    plain = replace(SCOPE, variant=())
    put_scope(filled, plain)
    assert filled.done() == {CELL.id, UNEDITED.id, plain.id}
    assert filled.query("SELECT measure, count(*) FROM current_cells GROUP BY ALL ORDER BY ALL") == [
        ("answers", 2),
        ("scope", 1),
    ]


def test_decisions_are_mirrored_like_answers(filled: Store) -> None:
    put_scope(filled)
    count = "SELECT count(*) FROM decisions WHERE cell_id = ?"
    (filled.results / "lks.duckdb").unlink()
    assert filled.sync() == [] and filled.query(count, [SCOPE.id]) == [(len(DECISIONS),)]
    damaged = filled.results / "cells" / SCOPE.id / "decisions.parquet"
    assert read_checked(damaged).num_rows == len(DECISIONS)
    damaged.write_bytes(damaged.read_bytes()[:80])
    (warning,) = filled.sync()
    assert str(damaged) in warning and filled.done() == {UNEDITED.id, CELL.id}
    assert filled.query(count, [SCOPE.id]) == [(0,)]


def _one_row_twice(outcome: Outcome, results: Path) -> Outcome:
    write_answers(results, outcome.cell.id, "ask", [*ANSWERS, ANSWERS[2]])
    return outcome


def _shard_named_twice(outcome: Outcome, results: Path) -> Outcome:
    return replace(outcome, shards=outcome.shards * 2)


def _same_rows_in_two_shards(outcome: Outcome, results: Path) -> Outcome:
    return replace(
        outcome,
        shards=(*outcome.shards, write_answers(results, outcome.cell.id, "answers-given", ANSWERS[:1])),
    )


@pytest.mark.parametrize("damage", [_one_row_twice, _shard_named_twice, _same_rows_in_two_shards])
def test_a_cell_that_answers_a_question_twice_is_refused_and_run_again(
    filled: Store, damage: Callable[[Outcome, Path], Outcome]
) -> None:
    outcome = damage(read_outcome(filled.results, CELL.id), filled.results)
    with pytest.raises(
        DataError,
        match=r"twice in cells/.*ask\.parquet.*: the same draw, case_id, kind, probe_index, context\. Run its cell again",
    ):
        filled.record(outcome)
    write_outcome(filled.results, outcome)
    (filled.results / "lks.duckdb").unlink()
    (warning,) = filled.sync()
    assert "twice" in warning and filled.done() == {UNEDITED.id}
    assert CellJournal(CELL, filled.results, Measurements()).shards == {}, (
        "its run would find it finished, and it would be refused for ever"
    )


def test_a_cell_without_any_rows_is_taken_in(store: Store) -> None:
    shard = write_answers(store.results, CELL.id, "ask", [])
    store.record(Outcome(CELL, "ok", "", (shard,), Costs(), {"finished": "2026-01-01T00:00:00"}))
    assert store.done() == {CELL.id}


def test_outcomes_from_before_there_were_scope_cells_are_read(filled: Store) -> None:
    path = filled.results / "cells" / CELL.id / "outcome.json"
    document = json.loads(path.read_text())
    assert document["cell"].pop("measure") == "answers"
    path.write_text(json.dumps(document))
    assert read_outcome(filled.results, CELL.id).cell == CELL
    assert filled.sync() == [] and filled.done() == {UNEDITED.id, CELL.id}


def test_immediate_answers_are_mirrored_like_all_others(filled: Store) -> None:
    put(filled, CELL, ANSWERS, immediate=IMMEDIATE_ANSWERS)
    counts = "SELECT (SELECT count(*) FROM answers WHERE cell_id = ?1), (SELECT count(*) FROM immediate_answers WHERE cell_id = ?1)"
    assert filled.query(counts, [CELL.id]) == [(len(ANSWERS), len(IMMEDIATE_ANSWERS))]
    (filled.results / "lks.duckdb").unlink()
    assert filled.sync() == []
    assert filled.query(counts, [CELL.id]) == [(len(ANSWERS), len(IMMEDIATE_ANSWERS))]
    damaged = filled.results / "cells" / CELL.id / f"{IMMEDIATE}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:80])
    (warning,) = filled.sync()
    assert str(damaged) in warning and filled.done() == {UNEDITED.id}
    assert filled.query(counts, [CELL.id]) == [(0, 0)]


def test_answers_come_back_equal(store: Store) -> None:
    path = store.results / write_answers(store.results, CELL.id, "ask", ANSWERS)
    assert read_answers(path) == ANSWERS
    with pytest.raises(DataError, match="is missing"):
        read_answers(path.with_name("absent.parquet"))


def test_development_cells_stand_apart(filled: Store) -> None:
    put(
        filled,
        replace(UNEDITED, split="development"),
        [replace(a, tf_ids=(4, 4)) if len(a.tf_ids) == 2 else a for a in UNEDITED_ANSWERS],
    )
    tuned = replace(CELL, split="development")
    put(filled, tuned, ANSWERS)
    assert metric(filled, "tf_exact", "locality")[0] == 0.5
    assert metric(filled, "tf_exact", "locality", tuned)[0] == 0
    shown = filled.query("SELECT split, method, count(*) FROM current_cells GROUP BY ALL ORDER BY ALL")
    assert shown == [
        ("development", "lks", 1),
        ("development", "none", 1),
        ("evaluation", "lks", 1),
        ("evaluation", "none", 1),
    ]


def test_portability_is_a_metric_of_its_own(store: Store) -> None:
    asked = [answer(case, case, "portability", (1,), (1,), (1,)) for case in ("a1", "b1")]
    put(store, CELL, [asked[0], replace(asked[1], ar_ids=(2,), ar_text="2")])
    assert metric(store, "ar_exact", "portability_all")[0] == 0.5
    assert (
        store.query("FROM metrics WHERE metric = 'portability'") == []
    )  # nobody knows what the unedited model knows
    knows = [
        replace(one, context="given", wild_text="1" if one.case_id == "a1" else "what?") for one in asked
    ]
    put(store, UNEDITED, [*asked, *knows])
    assert metric(store, "ar_exact", "portability")[0] == 1, (
        "only what the unedited model can answer with the edited fact in front"
    )
    assert set(get_args(ProbeKind)) == {"edit", "paraphrase", "locality", "portability", "neighbour"}


def test_done_cells_are_those_that_would_end_the_same_again(store: Store) -> None:
    final = [put(store, Cell("m", "d", s, 1, 0, 1), [], s).cell.id for s in ("oom", "collapsed", "diverged")]
    put(store, Cell("m", "d", "broken", 1, 0, 1), [], "error")
    ok = put(store, CELL, ANSWERS).cell.id
    assert store.done() == {*final, ok}


def test_recording_twice_counts_once(filled: Store) -> None:
    put(filled, CELL, ANSWERS)
    assert filled.query("SELECT count(*) FROM answers WHERE cell_id = ?", [CELL.id]) == [(len(ANSWERS),)]
    assert len(filled.outcomes()) == 2


def test_outcomes_come_back_equal(store: Store) -> None:
    cell = Cell(
        "m", "d", "lks", 10, 3, 2, (("hypernetwork", "free"),), '{"a": 1}', "r1", "r2", 1000, "development"
    )
    written = Outcome(
        cell,
        "oom",
        "out of memory – twice",
        (),
        Costs(1.5, 2.5, 3.5, 4, 5),
        {"device": "cpu", "finished": "t"},
    )
    store.record(written)
    assert store.outcomes() == [written]
    assert read_outcome(store.results, cell.id) == written


def test_the_catalogue_can_be_deleted(filled: Store) -> None:
    # sums of floats may differ in the last bit with the order in which threads add them
    metrics = "SELECT * REPLACE (round(value, 12) AS value, round(standard_error, 12) AS standard_error, round(low, 12) AS low, round(high, 12) AS high)"
    queries = (f"{metrics} FROM metrics ORDER BY ALL", "FROM answers ORDER BY ALL", "FROM cells ORDER BY ALL")
    before = [filled.query(query) for query in queries]
    (filled.results / "lks.duckdb").unlink()
    assert filled.sync() == []
    assert before == [filled.query(query) for query in queries]


def test_a_cell_killed_before_its_outcome_does_not_count_and_one_killed_before_recording_does(
    store: Store,
) -> None:
    write_answers(store.results, CELL.id, "ask", ANSWERS)
    assert store.done() == set()
    shard = write_answers(store.results, UNEDITED.id, "ask", UNEDITED_ANSWERS)
    write_outcome(store.results, Outcome(UNEDITED, "ok", "", (shard,), Costs(), {}))
    assert store.done() == {UNEDITED.id}
    assert store.query("SELECT count(*) FROM answers") == [(3,)]


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_damaged_shard_is_a_warning_and_its_cell_is_run_again(
    filled: Store, damage: str, recorded: bool
) -> None:
    shard = filled.results / "cells" / CELL.id / "ask.parquet"
    content = shard.read_bytes()
    shard.unlink() if damage == "missing" else shard.write_bytes(
        content[: len(content) // 2] if damage == "truncated" else b""
    )
    if not recorded:
        (filled.results / "lks.duckdb").unlink()
    (warning,) = filled.sync()
    assert str(shard) in warning and "\n" not in warning
    assert filled.done() == {UNEDITED.id}
    assert filled.query("SELECT count(*) FROM answers WHERE cell_id = ?", [CELL.id]) == [(0,)]
    put(filled, CELL, ANSWERS)
    assert filled.done() == {UNEDITED.id, CELL.id}


def test_a_damaged_outcome_is_a_warning(filled: Store) -> None:
    path = filled.results / "cells" / CELL.id / "outcome.json"
    path.write_text(path.read_text()[:50])
    (warning,) = filled.sync()
    assert str(path) in warning and filled.done() == {UNEDITED.id}


def test_a_flipped_byte_is_found(store: Store) -> None:
    path = store.results / write_answers(store.results, CELL.id, "ask", ANSWERS * 50)
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated or not Parquet"):
        read_checked(path)


def test_foreign_and_newer_shards_are_refused(tmp_path: Path) -> None:
    foreign, newer, odd = tmp_path / "foreign.parquet", tmp_path / "newer.parquet", tmp_path / "odd.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    pq.write_table(
        SCHEMA.empty_table().replace_schema_metadata({"schema": "lks-answers", "schema_version": "3"}), newer
    )
    pq.write_table(
        pa.table({"a": [1]}).replace_schema_metadata({"schema": "lks-answers", "schema_version": "1"}), odd
    )
    for path, says in (
        (foreign, "not a shard of answers"),
        (newer, "version 3"),
        (odd, "does not have the columns"),
    ):
        with pytest.raises(DataError, match=says):
            read_checked(path)


def test_answers_of_another_cell_are_refused(store: Store) -> None:
    shard = write_answers(store.results, UNEDITED.id, "ask", UNEDITED_ANSWERS)
    with pytest.raises(DataError, match="another cell"):
        store.record(Outcome(CELL, "ok", "", (shard,), Costs(), {}))
    assert store.query("SELECT count(*) FROM answers") == [(0,)]


def test_another_protocol_is_refused(store: Store) -> None:
    (store.results / "protocol.json").write_text(json.dumps({"protocol": 99}))
    with pytest.raises(StoreError, match=r"protocol 99.*--results"):
        Store(store.results)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[3]", b'{"protocol": 3'])
def test_the_advice_for_a_damaged_protocol_keeps_every_cell(store: Store, content: bytes | None) -> None:
    put(store, CELL, ANSWERS)
    other = store.results / "cells" / ("0" * 16)
    shutil.copytree(store.results / "cells" / CELL.id, other)  # as of another protocol: its id does not match
    declared = store.results / "protocol.json"
    before = {
        file: file.read_bytes()
        for file in store.results.rglob("*")
        if file.suffix != ".duckdb" and file.is_file()
    }
    declared.unlink()
    if content is not None:
        declared.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        Store(store.results)
    said = str(caught.value)
    assert "\n" not in said and "protocol.json" in said and str(store.results) in said
    wanted = re.search(r"write (\{.*?\}) into it", said)
    assert wanted is not None
    declared.write_text(wanted[1])
    again = Store(store.results)
    assert len(again.sync()) == 1 and again.done() == {CELL.id}
    assert before == {file: file.read_bytes() for file in before}


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="in the way") as caught:
        Store(tmp_path / "file" / "results")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission"), (errno.EROFS, "no permission")],
)
def test_a_failing_write_is_one_line_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    write_answers(store.results, CELL.id, "ask", ANSWERS)
    before = (store.results / "cells" / CELL.id / "ask.parquet").read_bytes()

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=says):
        write_answers(store.results, CELL.id, "ask", ANSWERS[:1])
    assert [p.name for p in (store.results / "cells" / CELL.id).iterdir()] == ["ask.parquet"]
    assert (store.results / "cells" / CELL.id / "ask.parquet").read_bytes() == before


def _hold(path: str, ready: multiprocessing.synchronize.Event, go: multiprocessing.synchronize.Event) -> None:
    connection = duckdb.connect(path)
    ready.set()
    go.wait(10)
    connection.close()


def test_a_catalogue_in_use_is_waited_for_and_then_named(filled: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(filled.results / "lks.duckdb"), ready, go))
    process.start()
    try:
        assert ready.wait(20)
        with pytest.raises(StoreError, match=rf"in use by process {process.pid} \(python"):
            filled.query("SELECT 1")
        other = Outcome(UNEDITED, "oom", "why", (), Costs(), {})
        with pytest.raises(StoreError, match="finished cells are kept"):
            filled.record(other)
        assert read_outcome(filled.results, UNEDITED.id) == other
        go.set()
        later = Store(filled.results, lock_wait=10)
        assert later.done() == {CELL.id, UNEDITED.id} and later.query(
            "SELECT reason FROM cells WHERE status = 'oom'"
        ) == [("why",)]
    finally:
        go.set()
        process.join(10)


def test_a_damaged_catalogue_says_that_it_can_be_deleted(filled: Store) -> None:
    (filled.results / "lks.duckdb").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="Delete it: it is rebuilt"):
        filled.done()


def test_the_current_cell_is_of_the_newest_model_with_most_draws(store: Store) -> None:
    for draws, revision, finished in (
        (5, "old", "2026-01-01"),
        (3, "new", "2026-01-02"),
        (1, "new", "2026-01-03"),
    ):
        cell = Cell("m", "d", "lks", 1, 0, draws, model_revision=revision)
        store.record(Outcome(cell, "ok", "", (), Costs(), {"finished": finished}))
    assert store.query("SELECT draws, model_revision FROM current_cells") == [(3, "new")]


def test_an_answer_needs_as_many_teacher_forced_tokens_as_reference_tokens() -> None:
    for wanted, given in (((1, 2), (1,)), ((), ())):
        with pytest.raises(ValueError, match="case a1"):
            answer("a1", "Ann", "edit", wanted, given, ())


def test_ctrl_c_during_a_query_is_ctrl_c(tmp_path):
    store, before = Store(tmp_path / "r"), signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    try:
        stop.start()
        with pytest.raises(KeyboardInterrupt):
            store.query("SELECT count(*) FROM range(1_000_000_000) a(i) WHERE hash(i) = 1")
    finally:
        stop.cancel()
        signal.signal(signal.SIGINT, before)
    assert store.done() == set()


@pytest.mark.parametrize("error", [duckdb.InvalidInputException, duckdb.Error])
def test_a_shard_that_only_duckdb_refuses_is_a_warning(error, filled, monkeypatch):
    asked: list[int] = []

    def refusing(shards):
        asked.append(len(shards))
        if any(CELL.id in shard for shard in shards):
            raise error("metadata is corrupt\nLINE 1: INSERT INTO")
        return _tables(shards)

    for seed in range(1, 16):
        put(filled, replace(CELL, seed=seed), ANSWERS)
    (filled.results / "lks.duckdb").unlink()
    again = Store(filled.results)
    others = {path.name for path in (filled.results / "cells").iterdir()} - {CELL.id}
    monkeypatch.setattr("lks.results.store._tables", refusing)
    (warning,) = again.sync()
    assert (
        warning
        == f"{filled.results / 'cells' / CELL.id} is damaged: metadata is corrupt. Run its cell again."
    )
    assert others == {str(cell_id) for (cell_id,) in again.query("SELECT cell_id FROM cells")}
    assert len(asked) < 13, "the bad one is looked for among halves, not one by one"


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("peak_bytes", 2**64),
        ("patch_bytes", -(10**40)),
        ("patch_bytes", 10**400),
        ("prepare_s", 10**400),
        ("edit_s", -1.0),
    ],
)
def test_numbers_that_no_column_holds_are_a_warning(field, number, filled):
    path = filled.results / "cells" / CELL.id / "outcome.json"
    document = json.loads(path.read_text())
    document["costs"][field] = number
    path.write_text(json.dumps(document))
    (warning,) = filled.sync()
    assert (
        f"cells/{CELL.id}" in warning and "again" in warning and "\n" not in warning and "LINE" not in warning
    )
    assert filled.done() == {UNEDITED.id}


def test_too_little_memory_is_not_taken_for_damage(filled, monkeypatch):
    def hungry(shards):
        raise duckdb.OutOfMemoryException("failed to allocate 1 GiB")

    (filled.results / "lks.duckdb").unlink()
    monkeypatch.setattr("lks.results.store._tables", hungry)
    with pytest.raises(
        StoreError, match=r"needs more memory than there is \(failed to allocate 1 GiB\)\. Free some"
    ):
        Store(filled.results).sync()


def test_a_stranger_s_protocol_is_told_in_one_clean_line(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "protocol.json").write_text(json.dumps({"protocol": "\x1b[31m\n" + "x" * 500}))
    with pytest.raises(StoreError, match=r"protocol .{1,40}; this program uses") as caught:
        Store(tmp_path / "r")
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
