"""The rows of locate-then-edit methods: prompts with the end of their subject, bare and after other texts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lks.edits import Edit
from lks.errors import UserError
from lks.evaluation.prompt_formats import preceded
from lks.models.lm import LM, Encoded
from lks.scope.naming import why_unnamed

STARTS = ("The", "Therefore", "Because", "I", "You")


def prefixes(lm: LM, lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Sample texts to put in front of a prompt from the model, by top-5 sampling from five starting words.

    The procedure is that of ROME, App. E.5.

    Args:
        lm: the unedited model.
        lengths: number of tokens of each text, including the starting word; text i starts with word i mod 5.
        seed: random seed for sampling; the global generator is left unchanged.
    """
    found: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for number, length in enumerate(lengths):
            ids = lm.tokenizer(STARTS[number % len(STARTS)], return_tensors="pt")["input_ids"].to(lm.device)
            found.append(
                str(
                    lm.tokenizer.decode(
                        _sample(lm, ids, length + len(lm.opening))[0], skip_special_tokens=True
                    )
                ).strip()
            )
    return found


@torch.no_grad()
def _sample(lm: LM, ids: Tensor, length: int) -> Tensor:
    """Sample with top-5 sampling up to `length` tokens, without special tokens."""
    barred = torch.tensor(lm.tokenizer.all_special_ids, device=lm.device)
    while ids.shape[1] < length:
        logits = lm.model(input_ids=ids).logits[0, -1].float().index_fill(0, barred, -torch.inf)
        top, which = logits.topk(5)
        ids = torch.cat([ids, which[torch.multinomial(top.softmax(-1), 1)][None]], 1)
    return ids


def behind(
    lm: LM, edits: Sequence[Edit], texts: Sequence[str], answered: bool, end: bool = False
) -> list[list[Encoded]]:
    """Encode each edit's prompt, bare and after each text ("text. prompt"), with or without its target.

    In a chat template, the text is at the start of the user's turn. Where the subject is the very first
    token, the bare prompt is put after a text, too (`placed`). `end` puts the end-of-sequence token behind
    the targets.

    Returns:
        Per edit 1 + len(texts) rows, the bare prompt first; `subject` is set in each.

    Raises:
        UserError: an edit's prompt does not name its subject.
    """
    leads = [f"{text}. " for text in texts]
    bare = placed(lm, [e.prompt for e in edits], edits, leads, answered, end)
    prompts = [(e, preceded(lm, e.prompt, lead)) for e in edits for lead in leads]
    encoded = lm.encode(
        [p for _, p in prompts],
        [e.target if answered else "" for e, _ in prompts],
        [e.subject for e, _ in prompts],
        end,
    )
    rows = [[first, *encoded[i * len(leads) : (i + 1) * len(leads)]] for i, first in enumerate(bare)]
    for edit, own in zip(edits, rows, strict=True):
        if any(row.subject is None for row in own):
            why = why_unnamed(edit.prompt, edit.subject, edit.aliases)
            raise UserError(
                f"Edit {edit.case_id}: subject {edit.subject!r} does not occur in the prompt "
                f"{edit.prompt!r}, {why}."
            )
    return rows


def placed(
    lm: LM,
    prompts: Sequence[str],
    edits: Sequence[Edit],
    leads: Sequence[str],
    answered: bool,
    end: bool = False,
) -> list[Encoded]:
    """Encode one prompt of each edit, after a lead where the subject would be the text's first token.

    The state of a text's first token is an attention sink: its key is nearly the same whatever the token is.
    A weight update at that key would change every text. C-ROME (Yang et al. 2024, "The Fall of ROME", arXiv
    2406.11263) uses only keys after prefixes.

    Args:
        lm: the model.
        prompts: one prompt per edit.
        edits: the edits.
        leads: available leads, of which the first is used. If there is none, one of 10 tokens is sampled.
        answered: whether to append the targets.
        end: whether to put the end-of-sequence token behind them.
    """
    answers, subjects = [e.target if answered else "" for e in edits], [e.subject for e in edits]
    rows = lm.encode(prompts, answers, subjects, end)
    first = [i for i, row in enumerate(rows) if row.subject is not None and row.subject[1] == 0]
    if first:
        lead = leads[0] if leads else f"{prefixes(lm, [10])[0]}. "
        again = lm.encode(
            [lead + prompts[i] for i in first],
            [answers[i] for i in first],
            [subjects[i] for i in first],
            end,
        )
        for i, row in zip(first, again, strict=True):
            rows[i] = row
    return rows


def first_token_warnings(lm: LM, edits: Sequence[Edit]) -> list[str]:
    """Warn of edits whose subject is the very first token, with no beginning-of-sequence token before it.

    Returns:
        One line for all such edits; an empty list if there are none.
    """
    rows = lm.encode([e.prompt for e in edits], [""] * len(edits), [e.subject for e in edits])
    found = [
        e.prompt
        for e, row in zip(edits, rows, strict=True)
        if row.subject is not None and row.subject[1] == 0
    ]
    if not found:
        return []
    number = (
        "1 prompt begins with a subject" if len(found) == 1 else f"{len(found)} prompts begin with a subject"
    )
    return [
        f"{number} of one token ({found[0]!r}), and this model puts no token in front. The state of a first "
        "token is nearly the same in every text, so this method edits the subject only after other text: the "
        'prompt by itself keeps its old answer. Begin the prompt with other words ("The country of ..."), or '
        "use a method that does not edit at the subject's key, such as lks or ft."
    ]


def end_of_subject(row: Encoded) -> int:
    """Return the position of the subject's last token."""
    assert row.subject is not None
    return row.subject[1]
