"""Standard errors, intervals and significance tests for scores whose items are clustered by subject.

The items of one subject (its edit, its paraphrases, its locality probes, the same subject in another draw or
seed) are correlated, so the subject is the unit of resampling, called a cluster here. Means have closed
forms, which SQL can compute too; differences between methods use a bootstrap over clusters. Input that is
empty, of unequal lengths or out of bounds raises a ValueError that names it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri

Floats = NDArray[np.float64]

WEIGHT_BYTES = 16 * 2**20
"""Size of the matrix of resampling weights that is held at once; drawing it takes two more arrays of that
size."""
ROUNDING = 1e-12
"""Errors and differences of means below this are rounding error, not spread."""


def clustered_error(scores: ArrayLike, clusters: ArrayLike) -> float:
    """Compute the cluster-robust standard error of the mean of scores [items] (Liang and Zeger 1986).

    The error is sqrt(sum_c (sum_{i in c} (s_i - mean))^2) / n. To pool seeds, pass the items of all seeds
    together, each labelled with its subject, so that a subject drawn in two seeds is one cluster. The error
    of a single cluster is 0 and carries no information; the interval functions below account for that.
    """
    values = np.asarray(scores, dtype=np.float64)
    reduced = Clustered.of(values[..., None], clusters)
    return float(np.linalg.norm(reduced.sums[:, 0] - values.mean() * reduced.sizes) / len(values))


def t_quantile(df: int, level: float = 0.95) -> float:
    """Return the two-sided critical value of Student's t with `df` degrees of freedom.

    The absolute value of t exceeds it with probability 1 - level. The value is exact for 1 and 2 degrees of
    freedom. From 3 on it is a series in 1/df around the normal quantile (Abramowitz and Stegun 26.7.5), which
    is 0.12 % too low at 3 for level 0.95 and 0.8 % for 0.99, and more accurate beyond.
    """
    if df < 1 or not 0 < level < 1:
        raise ValueError(f"t_quantile needs df >= 1 and a level between 0 and 1, not {df} and {level}")
    if df == 1:
        return math.tan(math.pi * level / 2)
    if df == 2:
        return level * math.sqrt(2 / (1 - level**2))
    z = float(ndtri((1 + level) / 2))
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / df + second / df**2 + third / df**3 + fourth / df**4


def interval(value: float, error: float, clusters: int, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval (1927) for a mean of scores in [0, 1], given its `clustered_error`.

    The interval is (value + t^2/2n -+ t sqrt(value (1 - value)/n + t^2/4n^2)) / (1 + t^2/n), with t of
    clusters - 1 degrees of freedom and n from `_effective_size`. It lies in [0, 1], contains the value and is
    never a point. One cluster carries no information about its spread and gives all of [0, 1].
    """
    _check_mean(value, error, clusters)
    if not -ROUNDING <= value <= 1 + ROUNDING:
        raise ValueError(f"value must be in [0, 1], not {value}")
    if clusters == 1:
        return 0.0, 1.0
    value = min(1.0, max(0.0, value))
    pull = t_quantile(clusters - 1, level) ** 2 / _effective_size(value, error, clusters)
    centre = (value + pull / 2) / (1 + pull)
    half = math.sqrt(pull * (value * (1 - value) + pull / 4)) / (1 + pull)
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def _effective_size(value: float, error: float, clusters: int) -> float:
    """Return the number of independent items that the clusters are worth.

    This is n = value (1 - value) / error^2, or the number of clusters if all scores agree. In between, with q
    the share of the rarer outcome, that outcome fell to about f = q^2 / error^2 clusters, and an error
    estimated from few of them is often too small (a 95 % interval of a mean of 0.98 contains it 91 times in
    100). So where n is above the number of clusters, the two are averaged harmonically with weights f and 1.
    """
    rarer = min(value, 1 - value)
    if error <= ROUNDING or rarer <= ROUNDING:
        return float(clusters)
    n = rarer * (1 - rarer) / error**2
    few = rarer**2 / error**2
    return min(n, (few + 1) / (few / n + 1 / clusters))


def _check_mean(value: float, error: float, clusters: int) -> None:
    if clusters < 1 or not math.isfinite(value):
        raise ValueError(f"clusters must be at least 1 and value finite, not {clusters} and {value}")
    if clusters > 1 and not (math.isfinite(error) and error >= 0):
        raise ValueError(f"error must be finite and not negative, not {error}")


@dataclass(frozen=True, slots=True, eq=False)
class Clustered:
    """Scores of several columns (methods, or pairs of method and metric), summed over each cluster's items.

    Attributes:
        names: cluster names [clusters], in order and unique.
        sums: sums of scores [clusters, columns].
        sizes: numbers of items: [clusters], or [clusters, columns] where the columns have different items.
    """

    names: NDArray[Any]
    sums: Floats
    sizes: Floats

    @classmethod
    def of(cls, scores: ArrayLike, clusters: ArrayLike) -> Self:
        """Sum scores over clusters.

        Args:
            scores: [items, columns], with the same items in every column.
            clusters: cluster of each item, [items].
        """
        values, labels = np.asarray(scores, dtype=np.float64), np.asarray(clusters)
        if values.ndim != 2 or labels.shape != values.shape[:1]:
            raise ValueError(
                f"scores {values.shape} and clusters {labels.shape} do not have one row for each item"
            )
        if not values.size or not np.isfinite(values).all():
            raise ValueError("scores must be finite and not empty")
        order = np.argsort(labels, kind="stable")
        names, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        return cls(names, np.add.reduceat(values[order], first, axis=0), sizes.astype(np.float64))

    @classmethod
    def beside(cls, parts: Sequence["Clustered"]) -> Self:
        """Concatenate the columns of several objects, such as metrics over different items.

        A cluster that is missing from one of them has size 0 there.
        """
        names = np.unique(np.concatenate([part.names for part in parts]))
        sums, sizes = ([np.zeros((len(names), part.sums.shape[1])) for part in parts] for _ in range(2))
        for i, part in enumerate(parts):
            rows = np.searchsorted(names, part.names)
            sums[i][rows], sizes[i][rows] = part.sums, part.sizes.reshape(len(rows), -1)
        return cls(names, np.hstack(sums), np.hstack(sizes))


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Differences of each column's mean from its reference's, with intervals and two-sided p values.

    All fields have shape [columns].
    """

    value: Floats
    low: Floats
    high: Floats
    p: Floats


def paired_bootstrap(
    sums: Floats,
    sizes: Floats,
    reference: int | NDArray[np.intp],
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Differences:
    """Bootstrap the differences of means from a reference on the same clusters.

    Clusters are drawn with replacement, the same ones for all columns. The interval is a percentile interval;
    p is twice the share of differences on the far side of 0, counting the observed one (Davison and Hinkley
    1997). Where only a few clusters tell two columns apart, that is overconfident (5 of 1,000, all in one
    direction: p = 0.013 where McNemar gives 0.0625). So p is at least 2^(1 - k), the smallest value that
    flipping the signs of k differing clusters can give, and an interval whose p is above 1 - level contains
    0. With fewer than two clusters that have items, the interval is (-inf, inf).

    Args:
        sums: sums of scores [clusters, columns], as in `Clustered`.
        sizes: numbers of items, [clusters] or [clusters, columns]; a resample without items of a column is
            left out for that column.
        reference: the column to compare with, or [columns], one for each column.
        resamples: number of resamples.
        seed: random seed of the resampling.
        level: share of such intervals that should contain the true difference.
    """
    sizes = sizes.reshape(len(sizes), -1)
    _check_columns(sums, sizes)
    columns = np.arange(sums.shape[1])
    other = np.broadcast_to(np.asarray(reference, dtype=np.intp), columns.shape)
    if resamples < 1 or not 0 < level < 1 or not np.isin(other, columns).all():
        raise ValueError(
            f"reference {reference} must be a column, resamples {resamples} at least 1, "
            f"level {level} between 0 and 1"
        )
    shares = sums / sizes.sum(0)
    means = np.ascontiguousarray(
        _resampled_means(sums, sizes, resamples, seed).T
    )  # contiguous by column, since the steps below run over the draws of each column
    drawn = means - means[other]
    quantile = (
        np.nanquantile if np.isnan(drawn).any() else np.quantile
    )  # nanquantile works column by column and is many times slower
    low, high = quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1)
    far = np.minimum((drawn <= ROUNDING).sum(1), (drawn >= -ROUNDING).sum(1))
    differing = (abs(shares - shares[:, other]) > ROUNDING / len(sums)).sum(0)
    p = np.minimum(1, np.maximum(2 * (1 + far) / (1 + np.isfinite(drawn).sum(1)), 2.0 ** (1 - differing)))
    held = np.broadcast_to((sizes > 0).sum(0), columns.shape)
    unknown = (np.minimum(held, held[other]) < 2) & (other != columns)
    reach = np.where(unknown, np.inf, np.where(p > 1 - level, 0, -np.inf))
    return Differences(
        shares.sum(0) - shares.sum(0)[other], np.minimum(low, 0 - reach), np.maximum(high, reach), p
    )


def _check_columns(sums: Floats, sizes: Floats) -> None:
    if sums.ndim != 2 or not sums.size or sizes.shape not in {sums.shape, (len(sums), 1)}:
        raise ValueError(f"sums {sums.shape} and sizes {sizes.shape} do not have one row for each cluster")
    if not (
        np.isfinite(sums).all() and np.isfinite(sizes).all() and (sizes >= 0).all() and sizes.sum(0).all()
    ):
        raise ValueError("sums and sizes must be finite, sizes not negative, and every column needs items")


def _resampled_means(sums: Floats, sizes: Floats, resamples: int, seed: int) -> Floats:
    """Compute means [resamples, columns] over clusters drawn with replacement; NaN where a draw is empty."""
    clusters = len(sums)
    rows = max(1, WEIGHT_BYTES // (8 * clusters))
    every = (
        _one_part(clusters, resamples, seed)
        if resamples <= rows
        else _weights(clusters, resamples, seed, rows)
    )
    with np.errstate(invalid="ignore"):
        return np.concatenate([(weights @ sums) / (weights @ sizes) for weights in every])


def _weights(clusters: int, resamples: int, seed: int, rows: int) -> Iterator[Floats]:
    """Yield how often each cluster is drawn in each resample, [at most `rows`, clusters] at a time."""
    generator = np.random.default_rng(seed)
    for count in (min(rows, resamples - start) for start in range(0, resamples, rows)):
        drawn = generator.integers(0, clusters, size=(count, clusters)) + clusters * np.arange(count)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float64)
        )


@lru_cache(maxsize=4)
def _one_part(clusters: int, resamples: int, seed: int) -> tuple[Floats]:
    """Return all resampling weights at once, cached: a report uses the same ones for hundreds of tables."""
    (weights,) = _weights(clusters, resamples, seed, resamples)
    weights.flags.writeable = False
    return (weights,)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p value of McNemar's test (1947).

    Each item that exactly one of the two methods gets right is an independent flip of a fair coin; without
    such items p is 1.0.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(
            f"only_first and only_second must not be negative, not {only_first} and {only_second}"
        )
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p values [m] for m comparisons (Holm 1979).

    The i-th smallest becomes max_{j<=i} min(1, (m-j+1) p_j). All m must come from real tests.
    """
    p = np.asarray(p_values, dtype=np.float64)
    _check_p(p)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def tied(
    values: ArrayLike, adjusted_p: ArrayLike, level: float = 0.05, lowest: bool = False
) -> NDArray[np.bool_]:
    """Return which columns a table marks: the best mean, and all means that are not significantly worse.

    The best of the means [columns] is the highest, or with `lowest` the lowest. `adjusted_p` [columns] comes
    from the comparisons with the best; the best's own entry is ignored. NaN means are never marked. As the
    best is chosen from the same data, the truly best column is seldom left out, but one of several equal
    columns is left out more often than `level`.
    """
    means, p = np.asarray(values, dtype=np.float64), np.asarray(adjusted_p, dtype=np.float64)
    known = np.isfinite(means)
    if p.shape != means.shape or not known.any():
        raise ValueError(
            f"values {means.shape} and adjusted_p {p.shape} must have the same length, "
            "and at least one mean must be known"
        )
    best = means == (np.min if lowest else np.max)(means[known])
    _check_p(np.where(known & ~best, p, 1))
    marked: NDArray[np.bool_] = best | (known & (p > level))
    return marked


def _check_p(p: Floats) -> None:
    if p.ndim != 1 or not p.size or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values must be a list of numbers in [0, 1], not {p}")


def kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Compute the agreement of two label sequences beyond chance (Cohen 1960).

    It is (observed - chance) / (1 - chance), or 1.0 if all labels are one and the same.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or not one.size or one.shape != other.shape:
        raise ValueError(
            f"first {one.shape} and second {other.shape} must have the same length and not be empty"
        )
    n = len(one)
    names, numbers = np.unique(np.concatenate([one, other]), return_inverse=True)
    chance = int(
        np.bincount(numbers[:n], minlength=len(names)) @ np.bincount(numbers[n:], minlength=len(names))
    )
    return (int((one == other).sum()) * n - chance) / (n * n - chance) if chance < n * n else 1.0
