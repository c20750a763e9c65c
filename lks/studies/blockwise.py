"""States at chosen positions of every block, and the effect of changes at one position of one block.

A study asks what follows from another state at position s after block l, for every l. Nothing before s can
change in any block, so keys and values there are computed once for all blocks; the unchanged states of a
row's end are computed block by block once; and for each l only blocks l+1.. run, on the end alone.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lks.models.frozen_prefix import BlockStates, UpperBlocks, batches
from lks.models.frozen_suffix import Suffix
from lks.models.lm import LM
from lks.models.memory import allocate
from lks.models.prefill import installed_hooks


@torch.no_grad()
def captured(
    lm: LM,
    rows: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    modules: Sequence[nn.Module],
    batch_tokens: int = 8192,
) -> Tensor:
    """Return outputs of some modules at some positions, from one forward pass for all.

    Args:
        lm: the unedited model.
        rows: token ids of each row.
        positions: [rows][sites] positions in each row.
        modules: blocks or parts of blocks, whose outputs are [batch, time, d].
        batch_tokens: padded tokens per forward pass.

    Returns:
        [modules, rows, sites, d].
    """
    sites = torch.tensor(positions, device=lm.device)
    found = allocate((len(modules), *sites.shape, lm.dim), lm.model.dtype, lm.device)
    for chosen in batches([len(row) for row in rows], batch_tokens):
        ids, mask = lm.pad([rows[i] for i in chosen])
        index = torch.tensor(chosen, device=lm.device)
        kept: dict[int, Tensor] = {}

        def keep(number: int, at: tuple[Tensor, Tensor], kept: dict[int, Tensor] = kept) -> Any:
            def hook(_module: nn.Module, _args: object, output: Any) -> None:
                kept[number] = (output[0] if isinstance(output, tuple) else output)[at]

            return hook

        at = (torch.arange(len(chosen), device=lm.device)[:, None], sites[index])
        with installed_hooks(
            [module.register_forward_hook(keep(number, at)) for number, module in enumerate(modules)]
        ):
            lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        for number, states in kept.items():
            found[number, index.to(found.device)] = states.to(found.device)
    return found


class Blockwise:
    """A model prepared to run block by block, made once for a study.

    Args:
        lm: the unedited model, which is not changed.
    """

    def __init__(self, lm: LM) -> None:
        self.lm = lm
        blocks = range(len(lm.blocks))
        self.steps = UpperBlocks(lm, -1, blocks)  # one block each, then the final norm
        self.above = {block: UpperBlocks(lm, block) for block in range(-1, len(blocks))}

    def ends(self, cached: BlockStates, index: Tensor, starts: Tensor) -> "Ends":
        """Return the ends of some rows.

        Args:
            cached: states that enter block 0 (`lks.models.frozen_prefix.states` with block -1).
            index: [rows] which sequences of `cached`.
            starts: [rows] position s of each row, where it is to be changed.
        """
        return Ends(self, cached, index, starts)


class Ends:
    """The ends of some rows, from position s on.

    Attributes:
        entering: [rows, ends, d] states that enter block 0; column 0 is s.
    """

    def __init__(self, blockwise: Blockwise, cached: BlockStates, index: Tensor, starts: Tensor) -> None:
        self._blockwise, self._starts = blockwise, starts
        self._whole = Suffix(blockwise.steps, cached, index, starts)
        self.entering = self._whole.hidden

    def walk(self) -> Iterator[tuple[int, Tensor]]:
        """Yield every block in turn with the unchanged states [rows, ends, d] that leave it."""
        hidden = self.entering
        for block in range(len(self._blockwise.lm.blocks)):
            hidden = self._part(self._blockwise.steps, block, block + 1)(hidden)
            yield block, hidden

    def onward(self, block: int, hidden: Tensor) -> Tensor:
        """Return final states [rows, ends, d] from states of the same shape that leave a block.

        Block -1 means states that enter block 0.
        """
        return self._part(self._blockwise.above[block], block + 1, None)(hidden)

    def _part(self, upper: UpperBlocks, first: int, end: int | None) -> Suffix:
        """Return blocks first..end-1, or all from `first` with the final norm.

        They come with keys and values of the rows' beginnings.
        """
        part = copy.copy(self._whole)
        part.upper, kept = upper, self._whole.kept[first:end]
        part.decoders = (
            upper.counted_from_0 if end is None else self._blockwise.steps.counted_from_0[first:end]
        )
        part.kept = [[pair for stretch in kept for pair in stretch]]
        return part

    def logits(self, final: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Return logits [n, vocabulary] at positions [n] of rows [n].

        Positions count from the whole row's beginning.
        """
        return self._blockwise.steps.logits(final[rows, positions - self._starts[rows]])


def replaced(hidden: Tensor, states: Tensor) -> Tensor:
    """Return the ends [rows, ends, d] with other states [rows, d] at position s."""
    return torch.cat([states[:, None].to(hidden.device, hidden.dtype), hidden[:, 1:]], 1)
