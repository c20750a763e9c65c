"""Rate limits, pricing and a hard spending ceiling for chat requests."""

import asyncio
import time
from dataclasses import dataclass

from lks.errors import UserError

BURST_S = 1.0
"""Seconds of inflow that a bucket holds, so that no minute has much more than its rate."""


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Tokens of requests and of their replies."""

    prompt: int = 0
    reply: int = 0

    def __add__(self, other: "RequestUsage") -> "RequestUsage":
        return RequestUsage(self.prompt + other.prompt, self.reply + other.reply)

    def __sub__(self, other: "RequestUsage") -> "RequestUsage":
        return RequestUsage(self.prompt - other.prompt, self.reply - other.reply)

    @property
    def total(self) -> int:
        """Tokens of requests and replies together."""
        return self.prompt + self.reply


NOTHING = RequestUsage()


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens of requests, and of replies."""

    prompt: float
    reply: float

    def of(self, usage: RequestUsage) -> float:
        """Return the cost of a usage in US dollars."""
        return (usage.prompt * self.prompt + usage.reply * self.reply) / 1e6


PRICES = {"gpt-4o-mini": Price(0.15, 0.60)}
"""OpenAI's price list of 2024-07-18, the day this model was released; other prices are given by the user."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on how a server is asked.

    Attributes:
        concurrency: largest number of requests in flight.
        retries: how often a failed request is sent again.
        timeout_s: seconds until a request counts as failed.
        pause_s: approximate seconds before the first retry; doubled for each further one.
        requests_per_minute, tokens_per_minute: rate limits; None for no limit.
    """

    concurrency: int = 8
    retries: int = 5
    timeout_s: float = 120.0
    pause_s: float = 0.5
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that would allow no request.

        Raises:
            UserError: a limit is not above 0.
        """
        for name in ("concurrency", "timeout_s", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, not {value}.")


class Ceiling(UserError):
    """The next request could cost more than is allowed."""


class Bucket:
    """A token bucket: whoever takes more than it holds waits until the rest has flowed in; others queue.

    Args:
        per_minute: rate of inflow.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._paid_until = float("-inf")

    def take(self, amount: float, now: float) -> float:
        """Take an amount and return the time, on the clock of `now` in seconds, when it may be used."""
        start = max(self._paid_until, now - BURST_S)
        self._paid_until = start + amount / self._rate
        return max(start, now)


class Pace:
    """Pacing of requests: buckets of requests and tokens, and pauses that the server asks for."""

    def __init__(self, limits: RequestLimits) -> None:
        self._requests = None if limits.requests_per_minute is None else Bucket(limits.requests_per_minute)
        self._tokens = None if limits.tokens_per_minute is None else Bucket(limits.tokens_per_minute)
        self._rest_until = float("-inf")

    def rest(self, seconds: float) -> None:
        """Pause all requests, as the server asked (Retry-After)."""
        self._rest_until = max(self._rest_until, time.monotonic() + seconds)

    async def turn(self, tokens: int) -> None:
        """Wait until a request of `tokens` tokens may go out."""
        now = time.monotonic()
        start = max(
            now,
            self._requests.take(1, now) if self._requests else now,
            self._tokens.take(tokens, now) if self._tokens else now,
        )
        while (left := max(start, self._rest_until) - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Budget:
    """What was spent, what requests in flight may cost at most, and the ceiling for their sum.

    Attributes:
        spent: usage so far.
        price: None where it is unknown; no ceiling on money is possible then.
    """

    def __init__(
        self,
        price: Price | None = None,
        most_usd: float | None = None,
        most_tokens: int | None = None,
        spent: RequestUsage | None = None,
    ) -> None:
        """Start from what was spent earlier.

        Raises:
            UserError: a ceiling on money without a price, or a ceiling below 0.
        """
        if most_usd is not None and price is None:
            raise UserError(
                "A ceiling on money needs prices: give --price-in and --price-out, US dollars per million "
                "tokens, or use --max-tokens."
            )
        if (most_usd or 0) < 0 or (most_tokens or 0) < 0:
            raise UserError("A ceiling must be 0 or above.")
        self.price, self.spent = price, spent or RequestUsage()
        self._most_usd, self._most_tokens = most_usd, most_tokens
        self._held = RequestUsage()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def usd(self) -> float | None:
        """US dollars spent so far; None without a price."""
        return None if self.price is None else self.price.of(self.spent)

    async def hold(self, worst: RequestUsage) -> None:
        """Reserve what a request may cost; where requests in flight block it, wait for their actual cost.

        Raises:
            Ceiling: nothing is in flight, and the request could pass the ceiling.
        """
        while self._passes(self.spent + self._held + worst):
            if not self._held.total:
                raise Ceiling(self._explain())
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            await free
        self._held += worst

    def settle(self, worst: RequestUsage, used: RequestUsage) -> None:
        """Replace the reservation `worst` of a request by its actual cost `used`."""
        self._held -= worst
        self.spent += used
        for free in self._waiting:
            if not free.done():
                free.set_result(None)
        self._waiting.clear()

    def _passes(self, usage: RequestUsage) -> bool:
        """Return whether a usage is above the ceiling."""
        if self._most_tokens is not None and usage.total > self._most_tokens:
            return True
        return self._most_usd is not None and self.price is not None and self.price.of(usage) > self._most_usd

    def _explain(self) -> str:
        """Return the message for a request that could pass the ceiling."""
        money = "" if self.usd is None else f", {self.usd:.4f} USD"
        ceilings = [f"{self._most_tokens:,} tokens"] if self._most_tokens is not None else []
        ceilings += [f"{self._most_usd:g} USD"] if self._most_usd is not None else []
        return (
            f"Stopped below the ceiling of {' and '.join(ceilings)}: {self.spent.total:,} tokens{money} are "
            "spent, and the next request could pass it. All replies are kept: the same command with a higher "
            "--max-cost or --max-tokens resumes from here."
        )
