"""Factored changes of MLP output layers, applied to the model while an editor works."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from lks.editing.patch import WeightPatch
from lks.models.lm import LM


class Updates:
    """Updates W_b = W_b^0 + L_b R_b of some blocks b.

    Inside the `with` the model has the updates so far; on exit its weights are restored bit for bit.

    Args:
        lm: the model.
        blocks: blocks whose MLP output layers may change.
    """

    def __init__(self, lm: LM, blocks: Sequence[int]) -> None:
        self.lm = lm
        self._modules = {block: lm.mlp_output(block) for block in blocks}
        self._original: dict[int, Tensor] = {}
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> "Updates":
        self._original = {block: self._weight(block).detach().clone() for block in self._modules}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def add(self, block: int, left: Tensor, right: Tensor) -> None:
        """Add left [d_out, n] @ right [n, d_in], whichever orientation the layer stores its weight in."""
        before = self._factors.get(block)
        left, right = left.float(), right.float()
        self._factors[block] = (
            (left, right)
            if before is None
            else (torch.cat([before[0], left], 1), torch.cat([before[1], right]))
        )
        self._apply(block)

    def patch(self) -> WeightPatch:
        """Return all updates so far as a patch."""
        deltas: dict[str, Tensor] = {}
        for block, (left, right) in self._factors.items():
            deltas |= low_rank(self.lm, block, left, right)
        return WeightPatch(deltas)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Restore the unedited model inside the `with`."""
        self._restore()
        try:
            yield
        finally:
            for block in self._factors:
                self._apply(block)

    def _weight(self, block: int) -> Tensor:
        """Return the weight of a block's MLP output layer."""
        weight = self._modules[block].weight
        assert isinstance(weight, Tensor)
        return weight

    @torch.no_grad()
    def _apply(self, block: int) -> None:
        """Set a block's weight to the original plus all updates so far."""
        left, right = self._factors[block]
        change = (left @ right).T if isinstance(self._modules[block], Conv1D) else left @ right
        weight = self._weight(block)
        weight.copy_(self._original[block] + change.to(weight))

    @torch.no_grad()
    def _restore(self) -> None:
        """Set all weights to the original ones."""
        for block, original in self._original.items():
            self._weight(block).copy_(original)


def low_rank(lm: LM, block: int, left: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Return the difference left @ right of an MLP output layer in the form that `WeightPatch` stores.

    It is stored as factors, or dense where that is smaller.

    Args:
        lm: the model.
        block: block of the layer.
        left: [d_out, n] left factor.
        right: [n, d_in] right factor.
    """
    module = lm.mlp_output(block)
    name = lm.parameter_name(module)
    if isinstance(module, Conv1D):
        left, right = right.T, left.T
    if left.numel() + right.numel() > left.shape[0] * right.shape[1]:
        return {name: left @ right}
    return {f"{name}.left": left.contiguous(), f"{name}.right": right.contiguous()}
