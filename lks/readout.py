"""Read-outs: what a model answers, stored raw.

One protocol for every method. A prompt is prefilled alone, so that any method that looks at the prompt (a scope
indicator, a router) sees the prompt and never the gold answer. From the same prefill follow
- TF (teacher-forced): the answer's tokens are fed as a continuation; the argmax at each position is kept;
- AR (generated): greedy, exactly as many tokens as the answer has.
Greedy generation equals the answer if and only if every teacher-forced argmax does; so AR is only run where TF failed.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lks.editor import Progress, silent
from lks.edits import Case, Probe
from lks.lm import LM, Encoded
from lks.prefix import batches
from lks.shards import Answer


@dataclass(frozen=True, slots=True)
class _Read:
    """Read-outs of one probe as token ids."""

    tf_ids: list[int]
    ar_ids: list[int]
    logprob: float


@torch.no_grad()
def ask(lm: LM, cases: Sequence[Case], draw: int = 0, batch_tokens: int = 4096, progress: Progress = silent, context: int = 0) -> list[Answer]:
    """Ask all probes of some cases.

    Args:
        lm: the model as it stands (edited or not).
        cases: whose probes are asked.
        draw: stored with each answer.
        batch_tokens: padded tokens per batch.
        progress: called with the fraction done.
        context: tokens that each prompt may grow by (`Patch.context_tokens`).

    Returns:
        One row per probe, in the order of cases and probes.
    """
    asked: list[tuple[Case, Probe]] = [(case, probe) for case in cases for probe in case.probes]
    encoded = lm.encode([p.prompt for _, p in asked], [p.answer for _, p in asked])
    reads: dict[int, _Read] = {}
    for chosen in batches([len(e.ids) + context for e in encoded], batch_tokens):
        reads.update(zip(chosen, _read(lm, [encoded[i] for i in chosen]), strict=True))
        progress(len(reads) / len(asked))
    return [_answer(lm, draw, case, probe, encoded[i], reads[i]) for i, (case, probe) in enumerate(asked)]


def _answer(lm: LM, draw: int, case: Case, probe: Probe, encoded: Encoded, read: _Read) -> Answer:
    return Answer(
        draw=draw,
        case_id=case.case_id,
        subject=case.edit.subject,
        kind=probe.kind,
        probe_index=probe.index,
        prompt=probe.prompt,
        answer=probe.answer,
        answer_ids=tuple(encoded.answer),
        tf_ids=tuple(read.tf_ids),
        ar_ids=tuple(read.ar_ids),
        ar_text=str(lm.tokenizer.decode(read.ar_ids, skip_special_tokens=True)).strip(),
        answer_logprob=read.logprob,
        fired=None,
    )


def _read(lm: LM, rows: Sequence[Encoded]) -> list[_Read]:
    """TF and AR of one batch from one prefill."""
    ids, mask = lm.pad([r.ids[: r.n_prompt] for r in rows], side="left")
    out = lm.model(input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=True, logits_to_keep=1)
    first = out.logits[:, -1].float()
    answers, answer_mask = lm.pad([r.answer for r in rows])
    kept = copy.deepcopy(out.past_key_values)
    logits = first[:, None]
    if answers.shape[1] > 1:
        more = torch.cat([mask, answer_mask[:, :-1]], 1)
        fed = lm.model(
            input_ids=answers[:, :-1],
            attention_mask=more,
            position_ids=_positions(more)[:, mask.shape[1] :],
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        logits = torch.cat([logits, fed.logits.float()], 1)
    best = logits.argmax(-1)
    scores = logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0] * answer_mask
    wrong = ((best != answers) & answer_mask.bool()).any(1).nonzero().flatten()
    generated = dict(zip(wrong.tolist(), _generate(lm, kept, mask, first, wrong, answers.shape[1]), strict=True))
    result = []
    for i, row in enumerate(rows):
        m = len(row.answer)
        tf = best[i, :m].tolist()
        result.append(_Read(tf, generated[i][:m] if i in generated else tf, float(scores[i].sum())))
    return result


def _generate(lm: LM, cache: Any, mask: Tensor, first: Tensor, rows: Tensor, count: int) -> list[list[int]]:
    """Greedy continuation of some rows of a prefilled batch, `count` tokens each."""
    if not len(rows):
        return []
    cache.batch_select_indices(rows)
    mask, token = mask[rows], first[rows].argmax(-1)
    made = [token]
    for _ in range(count - 1):
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        out = lm.model(input_ids=token[:, None], attention_mask=mask, position_ids=_positions(mask)[:, -1:], past_key_values=cache, use_cache=True)
        token = out.logits[:, -1].argmax(-1)
        made.append(token)
    generated: list[list[int]] = torch.stack(made, 1).tolist()
    return generated


def _positions(mask: Tensor) -> Tensor:
    """Position of each token in its own row, [batch, time], whatever the padding."""
    return (mask.cumsum(-1) - 1).clamp_min(0)
