"""h_phi: the small network that makes new knowledge blocks (paper, Sec. 3.2)."""

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
    """

    def __init__(self, design: Design, keys: Tensor, own: Tensor, seed: int) -> None:
        super().__init__()
        keys, own = keys.float(), own.float()
        centred = keys - keys.mean(0) if len(keys) > 1 else keys
        self.features = _unit(_whitened(_unit(centred)) if design.features == "whitened" else centred)
        mean = own.mean(0, keepdim=True)
        self.anchor = own.clone() if design.form == "residual" or design.kind == "free" else mean.expand_as(own).clone()
        spread = own - mean if len(own) > 1 else own
        self.scale = spread.pow(2).mean().sqrt().clamp_min(1e-8)
        self.network = self._network(design, keys.shape, own.shape[1], seed).to(keys.device)

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
            return last if design.kind == "linear" else nn.Sequential(nn.Linear(width, design.width * dim), nn.GELU(), last)

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
    """

    def __init__(self, design: Design, keys: Tensor, own: Tensor, seed: int) -> None:
        super().__init__([Hypernetwork(design, k, o, seed + i) for i, (k, o) in enumerate(zip(keys, own, strict=True))])

    def forward(self, index: Tensor) -> Tensor:
        """New blocks [blocks, batch, d] of the subjects numbered `index` [batch]."""
        return torch.stack([network(index) for network in self])

    @torch.no_grad()
    def table(self) -> Tensor:
        """All new knowledge blocks [blocks, subjects, d]: a pure function of the edit set."""
        return torch.stack([cast(Hypernetwork, network).table() for network in self])


RIDGE = 1e-3
"""Directions whose share of the keys' variance is far below this are noise and are not blown up by whitening."""


def _unit(values: Tensor) -> Tensor:
    """Scaled to root mean square 1."""
    return values / values.pow(2).mean().sqrt().clamp_min(1e-8)


def _whitened(centred: Tensor) -> Tensor:
    """Keys [n, k] with (nearly) uncorrelated directions of equal variance."""
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = singular.pow(2) / len(centred)
    whitened: Tensor = ((centred @ directions.T) / (variance + RIDGE * variance.mean()).sqrt()) @ directions
    return whitened


class _Free(nn.Module):
    """One trained vector per subject, starting from zero."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, dim))

    def forward(self, index: Tensor) -> Tensor:
        """Vectors [batch, d]."""
        return self.weight[index]
