"""Client for servers with OpenAI's chat completions: concurrent requests, retries and advice on failure."""

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lks.errors import UserError
from lks.io.untrusted import one_line
from lks.llm.limits import NOTHING, Budget, Pace, RequestLimits, RequestUsage
from lks.llm.server import ChatServer, NoCompletion

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionMessageParam

LONGEST_PAUSE_S, LONGEST_REST_S = 60.0, 600.0
"""Longest pause between two retries, and longest pause that a server may ask for; a server that asks for more
counts as unavailable."""
MESSAGE_TOKENS = 16
"""Largest number of tokens that a chat template adds to a message."""
LETTERS_PER_TOKEN = 4
"""Approximate letters per token in English, for estimates. In the worst case a token is a single byte."""

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


def spoken(reply: str) -> str:
    """Return a reply without the reasoning that some models put in front of it."""
    return _THOUGHT.sub("", reply)


@dataclass(frozen=True, slots=True)
class Request:
    """A chat request.

    Attributes:
        messages: (role, text) pairs in order.
        temperature: sampling temperature; 0 for the likeliest reply.
        longest: largest number of tokens of the reply.
        sample: number of the draw, to ask the same again at a temperature above 0; it is not sent to the
            server.
    """

    messages: tuple[tuple[str, str], ...]
    temperature: float = 0.0
    longest: int = 1024
    sample: int = 0

    @property
    def worst(self) -> RequestUsage:
        """Largest possible usage."""
        return RequestUsage(
            sum(len(text.encode()) + MESSAGE_TOKENS for _, text in self.messages), self.longest
        )

    @property
    def estimate(self) -> int:
        """Approximate number of tokens of the messages."""
        return sum(len(text) // LETTERS_PER_TOKEN + MESSAGE_TOKENS // 2 for _, text in self.messages)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply of a chat model.

    Attributes:
        text: the reply without the key, whatever the server sends back.
        usage: as the server counts it; the worst case where it does not.
        refused: whether the server refused this request (a content filter, too long); the text then says why.
    """

    text: str
    usage: RequestUsage = NOTHING
    refused: bool = False


class _Stopped(Exception):
    """Another request failed permanently before this one was sent."""


class ChatModel:
    """A chat model on a server.

    Attributes:
        model: its name on the server.
        budget: what was spent, and the ceiling.
        asked: requests so far, each counted once.
        sent: requests so far, every retry included.
        on_loss: called with the usage that may have been charged for a request without a reply.
    """

    def __init__(
        self,
        server: ChatServer,
        model: str,
        limits: RequestLimits | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.model, self.budget = model, budget or Budget()
        self.asked = self.sent = 0
        self.on_loss: Callable[[RequestUsage], None] = lambda usage: None
        self._server, self._limits = server, limits or RequestLimits()
        self._pace = Pace(self._limits)
        self._answered = self._stopping = False

    def ask(self, requests: Sequence[Request], keep: Callable[[int, ChatReply], None]) -> None:
        """Send all requests, at most `concurrency` of them at once.

        The very first request goes out alone, so that a wrong address, key or name is noticed before the
        others. After a failure nothing new is sent, but requests in flight are awaited, because they are
        charged. Must not be called from a running event loop.

        Args:
            requests: what to ask.
            keep: called with the index of each request and its reply, as replies arrive.

        Raises:
            UserError: the server cannot be reached or refuses, or the ceiling is reached.
        """
        if requests:
            self._stopping = False
            asyncio.run(self._ask_all(requests, keep))

    async def _ask_all(self, requests: Sequence[Request], keep: Callable[[int, ChatReply], None]) -> None:
        """Send all requests from a pool of workers, and raise the first real error."""
        from openai import AsyncOpenAI

        left = iter(enumerate(requests))
        async with AsyncOpenAI(
            api_key=self._server.key, base_url=self._server.url, max_retries=0, timeout=self._limits.timeout_s
        ) as client:

            async def work() -> None:
                for index, request in left:  # shared: each worker takes the next
                    try:
                        keep(index, await self._ask(client, request))
                    except BaseException:
                        self._stopping = True
                        raise
                    if self._stopping:
                        return

            if not self._answered:
                index, request = next(left)
                keep(index, await self._ask(client, request))
            ends = await asyncio.gather(
                *(work() for _ in range(min(self._limits.concurrency, len(requests)))), return_exceptions=True
            )
            errors = [end for end in ends if isinstance(end, BaseException)]
            if errors:
                raise next((error for error in errors if not isinstance(error, _Stopped)), errors[0])

    async def _ask(self, client: "AsyncOpenAI", request: Request) -> ChatReply:
        """Return a reply, after as many retries as are allowed."""
        from openai import APIError, BadRequestError

        self.asked += 1
        attempt = 0
        while True:
            try:
                reply = await self._send(client, request)
            except (APIError, TimeoutError, NoCompletion) as error:
                # the server answered before, so it refuses this text rather than the way of asking
                if isinstance(error, BadRequestError) and self._answered:
                    return ChatReply(
                        f"(refused) {self._server.without_key(one_line(error, 200))}", refused=True
                    )
                rest = _rest(error)
                if self._stopping or attempt >= self._retries(error) or rest > LONGEST_REST_S:
                    # from None: a server may send the key back
                    raise UserError(self._server.advice(error, self.model)) from None
                self._pace.rest(rest)
                await asyncio.sleep(
                    min(self._limits.pause_s * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
                )
                attempt += 1
            else:
                self._answered = True
                return reply

    async def _send(self, client: "AsyncOpenAI", request: Request) -> ChatReply:
        """Send a request once, within pace and budget."""
        from openai import APIStatusError

        worst, used = request.worst, NOTHING
        await self.budget.hold(worst)
        lost = False
        try:
            await self._pace.turn(request.estimate + request.longest)
            if self._stopping:
                raise _Stopped
            self.sent, lost = self.sent + 1, True
            # the client's own timeout applies to each chunk that arrives
            async with asyncio.timeout(self._limits.timeout_s):
                reply = await self._complete(client, request)
            used, lost = reply.usage, False
        except APIStatusError:
            lost = False  # an error is not charged
            raise
        finally:
            # without a reply it may have been charged all the same
            self.budget.settle(worst, used + worst if lost else used)
            if lost:
                self.on_loss(worst)
        return reply

    async def _complete(self, client: "AsyncOpenAI", request: Request) -> ChatReply:
        """Request one completion and check what comes back."""
        messages: list[ChatCompletionMessageParam] = [
            {"role": role, "content": text}  # type: ignore[misc]
            for role, text in request.messages
        ]
        try:
            completion = await client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=request.temperature,
                max_tokens=request.longest,
            )
            text = completion.choices[0].message.content
        # the client does not validate what it receives
        except (ValueError, AttributeError, TypeError, IndexError, KeyError):
            raise NoCompletion from None
        if not isinstance(text, str | None):
            raise NoCompletion
        counts = completion.usage
        known = (
            counts is not None
            and isinstance(counts.prompt_tokens, int)
            and isinstance(counts.completion_tokens, int)
        )
        usage = (
            RequestUsage(counts.prompt_tokens, counts.completion_tokens)
            if known and counts is not None
            else request.worst
        )
        return ChatReply(self._server.without_key(text or ""), usage)

    def _retries(self, error: Exception) -> int:
        """Return how often a request with this error may be retried."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        if isinstance(error, APIStatusError):
            code = error.body.get("code") if isinstance(error.body, dict) else None
            passes = error.status_code in (408, 409, 429) or error.status_code >= 500
            if (
                not passes
                or code == "insufficient_quota"
                or error.response.headers.get("x-should-retry") == "false"
            ):
                return 0
        elif (
            isinstance(error, APIConnectionError)
            and not isinstance(error, APITimeoutError)
            and not self._answered
        ):
            return min(1, self._limits.retries)  # probably no server there, rather than a temporary failure
        return self._limits.retries


def _rest(error: Exception) -> float:
    """Return the seconds that a server asks to wait before the next request."""
    response = getattr(error, "response", None)
    try:
        return max(0.0, float(response.headers["retry-after"])) if response is not None else 0.0
    except (KeyError, ValueError):  # no such header, or a date: the pause between retries suffices
        return 0.0
