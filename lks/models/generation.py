"""Free greedy generation of many prompts at once, to a natural stop.

From a prefilled key-value cache every row takes its most likely token until it stops: at the end of sequence
or another control token, at a newline after the first word, or at the row's longest length. Rows that have
stopped leave the batch, so the cost of a batch is that of its longest answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lks.models.lm import LM


@dataclass(frozen=True, slots=True)
class StopLimits:
    """Limits that decide when a row stops.

    Attributes:
        longest: [rows] largest number of tokens.
        shortest: [rows] smallest number of tokens, whatever they are; the natural stop is recorded all the
            same.
        newline: [rows] whether a newline after the first word is a stop.
    """

    longest: Sequence[int]
    shortest: Sequence[int]
    newline: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Generated:
    """The tokens that one row generated.

    Attributes:
        ids: token ids, including the stop and what was generated after it.
        length: number of tokens up to the natural stop, which is included; the longest length if there was
            none.
    """

    ids: list[int]
    length: int


class Stops:
    """The tokens that end an answer, for one model."""

    def __init__(self, lm: LM) -> None:
        self.newline = torch.tensor(["\n" in text for text in lm.piece_texts], device=lm.device)
        self.word = torch.tensor([bool(text.strip()) for text in lm.piece_texts], device=lm.device)
        self.end = torch.zeros_like(self.word)
        self.end[[*ends_of(lm), *controls_of(lm)]] = True


def ends_of(lm: LM) -> list[int]:
    """Return the ids that end a sequence, by the tokenizer and by the model's generation settings."""
    config = getattr(lm.model.generation_config, "eos_token_id", None)
    found = config if isinstance(config, list) else [config]
    return sorted({int(i) for i in [lm.tokenizer.eos_token_id, *found] if i is not None})


def controls_of(lm: LM) -> list[int]:
    """Return the ids of control tokens, which open a turn, a role, an image and so on.

    They are added tokens that are marked as special and have no text. The unknown token is among them: the
    text it replaces is lost, and in some byte-level vocabularies it ends a text.
    """
    texts = [text.strip("\N{REPLACEMENT CHARACTER}") for text in lm.piece_texts]
    return [
        i
        for i, token in sorted(lm.tokenizer.added_tokens_decoder.items())
        if token.special and i < len(texts) and not texts[i]
    ]


@torch.no_grad()
def generate(
    lm: LM, stops: Stops, cache: Any, mask: Tensor, first: Tensor, limits: StopLimits
) -> list[Generated]:
    """Continue greedily from a prefilled cache, which is consumed.

    Args:
        lm: the model in its current state.
        stops: tokens that end an answer of this model.
        cache: key-value cache of the prompts.
        mask: [rows, time] attention mask of the prompts.
        first: [rows, vocabulary] logits after the prompts.
        limits: when a row stops.
    """
    token = first.argmax(-1)
    rows = torch.arange(len(token), device=token.device)
    longest, shortest, newline = (
        torch.tensor(list(each), device=token.device)
        for each in (limits.longest, limits.shortest, limits.newline)
    )
    made: list[list[int]] = [[] for _ in range(len(token))]
    lengths = [0] * len(token)
    started, stopped = torch.zeros_like(token, dtype=torch.bool), torch.zeros_like(token, dtype=torch.bool)
    count = 0
    while True:
        count += 1
        ended = ~stopped & (
            stops.end[token] | (stops.newline[token] & newline & started) | (count >= longest)
        )
        for row, one, is_end in zip(rows.tolist(), token.tolist(), ended.tolist(), strict=True):
            made[row].append(one)
            lengths[row] = count if is_end else lengths[row]
        started, stopped = started | stops.word[token], stopped | ended
        going = ~stopped | (shortest > count)
        if not bool(going.any()):
            return [Generated(ids, length) for ids, length in zip(made, lengths, strict=True)]
        # a cache is copied to be made smaller, so not for a single row
        if int(going.sum()) * 4 <= 3 * len(going):
            keep = going.nonzero().flatten()
            cache.batch_select_indices(keep)
            rows, mask, token, started, stopped = (t[keep] for t in (rows, mask, token, started, stopped))
            longest, shortest, newline = longest[keep], shortest[keep], newline[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        out = lm.model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=positions(mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
        )
        token = out.logits[:, -1].argmax(-1)


def positions(mask: Tensor) -> Tensor:
    """Return the position of each token in its own row, [batch, time], whatever the padding."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def text_of(lm: LM, made: Generated) -> str:
    """Return the text of a row up to its natural stop, without special tokens."""
    return str(lm.tokenizer.decode(made.ids[: made.length], skip_special_tokens=True)).strip(" ")
