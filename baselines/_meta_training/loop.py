"""Meta-training on held-out edits, shared by the editors that learn how to edit.

The training edits are split once, the loop keeps the weights with the best validation loss, and the state can
be kept on disk.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lks.edits import Edit
from lks.errors import NothingToLearnFrom
from lks.io.checkpoint import Checkpoint
from lks.io.training_state import TrainingState
from lks.progress import Progress, no_progress

FEWEST = 4
"""Minimum number of training edits for any method here."""
VALIDATED = 10
"""One in this many training edits is used for validation."""


class Schedule(Protocol):
    """Training schedule; the parameters of a meta-trained method have these fields."""

    @property
    def max_steps(self) -> int:
        """Maximum number of optimiser steps."""

    @property
    def clip(self) -> float:
        """Bound on the norm of the whole gradient."""

    @property
    def validation_interval(self) -> int:
        """Steps between validations."""

    @property
    def decay(self) -> bool:
        """Whether the learning rates fall linearly to zero at `max_steps`."""

    @property
    def patience(self) -> int:
        """Validations without a new best before training stops."""


@dataclass(frozen=True, slots=True)
class Split:
    """Training edits and validation edits."""

    train: list[Edit]
    validation: list[Edit]


def split(edits: Sequence[Edit], method: str, limit: int = 10**9) -> Split:
    """Split edits deterministically: every tenth is a validation edit, but at most `limit` of them.

    With fewer than ten edits, the last one is the validation edit.

    Raises:
        NothingToLearnFrom: there are too few edits.
    """
    if len(edits) < FEWEST:
        raise NothingToLearnFrom(
            f"{method} is trained on edits that are not evaluated, and there are {len(edits)} of them; "
            f"it needs {FEWEST} at least. Choose a grid whose draws leave records of the dataset to spare "
            "(fewer or smaller draws, or `records` below the dataset's size)."
        )
    step = min(VALIDATED, len(edits))
    return Split(
        [e for i, e in enumerate(edits) if i % step != step - 1], list(edits[step - 1 :: step])[:limit]
    )


def digest(edits: Sequence[Edit]) -> str:
    """Return a short hash of the content of a list of edits."""
    return hashlib.sha256(json.dumps([asdict(e) for e in edits]).encode()).hexdigest()[:16]


class Batches:
    """Endless iterator over shuffled batches of the numbers 0..count-1; a batch may span two epochs.

    Args:
        count: how many numbers there are.
        size: batch size.
        generator: random generator for shuffling. All other draws of a training use it too, so its state is
            saved here.
    """

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, size, generator
        self.waiting: list[int] = []

    def __next__(self) -> list[int]:
        while len(self.waiting) < self.size:
            self.waiting += torch.randperm(self.count, generator=self.generator).tolist()
        drawn, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Return the state that determines all further draws."""
        return {"generator": self.generator.get_state(), "waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state, so that further draws are those that followed it."""
        self.generator.set_state(state["generator"])
        self.waiting = list(state["waiting"])


@dataclass(frozen=True, slots=True)
class MetaTraining:
    """A module to train, with its optimiser, data and losses.

    Attributes:
        module: the trained module.
        optimiser: optimiser of its parameters.
        batches: batches whose generator makes all random draws.
        loss: draws a batch and returns its loss.
        validation: returns the validation loss; lower is better, NaN is never best. Draws nothing.
        known: values computed once during training, kept because other batches could give different results.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    batches: Batches
    loss: Callable[[], Tensor]
    validation: Callable[[], float]
    known: dict[str, list[int]] = field(default_factory=dict)


def fit(
    training: MetaTraining,
    schedule: Schedule,
    progress: Progress = no_progress,
    kept: Checkpoint | None = None,
) -> list[float]:
    """Train until `max_steps` or until validation stops improving, and leave the module at its best weights.

    The untrained module is validated too, so training that never improves is undone.

    Args:
        training: what to train.
        schedule: the training schedule.
        progress: called with the fraction done after each step.
        kept: checkpoint that is written after some validations; a killed training resumes from it and ends
            with the same result.

    Returns:
        The values of all validations, starting with the untrained module's.
    """
    module, optimiser = training.module, training.optimiser
    rates = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1.0, 0.0 if schedule.decay else 1.0, total_iters=max(1, schedule.max_steps)
    )
    state = TrainingState(
        module, kept, training.known, optimiser=optimiser, rates=rates, batches=training.batches
    )
    if not state.history:
        state.record(training.validation())
    progress(state.step / max(1, schedule.max_steps))
    while state.step < schedule.max_steps and state.since < schedule.patience:
        with torch.enable_grad():
            value = training.loss()
            optimiser.zero_grad()
            torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(module.parameters(), schedule.clip)
        optimiser.step()
        rates.step()
        state.step += 1
        progress(state.step / schedule.max_steps)
        if state.step % schedule.validation_interval == 0 or state.step == schedule.max_steps:
            state.record(training.validation())
            state.save()
    state.use_best()
    return state.history
