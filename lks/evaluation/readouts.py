"""Read-outs: what a model answers, stored raw.

There is one protocol for every method. A prompt is prefilled alone, so that any method that looks at the
prompt (a scope indicator, a router) sees the prompt and never the gold answer. The same prefill is followed
by
- TF (teacher-forced): the answer's tokens are fed as a continuation; the argmax at each position is kept;
- the rival answer's likelihood, fed in the same way, where the probe has one;
- WILD: greedy generation to a natural stop, at most 50 tokens, or more where a right answer is that long;
- AR (generated): the first m tokens of the same generation, m being the number of the answer's tokens; or as
  many as spell the answer, letter for letter, where the model writes it in other tokens than the tokenizer.
"""

import copy
import random
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lks.editing.patch import Patch
from lks.edits import Case, Context, Probe
from lks.evaluation.prompt_formats import wrapped
from lks.evaluation.side_by_side import owned_by
from lks.models.frozen_prefix import batches
from lks.models.generation import StopLimits, Stops, generate, positions, text_of
from lks.models.joining import joined
from lks.models.lm import LM, Encoded
from lks.models.prefill import FIRED
from lks.progress import Progress, no_progress
from lks.results.answers import Answer

LONGEST = 50
"""Maximum number of tokens of a free answer, unless a right answer has nearly as many (`free_lengths`)."""
SPARE = 10
"""Tokens that a free answer may have beyond the longest right answer, so that its end is seen."""
SAMPLE = 16
"""Number of reusable answers of the unedited model that are asked again as a check, or a fiftieth of them
if that is more."""

Key = tuple[int, str, str, int]
"""Draw, case, kind and number of a probe."""
Acts = Callable[[Sequence[str]], list[bool] | None]
"""Function that returns for each prompt whether the edits may act on it, judged by its text; False is a
proof that they do not (`Patch.fires`). None if they may act on all prompts."""


@dataclass(frozen=True, slots=True)
class ReusableAnswers:
    """The unedited model's answers, for reuse where the edits do not act.

    Attributes:
        answers: its answers to the same questions in the same context, by `key_of`.
        acts: whether the edits of the patch in force act.
    """

    answers: Mapping[Key, Answer]
    acts: Acts


@dataclass(frozen=True, slots=True)
class Asking:
    """Settings for asking questions.

    Attributes:
        draw: number of the draw, stored with each answer.
        context: context that prompts are put in.
        grows: tokens that each prompt may grow by (`Patch.context_tokens`).
        batch_tokens: padded tokens per batch.
        kinds: only probes of these kinds; all if empty.
        wild: whether answers are generated to a natural stop; else AR is run only where TF failed.
        known: the unedited model's answers, if they may be reused.
    """

    draw: int = 0
    context: Context = "bare"
    grows: int = 0
    batch_tokens: int = 4096
    kinds: tuple[str, ...] = ()
    wild: bool = True
    known: ReusableAnswers | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """A probe with its draw, its case, and the prompt, answer and rival as token ids.

    A free answer to it has at most `longest` tokens.
    """

    draw: int
    case: Case
    probe: Probe
    prompt: str
    encoded: Encoded
    rival: Sequence[int]
    longest: int


@dataclass(slots=True)
class _Read:
    """Read-outs of one probe."""

    tf_ids: list[int]
    logprob: float
    fired: bool | None
    ar_ids: list[int] = field(default_factory=list)
    wild_text: str | None = None
    wild_tokens: int = 0
    rival_logprob: float | None = None


def key_of(answer: Answer) -> Key:
    """Return the key of the question that an answer belongs to."""
    return answer.draw, answer.case_id, answer.kind, answer.probe_index


@torch.no_grad()
def ask(
    lm: LM, cases: Sequence[Case], asking: Asking | None = None, progress: Progress = no_progress
) -> list[Answer]:
    """Ask the probes of some cases.

    Args:
        lm: the model in its current state (edited or not).
        cases: cases whose probes are asked.
        asking: settings.
        progress: called with the fraction done.

    Returns:
        One row per probe, in the order of cases and probes.

    Raises:
        ReuseError: a reused answer of the unedited model differs from the model's.
    """
    how = asking or Asking()
    return ask_draws(lm, {how.draw: cases}, how, {how.draw: how.known} if how.known else {}, progress)


@torch.no_grad()
def ask_draws(
    lm: LM,
    draws: Mapping[int, Sequence[Case]],
    asking: Asking,
    known: Mapping[int, ReusableAnswers] | None = None,
    progress: Progress = no_progress,
) -> list[Answer]:
    """Ask the probes of several draws in batches across draws.

    The draws are asked of one and the same model, or inside `lks.evaluation.side_by_side`.

    Args:
        lm: the model in its current state.
        draws: draw -> its cases.
        asking: settings; its `draw` and `known` are ignored.
        known: draw -> the unedited model's answers, where they may be reused.
        progress: called with the fraction done.

    Returns:
        Answers as from `ask`, draw by draw.

    Raises:
        ReuseError: a reused answer of the unedited model differs from the model's.
    """
    chosen = [
        (draw, case, probe)
        for draw, cases in draws.items()
        for case in cases
        for probe in case.probes
        if not asking.kinds or probe.kind in asking.kinds
    ]
    prompts = [
        wrapped(asking.context, lm, probe.prompt, joined(case.edit.prompt, case.edit.target))
        for _, case, probe in chosen
    ]
    taken: dict[int, Answer] = {}
    sample: list[int] = []
    for draw, said in (known or {}).items():
        free = _free([(i, *chosen[i], prompts[i]) for i in range(len(chosen)) if chosen[i][0] == draw], said)
        taken |= free
        sample += random.Random(draw).sample(list(free), min(len(free), max(SAMPLE, len(free) // 50)))
    rest = sorted(set(range(len(chosen))) - set(taken) | set(sample))
    made = dict(
        zip(
            rest,
            _asked(lm, [chosen[i] for i in rest], [prompts[i] for i in rest], asking, progress),
            strict=True,
        )
    )
    different = [taken[i].prompt for i in sample if not same(taken[i], made[i])]
    if different:
        raise ReuseError(
            f"{len(different)} of {len(sample)} answers differ from the unedited model's, "
            f"{different[0]!r} first"
        )
    return [taken[i] if i in taken else made[i] for i in range(len(chosen))]


def same(answer: Answer, other: Answer) -> bool:
    """Return whether two answers are the same up to floating-point noise in likelihoods."""
    near = abs(answer.answer_logprob - other.answer_logprob) <= 1e-3 * max(1.0, abs(other.answer_logprob))
    said = ("tf_ids", "ar_ids", "wild_text", "answer_ids", "rival_tokens")
    return near and all(getattr(answer, name) == getattr(other, name) for name in said)


class ReuseError(Exception):
    """Raised when a reused answer of the unedited model differs from the model's."""


def _free(
    questions: Sequence[tuple[int, int, Case, Probe, str]], known: ReusableAnswers
) -> dict[int, Answer]:
    """Return the unedited model's answers to questions on which the edits do not act, by question number.

    Args:
        questions: (number, draw, case, probe, prompt) of the questions of one draw.
        known: the unedited model's answers.
    """
    acts = known.acts([prompt for *_, prompt in questions])
    taken: dict[int, Answer] = {}
    for (number, draw, case, probe, _), does in zip(questions, acts or [], strict=acts is not None):
        said = known.answers.get((draw, case.case_id, probe.kind, probe.index))
        if not does and said is not None:
            taken[number] = replace(said, fired=False, kl=0.0 if probe.kind in KEEPING else None)
    return taken


def free_lengths(
    lm: LM, prompts: Sequence[str], probes: Sequence[Probe], encoded: Sequence[Encoded]
) -> list[int]:
    """Return how many tokens the free answer to each prompt may have.

    This is `LONGEST`, or `SPARE` more than the longest right answer has.

    Args:
        lm: the model.
        prompts: prompts as they are shown.
        probes: probes, one per prompt.
        encoded: each prompt with its probe's answer.
    """
    longest = [max(LONGEST, len(row.answer) + SPARE) for row in encoded]
    # No token spells less than a byte, so shorter spellings need not be tokenised.
    long = [
        (i, one)
        for i, probe in enumerate(probes)
        for one in probe.accepted
        if len(one.encode()) > LONGEST - SPARE
    ]
    for (i, _), row in zip(
        long, lm.encode([prompts[i] for i, _ in long], [one for _, one in long]), strict=True
    ):
        longest[i] = max(longest[i], len(row.answer) + SPARE)
    return longest


KEEPING = ("locality", "neighbour")
"""Kinds of probes whose answers an edit should leave alone."""


def _asked(
    lm: LM, chosen: Sequence[tuple[int, Case, Probe]], prompts: Sequence[str], how: Asking, progress: Progress
) -> list[Answer]:
    """Ask the model in its current state some probes (draw, case, probe)."""
    encoded = lm.encode(prompts, [probe.answer for *_, probe in chosen])
    having = [i for i, (*_, probe) in enumerate(chosen) if probe.rival]
    rivals = dict(
        zip(
            having, lm.encode([prompts[i] for i in having], [chosen[i][2].rival for i in having]), strict=True
        )
    )
    longest = free_lengths(lm, prompts, [probe for *_, probe in chosen], encoded)
    questions = [
        _Question(draw, case, probe, prompt, own, rivals[i].answer if i in rivals else [], longest[i])
        for i, ((draw, case, probe), prompt, own) in enumerate(zip(chosen, prompts, encoded, strict=True))
    ]
    stops = Stops(lm) if questions else None
    reads: dict[int, _Read] = {}
    for batch in reversed(
        batches([len(e.ids) + how.grows for e in encoded], how.batch_tokens)
    ):  # longest first: none looks like a continuation
        assert stops is not None
        reads.update(zip(batch, _read(lm, stops, [questions[i] for i in batch], how), strict=True))
        progress(len(reads) / len(questions))
    return [_answer(lm, how, question, reads[i]) for i, question in enumerate(questions)]


def _answer(lm: LM, how: Asking, question: _Question, read: _Read) -> Answer:
    probe = question.probe
    return Answer(
        draw=question.draw,
        case_id=question.case.case_id,
        subject=question.case.edit.subject,
        kind=probe.kind,
        probe_index=probe.index,
        prompt=question.prompt,
        answer=probe.answer,
        answer_ids=tuple(question.encoded.answer),
        tf_ids=tuple(read.tf_ids),
        ar_ids=tuple(read.ar_ids),
        ar_text=lm.pieces.shown(read.ar_ids).strip(),
        answer_logprob=read.logprob,
        fired=read.fired,
        context=how.context,
        stratum=probe.stratum,
        accepted=probe.accepted,
        rival=probe.rival,
        rival_tokens=len(question.rival),
        rival_logprob=read.rival_logprob,
        wild_text=read.wild_text,
        wild_tokens=read.wild_tokens,
    )


def _read(lm: LM, stops: Stops, questions: Sequence[_Question], how: Asking) -> list[_Read]:
    """Compute all read-outs of one batch from one prefill."""
    ids, mask = lm.pad([q.encoded.ids[: q.encoded.n_prompt] for q in questions], side="left")
    with owned_by([q.draw for q in questions]):
        out = lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        )
    first, cache = out.logits[:, -1].float(), out.past_key_values
    gates = getattr(cache, "row_state", {}).get(FIRED)
    best, scores = _forced(lm, cache, mask, first, [q.encoded.answer for q in questions])
    fired = [None] * len(questions) if gates is None else gates.tolist()
    reads = [
        _Read(best[i, : len(q.encoded.answer)].tolist(), score, fired[i])
        for i, (q, score) in enumerate(zip(questions, scores.tolist(), strict=True))
    ]
    with_rival = [i for i, q in enumerate(questions) if q.rival]
    if with_rival:
        _, rivals = _forced(lm, cache, mask, first, [q.rival or q.encoded.answer for q in questions])
        for i in with_rival:
            reads[i].rival_logprob = float(rivals[i])
    _generate(lm, stops, questions, reads, (cache, mask, first), how.wild)
    return reads


def _forced(
    lm: LM, cache: Any, mask: Tensor, first: Tensor, answers: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Apply teacher forcing to a prefill, which is left unchanged.

    Returns:
        The argmax [rows, answer], and log p of each whole answer [rows].
    """
    ids, kept = lm.pad(answers)
    logits = first[:, None]
    if ids.shape[1] > 1:
        more = torch.cat([mask, kept[:, :-1]], 1)
        fed = lm.model(
            input_ids=ids[:, :-1],
            attention_mask=more,
            position_ids=positions(more)[:, mask.shape[1] :],
            past_key_values=copy.deepcopy(cache),
            use_cache=True,
        )
        logits = torch.cat([logits, fed.logits.float()], 1)
    chosen = logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)
    return logits.argmax(-1), (chosen * kept).sum(1)


def _generate(
    lm: LM,
    stops: Stops,
    questions: Sequence[_Question],
    reads: Sequence[_Read],
    prefill: tuple[Any, Tensor, Tensor],
    wild: bool,
) -> None:
    """Generate AR, and the free answer if wanted, into `reads`; the prefill is used up.

    Greedy generation equals the answer if and only if every teacher-forced argmax does. So without the free
    answer, only rows where teacher forcing failed are generated.
    """
    cache, mask, first = prefill
    rows = [i for i, q in enumerate(questions) if wild or reads[i].tf_ids != q.encoded.answer]
    for i in set(range(len(questions))) - set(rows):
        reads[i].ar_ids = reads[i].tf_ids
    if not rows:
        return
    index = torch.tensor(rows, device=mask.device)
    if len(rows) < len(questions):
        cache.batch_select_indices(index)
    asked = [questions[i] for i in rows]
    newline = [not _has_lines(q.probe) for q in asked]
    limits = StopLimits([q.longest if wild else 1 for q in asked], [_heard(q) for q in asked], newline)
    for i, made in zip(rows, generate(lm, stops, cache, mask[index], first[index], limits), strict=True):
        reads[i].ar_ids = _beginning(lm, questions[i], made.ids)
        if wild:
            reads[i].wild_text, reads[i].wild_tokens = text_of(lm, made), made.length


def _heard(question: _Question) -> int:
    """Return the number of tokens among which an answer is looked for.

    This is the answer's own number of tokens, or one per byte where letters may be cut into bytes.
    """
    answer = question.probe.answer
    return (
        len(question.encoded.answer)
        if answer.isascii()
        else len(unicodedata.normalize("NFD", answer).encode()) + 1
    )


def _beginning(lm: LM, question: _Question, made: Sequence[int]) -> list[int]:
    """Return the generated tokens that AR compares.

    These are the tokens that spell the answer if the text begins with it, else as many as the answer has.
    """
    wanted = question.encoded.answer
    said = list(made[: len(wanted)])
    if said == wanted:
        return said
    spelling = unicodedata.normalize("NFC", question.probe.answer.strip())
    for count in range(1, _heard(question) + 1):
        if unicodedata.normalize("NFC", lm.pieces.shown(made[:count]).strip()) == spelling:
            return list(made[:count])
    return said


def _has_lines(probe: Probe) -> bool:
    """Return whether a right answer has more than one line, so that a newline does not end it."""
    return any("\n" in spelling.strip() for spelling in (probe.answer, *probe.accepted))


def acts_of(patch: Patch, lm: LM) -> Acts:
    """Return `Patch.fires` for one model."""
    return lambda prompts: patch.fires(lm, prompts)
