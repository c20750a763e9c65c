"""The state of a training, from which a killed training resumes as if it had not stopped."""

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lks.io.checkpoint import Checkpoint


class Stateful(Protocol):
    """A part of a training with a state: a module, an optimiser, a scheduler, a source of batches."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: nested dictionaries, lists, tensors, numbers and texts."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take over a state."""


class TrainingState:
    """Counters, best weights, and everything else that a training needs to resume.

    Args:
        module: the trained module.
        kept: checkpoint to resume from and to save to, or None to save nothing. A state that does not fit is
            ignored.
        known: values that are computed once and kept, because other batches could give different results;
            updated in place.
        parts: all else that changes while the module trains.

    Attributes:
        step: number of optimiser steps so far.
        history: losses so far.
        since: number of losses since the best one.
    """

    def __init__(
        self,
        module: nn.Module,
        kept: Checkpoint | None,
        known: dict[str, Any] | None = None,
        /,
        **parts: Stateful | torch.Generator,
    ) -> None:
        self._module, self._kept = module, kept
        self._parts: dict[str, Stateful | torch.Generator] = {"module": module} | parts
        self._known = {} if known is None else known
        self.step, self.since, self.history = 0, 0, list[float]()
        self._best, self._best_weights = float("nan"), dict[str, Tensor]()
        if kept and (state := kept.load()) is not None:
            before = copy.deepcopy(self._state())
            try:
                self._restore(state)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                self._restore(before)
                kept.ignore(error)

    def record(self, loss: float) -> None:
        """Append a loss to the history, and keep the weights if it is the lowest; NaN is never lower."""
        better = loss < self._best or self._best != self._best
        self.history.append(loss)
        self.since = 0 if better else self.since + 1
        if better:
            self._best = loss
            self.keep_weights()

    def keep_weights(self) -> None:
        """Keep the module's weights as the best so far."""
        self._best_weights = copy.deepcopy(self._module.state_dict())

    def use_best(self) -> None:
        """Set the module to its best weights."""
        self._module.load_state_dict(self._best_weights)

    def save(self, now: bool = False) -> None:
        """Save everything to the checkpoint, if it is due or wanted now."""
        if self._kept and (now or self._kept.due()):
            self._kept.save(self._state())

    def _state(self) -> dict[str, Any]:
        """Return everything that decides how the training continues."""
        return {
            "best_weights": self._best_weights,
            "parts": {
                name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
                for name, part in self._parts.items()
            },
            "counters": [self.step, self.since, self._best, self.history],
            "known": self._known,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what `_state` returned."""
        self._best_weights = state["best_weights"]
        if self._best_weights:
            self.use_best()  # fails if they are those of another module
        for name, part in self._parts.items():
            if isinstance(part, torch.Generator):
                part.set_state(state["parts"][name])
            else:
                part.load_state_dict(state["parts"][name])
        self.step, self.since, self._best, self.history = state["counters"]
        self._known.clear()
        self._known.update(state["known"])
