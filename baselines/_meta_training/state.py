"""How far a meta-training is, and what lets a killed one go on as if it had not stopped."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from lks.io.checkpoint import Checkpoint, State


class Batches:
    """Numbers 0..count-1 in shuffled batches of `size`, epoch after epoch without end; a batch may span two epochs.

    Args:
        count: of the numbers.
        size: of a batch.
        generator: shuffles; whatever else is drawn in a training comes from it too, so that its state is kept here.
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
        """What decides all that is drawn from now on."""
        return {
            "generator": self.generator.get_state(),
            "waiting": torch.tensor(self.waiting, dtype=torch.int64),
        }

    def go_on(self, state: dict[str, Tensor]) -> None:
        """Draw from now on what would have been drawn from `state` on."""
        self.generator.set_state(state["generator"])
        self.waiting = state["waiting"].tolist()


@dataclass(frozen=True, slots=True)
class MetaTraining:
    """What is trained, and how.

    Attributes:
        module: whose parameters the optimiser trains.
        optimiser: of its parameters.
        batches: all that is drawn comes from their generator.
        loss: one step's loss, drawn anew at each call.
        validation: the lower the better; NaN is never best. Draws nothing.
        known: what is found out on the way, each for once; kept, because it could come out otherwise in other batches.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    batches: Batches
    loss: Callable[[], Tensor]
    validation: Callable[[], float]
    known: dict[str, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Position:
    step: int = 0
    since: int = 0
    history: list[float] = field(default_factory=list)
    best: float = float("nan")
    schedule: dict[str, object] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)


class MetaTrainingState:
    """A training's position, its validations so far and its best weights.

    Args:
        training: see there.
        schedule: of the optimiser's learning rates.
        kept: keeps all this, or None to keep nothing. What it has kept is gone on from.
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
        """Optimiser steps so far."""
        return self._at.step

    @property
    def since(self) -> int:
        """Validations since the best."""
        return self._at.since

    @property
    def history(self) -> list[float]:
        """The values of all validations, the untrained module's first."""
        return self._at.history

    def advance(self) -> None:
        """A step was made."""
        self._at.step += 1

    def validate(self) -> None:
        """Validate, keep the weights if they are the best so far, and keep the state now and then."""
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
        """Leave the module at its best weights."""
        for name, weight in weights(self._training.module).items():
            weight.copy_(self._best[name])

    def _keep(self, kept: Checkpoint) -> None:
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
        """Put everything back.

        Raises:
            ValueError: the state is of something else; nothing was touched.
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
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "batches": {}, "optimiser": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers by name, tied ones once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())
