"""How fast and how dear the requests to a chat model may be: pace, prices, and a ceiling that is never passed."""

import asyncio
import time
from dataclasses import dataclass

from lks.errors import UserError

BURST_S = 1.0
"""A pace's bucket holds what flows in in so many seconds, so that no minute has much more than its rate."""


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """Tokens of requests, and of what was said to them."""

    prompt: int = 0
    reply: int = 0

    def __add__(self, other: "RequestUsage") -> "RequestUsage":
        return RequestUsage(self.prompt + other.prompt, self.reply + other.reply)

    def __sub__(self, other: "RequestUsage") -> "RequestUsage":
        return RequestUsage(self.prompt - other.prompt, self.reply - other.reply)

    @property
    def total(self) -> int:
        """Tokens of both."""
        return self.prompt + self.reply


NOTHING = RequestUsage()


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens of requests, and of replies."""

    prompt: float
    reply: float

    def of(self, usage: RequestUsage) -> float:
        """US dollars."""
        return (usage.prompt * self.prompt + usage.reply * self.reply) / 1e6


PRICES = {"gpt-4o-mini": Price(0.15, 0.60)}
"""OpenAI's price list of 2024-07-18, the day this model came out; other prices are given by the user."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How a server is asked.

    Attributes:
        concurrency: requests on their way at most.
        retries: how often a failed request is sent again.
        timeout_s: seconds until a request counts as failed.
        pause_s: seconds before the first retry, about; doubled for each further one.
        requests_per_minute, tokens_per_minute: None: as many as the server takes.
    """

    concurrency: int = 8
    retries: int = 5
    timeout_s: float = 120.0
    pause_s: float = 0.5
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could be asked.

        Raises:
            UserError: one of them is not above 0.
        """
        for name in ("concurrency", "timeout_s", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, not {value}.")


class Ceiling(UserError):
    """The next request could cost more than is allowed."""


class Bucket:
    """A token bucket. Who takes more than is in it waits until that has flowed in; later ones queue behind.

    Args:
        per_minute: what flows in.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._paid_until = float("-inf")

    def take(self, amount: float, now: float) -> float:
        """When the amount may be used, in the clock of `now`, seconds."""
        start = max(self._paid_until, now - BURST_S)
        self._paid_until = start + amount / self._rate
        return max(start, now)


class Pace:
    """When the next request may go out: the buckets of requests and tokens, and what the server asks for."""

    def __init__(self, limits: RequestLimits) -> None:
        self._requests = None if limits.requests_per_minute is None else Bucket(limits.requests_per_minute)
        self._tokens = None if limits.tokens_per_minute is None else Bucket(limits.tokens_per_minute)
        self._rest_until = float("-inf")

    def rest(self, seconds: float) -> None:
        """Send nothing for a while, as the server asked (Retry-After)."""
        self._rest_until = max(self._rest_until, time.monotonic() + seconds)

    async def turn(self, tokens: int) -> None:
        """Wait until a request of so many tokens may go out."""
        now = time.monotonic()
        start = max(
            now,
            self._requests.take(1, now) if self._requests else now,
            self._tokens.take(tokens, now) if self._tokens else now,
        )
        while (left := max(start, self._rest_until) - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Budget:
    """What was spent, what requests on their way may cost at most, and the ceiling for their sum.

    Attributes:
        spent: tokens so far.
        price: None where it is not known; there can be no ceiling on money then.
    """

    def __init__(
        self,
        price: Price | None = None,
        most_usd: float | None = None,
        most_tokens: int | None = None,
        spent: RequestUsage | None = None,
    ) -> None:
        """Begin with what was spent earlier.

        Raises:
            UserError: a ceiling on money without a price, or a ceiling below 0.
        """
        if most_usd is not None and price is None:
            raise UserError(
                "A ceiling on money needs prices: give --price-in and --price-out, US dollars per million tokens, or use --max-tokens."
            )
        if (most_usd or 0) < 0 or (most_tokens or 0) < 0:
            raise UserError("A ceiling must be 0 or above.")
        self.price, self.spent = price, spent or RequestUsage()
        self._most_usd, self._most_tokens = most_usd, most_tokens
        self._held = RequestUsage()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def usd(self) -> float | None:
        """Money so far; None without a price."""
        return None if self.price is None else self.price.of(self.spent)

    async def hold(self, worst: RequestUsage) -> None:
        """Set aside what a request may cost; where only requests on their way stand in the way, wait for what they really cost.

        Raises:
            Ceiling: nothing is on its way, and the request could pass the ceiling.
        """
        while self._passes(self.spent + self._held + worst):
            if not self._held.total:
                raise Ceiling(self._explain())
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            await free
        self._held += worst

    def settle(self, worst: RequestUsage, used: RequestUsage) -> None:
        """A request that `worst` was held for has cost `used`."""
        self._held -= worst
        self.spent += used
        for free in self._waiting:
            if not free.done():
                free.set_result(None)
        self._waiting.clear()

    def _passes(self, usage: RequestUsage) -> bool:
        if self._most_tokens is not None and usage.total > self._most_tokens:
            return True
        return self._most_usd is not None and self.price is not None and self.price.of(usage) > self._most_usd

    def _explain(self) -> str:
        money = "" if self.usd is None else f", {self.usd:.4f} USD"
        ceilings = [f"{self._most_tokens:,} tokens"] if self._most_tokens is not None else []
        ceilings += [f"{self._most_usd:g} USD"] if self._most_usd is not None else []
        return (
            f"Stopped below the ceiling of {' and '.join(ceilings)}: {self.spent.total:,} tokens{money} are spent, and the next request "
            "could pass it. All replies are kept: the same command with a higher --max-cost or --max-tokens goes on from here."
        )
