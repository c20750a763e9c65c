"""Drift of an edited model where it should not change: KL divergence from the unedited model.

It is measured over the unedited model's own answer: for a probe x with that model's greedy answer a_1..a_m,
the mean over t of KL(p_unedited(. | x, a_<t) || p_edited(. | x, a_<t)), in nats. Both distributions are
computed here, one piece of the probes at a time, so that no distribution is kept longer than its piece.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lks.editing.patch import Patch
from lks.models.frozen_prefix import batches
from lks.models.generation import positions
from lks.models.lm import LM
from lks.models.memory import scale_batch
from lks.progress import Progress, no_progress
from lks.results.answers import Answer

PIECE_BYTES = 256 * 2**20
"""Size in bytes of the unedited model's distributions that are held at a time."""


@torch.no_grad()
def with_drift(
    lm: LM,
    patch: Patch,
    answers: Sequence[Answer],
    unedited: Sequence[Answer],
    grows: int = 0,
    batch_tokens: int = 4096,
    progress: Progress = no_progress,
) -> list[Answer]:
    """Return the same answers with `kl` filled in.

    Args:
        lm: the unedited model; unchanged on return.
        patch: patch that makes it the edited model.
        answers: answers to complete; those that already have a `kl` keep it.
        unedited: for each of them the unedited model's answer to the same question; its `ar_ids` are
            a_1..a_m.
        grows: tokens that a prompt may grow by under the patch.
        batch_tokens: padded tokens per batch.
        progress: called with the fraction done.
    """
    made = list(answers)
    open_ = [i for i, answer in enumerate(made) if answer.kl is None and unedited[i].ar_ids]
    prompts = dict(zip(open_, lm.encode([made[i].prompt for i in open_], [""] * len(open_)), strict=True))
    lengths = [len(prompts[i].ids) + grows + len(unedited[i].ar_ids) for i in open_]
    batched = [
        [open_[i] for i in batch]
        for batch in reversed(batches(lengths, batch_tokens))  # longest first: none looks like a continuation
    ]
    floats = lm.vocabulary_projection.out_features
    sizes = [4 * floats * sum(len(unedited[i].ar_ids) for i in batch) for batch in batched]
    done = 0
    for piece in _pieces(batched, sizes):
        rows = [([prompts[i].ids for i in batch], [unedited[i].ar_ids for i in batch]) for batch in piece]
        before = [_log_probabilities(lm, *row) for row in rows]
        with patch.applied(lm):
            after = (_log_probabilities(lm, *row) for row in rows)
            for batch, old, new in zip(piece, before, after, strict=True):
                for i, value in zip(
                    batch, _divergence(old, new, [len(unedited[i].ar_ids) for i in batch]), strict=True
                ):
                    made[i] = replace(made[i], kl=value)
                done += len(batch)
                progress(done / len(open_))
    return made


def _pieces(parts: Sequence[list[int]], sizes: Sequence[int]) -> list[list[list[int]]]:
    """Group consecutive batches whose log-probabilities [bytes] are kept together in memory."""
    pieces: list[list[list[int]]] = [[]]
    held = 0
    for batch, size in zip(parts, sizes, strict=True):
        if pieces[-1] and held + size > scale_batch(PIECE_BYTES):
            pieces.append([])
            held = 0
        pieces[-1].append(batch)
        held += size
    return pieces


def _log_probabilities(lm: LM, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Compute log p at each answer position, [answer positions of all rows, vocabulary].

    Prompts are prefilled alone; the answers follow on their cache.
    """
    ids, mask = lm.pad(prompts, side="left")
    out = lm.model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
    )
    given, kept = lm.pad(answers)
    logits = out.logits[:, -1:]
    if given.shape[1] > 1:
        more = torch.cat([mask, kept[:, :-1]], 1)
        places = positions(more)[:, mask.shape[1] :]
        fed = lm.model(
            input_ids=given[:, :-1],
            attention_mask=more,
            position_ids=places,
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        logits = torch.cat([logits, fed.logits], 1)
    found: Tensor = logits[kept.bool()].float().log_softmax(-1)
    return found


def _divergence(before: Tensor, after: Tensor, lengths: Sequence[int]) -> list[float]:
    """Return the mean KL of each row over its positions."""
    each = (before.exp() * (before - after)).sum(-1)
    return [float(part.mean().clamp_min(0)) for part in torch.split(each, list(lengths))]
