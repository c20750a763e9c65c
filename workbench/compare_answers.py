"""Side-by-side answers of the edited and the unedited model to the same prompt."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lks.editing.patch import Patch
from lks.edits import Context
from lks.errors import UserError
from lks.evaluation.profiling import now
from lks.evaluation.prompt_formats import Form, form_of
from lks.models.generation import ends_of, positions
from lks.models.lm import LM
from lks.models.prefill import FIRED, FOUND
from workbench.forms import put, settled


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A model's answer to a prompt.

    Attributes:
        text: generated greedily, without the prompt.
        tokens: number of generated tokens, the end of sequence included.
        seconds: time to generate them, the prompt's prefill included.
    """

    text: str
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """One prompt and both answers.

    Attributes:
        prompt: the prompt as given.
        unedited, edited: answers without and with the patch.
        fired: whether the edits act on the prompt; None for a patch without a gate, whose edits always act.
        subject: subject whose edit acts; "" if none does or the patch does not record it.
        form: form in which the prompt was presented: "bare", "qa" or "chat".
    """

    prompt: str
    unedited: ModelOutput
    edited: ModelOutput
    fired: bool | None
    subject: str
    form: Context = "bare"


def reply(lm: LM, patch: Patch, prompt: str, max_new_tokens: int = 30, form: Form = "bare") -> AnswerPair:
    """Return both models' answers to a prompt.

    Args:
        lm: the unedited model; the same on return.
        patch: the edits.
        prompt: the prompt as the user gives it.
        max_new_tokens: maximum number of generated tokens.
        form: form in which the prompt is presented; that of the patch (`SavedEdits.form`) is the one it was
            trained in.

    Raises:
        UserError: the prompt is empty or too long, or there is no chat template.
    """
    if not prompt.strip():
        raise UserError("The prompt is empty. Give a text.")
    context = form_of(settled(form, lm), lm, prompt)
    ids = _ids(lm, put("qa", lm, prompt) if context == "qa" else prompt, context == "chat")
    window = int(getattr(lm.model.config, "max_position_embeddings", 0) or 0)
    needed = ids.shape[1] + max_new_tokens + patch.context_tokens(lm)
    if window and needed > window:
        raise UserError(
            f"The prompt and {max_new_tokens} new tokens need {needed:,} tokens, "
            f"the model's window has {window:,}. Shorten the prompt."
        )
    unedited = _said(lm, ids, max_new_tokens, nullcontext())
    fired, subject = _found(lm, patch, ids)
    return AnswerPair(
        prompt, unedited, _said(lm, ids, max_new_tokens, patch.applied(lm)), fired, subject, context
    )


def warm_up(lm: LM, patch: Patch) -> None:
    """Run the code that is slow the first time once, so that speeds can be compared."""
    reply(lm, patch, "The", 2)


def _ids(lm: LM, prompt: str, chat: bool) -> Tensor:
    """Return a prompt's tokens [1, time], with `chat` as a user's turn."""
    text = put("chat", lm, prompt) if chat else prompt
    return torch.tensor([lm.encode([text], [""])[0].ids], device=lm.device)


@torch.no_grad()
def _found(lm: LM, patch: Patch, ids: Tensor) -> tuple[bool | None, str]:
    """Return whether the patch acts on a prompt at prefill, and for which subject."""
    mask = torch.ones_like(ids)
    with patch.applied(lm):
        made = lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
        ).past_key_values
    carried: dict[str, Tensor] = getattr(made, "row_state", {})
    fired = bool(carried[FIRED][0]) if FIRED in carried else None
    number = int(carried[FOUND][0]) if FOUND in carried else -1
    return fired, patch.subjects[number] if 0 <= number < len(patch.subjects) else ""


def _said(lm: LM, ids: Tensor, count: int, edits: AbstractContextManager[None]) -> ModelOutput:
    with edits:
        began = now("wall")
        made = lm.greedy(ids, torch.ones_like(ids), count)
        seconds = now("wall") - began
    new: Sequence[int] = made[0, ids.shape[1] :].tolist()
    ends = set(ends_of(lm))
    shown = [token for token in new if token not in ends]
    return ModelOutput(str(lm.tokenizer.decode(shown, skip_special_tokens=True)).strip(), len(new), seconds)
