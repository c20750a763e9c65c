"""What a comparison of two results folders finds, as data: A is what was, B is what is."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lks.results.cells import Cell, Status

LEVEL = 0.05
"""A difference is found where its p value, adjusted for all tests of the comparison, is below this."""

State = Literal["unchanged", "within tolerance", "no difference found", "different"]
Verdict = Literal["identical", "no difference found", "different", "cannot be compared"]
VERDICTS: tuple[Verdict, ...] = ("identical", "no difference found", "different", "cannot be compared")


@dataclass(frozen=True, slots=True)
class Held:
    """A cell as one side has it."""

    cell: Cell
    cell_id: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class SettingChange:
    """Something beside the answers in which two cells differ: a parameter, a revision, a package's version; "" where a side does not have it."""

    what: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Items:
    """Questions of a match.

    Attributes:
        shared: asked of both sides, word for word and with the same reference answer.
        only_a, only_b: asked of one side alone.
        changed: of those asked of both, how many have a raw answer that differs: in any of the four that follow.
        tf, ar, wild, fired: under teacher forcing, generated, generated freely, what the gate did.
        logprob_moved: the most by which the mean log p of a reference token differs, nats. Not part of `changed`.
    """

    shared: int
    only_a: int
    only_b: int
    changed: int
    tf: int
    ar: int
    wild: int
    fired: int
    logprob_moved: float

    @property
    def identical(self) -> bool:
        """Whether both sides were asked the same and gave the same raw answers."""
        return self.shared > 0 and not (self.only_a or self.only_b or self.changed)


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """One metric under one read-out, over the items that both sides answered; percent and points of percent.

    Attributes:
        readout, metric: names as in the view `metrics`.
        a, b: the two means.
        value: b - a, paired.
        low, high: its 95 % interval; None where a single subject leaves it open. A point where no score changed.
        p, adjusted_p: two-sided, alone and after Holm over all changed scores of the comparison.
        n_items, n_subjects: behind the means; subjects are the clusters.
        changed: items whose raw answer differs.
        better, worse: items whose score rose and fell.
        state: what follows.
    """

    readout: str
    metric: str
    a: float
    b: float
    value: float
    low: float | None
    high: float | None
    p: float
    adjusted_p: float
    n_items: int
    n_subjects: int
    changed: int
    better: int
    worse: int
    state: State


@dataclass(frozen=True, slots=True)
class Beside:
    """A quantity that is shown and not tested: perplexity, fluency, seconds, bytes. None where a side does not have it."""

    name: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """B as a multiple of A."""
        return self.b / self.a if self.a and self.b is not None else None


@dataclass(frozen=True, slots=True)
class Unscored:
    """Items that both sides answered and one cannot score, as the unedited model's answer is lacking there."""

    readout: str
    metric: str
    n_items: int
    in_a: int
    in_b: int


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """A question whose answer changed, with what both sides said under `readout`; `effect` is "better", "worse" or ""."""

    kind: str
    context: str
    moment: str
    readout: str
    prompt: str
    answer: str
    a_said: str
    b_said: str
    effect: str


@dataclass(frozen=True, slots=True)
class Match:
    """A cell that both sides have: equal in all but parameters, revisions and number of draws.

    Attributes:
        a, b: the two.
        changes: what differs beside the answers.
        items: questions and how many answers changed.
        differences: all metrics that were asked for.
        unscored: what could not be scored on one side.
        beside: costs and the like.
        examples: up to three changed answers.
    """

    a: Held
    b: Held
    changes: tuple[SettingChange, ...]
    items: Items
    differences: tuple[ScoreDifference, ...]
    unscored: tuple[Unscored, ...]
    beside: tuple[Beside, ...]
    examples: tuple[ChangedAnswer, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether the two tell the same; a cell that only one side could run is different."""
        if self.a.status != self.b.status or any(one.state == "different" for one in self.differences):
            return "different"
        if self.a.status != "ok" or not self.items.shared:
            return "cannot be compared"
        same = self.items.identical and all(one.state == "unchanged" for one in self.differences)
        return "identical" if same else "no difference found"

    @property
    def why(self) -> str:
        """Why there is nothing to compare, or what became of the cell; empty if there are answers on both sides."""
        if self.a.status != self.b.status:
            return f"{self.a.status} → {self.b.status}" + (
                f": {self.b.reason or self.a.reason}" if self.b.reason or self.a.reason else ""
            )
        if self.a.status != "ok":
            return f"{self.a.status} on both sides"
        if not self.items.shared:
            asked = self.items.only_a + self.items.only_b
            return "no question in common" if asked else "no answers on either side"
        return ""


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """A comparison of two results folders.

    Attributes:
        a, b: what was compared, as given.
        matches: cells that both have, in the order of cells.
        only_a, only_b: cells that one has.
        tolerance: differences that lie within so many points with their interval count as the same; 0 for none.
        tests: how many changed scores Holm's adjustment is over.
        warnings: damaged cells that were left out.
    """

    a: str
    b: str
    matches: tuple[Match, ...]
    only_a: tuple[Held, ...]
    only_b: tuple[Held, ...]
    tolerance: float
    tests: int
    warnings: tuple[str, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """Matches by verdict, all four."""
        found = Counter(match.verdict for match in self.matches)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def verdict(self) -> Verdict:
        """Different if one match is; identical if all that can be compared are."""
        counts = self.counts
        if counts["different"]:
            return "different"
        if counts["no difference found"]:
            return "no difference found"
        return "identical" if counts["identical"] else "cannot be compared"

    @property
    def uncertain(self) -> int:
        """How many changed scores are neither different nor shown to be the same within the tolerance; 0 without one."""
        states = (one.state for match in self.matches for one in match.differences)
        return sum(state == "no difference found" for state in states) if self.tolerance else 0

    def common_changes(self) -> dict[SettingChange, int]:
        """What differs beside the answers -> in how many matches."""
        return dict(Counter(change for match in self.matches for change in match.changes))


def label(cell: Cell, others: Iterable[Cell] = ()) -> str:
    """How people read a cell: its label, with records, and with seed and draws where `others` have several."""
    alike = [other for other in others if other.label == cell.label]
    records = f" | first {cell.records:,} records" if cell.records else ""
    seed = f" | seed {cell.seed}" if cell.seed or any(other.seed != cell.seed for other in alike) else ""
    draws = (
        f" | {cell.draws} draw{'s' * (cell.draws != 1)}"
        if any(other.draws != cell.draws for other in alike)
        else ""
    )
    return cell.label + records + seed + draws
