"""Frozen-prefix execution for a change in the middle of rows: only the end of each row runs again.

A change at position s of a row cannot reach earlier positions, so what they contribute above block l, their
keys and values, is computed once and only positions s.. run. Rows are shifted so that every row's s is in one
column: padding is on the left of short beginnings and on the right of short ends.
"""

import copy
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lks.models.frozen_prefix import PASS_TOKENS, BlockStates, Change, UpperBlocks, batches, gathered
from lks.models.memory import SHARE, allocate, free_bytes

Kept = list[list[tuple[Tensor, Tensor]]]
"""Keys and values [rows, heads, beginnings, head dim], by stretch of the upper blocks and by block."""


class Suffix:
    """Blocks block+1.. on the end of each of some rows, to be run any number of times.

    Args:
        upper: the upper blocks.
        cached: input states of the upper blocks.
        index: [rows] which sequences of `cached`.
        starts: [rows] position s of each row.
        beginnings: keys and values of all sequences, if they are kept; otherwise those of these rows are
            computed now.

    Attributes:
        hidden: [rows, ends, d] input states of the ends; column 0 is s.
    """

    def __init__(
        self,
        upper: UpperBlocks,
        cached: BlockStates,
        index: Tensor,
        starts: Tensor,
        beginnings: "Beginnings | None" = None,
    ) -> None:
        self.upper = upper
        self.decoders = upper.counted_from_0
        lengths, before = cached.lengths[index], int(starts.max())
        width = before + int((lengths - starts).max())
        source = torch.arange(width, device=starts.device)[None] - (before - starts)[:, None]
        self.mask = ((source >= 0) & (source < lengths[:, None])).long()
        self.positions = source.clamp_min(0)
        where = cached.starts[index][:, None] + source.clamp_min(0).minimum(lengths[:, None] - 1)
        self.hidden = self._states(cached.flat, where, slice(before, width))
        self.kept = (
            beginnings.of(index, self.mask[:, :before])
            if beginnings
            else self._before(self._states(cached.flat, where, slice(0, before)))
        )

    def _states(self, flat: Tensor, where: Tensor, columns: slice) -> Tensor:
        """Return input states [rows, columns, d], zero where there is padding."""
        return gathered(flat, where[:, columns]).to(self.upper.dtype) * self.mask[:, columns, None].to(
            self.upper.dtype
        )

    @torch.no_grad()
    def _before(self, hidden: Tensor) -> Kept:
        """Compute keys and values of the beginnings [rows, beginnings, d]."""
        if not hidden.shape[1]:
            return [[] for _ in self.decoders]
        caches = [DynamicCache() for _ in self.decoders]
        self._run(hidden, slice(0, hidden.shape[1]), caches, None)
        return [
            [
                cast(tuple[Tensor, Tensor], (layer.keys, layer.values))
                for layer in cast(list[DynamicLayer], cache.layers)
            ]
            for cache in caches
        ]

    def _run(
        self, hidden: Tensor, columns: slice, caches: list[DynamicCache], change: Change | None
    ) -> Tensor:
        """Run the blocks on some columns, with one cache per stretch."""
        mask, positions = self.mask[:, : columns.stop], self.positions[:, columns]
        for number, (decoder, cache) in enumerate(zip(self.decoders, caches, strict=True)):
            if number and change is not None:
                hidden = change(number - 1, hidden)
            out = decoder(
                inputs_embeds=hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            hidden = cast(Tensor, out.last_hidden_state)
        return hidden

    def __call__(self, hidden: Tensor, change: Change | None = None) -> Tensor:
        """Return final states [rows, ends, d] from input states [rows, ends, d] of the ends."""
        caches = [DynamicCache() for _ in self.decoders]
        for cache, blocks in zip(caches, self.kept, strict=True):
            for number, (keys, values) in enumerate(blocks):
                cache.update(keys, values, number)
        before = self.mask.shape[1] - hidden.shape[1]
        return self._run(hidden, slice(before, self.mask.shape[1]), caches, change)

    def select(self, rows: Tensor) -> "Suffix":
        """Return the suffix of some of the rows."""
        part = copy.copy(self)
        part.hidden, part.mask, part.positions = self.hidden[rows], self.mask[rows], self.positions[rows]
        part.kept = [[(keys[rows], values[rows]) for keys, values in blocks] for blocks in self.kept]
        return part


class Beginnings:
    """Keys and values above block l of every sequence's beginning, computed once.

    Args:
        upper: the upper blocks.
        cached: input states of the upper blocks.
        starts: [sequences] length of each beginning.
        batch_tokens: padded tokens per forward pass; None for `PASS_TOKENS`.

    Attributes:
        flat: by stretch and block, keys and values [all beginnings' tokens, heads, head dim].
    """

    def __init__(
        self, upper: UpperBlocks, cached: BlockStates, starts: Tensor, batch_tokens: int | None = None
    ) -> None:
        self.starts = starts
        self.offsets = starts.cumsum(0) - starts
        self.flat: Kept = [[] for _ in upper.stretches]
        for chosen in batches(starts.tolist(), batch_tokens or PASS_TOKENS[starts.device.type]):
            index = torch.tensor(chosen, device=starts.device)
            made = Suffix(upper, BlockStates(cached.flat, cached.starts, starts), index, starts[index])
            if not made.mask.any():
                continue
            if not any(self.flat):
                self.flat = [
                    [(self._room(keys), self._room(values)) for keys, values in blocks]
                    for blocks in made.kept
                ]
            real = made.mask.bool()
            where = (self.offsets[index][:, None] + made.positions)[real]
            for target, blocks in zip(self.flat, made.kept, strict=True):
                for rooms, tensors in zip(target, blocks, strict=True):
                    for room, tensor in zip(rooms, tensors, strict=True):
                        room[where.to(room.device)] = tensor.transpose(1, 2)[real].to(room.device)

    def _room(self, like: Tensor) -> Tensor:
        """Allocate a tensor for keys or values of all beginnings."""
        return allocate((int(self.starts.sum()), like.shape[1], like.shape[3]), like.dtype, like.device)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.numel() * t.element_size() for blocks in self.flat for pair in blocks for t in pair)

    def of(self, index: Tensor, mask: Tensor) -> Kept:
        """Return keys and values of some sequences, right-aligned.

        Args:
            index: [rows] which sequences.
            mask: [rows, beginnings] where a row has a token.
        """
        if not mask.shape[1]:
            return [[] for _ in self.flat]
        within = (mask.cumsum(1) - 1).clamp_min(0)
        where = (self.offsets[index][:, None] + within).clamp_max(int(self.starts.sum()) - 1)
        return [
            [
                cast(tuple[Tensor, Tensor], tuple(gathered(t, where).transpose(1, 2) for t in pair))
                for pair in blocks
            ]
            for blocks in self.flat
        ]


def fits(upper: UpperBlocks, starts: Tensor) -> bool:
    """Return whether keys and values of all beginnings fit into memory.

    They fit if they take at most `SHARE` of the memory that is free on the device.
    """
    return beginnings_bytes(upper, int(starts.sum())) <= SHARE * free_bytes(starts.device)


def beginnings_bytes(upper: UpperBlocks, tokens: int) -> int:
    """Return the bytes of keys and values of beginnings with `tokens` tokens in all."""
    config = upper.lm.model.config
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = heads * int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    blocks = len(upper.lm.blocks) - upper.block - 1
    return 2 * tokens * blocks * width * upper.dtype.itemsize
