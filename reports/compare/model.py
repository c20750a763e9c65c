"""The result of comparing two results folders, as data: A is the baseline, B the new one."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lks.results.cells import Cell, Status

LEVEL = 0.05
"""A difference is found if its p value, adjusted for all tests of the comparison, is below this level."""

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
    """A difference between two cells other than their answers: a parameter, a revision, a package's version.

    A value is "" if that side does not have it.
    """

    what: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Items:
    """Counts of the questions of a match.

    Attributes:
        shared: questions asked of both sides, word for word and with the same reference answer.
        only_a, only_b: questions asked of one side only.
        changed: shared questions whose raw answers differ in any of the next four respects.
        tf, ar, wild, fired: changed under teacher forcing, when generated, when generated freely, or in what
            the gate did.
        logprob_moved: largest difference in the mean log probability of a reference token, in nats. Not part
            of `changed`.
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
        """Whether both sides were asked the same questions and gave the same raw answers."""
        return self.shared > 0 and not (self.only_a or self.only_b or self.changed)


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """One metric under one read-out, over the items that both sides answered; percent and percentage points.

    Attributes:
        readout, metric: names as in the view `metrics`.
        a, b: the two means.
        value: paired difference, b - a.
        low, high: its 95 % interval; None where a single subject leaves it open. A single point if no score
            changed.
        p, adjusted_p: two-sided p value, unadjusted and after Holm over all changed scores of the comparison.
        n_items, n_subjects: number of items and subjects of the means; subjects are the clusters.
        changed: number of items whose raw answer differs.
        better, worse: number of items whose score rose or fell.
        state: conclusion.
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
    """A quantity that is shown but not tested: perplexity, fluency, seconds, bytes.

    None if a side does not have it.
    """

    name: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """B as a multiple of A."""
        return self.b / self.a if self.a and self.b is not None else None


@dataclass(frozen=True, slots=True)
class Unscored:
    """Items that both sides answered and one cannot score because it lacks the unedited model's answer."""

    readout: str
    metric: str
    n_items: int
    in_a: int
    in_b: int


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """A question whose answer changed, with both sides' answers under `readout`.

    `effect` is "better", "worse" or "".
    """

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
    """A cell that both sides have: equal except for parameters, revisions and number of draws.

    Attributes:
        a, b: the two cells.
        changes: differences other than the answers.
        items: counts of questions and changed answers.
        differences: all requested metrics.
        unscored: items that could not be scored on one side.
        beside: quantities that are not tested, such as costs.
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
        """Whether the two cells agree; a cell that only one side could run is different."""
        if self.a.status != self.b.status or any(one.state == "different" for one in self.differences):
            return "different"
        if self.a.status != "ok" or not self.items.shared:
            return "cannot be compared"
        same = self.items.identical and all(one.state == "unchanged" for one in self.differences)
        return "identical" if same else "no difference found"

    @property
    def why(self) -> str:
        """Why there is nothing to compare, or how the status differs; empty if both sides have answers."""
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
        a, b: paths that were compared, as given.
        matches: cells that both sides have, in the order of cells.
        only_a, only_b: cells that only one side has.
        tolerance: in percentage points; differences that lie within it with their intervals count as the
            same; 0 for none.
        tests: number of changed scores that Holm's adjustment covers.
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
        """Number of matches for each of the four verdicts."""
        found = Counter(match.verdict for match in self.matches)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def verdict(self) -> Verdict:
        """Different if any match is; identical if all matches that can be compared are."""
        counts = self.counts
        if counts["different"]:
            return "different"
        if counts["no difference found"]:
            return "no difference found"
        return "identical" if counts["identical"] else "cannot be compared"

    @property
    def uncertain(self) -> int:
        """Number of changed scores neither different nor shown to be within the tolerance; 0 without one."""
        states = (one.state for match in self.matches for one in match.differences)
        return sum(state == "no difference found" for state in states) if self.tolerance else 0

    def common_changes(self) -> dict[SettingChange, int]:
        """Count the matches that each difference other than the answers occurs in."""
        return dict(Counter(change for match in self.matches for change in match.changes))


def label(cell: Cell, others: Iterable[Cell] = ()) -> str:
    """Return a cell's displayed label.

    It includes a sample limit if there is one, and seed and draws if `others` have several.
    """
    alike = [other for other in others if other.label == cell.label]
    records = f" | first {cell.records:,} records" if cell.records else ""
    seed = f" | seed {cell.seed}" if cell.seed or any(other.seed != cell.seed for other in alike) else ""
    draws = (
        f" | {cell.draws} draw{'s' * (cell.draws != 1)}"
        if any(other.draws != cell.draws for other in alike)
        else ""
    )
    return cell.label + records + seed + draws
