"""Keys at the end of the subject, block by block, as used by all locate-then-edit methods.

The other shared stages are in `contexts` (texts), `values` (value optimisation), `covariances` (second
moments and solves) and `weight_updates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baselines._locate_then_edit.contexts import end_of_subject
from lks.models.frozen_prefix import BlockStates, advance, batches, states
from lks.models.lm import LM, Encoded
from lks.models.prefill import installed_hooks


@dataclass(frozen=True, slots=True)
class Subjects:
    """States of all rows of all edits up to the end of the subject, at the input of one block.

    Later tokens cannot change the subject's state, so rows end there.

    Attributes:
        at: the block whose input the states are.
        cached: the states.
        each: number of rows per edit; the first is the bare prompt.
    """

    at: int
    cached: BlockStates
    each: int

    @classmethod
    def before(cls, lm: LM, rows: Sequence[Sequence[Encoded]], block: int) -> "Subjects":
        """Compute the states of rows (from `contexts.behind`) at the input of a block."""
        ids = [row.ids[: end_of_subject(row) + 1] for own in rows for row in own]
        return cls(block, states(lm, block - 1, ids), len(rows[0]))

    def move(self, lm: LM, block: int) -> "Subjects":
        """Advance the rows to the input of a later block, with the model's current weights."""
        return (
            replace(self, at=block, cached=advance(lm, self.at, block - 1, self.cached))
            if block > self.at
            else self
        )

    @torch.no_grad()
    def keys(self, lm: LM) -> Tensor:
        """Compute inputs [edits, each, d_in] of block `at`'s MLP output layer at the row ends, in float32."""
        found: dict[int, Tensor] = {}
        chosen: list[int] = []
        lengths = self.cached.lengths.tolist()

        def take(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            keys = args[0]
            for k, row in enumerate(chosen):
                found[row] = keys[k, lengths[row] - 1].float()

        with installed_hooks([lm.mlp_output(self.at).register_forward_pre_hook(take)]):
            for group in batches(lengths, 8192):
                chosen[:] = group
                advance(lm, self.at, self.at, _some(self.cached, group), batch_tokens=1 << 30)
        return torch.stack([found[row] for row in range(len(lengths))]).reshape(
            -1, self.each, found[0].shape[-1]
        )

    def bare(self, lm: LM, block: int) -> Tensor:
        """Compute a block's output [edits, d] at the subject ends of the bare prompts, in float32."""
        first = list(range(0, len(self.cached.lengths), self.each))
        moved = advance(lm, self.at, block, _some(self.cached, first))
        return moved.at(torch.arange(len(first), device=moved.flat.device), moved.lengths - 1).float()


def _some(cached: BlockStates, rows: Sequence[int]) -> BlockStates:
    """Select sequences in the given order."""
    index = torch.tensor(list(rows), device=cached.flat.device)
    lengths = cached.lengths[index]
    hidden, mask = cached.rows(index)
    return BlockStates(hidden[mask.bool()], lengths.cumsum(0) - lengths, lengths)
