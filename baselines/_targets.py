"""Edits as methods train on them: prompts with targets, which may end with the end-of-sequence token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lks.editing.editor import ADDED
from lks.edits import Edit
from lks.models.lm import LM, Encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParams:
    """Parameter of all methods that train on targets.

    Attributes:
        end_of_answer: whether targets are trained with the end-of-sequence token behind them, so that a free
            answer ends there.
    """

    end_of_answer: bool = field(default=False, metadata=ADDED)


def encode_targets(lm: LM, edits: Sequence[Edit], params: TargetParams) -> list[Encoded]:
    """Encode each edit's prompt with its target and, if the parameters say so, the end of the answer."""
    return lm.encode([e.prompt for e in edits], [e.target for e in edits], end=params.end_of_answer)
