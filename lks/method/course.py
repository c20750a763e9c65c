"""Progress of h_phi's training, saved to disk so that a killed training can resume."""

import copy
import time
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from lks.io import states

EVERY_S = 60.0
"""Least number of seconds between two saves; a shorter training is never saved."""


class LKSTrainingState:
    """Losses, best epoch, and everything a training needs to resume after an epoch as if it had not stopped.

    Args:
        networks: the module that is trained; its best state is kept.
        optimiser: optimiser of the networks.
        decay: learning-rate scheduler.
        generator: random generator that draws the batches.
        kept: file of the state, or None to save none. If it exists, the training resumes from it; a damaged
            file is ignored.

    Attributes:
        history: mean loss of each epoch.
        best_state: state of the networks after the epoch with the lowest loss.
    """

    def __init__(
        self,
        networks: nn.Module,
        optimiser: torch.optim.Optimizer,
        decay: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
        kept: Path | None,
    ) -> None:
        self._parts: dict[str, Any] = {"networks": networks, "optimiser": optimiser, "decay": decay}
        self._generator, self._kept, self._saved = generator, kept, time.monotonic()
        self.history: list[float] = []
        self.best_state: dict[str, Any] = copy.deepcopy(networks.state_dict())
        if kept is not None and kept.exists():
            self._load(kept)

    def ended(self, patience: int, stop_loss: float) -> bool:
        """Return whether to stop.

        That is so when the loss has not improved for `patience` epochs, is below `stop_loss`, or is not a
        number.
        """
        if not self.history:
            return False
        last, since = self.history[-1], len(self.history) - 1 - self._best
        return since >= patience or last < stop_loss or last != last

    @property
    def _best(self) -> int:
        """Index of the best epoch; -1 before the first."""
        return min(
            (i for i, loss in enumerate(self.history) if loss == loss),
            key=self.history.__getitem__,
            default=-1,
        )

    def epoch(self, loss: float) -> None:
        """Record the loss of a finished epoch, and save the state if it is due."""
        self.history.append(loss)
        if self._best == len(self.history) - 1:
            self.best_state = copy.deepcopy(self._parts["networks"].state_dict())
        if self._kept is not None and time.monotonic() - self._saved >= EVERY_S:
            self._save(self._kept)

    def finish(self) -> None:
        """Delete the saved state."""
        if self._kept is not None:
            self._kept.unlink(missing_ok=True)

    def _save(self, path: Path) -> None:
        """Save the whole state to a file."""
        own = {
            "history": self.history,
            "best_state": self.best_state,
            "generator": self._generator.get_state(),
        }
        states.save(path, own | {name: one.state_dict() for name, one in self._parts.items()})
        self._saved = time.monotonic()

    def _load(self, path: Path) -> None:
        """Load the state from a file, unless it is damaged."""
        try:
            state = cast(dict[str, Any], states.load(path))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return
        for name, one in self._parts.items():
            one.load_state_dict(state[name])
        self._generator.set_state(state["generator"])
        self.history, self.best_state = state["history"], state["best_state"]
