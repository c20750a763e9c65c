"""Collapse alarm: perplexity of plain English under an edited model relative to the unedited one.

Editing can ruin a model altogether. The perplexity of plain text shows it at once, before hours are spent on
ability tests.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from lks.data.synthetic_text import sentences
from lks.models.frozen_prefix import batches
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.rows import PASSAGES, Passage

__all__ = [
    "SCHEMA",
    "TEXTS",
    "Passage",
    "Verdict",
    "collapse_verdict",
    "measure_passages",
    "median_perplexity",
    "perplexity",
    "texts_for",
]

SCHEMA = PASSAGES
Verdict = Literal["fine", "suspect", "collapsed"]
SUSPECT, COLLAPSED = 1.2, 10.0
"""Ratios of median perplexities, edited to unedited, above which a model is suspect or has collapsed."""

_COUNT, _SENTENCES = 64, 3
LARGE, FEWER = 50_000_000, 16
"""A model of at least `LARGE` parameters reads only the first `FEWER` texts: its alarm is as reliable with
them, and the time grows with the model's size."""
_PLAIN = sentences(_COUNT * _SENTENCES, seed=64)
TEXTS: tuple[str, ...] = tuple(
    " ".join(_PLAIN[i : i + _SENTENCES]) for i in range(0, len(_PLAIN), _SENTENCES)
)
"""Short passages without named entities, in words that the micro models know too."""


@torch.no_grad()
def measure_passages(
    lm: LM,
    texts: Sequence[str] | None = None,
    draw: int = 0,
    context: int = 0,
    batch_tokens: int = 2048,
    progress: Progress = no_progress,
) -> list[Passage]:
    """Compute the likelihood of each text under the model in its current state.

    A text is read as a prompt, up to the end of the model's window. All tokens count except the first, which
    nothing predicts: the beginning-of-sequence token if the tokenizer adds one.

    Args:
        lm: the model, with or without a patch applied.
        texts: texts of at least two tokens. Default: `texts_for` the model.
        draw: number of the draw, stored with each row.
        context: tokens that a prompt may grow by (`Patch.context_tokens`).
        batch_tokens: padded tokens per batch.
        progress: called with the fraction done.

    Raises:
        ValueError: a text has fewer than two tokens.
    """
    texts = texts_for(lm) if texts is None else texts
    window = int(lm.model.config.max_position_embeddings)
    room = max(
        window // 4, window - context
    )  # `context` is an upper bound; in-context patches cut theirs to what fits
    rows = [encoded.ids[:room] for encoded in lm.encode(texts, [""] * len(texts))]
    lengths = [len(row) for row in rows]
    if min(lengths, default=2) < 2:
        raise ValueError("a text of fewer than two tokens has nothing to predict")
    logprobs: dict[int, float] = {}
    for chosen in batches([length + context for length in lengths], batch_tokens):
        logprobs.update(zip(chosen, _logprobs(lm, [rows[i] for i in chosen]), strict=True))
        progress(len(logprobs) / len(rows))
    return [Passage(draw, i, length - 1, logprobs[i]) for i, length in enumerate(lengths)]


def texts_for(lm: LM) -> tuple[str, ...]:
    """Return the texts that a model reads: all of them, or the first ones if it is large."""
    return TEXTS[:FEWER] if sum(weight.numel() for weight in lm.model.parameters()) >= LARGE else TEXTS


def _logprobs(lm: LM, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the sum of log p, in nats, of all tokens after the first of each row."""
    ids, mask = lm.pad(rows)
    logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    taken = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
    sums: list[float] = (
        taken.double().masked_fill(~mask[:, 1:].bool(), 0.0).sum(1).tolist()
    )  # excludes padding even where it is NaN
    return sums


def perplexity(passage: Passage) -> float:
    """Return the exponential of the mean negative log p of a token; infinite where that overflows."""
    mean = -passage.logprob / passage.n_tokens
    return math.inf if mean > 700 else math.exp(mean)


def median_perplexity(passages: Sequence[Passage]) -> float:
    """Return the median perplexity of the texts; NaN if one of them is NaN, or there is no text."""
    return float(np.median([perplexity(p) for p in passages])) if passages else math.nan


def collapse_verdict(ratio: float) -> Verdict:
    """Classify an edited model by the ratio of median perplexities, edited to unedited."""
    if math.isnan(ratio) or ratio > COLLAPSED:
        return "collapsed"
    return "suspect" if ratio > SUSPECT else "fine"
