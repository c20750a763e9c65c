"""Rows generated together: a left-padded batch on one key-value cache that rows join and leave between
steps.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lks.editing.patch import Patch
from lks.editing.row_patch import Group, RowPatch, beginning, going_on
from lks.models.generation import positions
from lks.models.lm import LM
from workbench.serving.text_stream import TextStream


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling options of one answer.

    Attributes:
        longest: maximum number of new tokens.
        temperature: 0 takes the most likely token.
        top_p: share of the probability that is drawn from.
        stops: strings that end the answer.
    """

    longest: int
    temperature: float = 0.0
    top_p: float = 1.0
    stops: tuple[str, ...] = ()


@dataclass(slots=True)
class GeneratingRow:
    """One answer while it is generated.

    Attributes:
        prompt: token ids as the model reads them.
        patch: patch that acts on the row; None if the row's batch belongs to a single patch.
        sampling: how tokens are chosen.
        text: text said so far, on its way out.
        draws: the row's own random numbers, so that it does not depend on what else is in the batch.
        made: number of tokens so far.
    """

    prompt: list[int]
    patch: RowPatch | None
    sampling: Sampling
    text: TextStream
    draws: random.Random = field(default_factory=random.Random)
    made: int = 0


class GenerationBatch:
    """Rows on one cache.

    All columns of a row's cache except its last `row_length(row)` are padding. Sliding windows need no
    special care: the mask is made from columns, whose distances are the tokens' own, and the cache keeps
    every token.

    Args:
        lm: the model.
        rows: at least one row.
        patch: the single patch of this batch, inside whose `applied` every method is called; None if each row
            has its own.
    """

    def __init__(self, lm: LM, rows: Sequence[GeneratingRow], patch: Patch | None = None) -> None:
        self.lm, self.rows, self.patch = lm, list(rows), patch
        self.cache = DynamicCache()
        self.mask = torch.zeros(0)
        self.tokens = torch.zeros(0)
        self.groups: list[Group] = []
        self._regroup()

    @torch.no_grad()
    def prefill(self) -> list[int]:
        """Read the prompts and return the first token of each row."""
        ids, self.mask = self.lm.pad([row.prompt for row in self.rows], "left")
        with beginning(self.groups, ids, self.mask):
            return self._chosen(self._forward(ids, positions(self.mask)))

    @torch.no_grad()
    def step(self) -> list[int]:
        """Generate one more token for each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], 1)
        with going_on(self.groups):
            return self._chosen(self._forward(self.tokens[:, None], self.mask.sum(1, keepdim=True) - 1))

    def keep(self, chosen: Sequence[int]) -> None:
        """Keep only these rows."""
        if len(chosen) == len(self.rows):
            return
        index = torch.tensor(chosen, device=self.mask.device, dtype=torch.long)
        self.rows = [self.rows[i] for i in chosen]
        if self.rows:
            self.cache.batch_select_indices(index)
            self.mask, self.tokens = self.mask[index], self.tokens[index]
            if (
                self.patch is None
            ):  # other kinds of patch may have put something on the cache that counts columns
                self._cut(self.mask.shape[1] - max(row_length(row) for row in self.rows))
        self._regroup()

    def join(self, other: "GenerationBatch") -> None:
        """Append the rows of another batch; both share patches by row, and the other batch is used up."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        for batch in (self, other):
            batch._cut(batch.mask.shape[1] - width)
        for own, its in zip(_layers(self.cache), _layers(other.cache), strict=True):
            own.keys, own.values = torch.cat([own.keys, its.keys]), torch.cat([own.values, its.values])
        self.mask, self.tokens = torch.cat([self.mask, other.mask]), torch.cat([self.tokens, other.tokens])
        self.rows += other.rows
        self._regroup()

    def _cut(self, columns: int) -> None:
        """Remove columns on the left; a negative number adds padding."""
        if not columns:
            return
        for layer in _layers(self.cache):
            layer.keys, layer.values = _cut_left(layer.keys, columns, 2), _cut_left(layer.values, columns, 2)
        self.mask = _cut_left(self.mask, columns, 1)

    def _regroup(self) -> None:
        found: dict[RowPatch, list[int]] = {}
        for number, row in enumerate(self.rows):
            if row.patch is not None:
                found.setdefault(row.patch, []).append(number)
        self.groups = [
            (patch, torch.tensor(numbers, device=self.lm.device))
            for patch, numbers in found.items()
            if type(patch) is not RowPatch
        ]

    def _forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """Run the model and return the logits [rows, vocabulary] of the last column; the cache grows."""
        out: Any = self.lm.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1]
        return logits

    def _chosen(self, logits: Tensor) -> list[int]:
        self.tokens = choose(logits, [row.sampling for row in self.rows], [row.draws for row in self.rows])
        for row in self.rows:
            row.made += 1
        chosen: list[int] = self.tokens.tolist()
        return chosen


def row_length(row: GeneratingRow) -> int:
    """Return the number of a row's tokens on the cache: all but the last one generated."""
    return len(row.prompt) + row.made - 1


def choose(logits: Tensor, samplings: Sequence[Sampling], draws: Sequence[random.Random]) -> Tensor:
    """Choose a token for each row of logits [rows, vocabulary]; the result has shape [rows].

    Tokens are drawn by inverting the distribution function in the order of token ids, so that the last bit of
    a logit, which depends on what else is in the batch, hardly ever changes the token.
    """
    tokens = logits.argmax(-1)
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not drawn:
        return tokens
    index = torch.tensor(drawn, device=logits.device)
    heat, share, number = (
        torch.tensor(values, device=logits.device, dtype=torch.float64)[:, None]
        for values in (
            [samplings[row].temperature for row in drawn],
            [samplings[row].top_p for row in drawn],
            [draws[row].random() for row in drawn],
        )
    )
    p = (logits[index].double() / heat).softmax(-1)
    if bool((share < 1).any()):
        ordered = p.sort(-1, descending=True).values
        inside = ordered.cumsum(-1) - ordered < share
        least = ordered.masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
        p = p.masked_fill(p < least, 0.0)
    below = p.cumsum(-1)
    found = torch.searchsorted(below, number * below[:, -1:], right=True)[:, 0].clamp_max(p.shape[1] - 1)
    return tokens.index_copy(0, index, found)


def _layers(cache: Any) -> Iterable[Any]:
    """Return the layers of a dynamic cache, with keys and values [rows, heads, time, d]."""
    layers: Iterable[Any] = cache.layers
    return layers


def _cut_left(tensor: Tensor, columns: int, dim: int) -> Tensor:
    """Drop the first columns along a dimension, or put zeros before them if the number is negative."""
    if columns > 0:
        return tensor.narrow(dim, columns, tensor.shape[dim] - columns)
    pads = [0, 0] * (tensor.ndim - dim - 1) + [-columns, 0]
    return nn.functional.pad(tensor, pads)
