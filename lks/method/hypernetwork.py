"""h_phi: the small network that makes new knowledge blocks (paper, Sec. 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

Kind = Literal["linear", "mlp", "free"]
Form = Literal["replace", "residual"]
Features = Literal["plain", "whitened"]


@dataclass(frozen=True, slots=True)
class Design:
    """What h_phi is.

    Attributes:
        kind: "linear" (paper default), "mlp" (d -> width * d -> d, GELU) or "free": one trained vector per subject and no
            network, the upper bound of what any h_phi can reach at this position and block.
        form: "replace": the anchor is the mean subject state. "residual": it is each subject's own state, so that an
            untrained network changes nothing.
        features: "plain" or "whitened" inputs.
        width: of the MLP's hidden layer, as a multiple of d (paper: 4).
    """

    kind: Kind = "linear"
    form: Form = "replace"
    features: Features = "plain"
    width: int = 4


class Hypernetwork(nn.Module):
    """Keys [n, d] -> new knowledge blocks [n, d].

    Inputs are centred on the edit set and scaled to unit root mean square; the output is `anchor + scale * f(input)`,
    with the scale of real subject states. Without that a linear map must first learn the scale of the residual stream
    (norms grow with depth) before it can learn anything else. Whitened inputs are also decorrelated: the keys of many
    edits differ mostly in their template, hardly in their subject, and gradient descent on a linear map would take
    thousands of steps to see the small differences. Both are affine, so a linear h_phi stays linear in its key: the
    paper's function class is unchanged, only the path to its optimum is.

    Args:
        design: linear map, MLP or free vectors, and in which form.
        keys: [n, k] inputs, fixed during training.
        own: [n, d] the subjects' unedited states.
        seed: of the initialisation.
        learnt: what `learnt` gave for another edit set: centre, scales, directions and weights are taken from there.

    Raises:
        ValueError: `learnt` is of another design or another model.
    """

    def __init__(
        self, design: Design, keys: Tensor, own: Tensor, seed: int, learnt: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        keys, own = keys.float(), own.float()
        self.inputs = (
            _Inputs.fit(keys, design.features == "whitened")
            if learnt is None
            else _Inputs.restore(learnt, keys)
        )
        self.features = self.inputs(keys)
        self.mean = (
            own.mean(0, keepdim=True) if learnt is None else _like(learnt["mean"], own, 1, own.shape[1])
        )
        self.anchor = (
            own.clone()
            if design.form == "residual" or design.kind == "free"
            else self.mean.expand_as(own).clone()
        )
        spread = own - self.mean if len(own) > 1 else own
        self.scale = (
            spread.pow(2).mean().sqrt().clamp_min(1e-8) if learnt is None else _like(learnt["scale"], own)
        )
        self.network = self._network(design, keys.shape, own.shape[1], seed).to(keys.device)
        if learnt is not None and design.kind != "free":
            self._continue(learnt)

    def _continue(self, learnt: Mapping[str, Tensor]) -> None:
        weights = {
            name.removeprefix("network."): value
            for name, value in learnt.items()
            if name.startswith("network.")
        }
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"the saved hypernetwork is of another design: {str(error).splitlines()[-1].strip()}"
            ) from None

    def learnt(self) -> dict[str, Tensor]:
        """All that makes the network a function of a key, whatever the edit set: for going on with other edits."""
        weights = (
            {}
            if isinstance(self.network, _Free)
            else {f"network.{name}": value for name, value in self.network.state_dict().items()}
        )
        return {"mean": self.mean, "scale": self.scale, **self.inputs.tensors(), **weights}

    @staticmethod
    def _network(design: Design, shape: torch.Size, dim: int, seed: int) -> nn.Module:
        count, width = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if design.kind == "free":
                return _Free(count, dim)
            last = nn.Linear(width if design.kind == "linear" else design.width * dim, dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            return (
                last
                if design.kind == "linear"
                else nn.Sequential(nn.Linear(width, design.width * dim), nn.GELU(), last)
            )

    def forward(self, index: Tensor) -> Tensor:
        """New blocks [batch, d] of the subjects numbered `index` [batch]."""
        made = self.network(index) if isinstance(self.network, _Free) else self.network(self.features[index])
        new: Tensor = self.anchor[index] + self.scale * made
        return new

    @torch.no_grad()
    def table(self) -> Tensor:
        """All new knowledge blocks [subjects, d]: a pure function of the edit set."""
        table: Tensor = self(torch.arange(len(self.features), device=self.features.device))
        return table


class Hypernetworks(nn.ModuleList):
    """One `Hypernetwork` per replaced block.

    Args:
        design: of each.
        keys: [blocks, n, k] inputs.
        own: [blocks, n, d] the subjects' unedited states at each block.
        seed: of the first; the next has the next.
        learnt: what `learnt` gave for another edit set, to go on from.

    Raises:
        ValueError: `learnt` is of another design or another model.
    """

    def __init__(
        self, design: Design, keys: Tensor, own: Tensor, seed: int, learnt: Mapping[str, Tensor] | None = None
    ) -> None:
        known = [_part(learnt, i) for i in range(len(keys))]
        super().__init__(
            [
                Hypernetwork(design, k, o, seed + i, known[i])
                for i, (k, o) in enumerate(zip(keys, own, strict=True))
            ]
        )

    def learnt(self) -> dict[str, Tensor]:
        """What each network has learnt, by the network's number."""
        return {
            f"{i}.{name}": value
            for i, one in enumerate(self)
            for name, value in cast(Hypernetwork, one).learnt().items()
        }

    def forward(self, index: Tensor) -> Tensor:
        """New blocks [blocks, batch, d] of the subjects numbered `index` [batch]."""
        return torch.stack([network(index) for network in self])

    @torch.no_grad()
    def table(self) -> Tensor:
        """All new knowledge blocks [blocks, subjects, d]: a pure function of the edit set."""
        return torch.stack([cast(Hypernetwork, network).table() for network in self])


RIDGE = 1e-3
"""Directions whose share of the keys' variance is far below this are noise and are not blown up by whitening."""


def _part(learnt: Mapping[str, Tensor] | None, number: int) -> dict[str, Tensor] | None:
    """One network's share of what `Hypernetworks.learnt` gave."""
    if learnt is None:
        return None
    return {
        name.removeprefix(f"{number}."): value
        for name, value in learnt.items()
        if name.startswith(f"{number}.")
    }


def _like(saved: Tensor, model: Tensor, *shape: int) -> Tensor:
    """A saved tensor on the model's device.

    Raises:
        ValueError: it has another shape.
    """
    if saved.shape != shape:
        raise ValueError(
            f"the saved hypernetwork has a tensor of shape {tuple(saved.shape)} where the model needs {shape}"
        )
    return saved.to(model)


class _Inputs:
    """Keys [n, k] to inputs of the network, an affine map that is fitted to one edit set.

    Args:
        centre: [k].
        first, last: root mean squares that are divided out before and behind whitening; 1 before it where there is none.
        directions: [r, k] principal directions of the keys; None without whitening.
        variance: [r] along them.
    """

    def __init__(
        self, centre: Tensor, first: Tensor, last: Tensor, directions: Tensor | None, variance: Tensor | None
    ) -> None:
        self.centre, self.first, self.last, self.directions, self.variance = (
            centre,
            first,
            last,
            directions,
            variance,
        )

    @classmethod
    def fit(cls, keys: Tensor, whitened: bool) -> "_Inputs":
        """From the keys of an edit set. One key alone is not centred."""
        centre = keys.mean(0) if len(keys) > 1 else torch.zeros_like(keys[0])
        made = cls(centre, keys.new_ones(()), keys.new_ones(()), None, None)
        if whitened:
            made.first = _size(keys - centre)
            _, singular, made.directions = torch.linalg.svd((keys - centre) / made.first, full_matrices=False)
            made.variance = singular.pow(2) / len(keys)
        made.last = _size(made(keys))
        return made

    def __call__(self, keys: Tensor) -> Tensor:
        """Inputs [n, k] of keys [n, k]; whitened ones have (nearly) uncorrelated directions of equal variance."""
        found = (keys - self.centre) / self.first
        if self.directions is not None and self.variance is not None:
            found = (
                (found @ self.directions.T) / (self.variance + RIDGE * self.variance.mean()).sqrt()
            ) @ self.directions
        return found / self.last

    def tensors(self) -> dict[str, Tensor]:
        """What is saved."""
        whitening = (
            {}
            if self.directions is None or self.variance is None
            else {"directions": self.directions, "variance": self.variance}
        )
        return {"centre": self.centre, "first": self.first, "last": self.last, **whitening}

    @classmethod
    def restore(cls, saved: Mapping[str, Tensor], keys: Tensor) -> "_Inputs":
        """As saved, for keys of the same model.

        Raises:
            ValueError: it is of another model.
        """
        width = keys.shape[1]
        directions, variance = saved.get("directions"), saved.get("variance")
        if directions is not None and variance is not None:
            directions, variance = (
                _like(directions, keys, len(directions), width),
                _like(variance, keys, len(directions)),
            )
        return cls(
            _like(saved["centre"], keys, width),
            _like(saved["first"], keys),
            _like(saved["last"], keys),
            directions,
            variance,
        )


def _size(values: Tensor) -> Tensor:
    """Root mean square."""
    return values.pow(2).mean().sqrt().clamp_min(1e-8)


class _Free(nn.Module):
    """One trained vector per subject, starting from zero."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, dim))

    def forward(self, index: Tensor) -> Tensor:
        """Vectors [batch, d]."""
        return self.weight[index]
