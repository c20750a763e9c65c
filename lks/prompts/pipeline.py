"""The pipeline that has prompts written for records, by a language model or from templates.

It decides what is asked per record, in which order, and what is kept. Stage by stage (evaluation paraphrase,
evaluation locality, then those for training) all records are asked at once, and replies are judged in the
records' order. A rejected prompt is requested again together with all others that were rejected. So the
outcome depends on the replies alone, not on the order in which they arrive, and training prompts can be
compared with all evaluation prompts.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from lks.data.templates import normalised
from lks.progress import no_progress
from lks.prompts.filters import Kind, PromptFact, Reason, Seen, Split, Written, WrittenPrompt, fault, read

SPLITS: tuple[Split, ...] = ("evaluation", "training")


@dataclass(frozen=True, slots=True)
class WritingStage:
    """One prompt that every record should have."""

    split: Split
    kind: Kind
    index: int = 0

    @property
    def name(self) -> str:
        """Name as in the files of rejects and of missing prompts."""
        return f"{self.split} {self.kind} {self.index + 1}"


STAGES = (
    WritingStage("evaluation", "paraphrase"),
    WritingStage("evaluation", "locality"),
    WritingStage("training", "paraphrase"),
    WritingStage("training", "locality", 0),
    WritingStage("training", "locality", 1),
)
"""As in the paper: a paraphrase and a locality prompt to evaluate, a paraphrase and two locality prompts to
train.
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for one prompt.

    Attributes:
        fact: the fact it is for.
        stage: which prompt is wanted.
        own: prompts that the record already has.
        attempt: counted from 0; another attempt gives another reply.
    """

    fact: PromptFact
    stage: WritingStage
    own: Written
    attempt: int


@dataclass(frozen=True, slots=True)
class WriterReply:
    """A writer's reply to an `Ask`.

    Attributes:
        request: what was asked, for the file of rejects.
        reply: the text of the reply; None if the writer has nothing more to try.
        refused: whether the server refused to answer.
        prompt: the prompt, if the reply need not be parsed.
    """

    request: str
    reply: str | None
    refused: bool = False
    prompt: WrittenPrompt | None = None


class Writer(Protocol):
    """A source of written prompts.

    Attributes:
        attempts: maximum number of attempts per prompt.
    """

    attempts: int

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """Return the replies in the order of `asks`, always the same for the same ask.

        `arrived` is called for each reply that comes in, except for those from disk.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reject:
    """A reply that was rejected."""

    case_id: str
    stage: str
    attempt: int
    request: str
    reply: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Lacking:
    """A prompt that a record does not have, and why each attempt failed."""

    case_id: str
    stage: str
    reasons: tuple[Reason, ...]


@dataclass(slots=True)
class Counts:
    """Progress of writing.

    Attributes:
        wanted: total number of prompts.
        accepted, lacking, rejected: counts so far.
        arrived: replies that have arrived but were not judged yet.
    """

    wanted: int
    accepted: int = 0
    lacking: int = 0
    rejected: int = 0
    arrived: int = 0


@dataclass(slots=True)
class WritingOutcome:
    """Outcome of writing.

    Attributes:
        written: (split, case id) -> prompts.
        rejects: in the order in which they were judged.
        lacking: in the same order.
    """

    written: dict[tuple[Split, str], Written] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    lacking: list[Lacking] = field(default_factory=list)

    def whole(self, split: Split, facts: Sequence[PromptFact]) -> int:
        """Return how many records have all prompts of a split."""
        lacking = {one.case_id for one in self.lacking if one.stage.startswith(split)}
        return sum(fact.case_id not in lacking for fact in facts)

    def reasons(self) -> dict[str, int]:
        """Count rejects by reason, most frequent first."""
        counts = Counter(str(one.reason) for one in self.rejects)
        return {reason: counts[reason] for reason in sorted(counts, key=lambda one: (-counts[one], one))}


def stages_of(splits: Sequence[Split]) -> tuple[WritingStage, ...]:
    """Return the stages of some splits, in their order."""
    return tuple(stage for stage in STAGES if stage.split in splits)


def write(
    facts: Sequence[PromptFact],
    splits: Sequence[Split],
    writer: Writer,
    seen: Seen,
    show: Callable[[Counts], None] = no_progress,
) -> WritingOutcome:
    """Have prompts written for all facts.

    Args:
        facts: facts with distinct case ids.
        splits: the sets to write.
        writer: the source of prompts.
        seen: existing prompts; accepted ones are added.
        show: called with the progress.

    Raises:
        UserError: the writer fails; one that stores its replies resumes from there.
    """
    writing = _Writing(facts, splits, seen, show)
    for stage in stages_of(splits):
        waiting: Sequence[PromptFact] = facts
        failed: dict[str, tuple[Reason, ...]] = {}
        for attempt in range(writer.attempts):
            if waiting:
                waiting = writing.round(stage, attempt, waiting, writer, failed)
        writing.give_up([Lacking(fact.case_id, stage.name, failed.get(fact.case_id, ())) for fact in waiting])
    return writing.outcome


class _Writing:
    """Prompts accepted and rejected so far."""

    def __init__(
        self, facts: Sequence[PromptFact], splits: Sequence[Split], seen: Seen, show: Callable[[Counts], None]
    ) -> None:
        self.outcome = WritingOutcome(
            {(split, fact.case_id): Written() for split in splits for fact in facts}
        )
        self._seen, self._show = seen, show
        self._counts = Counts(len(stages_of(splits)) * len(facts))

    def own(self, fact: PromptFact) -> Written:
        """Return all prompts of a record, those of evaluation first."""
        both = [self.outcome.written.get((split, fact.case_id), Written()) for split in SPLITS]
        return Written(both[0].paraphrases + both[1].paraphrases, both[0].locality + both[1].locality)

    def round(
        self,
        stage: WritingStage,
        attempt: int,
        facts: Sequence[PromptFact],
        writer: Writer,
        failed: dict[str, tuple[Reason, ...]],
    ) -> list[PromptFact]:
        """Ask for one prompt per fact, judge the replies in order, and return the facts still without one."""
        said = writer.say([Ask(fact, stage, self.own(fact), attempt) for fact in facts], self._arrived)
        self._counts.arrived = 0
        still = []
        for fact, one in zip(facts, said, strict=True):
            reason = self._judge(stage, fact, one)
            if reason is None and one.reply is not None:
                continue
            still.append(fact)
            if reason is not None:
                failed[fact.case_id] = (*failed.get(fact.case_id, ()), reason)
                self.outcome.rejects.append(
                    Reject(fact.case_id, stage.name, attempt, one.request, one.reply or "", reason)
                )
                self._counts.rejected += 1
        self._show(self._counts)
        return still

    def give_up(self, lacking: Sequence[Lacking]) -> None:
        """Record prompts for which no further attempt is made."""
        self.outcome.lacking += lacking
        self._counts.lacking += len(lacking)
        self._show(self._counts)

    def _judge(self, stage: WritingStage, fact: PromptFact, said: WriterReply) -> Reason | None:
        """Accept a reply, or return the reason for rejecting it; return None without a reply, too."""
        if said.refused:
            return "refused by the server"
        if said.reply is None:
            return None
        prompt = said.prompt or read(stage.kind, said.reply)
        if not isinstance(prompt, WrittenPrompt):
            return prompt
        reason = fault(stage.split, stage.kind, prompt, fact, self.own(fact), self._seen)
        if reason is None:
            mine = self.outcome.written[stage.split, fact.case_id]
            added = (
                replace(mine, paraphrases=(*mine.paraphrases, prompt))
                if stage.kind == "paraphrase"
                else replace(mine, locality=(*mine.locality, prompt))
            )
            self.outcome.written[stage.split, fact.case_id] = added
            self._seen.written[stage.split].add(normalised(prompt.text))
            self._counts.accepted += 1
        return reason

    def _arrived(self) -> None:
        """Count and show a reply that has arrived."""
        self._counts.arrived += 1
        self._show(self._counts)
