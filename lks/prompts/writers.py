"""Writers of prompts: a chat model, or the templates of other records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lks.data.template_prompts import PromptSource, Record
from lks.llm.client import Request
from lks.llm.limits import RequestUsage
from lks.llm.reply_cache import Correspondence
from lks.prompts.filters import PromptFact, Seen, Split, Written, WrittenPrompt
from lks.prompts.instructions import locality, paraphrase
from lks.prompts.pipeline import STAGES, Ask, WriterReply, WritingStage, write

ATTEMPTS = 4
"""Maximum number of times a chat model is asked for a prompt."""
REPLY_TOKENS = {"paraphrase": 16, "locality": 28}
"""Approximate number of tokens per reply, for estimates."""


class ChatWriter:
    """A chat model whose replies are stored.

    Attributes:
        used: tokens of all replies that were read, regardless of when they were paid for.
    """

    attempts = ATTEMPTS

    def __init__(self, correspondence: Correspondence) -> None:
        self.used = RequestUsage()
        self._correspondence = correspondence

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """Ask the model what it has not been asked before.

        Raises:
            UserError: the server cannot be used, or the spending cap is reached; replies up to then are kept.
        """
        requests = [request_of(ask) for ask in asks]
        replies = self._correspondence.ask(requests, arrived)
        counted = {request: reply.usage for request, reply in zip(requests, replies, strict=True)}
        self.used = sum(counted.values(), self.used)
        return [
            WriterReply(request.messages[-1][1], reply.text, reply.refused)
            for request, reply in zip(requests, replies, strict=True)
        ]


class TemplateWriter:
    """A writer that uses the templates of other records; the first attempt gives the best fitting one.

    Templates come without answers, so they are suitable for training only.
    """

    def __init__(self, prompts: PromptSource, attempts: int) -> None:
        """Create a writer.

        Args:
            prompts: gives a record's prompts, best first.
            attempts: maximum number of candidates to try per prompt.
        """
        self.attempts = attempts
        self._prompts = prompts

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """Return the next candidates."""
        made = [self._candidate(ask) for ask in asks]
        return [
            WriterReply(
                f"template {ask.attempt + 1} for: {ask.fact.prompt}",
                text,
                prompt=None if text is None else WrittenPrompt(text),
            )
            for ask, text in zip(asks, made, strict=True)
        ]

    def _candidate(self, ask: Ask) -> str | None:
        """Return the candidate of an attempt; None if there are no more."""
        fact = ask.fact
        record = Record(fact.case_id, fact.subject, fact.prompt, fact.target, fact.ground_truth, "", "", "")
        made = self._prompts.prompts(record)
        if ask.stage.kind == "paraphrase":
            return made.paraphrases[ask.attempt] if ask.attempt < len(made.paraphrases) else None
        left = [text for text in made.locality if text not in {one.text for one in ask.own.locality}]
        return left[ask.attempt] if ask.attempt < len(left) else None


def request_of(ask: Ask) -> Request:
    """Build the chat request for an ask."""
    have = ask.own.paraphrases if ask.stage.kind == "paraphrase" else ask.own.locality
    make = paraphrase if ask.stage.kind == "paraphrase" else locality
    return make(ask.fact.subject, ask.fact.prompt, [prompt.text for prompt in have], ask.attempt)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of writing.

    Attributes:
        requests: requests still to be sent if no reply is rejected; at most `ATTEMPTS` times as many.
        usage: approximate number of their tokens.
        known: replies that are on disk and will be used.
    """

    requests: int
    usage: RequestUsage
    known: int


class _Foresight:
    """A writer that reads earlier replies and counts what would have to be asked."""

    attempts = ATTEMPTS

    def __init__(self, kept: Correspondence | None) -> None:
        self.usage, self.known = RequestUsage(), 0
        self.missing: set[tuple[str, WritingStage]] = set()
        self._kept = kept

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """Return the known replies, and empty ones for the rest."""
        return [self._said(ask) for ask in asks]

    def _said(self, ask: Ask) -> WriterReply:
        """Return the stored reply, or count the request."""
        request = request_of(ask)
        if self._kept is not None and self._kept.known(request):
            self.known += 1
            (reply,) = self._kept.ask([request])
            return WriterReply("", reply.text, reply.refused)
        if (ask.fact.case_id, ask.stage) not in self.missing:
            self.missing.add((ask.fact.case_id, ask.stage))
            self.usage += RequestUsage(
                request_of(replace(ask, own=_filled(ask))).estimate, REPLY_TOKENS[ask.stage.kind]
            )
        return WriterReply("", None)


def _filled(ask: Ask) -> Written:
    """Return as many prompts as earlier stages will have given, with the edit prompt for missing ones."""
    earlier = STAGES[: STAGES.index(ask.stage)]
    counts = [sum(stage.kind == kind for stage in earlier) for kind in ("paraphrase", "locality")]
    given = WrittenPrompt(ask.fact.prompt)
    return Written(
        (*ask.own.paraphrases, *[given] * counts[0])[: counts[0]],
        (*ask.own.locality, *[given] * counts[1])[: counts[1]],
    )


def estimate(
    facts: Sequence[PromptFact], splits: Sequence[Split], seen: Seen, kept: Correspondence | None
) -> Estimate:
    """Count requests and tokens without asking.

    Args:
        facts: facts that prompts are to be written for.
        splits: the sets to write.
        seen: existing prompts; those known to be accepted are added.
        kept: the replies so far, if any.
    """
    foresight = _Foresight(kept)
    write(facts, splits, foresight, seen)
    return Estimate(len(foresight.missing), foresight.usage, foresight.known)
