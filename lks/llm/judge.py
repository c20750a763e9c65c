"""An LLM as judge of free answers: an option next to the deterministic score, never the primary one.

Any server with OpenAI's chat completions will do. Each question is asked once: replies are stored on disk at
once, by the hash of all they depend on, so that a killed run loses only the requests in flight.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lks.llm.client import ChatModel, ChatReply, Request, spoken
from lks.llm.limits import RequestLimits
from lks.llm.server import ChatServer
from lks.progress import Progress, no_progress
from lks.results.judge_rows import Replies

INSTRUCTION = (
    "You grade short answers. You are given a question or the beginning of a sentence, the right answer, "
    "perhaps other spellings of it, and an answer to grade. Take the right answer as given, even if you know "
    "better: it may be made up. The answer to grade is correct if it names the same thing as the right "
    "answer, in whatever words, spelling or language, and nothing that contradicts it. It is incorrect if it "
    "names something else, only part of what is needed to tell it from other things, several different "
    "things, or nothing. "
    "Reply with one word: correct or incorrect."
)
LONGEST_REPLY = 1024
"""Largest number of tokens of a reply; one word takes few, but some models reason first."""

_VERDICT = re.compile(r"[\W_]*(in)?correct(?![^\W_])(?!\W+(or\W+)?(in)?correct\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """An answer to judge.

    Attributes:
        question: the prompt that was answered.
        target: the right answer.
        answer: the answer to grade.
        accepted: other spellings of the right answer.
    """

    question: str
    target: str
    answer: str
    accepted: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What the judge is shown after the instruction."""
        also = f"\nOther spellings: {'; '.join(self.accepted)}" if self.accepted else ""
        return (
            f"Question: {self.question}\nRight answer: {self.target}{also}\nAnswer to grade: "
            f"{self.answer or '(nothing)'}"
        )


@dataclass(frozen=True, slots=True)
class Ruling:
    """The judge's reply to an item, and the verdict it means; None where it is neither word."""

    verdict: bool | None
    reply: str


def verdict_of(reply: str) -> bool | None:
    """Return True for a reply that begins with "correct", False for "incorrect", None for anything else.

    Reasoning before the verdict is dropped.
    """
    found = _VERDICT.match(spoken(reply))
    return None if found is None else found[1] is None


class Judge:
    """A judge model on an OpenAI-compatible server.

    Attributes:
        model: its name on the server.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: Path | None = None,
        concurrency: int = 8,
        retries: int = 5,
    ) -> None:
        """Load the replies of earlier runs.

        Args:
            model: name of the model on the server.
            base_url: address of the server; default `OPENAI_BASE_URL`, else OpenAI's own.
            api_key: key of the server; default `OPENAI_API_KEY`. A server other than OpenAI's needs none.
            cache: folder of the replies; None for `judge` in `lks.io.cache.folder()`.
            concurrency: largest number of requests in flight.
            retries: how often a failed request is sent again, with growing pauses.

        Raises:
            UserError: neither a key nor a server, or limits that allow no request.
            StoreError: the replies cannot be read.
        """
        self.model = model
        self._chat = ChatModel(
            ChatServer.named("The judge", base_url, api_key), model, RequestLimits(concurrency, retries)
        )
        if cache is None:
            from lks.io.cache import folder

            cache = folder() / "judge"
        self._replies = Replies(cache, model, INSTRUCTION)

    @property
    def asked(self) -> int:
        """Number of replies requested so far, those from disk not counted."""
        return self._chat.asked

    def rule(self, items: Sequence[JudgeItem], progress: Progress = no_progress) -> list[Ruling]:
        """Judge items, in their order; an item that was judged before, or occurs twice, is not asked again.

        The first question goes out alone, so that a wrong address, key or name is noticed before the others.
        Must not be called from a running event loop.

        Args:
            items: what to judge.
            progress: called with the fraction of items done.

        Raises:
            UserError: the server cannot be reached or refuses; replies up to then are kept.
            StoreError: the replies cannot be kept.
        """
        waiting = list(dict.fromkeys(item.prompt for item in items if item.prompt not in self._replies))
        left = len(waiting)

        def keep(index: int, reply: ChatReply) -> None:
            nonlocal left
            self._replies.keep(waiting[index], reply.text)
            left -= 1
            progress(1 - left / len(items))

        self._chat.ask(
            [
                Request((("system", INSTRUCTION), ("user", prompt)), longest=LONGEST_REPLY)
                for prompt in waiting
            ],
            keep,
        )
        progress(1.0)
        replies = [self._replies[item.prompt] for item in items]
        return [Ruling(verdict_of(reply), reply) for reply in replies]
