"""The progress of a meta-training, from which a killed training resumes as if it had not stopped."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from lks.io.checkpoint import Checkpoint, State


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

    def state(self) -> dict[str, Tensor]:
        """Return the state that determines all further draws."""
        return {
            "generator": self.generator.get_state(),
            "waiting": torch.tensor(self.waiting, dtype=torch.int64),
        }

    def go_on(self, state: dict[str, Tensor]) -> None:
        """Restore a state, so that further draws are those that followed it."""
        self.generator.set_state(state["generator"])
        self.waiting = state["waiting"].tolist()


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


@dataclass(slots=True)
class _Position:
    """Serialisable position of a training: steps, validations and learning rates."""

    step: int = 0
    since: int = 0
    history: list[float] = field(default_factory=list)
    best: float = float("nan")
    schedule: dict[str, object] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)


class MetaTrainingState:
    """A training's position, its validations so far and its best weights.

    Args:
        training: the training.
        schedule: schedule of the optimiser's learning rates.
        kept: checkpoint to resume from and to save to, or None to save nothing.
    """

    def __init__(
        self, training: MetaTraining, schedule: torch.optim.lr_scheduler.LRScheduler, kept: Checkpoint | None
    ) -> None:
        self._training, self._schedule, self._kept = training, schedule, kept
        self._at = _Position()
        self._best: dict[str, Tensor] = {}
        if kept and (state := kept.load()):
            try:
                self._go_on(state)
            except ValueError as error:
                kept.ignore(error)
        if not self._best:
            self.validate()

    @property
    def step(self) -> int:
        """Number of optimiser steps so far."""
        return self._at.step

    @property
    def since(self) -> int:
        """Number of validations since the best one."""
        return self._at.since

    @property
    def history(self) -> list[float]:
        """Values of all validations, starting with the untrained module's."""
        return self._at.history

    def advance(self) -> None:
        """Count one optimiser step."""
        self._at.step += 1

    def validate(self) -> None:
        """Validate, keep the weights if they are the best so far, and save a checkpoint if due."""
        at = self._at
        at.history.append(self._training.validation())
        better = not self._best or at.history[-1] < at.best or at.best != at.best
        at.since = 0 if better else at.since + 1
        if better:
            at.best = at.history[-1]
            self._best = {
                name: weight.detach().clone() for name, weight in weights(self._training.module).items()
            }
        if self._kept and at.step and self._kept.due(better):
            self._keep(self._kept)

    @torch.no_grad()
    def finish(self) -> None:
        """Set the module to its best weights."""
        for name, weight in weights(self._training.module).items():
            weight.copy_(self._best[name])

    def _keep(self, kept: Checkpoint) -> None:
        """Save weights, best weights, optimiser, batches and position."""
        t = self._training
        self._at.schedule, self._at.rates = (
            self._schedule.state_dict(),
            [group["lr"] for group in t.optimiser.param_groups],
        )
        moments = {
            f"{i}.{key}": value
            for i, values in t.optimiser.state_dict()["state"].items()
            for key, value in values.items()
        }
        groups = {
            "weights": weights(t.module),
            "best": self._best,
            "batches": t.batches.state(),
            "optimiser": moments,
        }
        tensors = {
            f"{group}/{name}": tensor
            for group, named in groups.items()
            for name, tensor in named.items()
            if tensor is not None
        }
        kept.save(tensors, json.dumps(asdict(self._at) | {"known": t.known}))

    @torch.no_grad()
    def _go_on(self, state: State) -> None:
        """Restore a saved state.

        Raises:
            ValueError: the state belongs to another module; nothing was changed.
        """
        t, own = self._training, weights(self._training.module)
        groups = _grouped(state.tensors)
        for group in ("weights", "best"):
            if {name: v.shape for name, v in groups[group].items()} != {
                name: v.shape for name, v in own.items()
            }:
                raise ValueError("of other weights")
        facts = json.loads(state.text)
        t.known.update(facts.pop("known"))
        self._at = _Position(**facts)
        optimiser = t.optimiser.state_dict()
        for key, value in groups["optimiser"].items():
            number, _, name = key.partition(".")
            optimiser["state"].setdefault(int(number), {})[name] = value
        t.optimiser.load_state_dict(optimiser)
        for part, rate in zip(t.optimiser.param_groups, self._at.rates, strict=True):
            part["lr"] = rate
        self._schedule.load_state_dict(self._at.schedule)
        t.batches.go_on(groups["batches"])
        for name, weight in own.items():
            weight.copy_(groups["weights"][name])
        self._best = {name: groups["best"][name].to(weight.device) for name, weight in own.items()}


def _grouped(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group tensors named "group/name" by group."""
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "batches": {}, "optimiser": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers by name; tied ones occur once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())
