"""Free text of a model, kept for reading and for the entropy of its n-grams.

The entropy is that of ROME (arXiv 2202.05262) and LKS (Eqs. 10 and 11); `lks/results/schema.sql` has the
formula. There are two sets of prompts: the edit prompts, as in the papers, and openings of plain sentences
without named entities. Generation is greedy, up to 100 new tokens, to the end of sequence; newlines do not
stop it. The unedited model is given the same prompts.
"""

from collections.abc import Sequence

import torch

from lks.data.synthetic_text import sentences
from lks.edits import Case
from lks.models.frozen_prefix import batches
from lks.models.generation import StopLimits, Stops, generate, positions, text_of
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.rows import Generation

TOKENS = 100
TEXTS = 50
"""Texts of each prompt set per cell, spread over its draws."""
OPENING = 4
"""Number of words of a plain sentence that make its prompt."""


def prompts(cases: Sequence[Case], draw: int, draws: int) -> list[tuple[str, str, str]]:
    """Return the (prompt set, subject, prompt) triples of one draw."""
    count = -(-TEXTS // draws)
    plain = sentences(count, seed=draw)
    openings = [("plain", "", " ".join(sentence.split()[:OPENING])) for sentence in plain]
    return [*(("edit", case.edit.subject, case.edit.prompt) for case in cases[:count]), *openings]


@torch.no_grad()
def write(
    lm: LM, asked: Sequence[tuple[str, str, str]], draw: int, grows: int = 0, progress: Progress = no_progress
) -> list[Generation]:
    """Generate the model's continuation of each prompt.

    Args:
        lm: the model in its current state.
        asked: prompts from `prompts`.
        draw: number of the draw, stored with each text.
        grows: tokens that a prompt may grow by under the patch in force.
        progress: called with the fraction done.
    """
    encoded = lm.encode([prompt for _, _, prompt in asked], [""] * len(asked))
    stops = Stops(lm)
    found: dict[int, Generation] = {}
    for batch in reversed(batches([len(e.ids) + grows + TOKENS for e in encoded], 16384)):
        ids, mask = lm.pad([encoded[i].ids for i in batch], side="left")
        out = lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        )
        limits = StopLimits([TOKENS] * len(batch), [1] * len(batch), [False] * len(batch))
        made = generate(lm, stops, out.past_key_values, mask, out.logits[:, -1], limits)
        for i, row in zip(batch, made, strict=True):
            prompt_set, subject, prompt = asked[i]
            found[i] = Generation(draw, prompt_set, i, subject, prompt, text_of(lm, row), row.length)
        progress(len(found) / len(asked))
    return [found[i] for i in range(len(asked))]
