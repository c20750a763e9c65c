"""Requests of ability tests: their keys, and the unedited model's answers for reuse."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch

from lks.evaluation.readouts import Acts
from lks.results.ability_rows import AbilityRow

Result = tuple[float, bool] | str
"""Result of a request. For a likelihood: log p, and whether the answer is the greedy continuation; for a
generation: its text."""


class ReusableReplies:
    """The unedited model's answers to the same battery, for reuse where a patch's edits do not act.

    There the edited model is bit for bit the unedited one, so the answer is the same. A sample is recomputed
    nevertheless: see `TaskSuite.run`.

    Args:
        answers: answers by the key of their request (`key`).
        acts: returns whether the edits act on each prompt.
    """

    def __init__(self, answers: Mapping[str, Result], acts: Acts) -> None:
        self.answers, self.acts = answers, acts

    @classmethod
    def of(cls, rows: Iterable[AbilityRow], acts: Acts) -> Self:
        """Build the answers from the unedited model's stored rows."""
        pairs = (pair for row in rows if row.requests for pair in json.loads(row.requests))
        return cls(
            {
                name: result if isinstance(result, str) else (float(result[0]), bool(result[1]))
                for name, result in pairs
            },
            acts,
        )


def key(kind: str, args: Sequence[Any]) -> str:
    """Return the key of a request, a hash of everything that is asked in it."""
    return hashlib.sha256(canonical_json([kind, *args]).encode()).hexdigest()[:16]


def agree(before: Result, now: Result, dtype: torch.dtype) -> bool:
    """Return whether two answers are the same up to rounding."""
    if isinstance(before, str) or isinstance(now, str):
        return before == now
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    return (
        abs(before[0] - now[0]) <= tolerance
        or before[0] == now[0]
        or (math.isnan(before[0]) and math.isnan(now[0]))
    )


def canonical_json(value: object) -> str:
    """Return a value as JSON with sorted keys, the same for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
