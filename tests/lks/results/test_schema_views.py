"""Views over stored rows against small examples worked by hand; `test_store.py` has the teacher-forced and
generated metrics.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lks.edits import ProbeKind
from lks.results.ability_rows import AbilityRow
from lks.results.answers import Answer
from lks.results.cells import Cell, Costs, Outcome
from lks.results.judge_rows import Judgement
from lks.results.rows import Passage, Timing
from lks.results.shards import write_outcome, write_stage
from lks.results.store import Store
from lks.statistics import interval, t_quantile

CELL = Cell("micro-llama", "world", "lks", 3, 0, 2)
NONE = replace(CELL, method="none")


def put(store: Store, cell: Cell, costs: Costs | None = None, **stages: Sequence[object]) -> None:
    """Write and record a cell; "_" in a stage's name stands for "-"."""
    shards = tuple(
        write_stage(store.results, cell.id, stage.replace("_", "-"), rows) for stage, rows in stages.items()
    )
    store.record(Outcome(cell, "ok", "", shards, costs or Costs(), {"finished": "2026-01-01T00:00:00"}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def answer(
    case: str, subject: str, kind: ProbeKind, text: str | None = None, index: int = 0, **more: object
) -> Answer:
    """An answer "Paris" of one token, said right under teacher forcing."""
    wanted = str(more.pop("answer", "Paris"))
    made = Answer(0, case, subject, kind, index, "?", wanted, (1,), (1,), (1,), "", -1.0, wild_text=text)
    return replace(made, **more)  # type: ignore[arg-type]


Row = tuple[object, ...]


def metrics(store: Store, cell: Cell = CELL) -> defaultdict[str, Row]:
    """Value, standard error, items and subjects by "metric, readout"; () where there is no such row."""
    sql = "SELECT metric || ', ' || readout, value, standard_error, n_items, n_subjects FROM metrics WHERE cell_id = ?"
    return defaultdict(tuple, {str(name): tuple(row) for name, *row in store.query(sql, [cell.id])})


def test_free_answers_are_right_by_their_words_and_stay_by_the_unedited_models(store: Store) -> None:
    said = [
        answer("a", "Ann", "edit", "paris.\nMore"),  # right
        answer("b", "Bob", "edit", "Paris, France"),  # wrong
        answer("a", "Ann", "paraphrase", "The City of Light", accepted=("City of Light",)),  # right
        answer("b", "Bob", "paraphrase", ""),  # wrong
        answer(
            "a", "Ann", "locality", "Oslo. It is", answer="Rome"
        ),  # wrong, but what the unedited model says
        answer("b", "Bob", "locality", "Rome", answer="Rome"),  # right, but not what the unedited model says
        answer("b", "Bob", "locality", "Lima", index=1, answer="Rome"),  # wrong as before
    ]
    before = [
        answer("a", "Ann", "locality", "oslo"),
        answer("b", "Bob", "locality", "Romeo"),
        answer("b", "Bob", "locality", "lima", index=1),
    ]
    put(store, NONE, answers=before)
    put(store, CELL, answers=said)
    # one subject right and one wrong: sum of deviations 1/2 and -1/2
    half = (0.5, pytest.approx(math.sqrt(1 / 2) / 2), 2, 2)
    found = metrics(store)
    assert found["reliability, wild"] == found["generality, wild"] == half
    # Ann 1, Bob 0 and 1: mean 2/3, deviations 1/3 and -1/3
    assert found["locality, wild"] == (pytest.approx(2 / 3), pytest.approx(math.sqrt(2) / 9), 3, 2)
    assert found["edit_performance, wild"][0] == pytest.approx(5 / 9)
    assert metrics(store, NONE)["locality, wild"][0] == 1


def test_free_locality_is_unknown_where_the_unedited_model_was_not_asked(store: Store) -> None:
    put(store, CELL, answers=[answer("a", "Ann", "edit", "Paris"), answer("a", "Ann", "locality", "Oslo")])
    found = metrics(store)
    assert found["reliability, wild"][0] == 1 and found["locality, wild"][0] is None
    put(store, CELL, answers=[answer("a", "Ann", "edit"), answer("a", "Ann", "locality")])
    found = metrics(store)
    assert found["reliability, wild"] == found["locality, wild"] == ()  # nothing was generated
    assert found["reliability, tf_exact"][0] == 1


def test_likelihood_is_taken_per_token(store: Store) -> None:
    two = {"answer_ids": (1, 2), "tf_ids": (1, 2), "ar_ids": (1, 2)}
    said = [
        # -1.0 over two tokens against -0.6 over one: -0.5 > -0.6 though the sum is smaller
        answer("a", "Ann", "edit", rival="Oslo", rival_tokens=1, rival_logprob=-0.6, **two),
        # -1.0 over one token against -1.5 over two: -1 < -0.75 though the sum is larger
        answer("b", "Bob", "edit", rival="New York", rival_tokens=2, rival_logprob=-1.5),
        answer("d", "Dan", "edit", rival="Oslo", rival_tokens=1, rival_logprob=-0.6, **two),
        answer("c", "Cleo", "edit"),  # no rival: it does not count
        answer("a", "Ann", "paraphrase", rival="Oslo", rival_tokens=1, rival_logprob=-9.0),
        answer(
            "a",
            "Ann",
            "neighbour",
            rival="Paris",
            rival_tokens=1,
            rival_logprob=-1.0,
            stratum="same_relation",
        ),  # a tie is no win
        answer(
            "b",
            "Bob",
            "neighbour",
            rival="Paris",
            rival_tokens=1,
            rival_logprob=-0.6,
            stratum="same_relation",
            **two,
        ),
        answer("b", "Bob", "neighbour", index=1, stratum="far"),
        answer("a", "Ann", "locality", rival="Paris", rival_tokens=1, rival_logprob=-0.1),
    ]
    put(store, NONE, answers=[])
    put(store, CELL, answers=said)
    found = metrics(store)
    assert found["reliability, likelihood"][::2] == (pytest.approx(2 / 3), 3)
    assert found["generality, likelihood"][::2] == (1, 1)
    assert found["same_relation, likelihood"][::2] == (0.5, 2)
    assert found["far, likelihood"] == found["locality, likelihood"] == ()


STRATA = ("same_relation", "near_name", "far")


def test_strata_stand_beside_locality_and_outside_it(store: Store) -> None:
    kept = [
        answer("a", "Ann", "locality", "x", tf_ids=(1,), stratum="same_subject"),
        answer("a", "Ann", "locality", "x", 1, tf_ids=(2,), stratum="same_subject"),
        answer("b", "Bob", "locality", "x", tf_ids=(3,), stratum="other"),
        *(
            answer(case, name, "neighbour", "x", i, tf_ids=(4,), stratum=s)
            for i, s in enumerate(STRATA)
            for case, name in (("a", "Ann"), ("b", "Bob"))
        ),
    ]
    changed = {("a", "locality", 1), ("a", "neighbour", 0), ("a", "neighbour", 1), ("b", "neighbour", 1)}
    moved = [
        replace(one, tf_ids=(9,), wild_text="y")
        if (one.case_id, one.kind, one.probe_index) in changed
        else one
        for one in kept
    ]
    put(store, NONE, answers=kept)
    put(store, CELL, answers=moved)
    found = metrics(store)
    for readout in ("tf_token", "wild"):
        kept_share = {
            name: found[f"{name}, {readout}"][0]
            for name in ("locality", "locality/same_subject", "locality/other", *STRATA)
        }
        assert kept_share == {
            "locality": pytest.approx(2 / 3), "locality/same_subject": 0.5, "locality/other": 1, "same_relation": 0.5, "near_name": 0, "far": 1
        }  # fmt: skip
    assert found["neighbour, tf_token"] == ()
    assert found["far, ar_exact"][2:] == (2, 2)


def test_portability_counts_what_the_unedited_model_could_know(store: Store) -> None:
    asked = [
        answer(
            c,
            c,
            "portability",
            "Paris" if c in "ab" else "Oslo",
            stratum="alias" if c in "ac" else "reasoning",
        )
        for c in "abcd"
    ]
    given = [
        replace(one, context="given", wild_text="Paris" if one.case_id in "acd" else "what?") for one in asked
    ]
    put(store, NONE, answers=asked, answers_given=given)
    put(store, CELL, answers=asked)
    found = metrics(store)
    assert found["portability_all, wild"][::2] == (0.5, 4)
    assert found["portability, wild"][::2] == (
        pytest.approx(1 / 3),
        3,
    )  # a right, c and d wrong; b is not known
    assert found["portability/alias, wild"][::2] == (0.5, 2)
    assert found["portability/reasoning, wild"][::2] == (0, 1)
    assert found["portability, tf_exact"][0] == 1


def test_drift_is_the_mean_with_its_clustered_error(store: Store) -> None:
    keep: ProbeKind = "locality"
    said = [answer("a", "Ann", keep, None, i, kl=kl) for i, kl in enumerate((0.0, 0.3))]
    said += [answer("b", "Bob", keep, kl=0.6), answer("c", "Cleo", keep), answer("a", "Ann", "edit", kl=9.0)]
    said += [answer("a", "Ann", "neighbour", None, i, kl=0.5, stratum=s) for i, s in enumerate(STRATA[:2])]
    put(store, CELL, answers=said)
    rows = store.query("SELECT stratum, kl, standard_error, n_items, n_subjects FROM drift ORDER BY stratum")
    # locality: mean 0.3; Ann's deviations -0.3 and 0, Bob's 0.3
    assert rows[0] == ("locality", pytest.approx(0.3), pytest.approx(math.sqrt(0.09 + 0.09) / 3), 3, 2)
    assert rows[1:] == [("near_name", 0.5, None, 1, 1), ("same_relation", 0.5, None, 1, 1)]


LOG = math.log
ALARMS: list[tuple[tuple[float, float, float], float | None, str]] = [
    ((-2, -2, -2), 1, "fine"),
    ((-2, -2 - 2 * LOG(1.1), -90), 1.1, "fine"),  # the median
    ((-9, -9, -2 - 2 * LOG(1.3)), math.exp(3.5), "collapsed"),
    ((-2 - 2 * LOG(1.3),) * 3, 1.3, "suspect"),
    ((-2 - 2 * LOG(9.9),) * 3, 9.9, "suspect"),
    ((-2 - 2 * LOG(10.1),) * 3, 10.1, "collapsed"),
    ((-2, -2, math.nan), None, "collapsed"),
    ((-2, -2, -math.inf), 1, "fine"),
    ((-math.inf,) * 3, math.inf, "collapsed"),
]


def test_the_alarm_of_collapse(store: Store) -> None:
    texts = {NONE: (-2.0, -2.0, -2.0)} | {
        replace(CELL, parameters=f'{{"number": {i}}}'): alarm[0] for i, alarm in enumerate(ALARMS)
    }
    for cell, logprobs in texts.items():
        shard = write_stage(
            store.results,
            cell.id,
            "passages",
            [Passage(0, i, 2, logprob) for i, logprob in enumerate(logprobs)],
        )
        write_outcome(store.results, Outcome(cell, "ok", "", (shard,), Costs(), {}))
    assert store.sync() == []
    found = store.query(
        "SELECT perplexity, ratio, verdict FROM collapse JOIN cells USING (cell_id) WHERE method = 'lks' ORDER BY parameters"
    )
    for (perplexity, ratio, verdict), (_, expected, says) in zip(found, ALARMS, strict=True):
        assert verdict == says
        if expected is not None:
            assert (ratio, perplexity) == pytest.approx((expected, expected * math.e))
    assert store.query("SELECT ratio, verdict FROM collapse WHERE cell_id = ?", [NONE.id]) == [(1, "fine")]


def test_the_alarm_compares_the_same_texts(store: Store) -> None:
    """An older cell may have read more of them."""
    put(
        store,
        NONE,
        passages=[Passage(0, i, 2, logprob) for i, logprob in enumerate((-2.0, -2.0, -9.0, -9.0, -9.0))],
    )
    put(store, CELL, passages=[Passage(0, i, 2, -2.0) for i in range(2)])
    assert store.query("SELECT ratio, verdict FROM collapse WHERE cell_id = ?", [CELL.id]) == [(1, "fine")]


def test_overhead_has_the_interval_of_the_pairs_log_ratios(store: Store) -> None:
    ratios = np.log([1.02, 0.99, 1.05, 1.04, 1.0])
    slow, fast = (
        [Timing(0, batch, i, 3.0, 3.0 * math.exp(r)) for i, r in enumerate(ratios[:n])]
        for batch, n in ((1, 5), (32, 1))
    )
    put(store, CELL, overhead=[*slow, *fast])
    ((batch, value, low, high, pairs),) = store.query("SELECT batch, value, low, high, pairs FROM overheads")
    half = t_quantile(4) * ratios.std(ddof=1) / math.sqrt(5)
    assert (batch, pairs) == (1, 5), "one pair has no interval, and no number without one is shown"
    assert (value, low, high) == pytest.approx(
        tuple(100 * math.expm1(ratios.mean() + d) for d in (0, -half, half)), rel=1e-4
    )


def test_no_verdict_without_the_unedited_model(store: Store) -> None:
    put(store, CELL, passages=[Passage(0, 0, 2, -2.0)])
    assert store.query("SELECT ratio, verdict FROM collapse") == [(None, None)]


def documents(
    scores: Sequence[float], choices: int, task: str = "rte", metric: str = "acc"
) -> list[AbilityRow]:
    requests = json.dumps([["key", [-1.0, True]]] * choices) if choices else ""
    return [AbilityRow(0, task, metric, i, score, "yes", "yes", requests) for i, score in enumerate(scores)]


def test_abilities_are_what_is_left_of_them(store: Store) -> None:
    put(
        store,
        NONE,
        ability_x=[
            *documents([1, 1, 1, 0], 2),
            *documents([1, 0], 1, "gsm8k"),
            *documents([0, 0], 4, "zero"),
        ],
    )
    second = [replace(row, metric="f1", requests="") for row in documents([0.5, 0.5, 0.5, 0.5], 2)]
    put(
        store,
        CELL,
        ability_x=[
            *documents([1, 1, 0, 0.5], 2),
            *second,
            *documents([1, 0], 1, "gsm8k"),
            *documents([0, 1], 4, "zero"),
        ],
    )
    columns = "task, metric, value, standard_error, low, high, documents, unedited, retention, retention_above_chance"
    rows = {
        (row[0], row[1]): row[2:]
        for row in store.query(f"SELECT {columns} FROM abilities WHERE cell_id = ?", [CELL.id])
    }
    error = math.sqrt((2 * 0.375**2 + 0.625**2 + 0.125**2) / 3) / 2
    value, found, low, high, count, before, left, above = rows["rte", "acc"]
    assert (value, found, count, before) == (0.625, pytest.approx(error), 4, 0.75)
    assert (low, high) == pytest.approx(interval(0.625, error, 4))
    assert left == pytest.approx(0.625 / 0.75)
    assert above == pytest.approx((0.625 - 0.5) / (0.75 - 0.5))  # of two choices
    assert rows["rte", "f1"][:2] == (0.5, 0) and rows["rte", "f1"][5:] == (
        None,
        None,
        None,
    )  # the unedited model has none
    assert rows["gsm8k", "acc"][5:] == (0.5, 1, 1)  # nothing to choose from: chance is 0
    assert rows["zero", "acc"][6] is None and rows["zero", "acc"][7] == pytest.approx(0.25 / -0.25)
    assert store.query(
        "SELECT DISTINCT retention FROM abilities WHERE cell_id = ? AND task <> 'zero'", [NONE.id]
    ) == [(1,)]


def test_kinds_of_error_and_right_answers_are_everything(store: Store) -> None:
    texts = ["Paris", "Oslo", "Par", "the the the the the the", "Bread", "PARIS.", "Oslo Bay", ""]
    said = [answer(str(i), str(i), "edit", text, rival="Oslo") for i, text in enumerate(texts)]
    said += [answer(str(i), str(i), "paraphrase", text, rival="Oslo") for i, text in enumerate(texts[:2])]
    said += [answer("0", "0", "locality", "Bread")]
    put(
        store,
        CELL,
        answers=said,
        answers_qa=[replace(one, context="qa", wild_text="Paris") for one in said[:2]],
    )
    shares = {
        str(error): share
        for error, share in store.query(
            "SELECT error, share FROM errors WHERE context = 'bare' AND metric = 'reliability'"
        )
    }
    found = metrics(store)
    right = found["reliability, wild"][0]
    assert right == 0.25 and sum(float(str(share)) for share in shares.values()) + 0.25 == pytest.approx(1)
    assert shares == {
        "unchanged": 0.25,
        "missing_token": 0.125,
        "meaningless": 0.25,
        "knowledge_irrelevant": 0.125,
    }
    assert store.query(
        "SELECT error, n, share FROM errors WHERE context = 'bare' AND metric = 'generality'"
    ) == [("unchanged", 1, 0.5)]
    rows = store.query("SELECT context, metric, n_items, wild FROM contexts ORDER BY ALL")
    assert rows == [
        ("bare", "generality", 2, 0.5),
        ("bare", "reliability", 8, 0.25),
        ("qa", "reliability", 2, 1),
    ]
    assert store.query("FROM errors WHERE context = 'qa'") == []


def test_an_answer_with_the_right_one_in_it_is_not_right(store: Store) -> None:
    put(
        store,
        CELL,
        answers=[answer("a", "Ann", "edit", "It is Paris, France"), answer("b", "Bob", "edit", "Oslo")],
    )
    assert store.query("SELECT wild, wild_holds FROM contexts") == [(0, 0.5)]


def test_costs_are_those_of_the_outcome(store: Store) -> None:
    costs = Costs(1.0, 12.0, 3.0, 400, 50, {"ability-rte": 7.0, "passages": 1.0, "answers-qa": 2.5})
    put(
        store,
        CELL,
        costs,
        overhead=[Timing(0, 1, i, 1.0, ratio) for i, ratio in enumerate((1.1, 1.2, 1.1, 1.3))],
    )
    columns = "prepare_s, edit_s, ask_s, ability_s, further_s, seconds_per_edit, peak_bytes, patch_bytes, overhead_1, overhead_32"
    assert store.query(f"SELECT {columns} FROM costs") == [
        (1, 12, 3, 7, 3.5, 2, 400, 50, pytest.approx(17.22, abs=0.01), None)
    ]  # 2 draws of 3 edits
    put(store, CELL, Costs(edit_s=6.0))
    assert store.query(f"SELECT {columns} FROM costs") == [(0, 6, 0, None, None, 1, 0, 0, None, None)]


def test_what_a_judge_says_stands_beside_the_deterministic_score(store: Store) -> None:
    said = [
        answer("a", "Ann", "edit", "It is Paris"),
        answer("b", "Bob", "edit", "Paris"),
        answer("c", "Cleo", "edit", "Oslo"),
    ]
    verdicts = {"a": True, "b": True, "c": None}
    judged = [
        Judgement("gpt", 0, case, "edit", 0, "bare", verdict, "...") for case, verdict in verdicts.items()
    ]
    put(
        store,
        CELL,
        answers=said,
        judged=[*judged, Judgement("other", 0, "c", "edit", 0, "bare", False, "No")],
    )
    rows = store.query(
        "SELECT judge, metric, context, judged, wild, n_items, n_judged FROM judged ORDER BY judge"
    )
    assert rows == [
        ("gpt", "reliability", "bare", 1, pytest.approx(1 / 3), 3, 2),
        ("other", "reliability", "bare", 0, 0, 1, 1),
    ]


def test_known_facts_are_those_that_the_unedited_models_free_answer_begins_with(store: Store) -> None:
    before = [
        answer(
            "a", "Ann", "edit", "Rome, the city on the Tiber", answer="Oslo", rival="Rome"
        ),  # known: the old answer comes first
        answer("b", "Bob", "edit", "Romeo", answer="Oslo", rival="Rome"),  # part of another word
        answer("c", "Cid", "edit", "the capital Rome", answer="Oslo", rival="Rome"),  # later in the answer
        answer("d", "Dan", "edit", "Oslo", answer="Oslo"),  # no old answer: it does not count
        answer("a", "Ann", "locality", "The Euro. It", answer="euro"),  # known
        answer(
            "a", "Ann", "locality", "US dollars", index=1, answer="dollar", accepted=("US dollar",)
        ),  # another word
        answer(
            "b", "Bob", "locality", "US dollar bills", answer="dollar", accepted=("US dollar",)
        ),  # known by another spelling
        answer("c", "Cid", "locality", "", answer="yen"),
    ]
    after = [
        replace(one, wild_text={"Ann": one.wild_text, "Bob": "Peru"}.get(one.subject, "Oslo"))
        for one in before
    ]
    put(store, NONE, answers=before)
    put(store, CELL, answers=after)
    sql = "SELECT case_id, kind, probe_index FROM known_facts WHERE known AND cell_id = ? ORDER BY ALL"
    expected = [("a", "edit", 0), ("a", "locality", 0), ("b", "locality", 0)]
    for cell in (NONE, CELL):
        assert store.query(sql, [cell.id]) == expected
        assert store.query(
            "SELECT n_facts, n_known, share FROM known_old_facts WHERE cell_id = ?", [cell.id]
        ) == [(3, 1, pytest.approx(1 / 3))]
    found = {
        str(name): row
        for name, *row in store.query(
            "SELECT metric, value, standard_error, low, high, n_items, n_subjects FROM known_metrics WHERE readout = 'wild' AND cell_id = ?",
            [CELL.id],
        )
    }
    # Ann's known locality stays and Bob's does not: mean 1/2, deviations 1/2 and -1/2; Ann alone has a known
    # old answer, and still gives it
    error = math.sqrt(1 / 2) / 2
    assert found["locality_known"] == [
        0.5,
        pytest.approx(error),
        *map(pytest.approx, interval(0.5, error, 2)),
        2,
        2,
    ]
    assert found["reliability_known"] == [0, None, 0, 1, 1, 1] and set(found) == {
        "locality_known",
        "reliability_known",
    }


def test_portability_over_known_old_facts_counts_the_questions_of_those_edits(store: Store) -> None:
    edits = [
        answer(case, name, "edit", said, rival="Rome")
        for case, name, said in (("a", "Ann", "Rome"), ("b", "Bob", "Lima"))
    ]
    asked = [answer(case, name, "portability", "Paris") for case, name in (("a", "Ann"), ("b", "Bob"))]
    put(store, NONE, answers=[*edits, *asked], answers_given=[replace(one, context="given") for one in asked])
    put(store, CELL, answers=[*edits, asked[0], replace(asked[1], wild_text="Lima")])
    sql = "SELECT value, n_items FROM known_metrics WHERE metric = 'portability_known' AND readout = 'wild' AND cell_id = ?"
    assert store.query(sql, [CELL.id]) == [(1, 1)] and metrics(store)["portability, wild"][::2] == (0.5, 2)
