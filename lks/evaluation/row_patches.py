"""Patches that act on some rows of a batch while other rows belong to other patches or to none.

`Patch.applied` edits the whole model. Here a patch stays beside the model, as hooks that do nothing until they are told which rows of the
forward pass are theirs. Three kinds can be served so, in one forward with everything else:

- knowledge blocks act at prefill alone: what they put in is in the cache of the blocks above, so decoding costs nothing;
- changed weights of linear layers: y = W x + D x, the second term for the patch's own rows alone, at prefill and in decoding;
- contexts: the prompt is rewritten before it is read.

For any other kind `row_wise` gives None: it is served in batches of its own, inside `Patch.applied`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from lks.editing.context_patch import ContextPatch
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.method.replacer import KnowledgeBlockPatch, Replacer
from lks.models.lm import LM
from lks.models.prefill import FIRED, Pass, Prefills


class RowPatch:
    """A patch that acts on the rows it is told; this one, the unedited model, on none."""

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """What the model is to read in place of a prompt."""
        return list(ids)

    def begin(self, rows: Sequence[int], prefill: Pass) -> None:
        """A prefill follows, of which these rows are the patch's."""

    def go_on(self, rows: Tensor) -> None:
        """A step on a cache follows, of which these rows [n] are the patch's."""

    def rest(self) -> None:
        """Forward passes that follow are none of the patch's."""

    def fired(self) -> Tensor | None:
        """Whether the edits act on each row [batch] of the prefill that has just run; None for a patch without a gate."""
        return None

    def handles(self) -> list[RemovableHandle]:
        """Its hooks, newly registered."""
        return []


Group = tuple[RowPatch, Tensor]
"""A patch and the numbers [n] of its rows in a batch."""


def row_wise(patch: Patch, lm: LM) -> RowPatch | None:
    """The patch beside the model, ready for rows of any batch; None where its kind needs batches of its own."""
    if isinstance(patch, NoPatch):
        return RowPatch()
    if isinstance(patch, KnowledgeBlockPatch):
        return _KnowledgeRows(patch, lm)
    if isinstance(patch, ContextPatch):
        return _ContextRows(patch, lm)
    if type(patch) is WeightPatch:
        layers = [_layer(patch, lm, name) for name in patch.names]
        found = [layer for layer in layers if layer is not None]
        return _WeightRows(found) if len(found) == len(layers) else None
    return None


@contextmanager
def beginning(groups: Sequence[Group], ids: Tensor, mask: Tensor) -> Iterator[None]:
    """Each patch acts on its rows of the prefill [batch, time] inside the `with`."""
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
    """Each patch acts on its rows of a step inside the `with`."""
    try:
        for patch, rows in groups:
            patch.go_on(rows)
        yield
    finally:
        for patch, _ in groups:
            patch.rest()


class _KnowledgeRows(RowPatch):
    """Knowledge blocks, put into the patch's own rows at prefill."""

    def __init__(self, patch: KnowledgeBlockPatch, lm: LM) -> None:
        self.lm, self.blocks = lm, patch.blocks
        self.replacer = Replacer(patch, lm)
        self.prefills = Prefills()

    def begin(self, rows: Sequence[int], prefill: Pass) -> None:
        """Decide from the rows' tokens."""
        self.prefills.now = Pass(prefill.ids, prefill.mask)
        self.replacer.decide(self.prefills.now, frozenset(rows))

    def rest(self) -> None:
        """No pass is the patch's."""
        self.prefills.now = None

    def fired(self) -> Tensor | None:
        """For the patch's own rows."""
        return None if self.prefills.now is None else self.prefills.now.row_state.get(FIRED)

    def handles(self) -> list[RemovableHandle]:
        """One per block."""
        places = enumerate(self.blocks)
        return [
            self.lm.block(block).register_forward_hook(partial(self.replacer.replace, self.prefills, place))
            for place, block in places
        ]


class _ContextRows(RowPatch):
    """A context, put where `ContextPatch.applied` puts it."""

    def __init__(self, patch: ContextPatch, lm: LM) -> None:
        self.patch, self.lm = patch, lm

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """With the context that the patch chooses."""
        (whole,), _ = self.patch.rewritten(self.lm, [ids])
        return whole


Layer = tuple[nn.Module, list[Tensor]]
"""A linear layer and the matrices that its input is multiplied by, one after the other, to give the change of its output."""


def _layer(patch: WeightPatch, lm: LM, name: str) -> Layer | None:
    """The layer whose weight changes; None where that is not the weight of one linear layer, or is used elsewhere too (tied embeddings)."""
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
    dense = (
        [patch.deltas[name]]
        if name in patch.deltas
        else [patch.deltas[f"{name}.left"], patch.deltas[f"{name}.right"]]
    )
    factors = dense if isinstance(users[0], Conv1D) else [factor.T for factor in dense[::-1]]
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
        """As in any other pass."""
        self.rows = torch.tensor(rows, device=prefill.ids.device)

    def go_on(self, rows: Tensor) -> None:
        """These rows."""
        self.rows = rows

    def rest(self) -> None:
        """No rows."""
        self.rows = None

    def handles(self) -> list[RemovableHandle]:
        """One per layer."""
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
