"""Frozen-prefix execution: states at block l are computed once, only the blocks above run again.

Every editor here works on a *frozen* model at or above some block l. The states that enter the upper blocks
do not change while it trains, so they are computed once (`states`) and kept (`BlockStates`); a training step
runs blocks l+1.. on them (`UpperBlocks`) and projects to the vocabulary at the few positions that carry a
loss. Gradients flow to activations, never to the model's weights.

Both halves are shallow copies of the model's own decoder with fewer blocks: masks, rotary embeddings and
attention are the model's code, so the result equals the full model's (tested to 1e-5 on every architecture).
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lks.models.lm import LM
from lks.models.losses import FrozenCrossEntropy
from lks.models.memory import allocate, scale_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PASS_TOKENS = {"cpu": 1024, "cuda": 8192}
"""Padded tokens per forward pass. On a CPU the activations of 8,192 leave the processor's caches, which makes
a pass of SmolLM2-135M 1.8 times as long."""


def _decoder(lm: LM, first: int, last: int, ends: bool = True) -> nn.Module:
    """Return the decoder with blocks first..last alone, without the final norm if not `ends`.

    It shares every parameter with the original decoder, which is not changed.
    """
    part = copy.copy(lm.decoder)
    part._modules = dict(lm.decoder._modules)
    setattr(part, lm.architecture.blocks, nn.ModuleList(list(lm.blocks[first : last + 1])))
    kinds = getattr(part.config, "layer_types", None)
    if kinds is not None:  # the decoder looks up its blocks' kinds of attention by their index
        part.config = copy.copy(part.config)
        part.config.layer_types = list(kinds[first : last + 1])  # type: ignore[union-attr]
    if not ends:
        setattr(part, lm.architecture.final_norm, nn.Identity())
    return part


def _between(lm: LM, first: int, last: int, ends: bool) -> nn.Module:
    """Return blocks first..last for states as input."""
    part = _decoder(lm, first, last, ends)
    if lm.architecture.positions:
        setattr(part, lm.architecture.positions, _NoPositions(lm.dim))
    return part


def lower_blocks(lm: LM, block: int, dtype: torch.dtype | None = None) -> nn.Module:
    """Return blocks 0..block without the final norm, from ids to block states.

    They are copied if their number format is to differ from the model's.
    """
    part = _decoder(lm, 0, block, ends=False)
    return part if dtype in (None, lm.model.dtype) else _copied(part, dtype)


Change = Callable[[int, Tensor], Tensor]
"""Called with the number of a further edited block (0, 1, ...) and its states; returns the states to continue
with."""


class UpperBlocks:
    """Blocks block+1.. and the final norm, from block states to final states.

    Args:
        lm: the unedited model.
        block: block l.
        further: blocks above l, ascending, whose states a caller wants to change on the way.
        dtype: number format of these blocks and the vocabulary projection; they are copied if it differs from
            the model's.
    """

    def __init__(
        self, lm: LM, block: int, further: Sequence[int] = (), dtype: torch.dtype | None = None
    ) -> None:
        self.lm, self.block = lm, block
        edges = [block, *further, len(lm.blocks) - 1]
        self.stretches = [
            _between(lm, a + 1, b, ends=i == len(further))
            for i, (a, b) in enumerate(itertools.pairwise(edges))
        ]
        self.projection = lm.vocabulary_projection
        self.dtype = dtype or lm.model.dtype
        if self.dtype != lm.model.dtype:
            self.stretches = [_copied(part, self.dtype) for part in self.stretches]
            self.projection = copy.deepcopy(self.projection).to(self.dtype)

    def __call__(self, hidden: Tensor, mask: Tensor, change: Change | None = None) -> Tensor:
        """Return final states [batch, time, d] from block states [batch, time, d] and mask [batch, time]."""
        for number, part in enumerate(self.stretches):
            if number and change is not None:
                hidden = change(number - 1, hidden)
            hidden = cast(
                Tensor, part(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state
            )
        return hidden

    @cached_property
    def counted_from_0(self) -> list[nn.Module]:
        """The same stretches for use with caches that hold only their own blocks."""
        parts = []
        for stretch in self.stretches:
            part = copy.copy(stretch)
            part._modules = dict(stretch._modules)
            blocks = cast(nn.ModuleList, stretch.get_submodule(self.lm.architecture.blocks))
            setattr(part, self.lm.architecture.blocks, nn.ModuleList(_counted_from_0(list(blocks))))
            parts.append(part)
        return parts

    def logits(self, final: Tensor) -> Tensor:
        """Return logits [n, vocabulary] of chosen final states [n, d], in float32."""
        return self.lm.capped(cast(Tensor, self.projection(final))).float()

    def cross_entropy(self, final: Tensor, labels: Tensor) -> Tensor:
        """Return -log p(label) [n] of chosen final states [n, d] and labels [n], in float32."""
        if self.projection.bias is not None:
            return F.cross_entropy(self.logits(final), labels, reduction="none")
        return cast(
            Tensor, FrozenCrossEntropy.apply(final, self.projection.weight, labels, self.lm.logits_cap)
        )


def _copied(part: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of some blocks in another number format, with its own configuration."""
    part = copy.deepcopy(part).to(dtype)
    if dtype == torch.bfloat16 and next(part.parameters()).device.type == "cpu":
        # the backward pass of fused attention is slow in bfloat16 on a CPU
        cast("PreTrainedModel", part).config._attn_implementation = "eager"
    return part


def _counted_from_0(blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return shallow copies of blocks that find their keys and values in a cache of these blocks only."""
    copies = []
    for number, block in enumerate(blocks):
        copied = copy.copy(block)
        copied._modules = dict(block._modules)
        for name, child in block._modules.items():
            if hasattr(child, "layer_idx"):
                copied._modules[name] = copy.copy(child)
                copied._modules[name].layer_idx = number  # type: ignore[union-attr]
        copies.append(copied)
    return copies


class _NoPositions(nn.Module):
    """Replacement for an absolute position embedding that the cached states already contain."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, position_ids: Tensor) -> Tensor:
        """Return zeros [..., d], as integers: added to states of any number format they leave it."""
        return torch.zeros(*position_ids.shape, self.dim, dtype=torch.uint8, device=position_ids.device)


@dataclass(frozen=True, slots=True)
class BlockStates:
    """Block states of many sequences, concatenated.

    Attributes:
        flat: [all tokens, d] states; where they do not fit on the device, in host memory or a file
            (`lks.models.memory`).
        starts: [sequences] index in `flat` where each begins.
        lengths: [sequences] number of tokens of each.
    """

    flat: Tensor
    starts: Tensor
    lengths: Tensor

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return right-padded states [batch, time, d] and attention mask [batch, time] of some sequences."""
        lengths = self.lengths[index]
        time = torch.arange(int(lengths.max()), device=lengths.device)
        mask = time[None, :] < lengths[:, None]
        where = (self.starts[index][:, None] + time[None, :]) * mask
        return gathered(self.flat, where), mask.long()

    def at(self, index: Tensor, position: Tensor) -> Tensor:
        """Return the states [batch, d] of some sequences at one position each."""
        return gathered(self.flat, self.starts[index] + position)


def gathered(flat: Tensor, where: Tensor) -> Tensor:
    """Return `flat[where]` on the device of `where`, wherever `flat` is kept."""
    return flat[where.to(flat.device)].to(where.device, non_blocking=True)


@torch.no_grad()
def states(
    lm: LM,
    block: int,
    rows: Sequence[Sequence[int]],
    batch_tokens: int | None = None,
    dtype: torch.dtype | None = None,
) -> BlockStates:
    """Compute block states of token sequences, in batches of similar length.

    Args:
        lm: the unedited model.
        block: block l, whose output is returned; -1 gives what enters block 0.
        rows: token ids of each sequence.
        batch_tokens: padded tokens per forward pass; None for `PASS_TOKENS`.
        dtype: number format of these blocks and of the states; None for the model's.
    """
    part = lower_blocks(lm, block, dtype)
    lengths = torch.tensor([len(r) for r in rows], dtype=torch.long)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)[:-1]]) if len(rows) else lengths
    flat = allocate((int(lengths.sum()), lm.dim), dtype or lm.model.dtype, lm.device)
    for chosen in batches(lengths.tolist(), batch_tokens or PASS_TOKENS[lm.device.type]):
        ids, mask = lm.pad([rows[i] for i in chosen])
        hidden = part(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        index = torch.tensor(chosen)
        where = (starts[index][:, None] + torch.arange(mask.shape[1]))[mask.bool().cpu()]
        flat[where.to(flat.device)] = hidden[mask.bool()].to(flat.device)
    return BlockStates(flat, starts.to(lm.device), lengths.to(lm.device))


@torch.no_grad()
def advance(
    lm: LM, first: int, last: int, cached: BlockStates, batch_tokens: int | None = None
) -> BlockStates:
    """Compute block states at block `last` from states that enter block `first`, of the same sequences."""
    part = _between(lm, first, last, ends=False)
    flat = torch.empty_like(cached.flat)
    for chosen in batches(cached.lengths.tolist(), batch_tokens or PASS_TOKENS[lm.device.type]):
        index = torch.tensor(chosen, device=lm.device)
        hidden, mask = cached.rows(index)
        out = part(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state
        time = torch.arange(hidden.shape[1], device=hidden.device)[None]
        flat[(cached.starts[index][:, None] + time)[mask.bool()].to(flat.device)] = out[mask.bool()].to(
            flat.device
        )
    return BlockStates(flat, cached.starts, cached.lengths)


def last_states(lm: LM, block: int, texts: Sequence[str]) -> Tensor:
    """Compute block states [texts, d] of the last token of each text."""
    found = states(lm, block, [e.ids for e in lm.encode(texts, [""] * len(texts))])
    return found.at(torch.arange(len(texts), device=lm.device), found.lengths - 1)


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices by similar length.

    A group has at most `batch_tokens` padded tokens (fewer inside `lks.models.memory.half_batches`), and at
    least one row.
    """
    batch_tokens = scale_batch(batch_tokens)
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[i] <= batch_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
