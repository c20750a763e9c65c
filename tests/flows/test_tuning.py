"""The search of `lks tune`: rungs, successive halving, trials as stored cells, the objective as a query."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import lks.runs.cell
from baselines import methods
from flows.running.planning import only_writer
from flows.running.process_cache import process_cache
from flows.tuning.halving import Rung, Trial, affordable, distinct, halve, ranked, rungs, winner
from flows.tuning.objective import OBJECTIVES, score, scores
from flows.tuning.search import Search, Trials, seconds_of
from lks.errors import TooManyEdits, UserError
from lks.results.cells import TUNING_S, UNEDITED, Cell, Costs, Outcome, Overrides
from lks.results.shards import write_outcome
from lks.results.store import Store

TEN = [Rung(10, 1), Rung(10, 3), Rung(10, 9)]


@pytest.mark.parametrize(
    ("n_edits", "available", "wanted"),
    [
        (10, 300, TEN),
        (1, 300, [Rung(1, 10), Rung(1, 30), Rung(1, 90)]),
        (1000, 3000, [Rung(112, 1), Rung(334, 1), Rung(1000, 1)]),
        (10, 20, [Rung(5, 1), Rung(7, 1), Rung(10, 2)]),
        (1, 4, [Rung(1, 4)]),
    ],
)
def test_rungs_grow_up_to_the_wanted_T(n_edits: int, available: int, wanted: list[Rung]) -> None:
    made = rungs(n_edits, available)
    assert made == wanted and made[-1].n_edits == n_edits
    assert all(rung.edits <= available for rung in made)


def test_little_time_means_fewer_rungs() -> None:
    assert affordable(TEN, 1.0, 270) == TEN
    assert affordable(TEN, 1.0, 269) == TEN[:2]
    assert affordable(TEN, 1.0, 1) == TEN[:1]
    growing = rungs(1000, 3000)
    assert affordable(growing, 1.0, 1) == growing, "the wanted T has to be reached"


def variants() -> Iterator[Overrides]:
    yield ()
    number = 0
    while True:
        number += 1
        yield (("lr", str(number)),)


class Evaluator:
    """A method whose score is known: it falls with the distance of its number from the best one."""

    def __init__(self, best: int, failing: int = -1, seconds_per_edit: float = 0.1) -> None:
        self.best, self.failing, self.per_edit = best, failing, seconds_per_edit
        self.asked: list[tuple[int, int]] = []

    def __call__(self, variant: Overrides, rung: int) -> Trial:
        number = int(variant[0][1]) if variant else 0
        self.asked.append((rung, number))
        seconds = self.per_edit * TEN[rung].edits
        failed = number == self.failing
        value = None if failed else 1 / (1 + abs(number - self.best))
        costs = Costs(edit_s=seconds)
        return Trial(
            variant, rung, f"{rung}-{number}", "oom" if failed else "ok", "", value, 0.0, seconds, costs
        )


def test_a_third_survives_and_each_rung_has_its_share_of_the_time() -> None:
    method = Evaluator(best=4)
    trials = halve(variants(), TEN, method, budget_s=27.0)
    counts = [sum(1 for trial in trials if trial.rung == rung) for rung in range(3)]
    assert counts == [9, 3, 1 + 1]  # 9 s each: nine trials of 1 s, three of 3 s; at least two of 9 s
    assert [number for rung, number in method.asked if rung == 1] == [0, 4, 3]
    assert winner(trials) == replace(trials[-1], rung=2) and trials[-1].variant == (("lr", "4"),)


def test_the_same_scores_give_the_same_search() -> None:
    first, second = Evaluator(best=7), Evaluator(best=7)
    assert halve(variants(), TEN, first, 60.0) == halve(variants(), TEN, second, 60.0)
    longer = Evaluator(best=7)
    halve(variants(), TEN, longer, 120.0)
    assert set(first.asked) <= set(longer.asked), "more time continues the search"


def test_the_default_wins_where_it_is_best() -> None:
    trials = halve(variants(), TEN, Evaluator(best=0), 30.0)
    best = winner(trials)
    assert best is not None and best.variant == () and best.rung == 2
    others = [trial for trial in trials if trial.rung == 2 and trial.variant]
    assert others, "the default is compared with another on the last rung"


def test_a_failed_trial_does_not_end_the_search() -> None:
    trials = halve(variants(), TEN, Evaluator(best=3, failing=3), 30.0)
    best = winner(trials)
    assert best is not None and best.variant in ((("lr", "2"),), (("lr", "4"),))
    assert [trial.status for trial in trials].count("oom") == 1


def test_a_default_that_fails_leaves_the_search_to_the_others() -> None:
    method = Evaluator(best=3, failing=0)
    trials = halve(variants(), TEN, method, 30.0)
    best = winner(trials)
    assert best is not None and best.variant == (("lr", "3"),)
    assert (1, 0) not in method.asked


def test_nothing_is_chosen_where_all_fail() -> None:
    class Failing(Evaluator):
        def __call__(self, variant: Overrides, rung: int) -> Trial:
            return replace(super().__call__(variant, rung), score=None, status="oom")

    trials = halve(variants(), TEN, Failing(0), 30.0)
    assert winner(trials) is None and {trial.rung for trial in trials} == {0}


def test_equal_scores_go_by_the_finer_readout_then_by_order() -> None:
    one = Trial((), 0, "a", "ok", "", 0.0, 0.2, 1.0, Costs())
    two, three = replace(one, cell_id="b", finer=0.4), replace(one, cell_id="c", finer=0.4)
    assert [trial.cell_id for trial in ranked([one, two, three])] == ["b", "c", "a"]


def test_a_point_that_comes_again_is_left_out() -> None:
    points = iter([("d", (("lr", "1"),)), ("x", (("lr", "2"),)), ("x", (("lr", "2.0"),)), *[("d", ())] * 300])
    assert list(distinct("d", points)) == [(), (("lr", "2"),)]


class Quiet:
    """A listener that notes which trials were stored."""

    def __init__(self) -> None:
        self.stored: list[bool] = []

    def begin(self, variant: Overrides, rung: int) -> None:
        pass

    def stage(self, cell: Cell, name: str, fraction: float) -> None:
        pass

    def finish(self, trial: Trial, stored: bool) -> None:
        self.stored.append(stored)


def search(**changes: object) -> Search:
    made = Search(methods()["ft"], "micro-llama", "world", 2, "ar-hm", records=30)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Trial], list[bool]]:
    """A small search on the micro model whose third configuration runs out of memory."""
    folder, listener = tmp_path_factory.mktemp("results"), Quiet()
    real = lks.runs.cell.run
    edited: list[str] = []

    def run(cell: Cell, method, results, report, resources=None, extras=None) -> Outcome:
        if cell.method != UNEDITED and len(edited) == 2:
            edited.append(cell.id)
            failed = Outcome(cell, "oom", "out of memory", (), Costs(), {"finished": "2026-01-01"})
            write_outcome(results, failed)
            return failed
        edited.extend([cell.id] if cell.method != UNEDITED else [])
        return real(cell, method, results, report, resources, extras)

    with pytest.MonkeyPatch.context() as patch, only_writer(folder), process_cache():
        patch.setattr(lks.runs.cell, "run", run)
        store = Store(folder)
        trials = Trials(search(), store, listener).run(0.1)
    return store, trials, listener.stored


@pytest.mark.slow
def test_trials_are_cells_on_development_cases(searched: tuple[Store, list[Trial], list[bool]]) -> None:
    store, trials, stored = searched
    assert [trial.rung for trial in trials].count(0) == 3 and stored == [False] * len(trials)
    rows = dict(store.query("SELECT cell_id, split FROM cells WHERE method = 'ft'"))
    assert set(rows) == {trial.cell_id for trial in trials} and set(rows.values()) == {"development"}
    failed = [trial for trial in trials if trial.status != "ok"]
    assert [(trial.status, trial.reason, trial.score) for trial in failed] == [("oom", "out of memory", None)]
    outcomes = {outcome.cell.id: outcome for outcome in store.outcomes()}
    assert all(float(outcome.provenance[TUNING_S]) >= 0 for outcome in outcomes.values())
    assert not list((store.results / "runs").glob("*/patch/*")), "patches of trials are deleted"


@pytest.mark.slow
def test_a_stored_search_is_not_run_again(
    searched: tuple[Store, list[Trial], list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, trials, _ = searched
    monkeypatch.setattr(lks.runs.cell, "run", None)
    listener = Quiet()
    with process_cache():
        again = Trials(search(), store, listener).run(0.1)
    assert again == trials and all(listener.stored)


@pytest.mark.slow
def test_the_objective_is_that_of_the_metrics(searched: tuple[Store, list[Trial], list[bool]]) -> None:
    store, trials, _ = searched
    trial = next(trial for trial in trials if trial.score)
    for objective in OBJECTIVES.values():
        found = scores(store, trial.cell_id, objective)
        known = dict(
            store.query(
                "SELECT metric, value FROM metrics WHERE cell_id = ? AND readout = ?",
                [trial.cell_id, objective.readout],
            )
        )
        for name in ("reliability", "generality", "locality", "edit_performance", "harmonic_mean"):
            assert found[name].value == pytest.approx(known[name])
        whole = found[objective.mean]
        assert whole.low is not None and whole.high is not None and whole.low <= whole.value <= whole.high
    assert trial.score == score(store, trial.cell_id, OBJECTIVES["ar-hm"], "world")[0]


def test_an_objective_without_its_questions_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Dataset 'd' gives no generality, locality, reliability by read-out"
    ):
        score(Store(tmp_path), "none", OBJECTIVES["wild-hm"], "d")


def test_cases_are_those_for_development() -> None:
    unedited, cell = search().cells((("lr", "0.01"),), 0)
    assert (cell.split, cell.records, cell.variant) == ("development", 30, (("lr", "0.01"),))
    assert cell.unedited.id == unedited.id
    with pytest.raises(TooManyEdits, match=r"--edits 11: dataset 'world' has 10 cases for development"):
        assert search(n_edits=11).rungs


def test_the_seconds_of_another_cell_are_those_of_its_parts() -> None:
    outcome = Outcome(search().cells((), 0)[1], "ok", "", (), Costs(1.0, 2.0, 3.0), {})
    assert seconds_of(outcome) == 6.0
    assert seconds_of(replace(outcome, provenance={TUNING_S: "7.5"})) == 7.5
