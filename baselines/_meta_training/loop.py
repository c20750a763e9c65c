"""Meta-training on held-out edits: what editors that learn how to edit share.

The training edits are split once, the loop keeps the best validated weights, and the result is kept on disk.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import nn

from baselines._meta_training.state import MetaTraining, MetaTrainingState
from lks.editing.editor import Progress, no_progress
from lks.edits import Edit
from lks.errors import NothingToLearnFrom
from lks.io.checkpoint import Checkpoint

FEWEST = 4
"""Training edits below which no method here can be trained and validated."""
VALIDATED = 10
"""Every so-many-th training edit validates."""


class Schedule(Protocol):
    """How long and how carefully to train; a method's parameters have these fields."""

    @property
    def max_steps(self) -> int:
        """Optimiser steps at most."""

    @property
    def clip(self) -> float:
        """Bound on the norm of the whole gradient."""

    @property
    def validation_interval(self) -> int:
        """Steps between validations."""

    @property
    def decay(self) -> bool:
        """Whether the learning rates fall linearly, to zero at `max_steps`."""

    @property
    def patience(self) -> int:
        """Validations without a new best before training stops."""


@dataclass(frozen=True, slots=True)
class Split:
    """Edits to train on and edits to validate with."""

    train: list[Edit]
    validation: list[Edit]


def split(edits: Sequence[Edit], method: str, limit: int = 10**9) -> Split:
    """The same split for the same edits: every tenth validates (the last one, where there are fewer), at most `limit` of them.

    Raises:
        NothingToLearnFrom: too few edits.
    """
    if len(edits) < FEWEST:
        raise NothingToLearnFrom(
            f"{method} is trained on edits that are not evaluated, and there are {len(edits)} of them; it needs {FEWEST} at least. "
            "Choose a grid whose draws leave records of the dataset to spare (fewer or smaller draws, or `records` below the dataset's size)."
        )
    step = min(VALIDATED, len(edits))
    return Split(
        [e for i, e in enumerate(edits) if i % step != step - 1], list(edits[step - 1 :: step])[:limit]
    )


def digest(edits: Sequence[Edit]) -> str:
    """Names a list of edits by its content."""
    return hashlib.sha256(json.dumps([asdict(e) for e in edits]).encode()).hexdigest()[:16]


def fit(
    training: MetaTraining,
    schedule: Schedule,
    progress: Progress = no_progress,
    kept: Checkpoint | None = None,
) -> list[float]:
    """Train until `max_steps` or until validation stops improving; the module is left at its best validated weights.

    The untrained module is validated too: training that only does harm is undone.

    Args:
        training: what is trained.
        schedule: see there.
        progress: called with the fraction done after each step.
        kept: keeps the state after a validation now and then; a training that was killed goes on from there to the same end.

    Returns:
        The values of all validations, the untrained module's first.
    """
    module, optimiser = training.module, training.optimiser
    rates = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1.0, 0.0 if schedule.decay else 1.0, total_iters=max(1, schedule.max_steps)
    )
    course = MetaTrainingState(training, rates, kept)
    progress(course.step / max(1, schedule.max_steps))
    while course.step < schedule.max_steps and course.since < schedule.patience:
        with torch.enable_grad():
            value = training.loss()
            optimiser.zero_grad()
            torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(module.parameters(), schedule.clip)
        optimiser.step()
        rates.step()
        course.advance()
        progress(course.step / schedule.max_steps)
        if course.step % schedule.validation_interval == 0 or course.step == schedule.max_steps:
            course.validate()
    course.finish()
    return course.history
