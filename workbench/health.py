"""Side effects of an edit on the model: the likelihood of plain text, and the text that follows the
answers.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lks.editing.patch import NoPatch, Patch
from lks.evaluation.perplexity import TEXTS, Verdict, collapse_verdict, measure_passages, median_perplexity
from lks.models.generation import StopLimits, Stops, ends_of, generate, positions
from lks.models.lm import LM

PLAIN = TEXTS[:6]
"""Plain texts; few enough to take only a second or two on a small model without a GPU."""
LOOKED = 8
"""Number of prompts after which free text is examined."""
TOKENS = 24
"""Length of the free text in tokens; answers are meant to be much shorter."""
_MARKUP = re.compile(r"<[^<>\s]+>|\[[A-Za-z0-9_]+\]")
LONGEST_CIRCLE = 4
"""Longest repeated token sequence that is detected; longer cycles are common in good small models, too."""


@dataclass(frozen=True, slots=True)
class Health:
    """Condition of a model after an edit.

    Attributes:
        ratio: median perplexity of plain texts, edited to unedited; 1 if the edits provably do not act on
            them.
        looked: number of prompts after which free text was examined.
        special: the special token written after most of them where the unedited model writes none; "" for
            none.
        with_special: number of prompts after which such a token was written.
        circling: number of free texts that end in a repetition of the same few tokens, beyond those of the
            unedited model.
    """

    ratio: float
    looked: int
    special: str = ""
    with_special: int = 0
    circling: int = 0

    @property
    def verdict(self) -> Verdict:
        """Verdict on the perplexity."""
        return collapse_verdict(self.ratio)

    @property
    def troubles(self) -> list[str]:
        """Problems found, each as a clause; empty if there are none."""
        found = []
        if self.verdict != "fine":
            often = (
                f"{self.ratio:.2g} times the unedited model's"
                if math.isfinite(self.ratio) and self.ratio < 1000
                else "beyond all measure"
            )
            found.append(f"its perplexity on plain text is {often}")
        if self.special:
            found.append(f"it writes {self.special} after {self.with_special} of {self.looked} answers")
        if self.circling >= max(1, self.looked / 4):
            found.append(f"it repeats the same few words after {self.circling} of {self.looked} answers")
        return found


@torch.no_grad()
def look(lm: LM, patch: Patch, prompts: Sequence[str]) -> Health:
    """Examine the edited model, and the unedited one as far as the comparison needs it.

    Args:
        lm: the unedited model; the same on return.
        patch: the edits.
        prompts: the prompts of the edited facts; the first few that leave room in the model's window are
            used.
    """
    window = int(lm.model.config.max_position_embeddings)
    room = max(
        window // 4, window - TOKENS - patch.context_tokens(lm)
    )  # in-context patches shorten what they add to what fits
    fitting = [
        prompt
        for prompt, one in zip(prompts, lm.encode(prompts, [""] * len(prompts)), strict=True)
        if len(one.ids) <= room
    ]
    asked = fitting[:LOOKED]
    acts = patch.fires(lm, list(PLAIN))
    ratio = 1.0
    if acts is None or any(acts):
        before = median_perplexity(measure_passages(lm, PLAIN))
        with patch.applied(lm):
            ratio = median_perplexity(measure_passages(lm, PLAIN, context=patch.context_tokens(lm))) / before
    ids = _written(lm, patch, asked)
    marks = _marks(lm)
    special = [_first(row, marks) for row in ids]
    circling = [not special[i] and _circles(row) for i, row in enumerate(ids)]
    bad = [i for i in range(len(asked)) if special[i] or circling[i]]
    for i, row in zip(bad, _written(lm, NoPatch(), [asked[i] for i in bad]), strict=True):
        special[i] = "" if _first(row, marks) else special[i]
        circling[i] = circling[i] and not _circles(row)
    written = Counter(name for name in special if name)
    return Health(
        ratio, len(asked), max(written, key=written.__getitem__, default=""), written.total(), sum(circling)
    )


def _written(lm: LM, patch: Patch, prompts: Sequence[str]) -> list[list[int]]:
    """Return the tokens that follow each prompt, up to the end of sequence."""
    if not prompts:
        return []
    with patch.applied(lm):
        ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side="left")
        out = lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        )
        limits = StopLimits([TOKENS] * len(prompts), [1] * len(prompts), [False] * len(prompts))
        return [
            made.ids[: made.length]
            for made in generate(lm, Stops(lm), out.past_key_values, mask, out.logits[:, -1], limits)
        ]


def _marks(lm: LM) -> dict[int, str]:
    """Return the names of tokens that are no text and end no sequence, by id.

    These are special tokens, and added ones that look like markup, as converted tokenizers may lack the flag.
    """
    added = {
        i: token.content
        for i, token in lm.tokenizer.added_tokens_decoder.items()
        if token.special or _MARKUP.fullmatch(token.content)
    }
    ends = set(ends_of(lm))
    named = {i: str(lm.tokenizer.convert_ids_to_tokens(i)) for i in lm.tokenizer.all_special_ids}
    return {i: name for i, name in (added | named).items() if i not in ends}


def _first(ids: Sequence[int], marks: Mapping[int, str]) -> str:
    return next((marks[i] for i in ids if i in marks), "")


def _circles(ids: Sequence[int]) -> bool:
    """Return whether the last half of an unfinished text repeats the same few tokens."""
    tail = list(ids[len(ids) // 2 :])
    return len(ids) == TOKENS and any(tail[n:] == tail[:-n] for n in range(1, LONGEST_CIRCLE + 1))
