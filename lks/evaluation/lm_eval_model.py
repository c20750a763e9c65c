"""lm-eval's interface to a model, edited or not: batches sized by tokens, each prompt prefilled alone."""

import logging
import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from lks.errors import UserError
from lks.evaluation.ability_requests import Result, ReusableReplies, agree, key
from lks.evaluation.readouts import ReuseError
from lks.models.frozen_prefix import batches
from lks.models.generation import positions
from lks.models.lm import LM
from lks.progress import Progress, no_progress

logger = logging.getLogger(__name__)

NEW_TOKENS = 256
"""Tokens generated where a task sets no limit, as in lm-eval; half the window if that is less."""
_GENERATION = 4  # times the tokens of a likelihood batch: a generation step is short for any number of rows
_SAMPLE, _SAMPLE_SHARE = 8, 0.02  # of the reused answers, recomputed: at least this number and this share

Scored = tuple[object, list[int], list[int]]
"""A request for a likelihood as lm-eval passes it on: its texts, tokens of the prompt, tokens of the
answer."""


class PatchAwareHFLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's view of a live model.

    As in lm-eval's own `HFLM`, texts are tokenised with the tokenizer's special tokens and no chat template,
    and what does not fit the window is cut at the beginning (including the beginning-of-sequence token): a
    prompt with its answer, or a prompt with the tokens to be generated. The differences have reasons:
    - likelihoods: `HFLM` feeds prompt and choice as one text, padded on the right without a mask. A patch
      that looks at the prompt would see the choice and the padding, and its answer would depend on the other
      prompts in the batch. Here prompts are padded on the left, masked and prefilled once, and all their
      choices follow on that key-value cache. Log p is computed in float32.
    - generation is `HFLM`'s own (padded on the left, masked), with batches sized by tokens and, in a small
      window, at most half of it for generation.

    Args:
        lm: the model.
        known: answers of the unedited model.
        total: expected number of requests, for `progress`.
        progress: called with the fraction done.
        context: tokens that each prompt may grow by (`Patch.context_tokens`); the window shrinks by as many.
        batch_tokens: padded tokens per batch; None: 4096 on a CPU, 8192 on a GPU.
    """

    def __init__(
        self,
        lm: LM,
        known: ReusableReplies | None = None,
        total: int = 0,
        progress: Progress = no_progress,
        *,
        context: int = 0,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=64)
        self._max_length = self.max_length - context
        self.lm, self.known, self.context = lm, known, context
        self.batch_tokens = batch_tokens or (4096 if lm.device.type == "cpu" else 8192)
        self._total, self._done, self._progress = max(total, 1), 0, progress
        self.shortened = 0
        self._encoded = lru_cache(maxsize=64)(super().tok_encode)  # a prompt recurs with each of its choices

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Return the token ids of a text, by default with the tokenizer's special tokens."""
        return list(self._encoded(string, add_special_tokens, left_truncate_len, **kwargs))

    @property
    def max_gen_toks(self) -> int:
        """Tokens generated where a task sets no limit; the same for every patch."""
        return min(NEW_TOKENS, (int(self.max_length) + self.context) // 2)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return log p of each (prompt, answer), and whether the answer is the greedy continuation."""
        ask = super().loglikelihood
        return self._reusing("loglikelihood", requests, lambda rest: ask(rest, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Return log p of whole texts; never reused, because such a text is not a prompt."""
        rolling: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return rolling

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Generate texts up to the first stop sequence."""
        return self._reusing("generate_until", requests, self._generate)

    def _generate(self, requests: Sequence[Any]) -> list[str]:
        texts: list[str] = [""] * len(requests)
        lengths = []
        for request in requests:
            room = self.max_length - self._new_tokens(request)
            if room <= 0:
                needs = (
                    f"generates up to {self._new_tokens(request)} tokens; "
                    f"the model's window holds {self.max_length} including the prompt"
                )
                raise UserError(
                    f"Task {request.task_name!r} {needs}. Leave the task out, or take another model."
                )
            length = len(self.tok_encode(request.args[0]))
            self.shortened += length > room
            lengths.append(min(length, room) + self.context + self._new_tokens(request))
        for chosen in batches(lengths, _GENERATION * self.batch_tokens):
            self.batch_size_per_gpu = len(chosen)
            made = super().generate_until([requests[i] for i in chosen], disable_tqdm=True)
            for i, text in zip(chosen, made, strict=True):
                texts[i] = text
            self._advance(len(chosen))
        return texts

    def _new_tokens(self, request: Any) -> int:
        return int(normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"])

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Compute likelihoods from tokens; requests with the same prompt share its prefill."""
        found: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (_, prompt, answer) in enumerate(requests):
            groups.setdefault(self._kept(prompt, answer), []).append(number)
        numbers, lengths = list(groups.values()), []
        prompts = list(groups)
        for kept, members in groups.items():
            longest = max(len(requests[i][2]) for i in members)
            lengths.append((len(kept) + self.context + longest) * (len(members) if longest > 1 else 1))
        for chosen in batches(lengths, self.batch_tokens):
            asked = [i for group in chosen for i in numbers[group]]
            owners = [row for row, group in enumerate(chosen) for _ in numbers[group]]
            for i, result in zip(
                asked,
                self._score([prompts[g] for g in chosen], owners, [requests[i][2] for i in asked]),
                strict=True,
            ):
                found[i] = result
            self._advance(len(asked))
        return found

    def _kept(self, prompt: list[int], answer: list[int]) -> tuple[int, ...]:
        """Return the end of a prompt that fits the window with its answer, whose last token is not fed."""
        room = int(self.max_length) + 1 - len(answer)
        if room <= 0:
            raise UserError(
                f"An answer of {len(answer)} tokens does not fit the model's window of {self.max_length}. "
                "Leave the task out."
            )
        self.shortened += len(prompt) > room
        return tuple(prompt[-room:])

    def _score(
        self, prompts: Sequence[Sequence[int]], owners: Sequence[int], answers: Sequence[list[int]]
    ) -> list[tuple[float, bool]]:
        """Compute likelihoods of answers [n], each following the prompt in row `owners[i]`."""
        ids, mask = self.lm.pad(prompts, side="left")
        out = self.lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        )
        rows = torch.tensor(owners, device=ids.device)
        targets, kept = self.lm.pad(answers)
        first = out.logits[:, -1].float()
        scores, greedy = _taken((first - first.logsumexp(-1, keepdim=True))[rows, None], targets[:, :1])
        if targets.shape[1] > 1:
            cache = out.past_key_values
            cache.batch_select_indices(rows)
            more = torch.cat([mask[rows], kept[:, :-1]], 1)
            places = positions(more)[:, mask.shape[1] :]
            fed = self.lm.model(
                input_ids=targets[:, :-1],
                attention_mask=more,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            )
            logits = fed.logits.float()
            later, best = _taken(logits - logits.logsumexp(-1, keepdim=True), targets[:, 1:])
            scores, greedy = torch.cat([scores, later], 1), torch.cat([greedy, best], 1)
        held = kept.bool()
        sums, best = scores.double().masked_fill(~held, 0.0).sum(1), (greedy | ~held).all(1)
        return list(zip(sums.tolist(), best.tolist(), strict=True))

    def _reusing(
        self, kind: str, requests: Sequence[Any], ask: Callable[[list[Any]], list[Any]]
    ) -> list[Any]:
        """Answer requests, reusing the unedited model's answers where the edits do not act.

        Raises:
            ReuseError: stored answers differ from the model's.
        """
        stored = {} if self.known is None else self._stored(self.known, kind, requests)
        count = min(len(stored), max(_SAMPLE, math.ceil(_SAMPLE_SHARE * len(stored))))
        again = random.Random(0).sample(sorted(stored), count)
        pairs = [
            (stored[i], result) for i, result in zip(again, ask([requests[i] for i in again]), strict=True)
        ]
        differing = sum(not agree(before, now, self.lm.model.dtype) for before, now in pairs)
        if differing > (0 if self.lm.model.dtype == torch.float32 else count // 5):
            raise ReuseError(f"{differing} of {count} stored answers of the unedited model")
        self._advance(len(stored) - count)
        rest = [i for i in range(len(requests)) if i not in stored]
        answers = stored | dict(zip(rest, ask([requests[i] for i in rest]), strict=True))
        return [answers[i] for i in range(len(requests))]

    def _stored(self, known: ReusableReplies, kind: str, requests: Sequence[Any]) -> dict[int, Result]:
        """Return the unedited model's answers by request number, where the edits do not act on the prompt."""
        found = {
            i: known.answers[name]
            for i, name in enumerate(key(kind, request.args) for request in requests)
            if name in known.answers
        }
        found = {i: result for i, result in found.items() if self._whole(kind, requests[i].args)}
        texts = list(dict.fromkeys(requests[i].args[0] for i in found))
        acted = (known.acts(texts) if texts else None) or [True] * len(texts)
        quiet = {text for text, acts in zip(texts, acted, strict=True) if not acts}
        return {i: result for i, result in found.items() if requests[i].args[0] in quiet}

    def _whole(self, kind: str, args: tuple[Any, ...]) -> bool:
        """Return whether a request shows the model its whole prompt, and the answer follows from that.

        Such a request is neither cut, nor empty, nor sampled.
        """
        prompt, how = args[:2]
        if not prompt.strip():
            return False
        room = int(self.max_length) - len(self.tok_encode(prompt))
        if kind == "loglikelihood":
            return len(how.encode()) < room  # no more tokens than bytes
        return (
            not how.get("do_sample")
            and int(normalize_gen_kwargs(how, self.max_gen_toks)["max_gen_toks"]) <= room
        )

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(min(1.0, self._done / self._total))


def _taken(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value at each target [n, t] of [n, t, vocabulary], and whether it is the largest."""
    return logits.gather(-1, targets[..., None])[..., 0], logits.argmax(-1) == targets
