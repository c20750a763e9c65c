"""An LLM as judge of free answers: an option beside the deterministic score, never the primary one.

Any server with OpenAI's chat completions will do. Each question is asked once: replies are kept on disk at once, by the hash of all they
depend on, so that a killed run loses only what was on its way.
"""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lks.errors import UserError
from lks.judge_rows import Replies

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

INSTRUCTION = (
    "You grade short answers. You are given a question or the beginning of a sentence, the right answer, perhaps other spellings of it, and an "
    "answer to grade. Take the right answer as given, even if you know better: it may be made up. The answer to grade is correct if it names the "
    "same thing as the right answer, in whatever words, spelling or language, and nothing that contradicts it. It is incorrect if it names "
    "something else, only part of what is needed to tell it from other things, several different things, or nothing. "
    "Reply with one word: correct or incorrect."
)
LONGEST_REPLY = 1024
"""Tokens; one word takes few, but some models think aloud first."""
TIMEOUT_S = 120.0
NO_KEY = "none"
"""What a server that needs no key is sent."""

Progress = Callable[[float], None]
_VERDICT = re.compile(r"[\W_]*(in)?correct(?![^\W_])(?!\W+(or\W+)?(in)?correct\b)", re.IGNORECASE)
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


def unseen(fraction: float) -> None:
    """A progress that shows nothing."""


@dataclass(frozen=True, slots=True)
class Item:
    """An answer to judge.

    Attributes:
        question: the prompt that was answered.
        target: the right answer.
        answer: what was said.
        accepted: other spellings of the right answer.
    """

    question: str
    target: str
    answer: str
    accepted: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What the judge is shown below the instruction."""
        also = f"\nOther spellings: {'; '.join(self.accepted)}" if self.accepted else ""
        return f"Question: {self.question}\nRight answer: {self.target}{also}\nAnswer to grade: {self.answer or '(nothing)'}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the judge said of an item, and what it means; None where that is neither word."""

    verdict: bool | None
    reply: str


def verdict_of(reply: str) -> bool | None:
    """True for a reply that begins with "correct", False for "incorrect", None for anything else; thoughts before it are dropped."""
    found = _VERDICT.match(_THOUGHT.sub("", reply))
    return None if found is None else found[1] is None


class Judge:
    """A model behind an OpenAI-compatible server.

    Attributes:
        model: its name there.
        asked: how many replies were asked for so far, those from disk not counted.
    """

    def __init__(
        self, model: str, base_url: str | None = None, api_key: str | None = None, cache: Path | None = None, concurrency: int = 8, retries: int = 5
    ) -> None:
        """Open the replies of earlier runs.

        Args:
            model: name of the model on the server.
            base_url: the server; `OPENAI_BASE_URL`, else OpenAI's own.
            api_key: `OPENAI_API_KEY`; a server of one's own needs none.
            cache: folder of the replies; None is `judge` in `lks.cache.folder()`.
            concurrency: how many questions are on their way at most.
            retries: how often a failed request is sent again, with growing pauses.

        Raises:
            UserError: neither key nor server, or no place for a question.
            StoreError: the replies cannot be read.
        """
        if concurrency < 1:
            raise UserError(f"The judge needs a concurrency of at least 1, not {concurrency}.")
        self.model, self.asked, self._answered = model, 0, False
        self._url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or (NO_KEY if "api.openai.com" not in self._url else "")
        if not self._key:
            raise UserError("The judge has no key. Set OPENAI_API_KEY, or name a server that needs none with OPENAI_BASE_URL.")
        self._concurrency, self._retries = concurrency, retries
        if cache is None:
            from lks.cache import folder

            cache = folder() / "judge"
        self._replies = Replies(cache, model, INSTRUCTION)

    def rule(self, items: Sequence[Item], progress: Progress = unseen) -> list[Ruling]:
        """Judge items, in their order; what was judged before, or occurs twice, is not asked again. Not to be called from a running event loop.

        The first question goes out alone, so that a wrong address, key or name is noticed before the others.

        Args:
            items: what to judge.
            progress: called with the fraction of items done.

        Raises:
            UserError: the server cannot be reached or refuses; replies up to then are kept.
            StoreError: the replies cannot be kept.
        """
        waiting = list(dict.fromkeys(item.prompt for item in items if item.prompt not in self._replies))
        if waiting:
            asyncio.run(self._ask_all(waiting, lambda left: progress(1 - left / len(items))))
        progress(1.0)
        replies = [self._replies[item.prompt] for item in items]
        return [Ruling(verdict_of(reply), reply) for reply in replies]

    async def _ask_all(self, prompts: Sequence[str], show: Callable[[int], None]) -> None:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(api_key=self._key, base_url=self._url, max_retries=self._retries, timeout=TIMEOUT_S) as client:
            await self._ask(client.with_options(max_retries=min(1, self._retries)), prompts[0])
            left = iter(prompts[1:])
            done = 1

            async def work() -> None:
                nonlocal done
                for prompt in left:  # shared: each worker takes the next
                    await self._ask(client, prompt)
                    done += 1
                    show(len(prompts) - done)

            workers = [asyncio.create_task(work()) for _ in range(min(self._concurrency, len(prompts)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _ask(self, client: "AsyncOpenAI", prompt: str) -> None:
        from openai import APIError, BadRequestError

        self.asked += 1
        try:
            completion = await client.chat.completions.create(
                model=self.model,
                messages=[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=LONGEST_REPLY,
            )
        except APIError as error:
            if isinstance(error, BadRequestError) and self._answered:  # not the way of asking, but this text: a content filter, too long
                return self._replies.keep(prompt, f"(refused) {self._without_key(_line(error))}")
            raise UserError(self._without_key(self._advice(error))) from None  # a server may send the key back
        choices = getattr(completion, "choices", None)
        if not choices:
            raise UserError(f"The judge's server {self._url} gave no chat completion. Check its address; mostly it ends in /v1.")
        self._answered = True
        self._replies.keep(prompt, self._without_key(choices[0].message.content or ""))
        return None

    def _without_key(self, text: str) -> str:
        """A server's words without the key, whatever it is that it sends back."""
        return text.replace(self._key, "(the key)") if self._key != NO_KEY else text

    def _advice(self, error: "APIError") -> str:
        """What went wrong with a request, and what to do about it."""
        import openai

        where, said = f"The judge's server {self._url}", _line(error)
        if isinstance(error, openai.APIConnectionError):
            return f"{where} cannot be reached ({said}). Start it, or name another with OPENAI_BASE_URL. Replies so far are kept."
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{where} refuses the key ({said}). Set OPENAI_API_KEY to one that it takes."
        if isinstance(error, openai.NotFoundError):
            return f"{where} knows no model {self.model!r}, or has no chat completions at this address ({said}). Check both; mostly it ends in /v1."
        if isinstance(error, openai.RateLimitError):
            return f"{where} takes no more requests now ({said}). Replies so far are kept: go on later, or with less concurrency."
        return f"{where} failed with the model {self.model!r} ({said}). Replies so far are kept: mend the cause and start again."


def _line(error: Exception) -> str:
    """What a server said, short enough for a line."""
    return " ".join(str(error).split())[:200]
