"""Statistics: closed forms, hand-worked examples, and simulations of how often intervals hold the truth."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import lks.statistics
from lks.statistics import (
    Clustered,
    clustered_error,
    holm,
    interval,
    kappa,
    mcnemar,
    paired_bootstrap,
    t_quantile,
    tied,
)

SCHEMA = (Path(lks.statistics.__file__).parent / "results" / "schema.sql").read_text(encoding="utf-8")
SCORES = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0])
ITEMS = st.lists(st.tuples(SCORES, st.integers(0, 6)), min_size=1, max_size=30)


def draws(
    mean: float, clusters: int, together: float, times: int, methods: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Sums [times, clusters, methods] of 0/1 scores and sizes [times, clusters] of 1 to 8; `together`
    correlates items of one cluster.
    """
    generator = np.random.default_rng(round(1000 * mean + clusters))
    sizes = 1 + generator.geometric(0.35, size=(times, clusters)) % 8
    strength = (1 - together) / together
    chances = generator.beta(mean * strength, (1 - mean) * strength, size=(times, clusters))
    return generator.binomial(sizes[..., None], chances[..., None], size=(times, clusters, methods)).astype(
        float
    ), sizes.astype(float)


def coverage(mean: float, clusters: int, together: float = 0.3, times: int = 1000) -> float:
    sums, sizes = draws(mean, clusters, together, times)
    means = sums.sum((1, 2)) / sizes.sum(1)
    errors = np.sqrt(((sums[..., 0] - means[:, None] * sizes) ** 2).sum(1)) / sizes.sum(1)
    bounds = np.array([interval(value, error, clusters) for value, error in zip(means, errors, strict=True)])
    return float(((bounds[:, 0] <= mean) & (mean <= bounds[:, 1])).mean())


def test_the_error_of_clusters_is_that_of_their_pulls() -> None:
    """Mean 3/5; the pulls are (1 - .6) + (1 - .6) = .8, 0 - .6 = -.6 and (1 - .6) + (0 - .6) = -.2."""
    assert clustered_error([1, 1, 0, 1, 0], ["a", "a", "b", "c", "c"]) == pytest.approx(
        (0.64 + 0.36 + 0.04) ** 0.5 / 5
    )


def test_items_in_clusters_of_their_own_have_the_plain_error() -> None:
    scores = np.random.default_rng(0).random(50)
    assert clustered_error(scores, np.arange(50)) == pytest.approx(scores.std() / 50**0.5)


def test_items_that_are_copies_count_once() -> None:
    scores = np.random.default_rng(0).random(50)
    assert clustered_error(np.repeat(scores, 4), np.repeat(np.arange(50), 4)) == pytest.approx(
        clustered_error(scores, np.arange(50))
    )


def test_a_subject_in_two_seeds_is_one_cluster() -> None:
    first, second = np.array([1.0, 0, 1, 1]), np.array([1.0, 0, 0, 1])
    pooled = clustered_error(np.concatenate([first, second]), list("abcd") * 2)
    assert pooled == pytest.approx(clustered_error((first + second) / 2, list("abcd")))


@given(ITEMS, st.randoms())
def test_the_order_of_items_changes_no_error(items: list[tuple[float, int]], random) -> None:
    mixed = random.sample(items, len(items))
    errors = [clustered_error(*zip(*order, strict=True)) for order in (items, mixed)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-12)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
def test_quantiles_of_t_are_near(level: float) -> None:
    near = 0.01 if level > 0.95 else 0.0015
    for df in (1, 2, 3, 4, 5, 7, 10, 30, 100, 9366):
        exact = stats.t.ppf((1 + level) / 2, df)
        assert t_quantile(df, level) == pytest.approx(exact, rel=1e-9 if df < 3 else near)


def test_the_interval_of_independent_items_is_wilsons() -> None:
    """With 1,000 clusters of one item each, t is the normal quantile to 1 in 1,000."""
    scores = np.repeat([1.0, 0.0], [900, 100])
    wilson = stats.binomtest(900, 1000).proportion_ci(method="wilson")
    assert interval(0.9, clustered_error(scores, np.arange(1000)), 1000) == pytest.approx(
        (wilson.low, wilson.high), abs=1e-4
    )


def test_where_all_agree_each_cluster_counts_as_one_item() -> None:
    """Wilson's interval at p = 1 is [n / (n + t^2), 1]."""
    t = stats.t.ppf(0.975, 39)
    assert interval(1.0, 0.0, 40) == pytest.approx((40 / (40 + t**2), 1.0), abs=1e-6)
    assert interval(0.0, 0.0, 40) == pytest.approx((0.0, t**2 / (40 + t**2)), abs=1e-6)
    assert interval(0.5, 1e-17, 40) == pytest.approx(interval(0.5, 0.5 / 40**0.5, 40))


def test_a_first_failure_does_not_narrow_the_interval() -> None:
    """200 items in 40 clusters: were the items counted, one that fails would make them look like 200
    independent ones.
    """
    scores = np.ones(200)
    scores[0] = 0
    low, high = interval(scores.mean(), clustered_error(scores, np.arange(200) % 40), 40)
    assert high - low > 1 - interval(1.0, 0.0, 40)[0] - 0.04
    assert low < 0.95


def test_one_cluster_says_nothing() -> None:
    assert interval(0.7, 0.0, 1) == (0.0, 1.0)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000), st.floats(0.5, 0.99))
def test_an_interval_is_inside_its_bounds_and_holds_the_value(
    value: float, error: float, clusters: int, level: float
) -> None:
    low, high = interval(value, error, clusters, level)
    assert 0 <= low <= value <= high <= 1 and low < high
    assert (1 - high, 1 - low) == pytest.approx(interval(1 - value, error, clusters, level), abs=1e-6)


@pytest.mark.parametrize(
    "mean, clusters", [(0.5, 30), (0.5, 60), (0.5, 200), (0.9, 60), (0.9, 100), (0.9, 200)]
)
def test_intervals_hold_the_mean_as_often_as_they_say(mean: float, clusters: int) -> None:
    """In 1,000 simulations a share of 0.95 has a standard error of 0.007."""
    assert 0.93 <= coverage(mean, clusters) <= 0.97


@pytest.mark.parametrize("together", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("mean, clusters", [(0.9, 30), (0.98, 30), (0.98, 60), (0.98, 100), (0.98, 200)])
def test_near_the_boundary_intervals_hold_the_mean_as_often_or_up_to_99_times_in_100(
    mean: float, clusters: int, together: float
) -> None:
    """Where only some three clusters fail, the mean takes few values and its error is poorly known: too wide
    is the better mistake.
    """
    assert 0.93 <= coverage(mean, clusters, together) <= 0.99


def test_clusters_are_summed() -> None:
    made = Clustered.of([[1, 0], [0.5, 1], [0, 1]], ["b", "a", "b"])
    assert made.names.tolist() == ["a", "b"]
    assert made.sums.tolist() == [[0.5, 1], [1, 1]] and made.sizes.tolist() == [1, 2]


def test_columns_with_other_items_stand_side_by_side() -> None:
    made = Clustered.beside(
        [Clustered.of([[1, 0], [0, 1]], ["b", "c"]), Clustered.of([[1], [1]], ["a", "a"])]
    )
    assert made.names.tolist() == ["a", "b", "c"]
    assert made.sums.tolist() == [[0, 0, 2], [1, 0, 0], [0, 1, 0]] and made.sizes.tolist() == [
        [0, 0, 2],
        [1, 1, 0],
        [1, 1, 0],
    ]
    again = Clustered.beside([made, made])
    assert again.sizes.tolist() == np.hstack([made.sizes, made.sizes]).tolist()


def test_a_bootstrap_of_single_items_has_the_plain_error_and_p_value() -> None:
    """With many items differences are normal: the half-width is 1.96 standard errors of the paired
    difference, p is the paired test's.
    """
    generator = np.random.default_rng(1)
    scores = generator.random((2000, 1)) + np.array([0, 0.012, 0.3]) + 0.3 * generator.random((2000, 3))
    made = paired_bootstrap(scores, np.ones(2000), 0)
    gaps = scores - scores[:, :1]
    np.testing.assert_allclose(made.value, gaps.mean(0))
    np.testing.assert_allclose((made.high - made.low)[1:], 2 * 1.96 * gaps.std(0)[1:] / 2000**0.5, rtol=0.03)
    assert made.p[1] == pytest.approx(stats.ttest_rel(scores[:, 1], scores[:, 0]).pvalue, abs=0.02)
    assert made.p[2] == pytest.approx(2 / 10_001)
    assert (made.value[0], made.low[0], made.high[0], made.p[0]) == (0, 0, 0, 1)


def test_a_column_may_have_its_own_reference_and_its_own_sizes() -> None:
    sums, sizes = draws(0.6, 40, 0.3, 1, methods=4)
    together = paired_bootstrap(
        np.hstack([sums[0], sums[0]]), np.tile(sizes[0][:, None], 8), np.repeat([1, 6], 4), 500
    )
    for start, reference in ((0, 1), (4, 2)):
        alone = paired_bootstrap(sums[0][:, [reference, 0, 1, 2, 3]], sizes[0], 0, 500)
        for field in ("value", "low", "high", "p"):
            np.testing.assert_allclose(
                getattr(together, field)[start : start + 4], getattr(alone, field)[1:], atol=1e-12
            )


def test_a_bootstrap_depends_on_the_seed_and_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, sizes = draws(0.6, 40, 0.3, 1, methods=3)
    made, again, other = (paired_bootstrap(sums[0], sizes[0], 0, 500, seed) for seed in (3, 3, 4))
    assert (
        np.array_equal(made.low, again.low)
        and np.array_equal(made.p, again.p)
        and not np.array_equal(made.low, other.low)
    )
    monkeypatch.setattr(lks.statistics, "WEIGHT_BYTES", 8 * 40 * 7)
    np.testing.assert_allclose(paired_bootstrap(sums[0], sizes[0], 0, 500, 3).low, made.low, atol=1e-12)


@settings(max_examples=30)
@given(ITEMS, st.randoms())
def test_the_order_of_items_changes_no_difference(items: list[tuple[float, int]], random) -> None:
    mixed = random.sample(items, len(items))
    made = []
    for order in (items, mixed):
        scores, clusters = (np.array(part) for part in zip(*order, strict=True))
        reduced = Clustered.of(np.column_stack([scores, scores**2]), clusters)
        made.append(paired_bootstrap(reduced.sums, reduced.sizes, 0, 50))
    for field in ("value", "low", "high", "p"):
        np.testing.assert_allclose(getattr(made[0], field), getattr(made[1], field), atol=1e-12)


@pytest.mark.parametrize("differing", [1, 2, 5])
def test_few_clusters_that_differ_are_no_more_significant_than_mcnemar_has_it(differing: int) -> None:
    sums = np.ones((100, 2))
    sums[:differing, 0] = 0
    made = paired_bootstrap(sums, np.ones(100), 0, 1000)
    assert made.p[1] >= mcnemar(0, differing)
    assert made.value[1] == pytest.approx(differing / 100) and made.low[1] == 0 < made.high[1]


def test_fewer_than_two_clusters_with_items_say_nothing_of_a_difference() -> None:
    alone = paired_bootstrap(np.array([[3.0, 1.0]]), np.array([3.0]), 0, 100)
    assert (alone.low[1], alone.high[1], alone.p[1]) == (-np.inf, np.inf, 1)
    lacking = paired_bootstrap(
        np.array([[1.0, 0.0]] * 30 + [[1.0, 1.0]]), np.array([[1.0, 0.0]] * 30 + [[1.0, 2.0]]), 0, 100
    )
    assert (lacking.low[1], lacking.high[1]) == (-np.inf, np.inf)


@pytest.mark.parametrize("mean, clusters", [(0.5, 60), (0.9, 100)])
def test_bootstrap_intervals_hold_the_difference_as_often_as_they_say(mean: float, clusters: int) -> None:
    """With this many clusters and 500 resamples percentile intervals hold it 93 or 94 times in 100; the
    standard error of 600 simulations is 1.
    """
    sums, sizes = draws(mean, clusters, 0.3, 600, methods=2)
    sums[..., 1] = np.random.default_rng(5).binomial(sums[..., 1].astype(int), 0.9)
    held = []
    for index in range(600):
        made = paired_bootstrap(sums[index], sizes[index], 0, 500, seed=index)
        held.append(made.low[1] <= -0.1 * mean <= made.high[1])
    assert 0.91 <= np.mean(held) <= 0.97


@pytest.mark.parametrize("mean", [0.5, 0.9, 0.98])
def test_equal_methods_are_seldom_told_apart(mean: float) -> None:
    """Five methods against a sixth, none better: at least one is called different in at most 7 of 100 tables
    (5 expected, standard error 1).
    """
    sums, sizes = draws(mean, 80, 0.3, 500, methods=6)
    wrong = [
        (holm(paired_bootstrap(sums[i], sizes[i], 0, 1000, seed=i).p[1:]) <= 0.05).any() for i in range(500)
    ]
    assert np.mean(wrong) <= 0.07


@pytest.mark.parametrize("mean", [0.5, 0.9])
def test_the_truly_best_is_seldom_left_out(mean: float) -> None:
    """Six methods that are equal, so that any may be called the best; the reference is the one that comes out
    best.
    """
    sums, sizes = draws(mean, 80, 0.3, 300, methods=6)
    left_out = 0
    for index in range(300):
        means = sums[index].sum(0) / sizes[index].sum()
        others = np.arange(6) != means.argmax()
        p = np.ones(6)
        p[others] = holm(
            paired_bootstrap(sums[index], sizes[index], int(means.argmax()), 1000, seed=index).p[others]
        )
        left_out += not tied(means, p)[0]
    assert left_out / 300 <= 0.05


@pytest.mark.parametrize("first, second", [(0, 0), (0, 1), (5, 0), (3, 3), (2, 9), (40, 70), (1000, 1200)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9) == mcnemar(second, first)


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .5 times 4 3 2 1 is .04 .06 .06 .5; the largest so far goes on."""
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.02, 0.021, 0.022]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and holm([0.7, 0.6]).tolist() == [1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_the_p_value_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, np.array(p) * len(p))).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_the_best_and_what_is_not_worse_are_tied() -> None:
    assert tied([0.9, 0.8, 0.7, np.nan], [0.0, 0.051, 0.05, np.nan]).tolist() == [True, True, False, False]
    assert tied([9.0, 7.0, 7.0], [0.01, 1.0, 1.0], lowest=True).tolist() == [False, True, True]
    assert tied([0.9, 0.8], [np.nan, 0.2], level=0.3).tolist() == [True, False]


def test_kappa_by_hand() -> None:
    """7 of 10 agree; by chance .5 x .6 + .5 x .4 = .5; (.7 - .5) / (1 - .5) = .4."""
    assert kappa(list("yyyyynnnnn"), list("yyyynnnnyy")) == pytest.approx(0.4)
    assert kappa([1, 2, 3], [1, 2, 3]) == 1 and kappa(["a"] * 4, ["a"] * 4) == 1
    assert kappa([0, 1], [1, 0]) == -1 and kappa([0, 0], [1, 1]) == 0


@pytest.mark.parametrize(
    "wrong, named",
    [
        (lambda: clustered_error([], []), "empty"),
        (lambda: clustered_error([1, 0], ["a"]), "clusters"),
        (lambda: clustered_error([1, np.nan], ["a", "b"]), "finite"),
        (lambda: clustered_error([[1, 0]], ["a"]), "scores"),
        (lambda: interval(1.2, 0.1, 9), "value"),
        (lambda: interval(np.nan, 0.1, 9), "value"),
        (lambda: interval(0.5, -0.1, 9), "error"),
        (lambda: interval(0.5, 0.1, 0), "clusters"),
        (lambda: interval(0.5, 0.1, 9, level=1), "level"),
        (lambda: interval(0.5, np.nan, 9), "error"),
        (lambda: t_quantile(0), "df"),
        (lambda: paired_bootstrap(np.ones((3, 2)), np.ones(2), 0), "sizes"),
        (lambda: paired_bootstrap(np.ones((3, 2)), np.zeros(3), 0), "items"),
        (lambda: paired_bootstrap(np.full((3, 2), np.nan), np.ones(3), 0), "finite"),
        (lambda: paired_bootstrap(np.ones((3, 2)), np.ones(3), 2), "reference"),
        (lambda: paired_bootstrap(np.ones((3, 2)), np.ones(3), 0, resamples=0), "resamples"),
        (lambda: mcnemar(-1, 2), "only_first"),
        (lambda: holm([]), "p values"),
        (lambda: holm([0.5, 1.5]), "p values"),
        (lambda: tied([0.5, 0.6], [0.1]), "length"),
        (lambda: tied([np.nan], [0.1]), "known"),
        (lambda: tied([0.5, 0.6], [np.nan, 0.1]), "p values"),
        (lambda: kappa(["a"], ["a", "b"]), "length"),
        (lambda: kappa([], []), "empty"),
    ],
)
def test_what_makes_no_sense_is_named(wrong, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()


@pytest.mark.skipif("MACRO interval_low" not in SCHEMA, reason="schema.sql has no intervals yet")
def test_sql_and_python_have_the_same_intervals() -> None:
    grid = [
        (p, se, g)
        for p in (0.0, 0.002, 0.3, 0.5, 0.9, 0.999, 1.0)
        for se in (0.0, 1e-14, 0.001, 0.02, 0.3)
        for g in (1, 2, 3, 4, 30, 9367)
    ]
    with duckdb.connect() as connection:
        for macro in re.findall(r"^CREATE OR REPLACE MACRO .*?;$", SCHEMA, re.MULTILINE | re.DOTALL):
            connection.execute(macro)
        for p, se, g in grid:
            found = connection.execute(
                "SELECT interval_low(p, se, g), interval_high(p, se, g) FROM (SELECT ? AS p, ? AS se, ? AS g)",
                [p, se, g],
            )
            assert found.fetchone() == pytest.approx(interval(p, se, g), abs=1e-9), (p, se, g)
        unknown = "SELECT interval_low(NULL, NULL, 9), interval_high(NULL, NULL, 9), interval_low(0.7, NULL, 1), interval_high(0.7, NULL, 1)"
        assert connection.execute(unknown).fetchone() == (None, None, 0, 1)
