"""Who writes prompts: a chat model, or the templates of other records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lks.data.template_prompts import PromptSource, Record
from lks.llm.client import Request
from lks.llm.limits import RequestUsage
from lks.llm.reply_cache import Correspondence
from lks.prompts.filters import PromptFact, Seen, Split, Written, WrittenPrompt
from lks.prompts.instructions import locality, paraphrase
from lks.prompts.pipeline import STAGES, Ask, Stage, WriterReply, write

ATTEMPTS = 4
"""How often a chat model is asked for a prompt."""
REPLY_TOKENS = {"paraphrase": 16, "locality": 28}
"""About what a reply takes, for estimates."""


class ChatWriter:
    """A chat model whose replies are kept.

    Attributes:
        used: tokens of all replies that were looked at, whenever they were paid.
    """

    attempts = ATTEMPTS

    def __init__(self, correspondence: Correspondence) -> None:
        self.used = RequestUsage()
        self._correspondence = correspondence

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """Ask the model what it has not been asked before.

        Raises:
            UserError: the server cannot be used, or the ceiling is reached; replies up to then are kept.
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
    """The templates of other records: the first attempt gives the best fitting one. They know no answers, so they are for training alone."""

    def __init__(self, prompts: PromptSource, attempts: int) -> None:
        """See the class.

        Args:
            prompts: gives a record's prompts, best first.
            attempts: of how many one is taken, at most.
        """
        self.attempts = attempts
        self._prompts = prompts

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """The next candidates."""
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
        fact = ask.fact
        record = Record(fact.case_id, fact.subject, fact.prompt, fact.target, fact.ground_truth, "", "", "")
        made = self._prompts.prompts(record)
        if ask.stage.kind == "paraphrase":
            return made.paraphrases[ask.attempt] if ask.attempt < len(made.paraphrases) else None
        left = [text for text in made.locality if text not in {one.text for one in ask.own.locality}]
        return left[ask.attempt] if ask.attempt < len(left) else None


def request_of(ask: Ask) -> Request:
    """What a chat model is asked."""
    have = ask.own.paraphrases if ask.stage.kind == "paraphrase" else ask.own.locality
    make = paraphrase if ask.stage.kind == "paraphrase" else locality
    return make(ask.fact.subject, ask.fact.prompt, [prompt.text for prompt in have], ask.attempt)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What writing will take.

    Attributes:
        requests: still to be sent where no reply is rejected; `ATTEMPTS` times as many at most.
        usage: their tokens, about.
        known: replies that are on disk and will be used.
    """

    requests: int
    usage: RequestUsage
    known: int


class _Foresight:
    """A writer that reads what was answered before, and counts what would have to be asked."""

    attempts = ATTEMPTS

    def __init__(self, kept: Correspondence | None) -> None:
        self.usage, self.known = RequestUsage(), 0
        self.missing: set[tuple[str, Stage]] = set()
        self._kept = kept

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        """What is known, and nothing for the rest."""
        return [self._said(ask) for ask in asks]

    def _said(self, ask: Ask) -> WriterReply:
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
    """As many prompts as earlier stages will have given; the edit prompt stands in for what is not there yet."""
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
        facts: prompts are to be written for them.
        splits: which sets.
        seen: what there is already; what is known to be accepted is added.
        kept: the replies so far, if there are any.
    """
    foresight = _Foresight(kept)
    write(facts, splits, foresight, seen)
    return Estimate(len(foresight.missing), foresight.usage, foresight.known)
