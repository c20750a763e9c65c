"""The stages that locate-then-edit methods share: keys at the end of the subject, block by block.

Texts: `contexts`. Value optimisation: `values`. Second moments and solves: `covariances`. Weight updates: `weight_updates`.
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
    """Every row of every edit up to the end of its subject, on the way up through the blocks.

    What follows the subject cannot change its state, so rows end there.

    Attributes:
        at: the block they are about to enter.
        cached: states that enter it.
        each: rows per edit; the first is the bare prompt.
    """

    at: int
    cached: BlockStates
    each: int

    @classmethod
    def before(cls, lm: LM, rows: Sequence[Sequence[Encoded]], block: int) -> "Subjects":
        """Rows (from `contexts.behind`) as they enter a block."""
        ids = [row.ids[: end_of_subject(row) + 1] for own in rows for row in own]
        return cls(block, states(lm, block - 1, ids), len(rows[0]))

    def move(self, lm: LM, block: int) -> "Subjects":
        """The same rows as they enter a later block, under the model's present weights."""
        return (
            replace(self, at=block, cached=advance(lm, self.at, block - 1, self.cached))
            if block > self.at
            else self
        )

    @torch.no_grad()
    def keys(self, lm: LM) -> Tensor:
        """Inputs of the MLP output layer of block `at` at the ends [edits, each, d_in], float32."""
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
        """Output of a block at the end of the subject of the bare prompts [edits, d], float32, under the present weights."""
        first = list(range(0, len(self.cached.lengths), self.each))
        moved = advance(lm, self.at, block, _some(self.cached, first))
        return moved.at(torch.arange(len(first), device=moved.flat.device), moved.lengths - 1).float()


def _some(cached: BlockStates, rows: Sequence[int]) -> BlockStates:
    """Some sequences, in the given order."""
    index = torch.tensor(list(rows), device=cached.flat.device)
    lengths = cached.lengths[index]
    hidden, mask = cached.rows(index)
    return BlockStates(hidden[mask.bool()], lengths.cumsum(0) - lengths, lengths)
