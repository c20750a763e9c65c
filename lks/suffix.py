"""The part of frozen-prefix execution for a change at one position: only the end of each row runs again."""

import copy
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lks.prefix import States, Upper


class Suffix:
    """Blocks block+1.. on the end of each row, again and again; what lies before it is computed once.

    A change at position s of a row cannot reach earlier positions, so their keys and values in the upper blocks are kept and
    only positions s.. run. Rows are shifted so that every row's s stands in one column: padding is on the left of short
    beginnings and on the right of short ends.

    Args:
        upper: the blocks.
        cached: their input states.
        index: [rows] which sequences of `cached`.
        starts: [rows] s of each.

    Attributes:
        hidden: [rows, ends, d] input states of the ends; column 0 is s.
    """

    def __init__(self, upper: Upper, cached: States, index: Tensor, starts: Tensor) -> None:
        self.upper = upper
        self.decoder = upper.counted_from_0()
        rows, _ = cached.rows(index)
        lengths, before = cached.lengths[index], int(starts.max())
        width = before + int((lengths - starts).max())
        source = torch.arange(width, device=rows.device)[None] - (before - starts)[:, None]
        self.mask = ((source >= 0) & (source < lengths[:, None])).long()
        self.positions = source.clamp_min(0)
        row = torch.arange(len(rows), device=rows.device)[:, None]
        hidden = rows[row, source.clamp(0, rows.shape[1] - 1)] * self.mask[..., None]
        self.hidden = hidden[:, before:]
        self.kept = self._before(hidden[:, :before])

    @torch.no_grad()
    def _before(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the beginnings, by block."""
        if not hidden.shape[1]:
            return []
        cache = DynamicCache()
        self._run(hidden, slice(0, hidden.shape[1]), cache)
        return cast(list[tuple[Tensor, Tensor]], [(layer.keys, layer.values) for layer in cast(list[DynamicLayer], cache.layers)])

    def _run(self, hidden: Tensor, columns: slice, cache: DynamicCache) -> Tensor:
        mask, positions = self.mask[:, : columns.stop], self.positions[:, columns]
        out = self.decoder(inputs_embeds=hidden, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        return cast(Tensor, out.last_hidden_state)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Final states [rows, ends, d] from input states [rows, ends, d] of the ends."""
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.kept):
            cache.update(keys, values, number)
        before = self.mask.shape[1] - hidden.shape[1]
        return self._run(hidden, slice(before, self.mask.shape[1]), cache)

    def select(self, rows: Tensor) -> "Suffix":
        """The same for some of the rows."""
        part = copy.copy(self)
        part.hidden, part.mask, part.positions = self.hidden[rows], self.mask[rows], self.positions[rows]
        part.kept = [(keys[rows], values[rows]) for keys, values in self.kept]
        return part
