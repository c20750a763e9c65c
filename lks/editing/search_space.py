"""Search spaces: which parameters of a method `lks tune` varies, and between which values.

A class of parameters declares its space in the class attribute `search_space`, a tuple of dimensions. A
dimension maps a number in [0, 1) to a value of one parameter, or of several that only make sense together.
"""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Protocol

from lks.errors import UserError, unknown
from lks.results.cells import Overrides

Value = bool | int | float | str | tuple[int, ...]
"""Value of a parameter that can be searched."""

DIGITS = 2
"""Significant digits of a value from a range of real numbers."""


class Dimension(Protocol):
    """One dimension of a search space."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it sets."""

    @property
    def log(self) -> bool:
        """Whether its values are spread evenly over orders of magnitude."""

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the value of each parameter.

        Args:
            point: place within the dimension, in [0, 1).
            blocks: number of blocks of the model.
        """


SearchSpace = tuple[Dimension, ...]
"""The dimensions of a search; empty for a method with nothing to tune."""


def _rounded(value: float, whole: bool) -> int | float:
    """Round to an integer, or to a few significant digits."""
    return round(value) if whole else float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, spread evenly; integers if both ends are."""

    name: str
    low: float
    high: float
    log: bool = field(default=False, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameter."""
        return (self.name,)

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the number at this share of the range."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        if whole:
            return {self.name: int(self.low + point * (self.high + 1 - self.low))}
        return {self.name: _rounded(self.low + point * (self.high - self.low), whole)}


@dataclass(frozen=True, slots=True)
class LogRange:
    """Positive numbers between two ends, even over orders of magnitude; integers if both ends are."""

    name: str
    low: float
    high: float
    log: bool = field(default=True, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameter."""
        return (self.name,)

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the number at this share of the logarithmic range."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        value = math.exp(math.log(self.low) + point * (math.log(self.high) - math.log(self.low)))
        return {self.name: _rounded(value, whole)}


@dataclass(frozen=True, slots=True)
class Choices:
    """A few values; with a single one, the value that goes with the rest of the space."""

    name: str
    values: tuple[Value, ...]
    log: bool = field(default=False, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameter."""
        return (self.name,)

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the value at this share of the list."""
        return {self.name: self.values[int(point * len(self.values))]}


@dataclass(frozen=True, slots=True)
class JointChoices:
    """A few combinations of values of parameters that only make sense together."""

    names: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    log: bool = field(default=False, init=False)

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the combination at this share of the list."""
        return dict(zip(self.names, self.values[int(point * len(self.values))], strict=True))


def _places(blocks: int, low: float, high: float) -> range:
    """Return the blocks between two shares of a model's depth, at least one."""
    first = round(low * (blocks - 1))
    return range(first, max(first, round(high * (blocks - 1))) + 1)


@dataclass(frozen=True, slots=True)
class DepthRange:
    """A block of the model, between two shares of its depth (0 is the first block, 1 the last)."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = field(default=False, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameter."""
        return (self.name,)

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the block, counted from 0."""
        places = _places(blocks, self.low, self.high)
        return {self.name: places[int(point * len(places))]}


@dataclass(frozen=True, slots=True)
class DepthSpan:
    """Consecutive blocks, by their first and their last one, between two shares of the model's depth."""

    first: str
    last: str
    widths: tuple[int, ...] = (1, 3, 5)
    low: float = 0.0
    high: float = 1.0
    log: bool = field(default=False, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Both parameters."""
        return (self.first, self.last)

    def at(self, point: float, blocks: int) -> Mapping[str, Value]:
        """Return the first and the last block, counted from 0."""
        places = _places(blocks, self.low, self.high)
        spans = [
            (first, first + width - 1)
            for width in self.widths
            for first in places
            if first + width - 1 <= places[-1]
        ] or [(places[0], places[-1])]
        return dict(zip(self.names, spans[int(point * len(spans))], strict=True))


def value_text(value: Value) -> str:
    """Return a value as text, as `lks.editing.editor.override` parses it."""
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def space_of(title: str, params_type: type) -> SearchSpace:
    """Return the search space that a class of parameters declares.

    Args:
        title: name of the method, for messages.
        params_type: the class.

    Raises:
        UserError: it declares none, or names a parameter that does not exist.
    """
    space: SearchSpace = getattr(params_type, "search_space", ())
    known = [field.name for field in fields(params_type)]
    if not space:
        raise UserError(
            f"{title} declares nothing to tune. Give its class {params_type.__name__} an attribute "
            "`search_space` (docs/add-a-method.md), or choose another method."
        )
    for name in (name for dimension in space for name in dimension.names):
        if name not in known:
            raise UserError(f"search_space of {params_type.__name__}: {unknown('parameter', name, known)}")
    return space


def configurations(space: SearchSpace, blocks: int, seed: int) -> Iterator[Overrides]:
    """Yield points of a space without end, as overridden parameters; the first ones are spread evenly.

    Coordinates follow an additive recurrence with powers of the generalised golden ratio (Roberts 2018, "The
    unreasonable effectiveness of quasirandom sequences"), shifted at random. Every second point leaves a
    random half of the parameters at their defaults: a good default is improved by few changes. A point may
    come again.

    Args:
        space: the space.
        blocks: number of blocks of the model.
        seed: random seed of the shift.
    """
    fixed, free = dict[str, Value](), list[Dimension]()
    for dimension in space:
        first, last = dimension.at(0.0, blocks), dimension.at(1.0 - 1e-9, blocks)
        if first == last:
            fixed |= first
        else:
            free.append(dimension)
    ratio = 2.0
    for _ in range(64):  # the positive root of x^(d + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (len(free) + 1))
    drawn = random.Random(seed)
    shifts = [drawn.random() for _ in free]
    for number in count(1):
        values = dict(fixed)
        changed = [number % 2 == 0 or drawn.random() < 0.5 for _ in free]
        for place, (dimension, shift) in enumerate(zip(free, shifts, strict=True), start=1):
            if changed[place - 1] or not any(changed):
                values |= dimension.at((shift + number * ratio**-place) % 1.0, blocks)
        yield tuple(sorted((name, value_text(value)) for name, value in values.items()))
