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
    """Design of h_phi.

    Attributes:
        kind: "linear" (paper default), "mlp" (d -> width * d -> d, GELU) or "free": one trained vector per
            subject and no network, the upper bound of what any h_phi can reach at this position and block.
        form: "replace": the anchor is the mean subject state; "residual": it is each subject's own state, so
            that an untrained network changes nothing.
        features: "plain" or "whitened" inputs.
        width: width of the MLP's hidden layer, as a multiple of d (paper: 4).
        own_scale: whether outputs have the scale of the subject's own state rather than of the spread of all
            subjects, so that a free vector is the same whatever else is edited.
    """

    kind: Kind = "linear"
    form: Form = "replace"
    features: Features = "plain"
    width: int = 4
    own_scale: bool = False


GAUSSIAN = 1.4826
"""Standard deviation of a Gaussian over its median absolute value."""


class Hypernetwork(nn.Module):
    """Map from keys [n, d] to new knowledge blocks [n, d].

    Inputs are centred on the edit set and scaled to unit root mean square; the output is
    `anchor + scale * f(input)`, with the scale of real subject states. Otherwise a linear map would first
    have to learn the scale of the residual stream (norms grow with depth) before it could learn anything
    else. Whitened inputs are also decorrelated: the keys of many edits differ mostly in their template and
    hardly in their subject, and gradient descent on a linear map would take thousands of steps to see the
    small differences. Both are affine, so a linear h_phi stays linear in its key: the paper's function class
    is unchanged, only the path to its optimum is changed.

    Args:
        design: linear map, MLP or free vectors, and in which form.
        keys: [n, k] inputs, fixed during training.
        own: [n, d] unedited states of the subjects.
        seed: random seed of the initialisation.
        learnt: result of `learnt` for another edit set: centre, scales, directions and weights are taken from
            it.

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
        self.own_scale = design.own_scale
        if design.own_scale:  # of the median: a few entries of a state may be a hundred times the others
            self.scale = GAUSSIAN * own.abs().median(1, keepdim=True).values.clamp_min(1e-8)
        elif learnt is None:
            spread = own - self.mean if len(own) > 1 else own
            self.scale = spread.pow(2).mean().sqrt().clamp_min(1e-8).expand(len(own), 1)
        else:
            self.scale = _like(learnt["scale"], own).expand(len(own), 1)
        self.network = self._network(design, keys.shape, own.shape[1], seed).to(keys.device)
        if learnt is not None and design.kind != "free":
            self._continue(learnt)

    def _continue(self, learnt: Mapping[str, Tensor]) -> None:
        """Load the weights of an earlier training."""
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
        """Return everything that makes the network a function of a key, independent of the edit set.

        A training on other edits can continue from it.
        """
        weights = (
            {}
            if isinstance(self.network, _Free)
            else {f"network.{name}": value for name, value in self.network.state_dict().items()}
        )
        scale = {} if self.own_scale else {"scale": self.scale[0, 0]}
        return {"mean": self.mean, **scale, **self.inputs.tensors(), **weights}

    @staticmethod
    def _network(design: Design, shape: torch.Size, dim: int, seed: int) -> nn.Module:
        """Return an initialised network that outputs zeros."""
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
        """Return new blocks [batch, d] of the subjects with numbers `index` [batch]."""
        made = self.network(index) if isinstance(self.network, _Free) else self.network(self.features[index])
        new: Tensor = self.anchor[index] + self.scale[index] * made
        return new

    @torch.no_grad()
    def table(self) -> Tensor:
        """Return all new knowledge blocks [subjects, d]: a pure function of the edit set."""
        table: Tensor = self(torch.arange(len(self.features), device=self.features.device))
        return table


class Hypernetworks(nn.ModuleList):
    """One `Hypernetwork` per replaced block.

    Args:
        design: design of each network.
        keys: [blocks, n, k] inputs.
        own: [blocks, n, d] unedited states of the subjects at each block.
        seed: random seed of the first network; each further one adds 1.
        learnt: result of `learnt` for another edit set, to continue from.

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
        """Return what each network has learnt, with the network's number in front of each name."""
        return {
            f"{i}.{name}": value
            for i, one in enumerate(self)
            for name, value in cast(Hypernetwork, one).learnt().items()
        }

    def forward(self, index: Tensor) -> Tensor:
        """Return new blocks [blocks, batch, d] of the subjects with numbers `index` [batch]."""
        return torch.stack([network(index) for network in self])

    @torch.no_grad()
    def table(self) -> Tensor:
        """Return all new knowledge blocks [blocks, subjects, d]: a pure function of the edit set."""
        return torch.stack([cast(Hypernetwork, network).table() for network in self])


RIDGE = 1e-3
"""Ridge relative to the mean variance: directions with a far smaller variance are noise, which whitening must
not amplify."""


def _part(learnt: Mapping[str, Tensor] | None, number: int) -> dict[str, Tensor] | None:
    """Return one network's share of the result of `Hypernetworks.learnt`."""
    if learnt is None:
        return None
    return {
        name.removeprefix(f"{number}."): value
        for name, value in learnt.items()
        if name.startswith(f"{number}.")
    }


def _like(saved: Tensor, model: Tensor, *shape: int) -> Tensor:
    """Return a saved tensor on the model's device.

    Raises:
        ValueError: it has another shape.
    """
    if saved.shape != shape:
        raise ValueError(
            f"the saved hypernetwork has a tensor of shape {tuple(saved.shape)} where the model needs {shape}"
        )
    return saved.to(model)


class _Inputs:
    """An affine map from keys [n, k] to inputs of the network, fitted to one edit set.

    Args:
        centre: [k] mean key.
        first, last: root mean squares that are divided out before and after whitening; `first` is 1 without
            whitening.
        directions: [r, k] principal directions of the keys; None without whitening.
        variance: [r] variance along them.
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
        """Fit the map to the keys of an edit set; a single key is not centred."""
        centre = keys.mean(0) if len(keys) > 1 else torch.zeros_like(keys[0])
        made = cls(centre, keys.new_ones(()), keys.new_ones(()), None, None)
        if whitened:
            made.first = _size(keys - centre)
            _, singular, made.directions = torch.linalg.svd((keys - centre) / made.first, full_matrices=False)
            made.variance = singular.pow(2) / len(keys)
        made.last = _size(made(keys))
        return made

    def __call__(self, keys: Tensor) -> Tensor:
        """Return inputs [n, k] of keys [n, k].

        Whitened inputs have (nearly) uncorrelated directions of equal variance.
        """
        found = (keys - self.centre) / self.first
        if self.directions is not None and self.variance is not None:
            found = (
                (found @ self.directions.T) / (self.variance + RIDGE * self.variance.mean()).sqrt()
            ) @ self.directions
        return found / self.last

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save."""
        whitening = (
            {}
            if self.directions is None or self.variance is None
            else {"directions": self.directions, "variance": self.variance}
        )
        return {"centre": self.centre, "first": self.first, "last": self.last, **whitening}

    @classmethod
    def restore(cls, saved: Mapping[str, Tensor], keys: Tensor) -> "_Inputs":
        """Restore a saved map, for keys of the same model.

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
    """Return the root mean square."""
    return values.pow(2).mean().sqrt().clamp_min(1e-8)


class _Free(nn.Module):
    """One trained vector per subject, starting from zero."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, dim))

    def forward(self, index: Tensor) -> Tensor:
        """Return the vectors [batch, d] of some subjects."""
        return self.weight[index]
