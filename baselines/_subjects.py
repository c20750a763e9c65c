"""Where an edit's subject ends, in the bare prompt and behind other texts: the rows of locate-then-edit methods."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lks.contexts import preceded
from lks.edits import Edit
from lks.errors import UserError
from lks.lm import LM, Encoded

STARTS = ("The", "Therefore", "Because", "I", "You")


def prefixes(lm: LM, lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Texts to put in front of a prompt, sampled from the model (ROME, App. E.5): top-5 sampling from five starting words.

    Args:
        lm: the unedited model.
        lengths: tokens of each text, the starting word included; text i starts with word i mod 5.
        seed: of the sampling; the global generator is left as it was.
    """
    found: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for number, length in enumerate(lengths):
            ids = lm.tokenizer(STARTS[number % len(STARTS)], return_tensors="pt")["input_ids"].to(lm.device)
            found.append(str(lm.tokenizer.decode(_sample(lm, ids, length + len(lm.opening))[0], skip_special_tokens=True)).strip())
    return found


@torch.no_grad()
def _sample(lm: LM, ids: Tensor, length: int) -> Tensor:
    """Top-5 sampling up to `length` tokens, special tokens never."""
    barred = torch.tensor(lm.tokenizer.all_special_ids, device=lm.device)
    while ids.shape[1] < length:
        logits = lm.model(input_ids=ids).logits[0, -1].float().index_fill(0, barred, -torch.inf)
        top, which = logits.topk(5)
        ids = torch.cat([ids, which[torch.multinomial(top.softmax(-1), 1)][None]], 1)
    return ids


def behind(lm: LM, edits: Sequence[Edit], texts: Sequence[str], answered: bool) -> list[list[Encoded]]:
    """Each edit's prompt, alone and behind each text ("text. prompt"), with its target or without; in a chat a text begins the user's turn.

    Returns:
        Per edit 1 + len(texts) rows, the bare prompt first; `subject` is set in each.

    Raises:
        UserError: an edit's prompt does not contain its subject.
    """
    prompts = [(e, preceded(lm, e.prompt, lead)) for e in edits for lead in ("", *(f"{t}. " for t in texts))]
    encoded = lm.encode([p for _, p in prompts], [e.target if answered else "" for e, _ in prompts], [e.subject for e, _ in prompts])
    for (edit, _), row in zip(prompts, encoded, strict=True):
        if row.subject is None:
            raise UserError(f"Edit {edit.case_id}: subject {edit.subject!r} does not occur in the prompt {edit.prompt!r}; the method needs it there.")
    each = 1 + len(texts)
    return [encoded[i : i + each] for i in range(0, len(encoded), each)]


def end_of_subject(row: Encoded) -> int:
    """Position of the subject's last token."""
    assert row.subject is not None
    return row.subject[1]
