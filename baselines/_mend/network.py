"""MEND's network: a layer's factored gradient to factors of a weight change (arXiv 2110.11309, Sec. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lks.models.lm import LM


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer that MEND edits.

    Attributes:
        name: parameter name of its weight in the model.
        module: the module, which computes W x (+ bias).
        d_in, d_out: input and output widths.
        transposed: whether its weight is stored as [in, out].
    """

    name: str
    module: nn.Module
    d_in: int
    d_out: int
    transposed: bool


def mlp_layers(lm: LM, blocks: Sequence[int]) -> list[Layer]:
    """Return the linear layers of the blocks' MLPs, in the model's order."""
    found = []
    for block in blocks:
        mlp = lm.block(block).get_submodule(lm.architecture.mlp_output.rpartition(".")[0])
        for module in mlp.modules():
            if isinstance(module, nn.Linear | Conv1D):
                transposed = isinstance(module, Conv1D)
                d_out, d_in = reversed(module.weight.shape) if transposed else module.weight.shape
                found.append(Layer(lm.parameter_name(module), module, d_in, d_out, transposed))
    return found


class LowRankMLP(nn.Module):
    """g(z) with residual layers h + relu(s * (U V h + b) + o) (Eqs. 3a to 3c); initially U = 0.

    The untrained network is therefore the identity.

    Args:
        dim: d_in + d_out.
        rank: rank of U V.
        depth: number of residual layers.
        shared: number of weights that share U, V and b; each has its own scale s and shift o.
    """

    def __init__(self, dim: int, rank: int, depth: int, shared: int) -> None:
        super().__init__()
        rank = min(rank, dim)
        self.u = nn.Parameter(torch.zeros(depth, rank, dim))
        self.v = nn.Parameter(torch.randn(depth, dim, rank))
        self.bias = nn.Parameter(torch.zeros(depth, dim))
        self.scale = nn.Parameter(torch.ones(shared, depth, dim))
        self.shift = nn.Parameter(torch.zeros(shared, depth, dim))

    def forward(self, z: Tensor, which: int) -> Tensor:
        """Map [tokens, dim] to [tokens, dim] for weight number `which` of those that share the network."""
        for level in range(len(self.u)):
            change = z @ self.v[level] @ self.u[level] + self.bias[level]
            # clamp instead of relu, which has no gradient at 0
            z = z + (self.scale[which, level] * change + self.shift[which, level]).clamp(min=0)
        return z


class MendNetwork(nn.Module):
    """One `LowRankMLP` per weight shape and one step size per weight.

    A weight changes by `-step * sum over tokens of delta~ x~^T`, so that the untrained network with neutral
    statistics makes one step of gradient descent.

    Args:
        layers: the edited layers.
        rank, depth: size of the networks.
        step: initial value of all step sizes.
        seed: random seed for the initialisation.

    Attributes:
        moments: shape -> mean and standard deviation of x and delta, [2, d_in + d_out]; neutral (0 and 1)
            until `normalise` is called.
    """

    def __init__(self, layers: Sequence[Layer], rank: int, depth: int, step: float, seed: int) -> None:
        super().__init__()
        self.layers = list(layers)
        shapes = [(layer.d_in, layer.d_out) for layer in layers]
        self.keys = [f"{d_in}x{d_out}" for d_in, d_out in shapes]
        self.which = [self.keys[:i].count(key) for i, key in enumerate(self.keys)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = {
                k: LowRankMLP(sum(s), rank, depth, self.keys.count(k))
                for k, s in dict(zip(self.keys, shapes, strict=True)).items()
            }
        self.networks = nn.ModuleDict(networks)
        self.steps = nn.Parameter(torch.full((len(layers),), step))
        for key, shape in zip(self.keys, shapes, strict=True):
            self.register_buffer(
                f"moments_{key}", torch.stack([torch.zeros(sum(shape)), torch.ones(sum(shape))])
            )

    def normalise(self, sums: dict[str, Tensor]) -> None:
        """Set mean and standard deviation of the gradient factors from sums over tokens.

        Args:
            sums: shape -> [3, d_in + d_out]: count (in every column), sum and sum of squares, in float64.
        """
        for key, (count, total, squares) in sums.items():
            mean = total / count.clamp_min(1)
            deviation = ((squares - count * mean**2) / (count - 1).clamp_min(1)).clamp_min(0).sqrt()
            getattr(self, f"moments_{key}").copy_(torch.stack([mean, deviation + 1e-7]))

    def forward(self, number: int, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Compute x~ [..., d_in] and delta~ [..., d_out] of a layer's tokens.

        Both are zero for tokens without a gradient, such as padding.

        Args:
            number: index of the layer.
            x: inputs [..., d_in].
            delta: gradients of the outputs [..., d_out].
        """
        mean, deviation = getattr(self, f"moments_{self.keys[number]}")
        kept = live(delta)
        z = (torch.cat([x.float(), delta.float()], -1) - mean) / deviation
        made = self.networks[self.keys[number]](z, self.which[number]) * kept[..., None]
        return made[..., : x.shape[-1]], made[..., x.shape[-1] :]


def live(delta: Tensor) -> Tensor:
    """Return a mask [...] of the tokens with a nonzero gradient [..., d_out]."""
    return (delta != 0).any(-1)
