"""Successive halving: many configurations on few cases, and the best third of them on three times as many.

What is decided depends only on the trials' scores and seconds. Both are stored, so a search that is started
again decides the same and finds its trials done.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lks.results.cells import Costs, Overrides, Status

FACTOR = 3
"""Growth of the number of edits from rung to rung; one configuration in so many survives."""
RUNGS = 3
"""Number of rungs, unless the dataset is too small or the time too short for as many."""
FIRST, LATER = 3, 2
"""Configurations that the first rung and each later one try at least, the default among them."""
ENOUGH = 90
"""Edits on the last rung, if T is less: a smaller number tells configurations poorly apart."""
FEWEST = 5
"""Edits on a rung, at least."""
REPEATS = 200
"""A search space counts as exhausted after this many points in a row that were tried before."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One stage of the search.

    Attributes:
        n_edits: T of its trials.
        draws: number of edit sets of T edits.
    """

    n_edits: int
    draws: int

    @property
    def edits(self) -> int:
        """Number of all edits of a trial."""
        return self.n_edits * self.draws


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration on one rung.

    Attributes:
        variant: parameters that differ from the default; empty for the default itself.
        rung: index of the rung.
        cell_id: the stored cell.
        status: how it ended.
        reason: why it failed; empty if it did not.
        score: objective; None if it failed.
        finer: harmonic mean by TF, share of tokens, which decides between equal scores: on few edits, exact
            answers are often all wrong or all right.
        seconds: time that it took, including that of the unedited model if it was asked for this trial.
        costs: costs of the cell.
    """

    variant: Overrides
    rung: int
    cell_id: str
    status: Status
    reason: str
    score: float | None
    finer: float
    seconds: float
    costs: Costs


def rungs(n_edits: int, available: int) -> list[Rung]:
    """Return the rungs of a search for T edits: sets of T edits, or fewer edits at once where T is large.

    Args:
        n_edits: T.
        available: number of development cases; at least T.
    """
    last = max(n_edits, min(ENOUGH, available) // n_edits * n_edits)
    sizes = [max(min(FEWEST, last), -(-last // FACTOR**k)) for k in reversed(range(RUNGS))]
    made = [Rung(min(n_edits, size), max(1, size // n_edits)) for size in sizes]
    return sorted(dict.fromkeys(made), key=lambda rung: rung.edits)


def least_edits(stages: Sequence[Rung]) -> int:
    """Return the number of edits of the smallest possible search."""
    return FIRST * stages[0].edits + sum(LATER * rung.edits for rung in stages[1:])


def affordable(stages: Sequence[Rung], per_edit_s: float, budget_s: float) -> list[Rung]:
    """Return the first rungs, as many as the time allows, but at least up to one with the full T.

    Args:
        stages: all rungs.
        per_edit_s: seconds of a trial per edit.
        budget_s: seconds for all trials.
    """
    full = stages[-1].n_edits
    needed = next(number for number, rung in enumerate(stages, start=1) if rung.n_edits == full)
    fit = [n for n in range(1, len(stages) + 1) if per_edit_s * least_edits(stages[:n]) <= budget_s]
    return list(stages[: max(needed, *fit, 1)])


def distinct(default: str, points: Iterable[tuple[str, Overrides]]) -> Iterator[Overrides]:
    """Yield the default (no changes), then points that differ from all before.

    Args:
        default: the default's resolved parameters.
        points: resolved parameters and changes of each point.
    """
    yield ()
    seen, repeated = {default}, 0
    for resolved, variant in points:
        if resolved in seen:
            repeated += 1
            if repeated >= REPEATS:
                return
            continue
        seen.add(resolved)
        repeated = 0
        yield variant


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials with a score, the best first; among equal ones the earlier first."""
    scored = [trial for trial in trials if trial.score is not None]
    return sorted(scored, key=lambda trial: (-(trial.score or 0.0), -trial.finer))


def halve(
    configurations: Iterator[Overrides],
    stages: Sequence[Rung],
    evaluate: Callable[[Overrides, int], Trial],
    budget_s: float,
) -> list[Trial]:
    """Run the search and return all trials.

    Each rung has the same share of the time. The first one takes new configurations until its share is spent,
    each further one the best third of the rung before, the best first. The default takes part on every rung,
    so that the best configuration is compared with it on the same cases. Whatever the time, a rung tries the
    default and one more configuration, the first rung two more. The default's first trial says how many rungs
    there is time for.

    Args:
        configurations: the default, then others.
        stages: the rungs, the fewest edits first.
        evaluate: runs a configuration on the rung of this index; a failure is a trial without a score.
        budget_s: seconds for all trials.
    """
    first = evaluate(next(configurations), 0)
    count = len(affordable(stages, first.costs.seconds / stages[0].edits, budget_s))
    trials: list[Trial] = []
    contenders: Iterable[Overrides] = configurations
    for number in range(count):
        until, least = budget_s * (number + 1) / count, LATER if number else FIRST
        here = [] if number else [first]
        for variant in contenders:
            spent = sum(trial.seconds for trial in (*trials, *here))
            usual = sum(trial.seconds for trial in here) / max(len(here), 1)
            if len(here) >= least and spent + usual / 2 > until:
                break
            here.append(evaluate(variant, number))
        trials += here
        best = [trial.variant for trial in ranked(here)]
        survivors = [variant for variant in best[: -(-len(here) // FACTOR)] if variant]
        if not survivors:  # the default is the best of few, or all others failed
            survivors = [variant for variant in best if variant][:1]
        contenders = [*([()] if () in best else []), *survivors]
        if not contenders:
            break
    return trials


def winner(trials: Sequence[Trial]) -> Trial | None:
    """Return the best trial of the last rung that one of them finished; None if all failed.

    The default takes part in it, so no winner is worse than the default on the cases of that rung.
    """
    last = max((trial.rung for trial in trials if trial.score is not None), default=0)
    return next(iter(ranked([trial for trial in trials if trial.rung == last])), None)
