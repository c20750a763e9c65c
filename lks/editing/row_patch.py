"""Patches that act on some rows of a batch while other rows belong to other patches or to none.

`Patch.applied` edits the whole model. A `RowPatch` (`Patch.by_rows`) is attached to the model as hooks that
do nothing until they are given the rows of the forward pass that are theirs. Three kinds exist:

- knowledge blocks act at prefill alone: what they insert is in the cache of the blocks above, so decoding
  costs nothing;
- changed weights of linear layers: y = W x + D x, the second term for the patch's own rows alone, at prefill
  and in decoding;
- contexts: the prompt is rewritten before it is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from lks.models.lm import LM
from lks.models.prefill import Pass


class RowPatch:
    """A patch that acts on the rows it is given; this one, the unedited model, acts on none."""

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """Return the token ids that the model reads in place of a prompt."""
        return list(ids)

    def begin(self, rows: Sequence[int], prefill: Pass) -> None:
        """Announce a prefill in which these rows are the patch's."""

    def go_on(self, rows: Tensor) -> None:
        """Announce a step on a cache in which these rows [n] are the patch's."""

    def rest(self) -> None:
        """Announce that no rows of the following forward passes are the patch's."""

    def fired(self) -> Tensor | None:
        """Return whether the edits act on each row [batch] of the last prefill; None without a gate."""
        return None

    def modules(self) -> list[nn.Module]:
        """Return the modules that it hooks."""
        return []

    def handles(self) -> list[RemovableHandle]:
        """Register its hooks and return their handles."""
        return []


Group = tuple[RowPatch, Tensor]
"""A patch and the numbers [n] of its rows in a batch."""


@contextmanager
def beginning(groups: Sequence[Group], ids: Tensor, mask: Tensor) -> Iterator[None]:
    """Let each patch act on its rows of the prefill [batch, time] inside the `with`."""
    now = Pass(ids, mask)
    try:
        for patch, rows in groups:
            patch.begin(rows.tolist(), now)
        yield
    finally:
        for patch, _ in groups:
            patch.rest()


@contextmanager
def going_on(groups: Sequence[Group]) -> Iterator[None]:
    """Let each patch act on its rows of a step inside the `with`."""
    try:
        for patch, rows in groups:
            patch.go_on(rows)
        yield
    finally:
        for patch, _ in groups:
            patch.rest()


Layer = tuple[nn.Module, list[Tensor]]
"""A linear layer and the matrices that its input is multiplied by, one after the other, to give the change
of its output."""


def weight_rows(lm: LM, changes: Mapping[str, Sequence[Tensor]]) -> RowPatch | None:
    """Make a row patch of changed weights.

    Args:
        lm: the model.
        changes: parameter name -> its difference, dense [out, in] or as two factors [out, rank], [rank, in].

    Returns:
        None where a changed parameter is not the weight of exactly one linear layer (tied embeddings, norms,
        biases).
    """
    layers = [_layer(lm, name, dense) for name, dense in changes.items()]
    found = [layer for layer in layers if layer is not None]
    return _WeightRows(found) if len(found) == len(layers) else None


def _layer(lm: LM, name: str, dense: Sequence[Tensor]) -> Layer | None:
    """Return the layer whose weight changes; None if it is not the weight of exactly one linear layer."""
    parameter = dict(lm.model.named_parameters()).get(name)
    users = [
        module
        for module in lm.model.modules()
        if any(own is parameter for own in module._parameters.values())
    ]
    if (
        parameter is None
        or len(users) != 1
        or not name.endswith(".weight")
        or not isinstance(users[0], nn.Linear | Conv1D)
    ):
        return None
    factors = list(dense) if isinstance(users[0], Conv1D) else [factor.T for factor in reversed(dense)]
    if (factors[0].shape[0], factors[-1].shape[1]) != (
        parameter.shape if isinstance(users[0], Conv1D) else parameter.T.shape
    ):
        return None
    return users[0], [factor.to(parameter).contiguous() for factor in factors]


class _WeightRows(RowPatch):
    """The change of each layer's output, added for the patch's own rows."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.rows: Tensor | None = None

    def begin(self, rows: Sequence[int], prefill: Pass) -> None:
        """Remember the rows of a prefill."""
        self.rows = torch.tensor(rows, device=prefill.ids.device)

    def go_on(self, rows: Tensor) -> None:
        """Remember the rows of a step."""
        self.rows = rows

    def rest(self) -> None:
        """Forget the rows."""
        self.rows = None

    def modules(self) -> list[nn.Module]:
        """Return the changed layers."""
        return [module for module, _ in self.layers]

    def handles(self) -> list[RemovableHandle]:
        """Register a hook on each layer."""
        return [module.register_forward_hook(partial(self._add, factors)) for module, factors in self.layers]

    def _add(
        self, factors: list[Tensor], _module: nn.Module, args: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        if self.rows is None:
            return None
        whole = len(self.rows) == len(output)
        change: Tensor = args[0] if whole else args[0][self.rows]
        for factor in factors:
            change = change @ factor
        return output + change if whole else output.index_add(0, self.rows, change)
