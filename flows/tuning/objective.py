"""What a search maximises: a mean of reliability, generality and locality, by a query over stored answers."""

from dataclasses import dataclass

from lks.errors import UserError
from lks.results.store import Store


@dataclass(frozen=True, slots=True)
class Objective:
    """A quantity to maximise.

    Attributes:
        readout: read-out of the three metrics, as in `schema.sql`.
        mean: "harmonic_mean" or "edit_performance" (the arithmetic mean).
        title: short name for tables.
        words: description for messages.
    """

    readout: str
    mean: str
    title: str
    words: str


_READOUTS = {
    "ar": ("ar_exact", "AR exact"),
    "tf": ("tf_token", "TF, share of tokens"),
    "wild": ("wild", "WILD, the free answer"),
}
_MEANS = {"hm": ("harmonic_mean", "HM", "harmonic"), "ep": ("edit_performance", "EP", "arithmetic")}
OBJECTIVES = {
    f"{short}-{mean}": Objective(
        readout, column, title, f"{kind} mean of reliability, generality and locality, {words}"
    )
    for short, (readout, words) in _READOUTS.items()
    for mean, (column, title, kind) in _MEANS.items()
}
"""Objectives by name: read-out, then mean."""

FINER = "tf-hm"
"""The objective that decides between equal values of another."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its 95 % interval, as fractions; an end is None where there is no interval."""

    metric: str
    value: float
    low: float | None
    high: float | None


_SCORES = """
WITH pulled AS (
    SELECT metric, subject, pull, value, n_subjects FROM pulls
    WHERE cell_id = $1 AND readout = $2 AND metric IN ('reliability', 'generality', 'locality')
),
single AS (
    SELECT metric, any_value(value) AS value, any_value(n_subjects) AS n_subjects,
        CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error
    FROM pulled GROUP BY metric
),
means AS (
    SELECT favg(value) AS edit_performance,
        CASE WHEN min(value) = 0 THEN 0 ELSE 3 / fsum(1 / value) END AS harmonic_mean
    FROM single HAVING count(value) = 3
),
-- By the delta method: d HM / d value = (HM / value)^2 / 3.
by_subject AS (
    SELECT subject, any_value(edit_performance) AS edit_performance,
        any_value(harmonic_mean) AS harmonic_mean,
        fsum(pull) / 3 AS ep_pull,
        fsum(CASE WHEN harmonic_mean = 0 THEN 0 ELSE pull * (harmonic_mean / value) ** 2 END) / 3 AS hm_pull
    FROM pulled, means GROUP BY subject
),
spread AS (
    SELECT any_value(edit_performance) AS edit_performance, any_value(harmonic_mean) AS harmonic_mean,
        count(*) AS n_subjects,
        CASE WHEN count(*) > 1 THEN sqrt(fsum(ep_pull * ep_pull)) END AS ep_error,
        CASE WHEN count(*) > 1 THEN sqrt(fsum(hm_pull * hm_pull)) END AS hm_error
    FROM by_subject HAVING count(*) > 0
),
every AS (
    FROM single
    UNION ALL BY NAME
    SELECT 'edit_performance' AS metric, edit_performance AS value, ep_error AS standard_error, n_subjects
    FROM spread
    UNION ALL BY NAME
    SELECT 'harmonic_mean' AS metric, harmonic_mean AS value, hm_error AS standard_error, n_subjects
    FROM spread
)
SELECT metric, value, interval_low(value, standard_error, n_subjects) AS low,
    interval_high(value, standard_error, n_subjects) AS high
FROM every WHERE value IS NOT NULL
"""
"""The three metrics of a cell and both their means, with intervals clustered by subject; the values are those
of view `metrics`, whose harmonic mean has no interval."""


def scores(store: Store, cell_id: str, objective: Objective) -> dict[str, Measured]:
    """Return reliability, generality, locality and both means of a stored cell, by name."""
    rows = store.rows(Measured, _SCORES, [cell_id, objective.readout])
    return {row.metric: row for row in rows}


def score(store: Store, cell_id: str, objective: Objective, dataset: str) -> tuple[float, float]:
    """Return the objective of a stored cell, and what decides between equal values (`FINER`).

    Raises:
        UserError: the dataset does not ask what the objective needs.
    """
    found = scores(store, cell_id, objective)
    if objective.mean not in found:
        lacking = ", ".join(sorted({"reliability", "generality", "locality"} - set(found)))
        raise UserError(
            f"Dataset {dataset!r} gives no {lacking or 'mean'} by read-out {objective.readout}, which the "
            "objective needs. Use another --dataset or --objective."
        )
    finer = scores(store, cell_id, OBJECTIVES[FINER])
    return found[objective.mean].value, finer[OBJECTIVES[FINER].mean].value
