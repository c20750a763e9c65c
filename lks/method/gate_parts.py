"""What the gates of LKS share: the tokens they look at, choosing prompts, and the rows of each subject."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lks.edits import Edit
from lks.scope.naming import names_subject

Item = TypeVar("Item")


def messages(
    ids: Tensor, prompt: Tensor, special: Tensor, rows: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the messages that mentions stand in: the tokens between two special ones.

    A rendered chat consists of several messages; what its other messages say, and the tokens that open and
    close them, tell nothing about what is asked. Any other prompt is a single message. The sequence's first
    token is left out of a message that has others: in most models it attracts a state that is many times
    larger than all others and says nothing of the prompt.

    Args:
        ids: [batch, time] token ids.
        prompt: [batch, time] which of them are a prompt's.
        special: [s] ids of the tokens that separate messages.
        rows: [mentions] row of each mention.
        positions: [mentions] column of each mention.

    Returns:
        [n] row of each message, [n, time] its tokens, and [mentions] the message that each mention stands in.
    """
    edge = torch.isin(ids, special)
    part = edge.cumsum(1)
    wide = part.shape[1] + 1
    found, where = torch.unique(rows * wide + part[rows, positions], return_inverse=True)
    row, number = found // wide, found % wide
    inside = (prompt & ~edge)[row] & (part[row] == number[:, None])
    later = inside & (prompt.cumsum(1) > 1)[row]
    return row, torch.where(later.any(1, keepdim=True), later, inside), where


def last_of(message: Tensor) -> Tensor:
    """Return the column [n] of the last token of messages [n, time]."""
    return (torch.arange(message.shape[1], device=message.device) * message).amax(1)


def naming(edit: Edit, texts: Iterable[str]) -> list[str]:
    """Return the texts that name the edit's subject."""
    return [text for text in texts if names_subject(text, edit.subject, *edit.aliases)]


def in_other_words(edit: Edit) -> bool:
    """Return whether a training paraphrase asks for the edited fact in other words.

    One that contains the edit prompt as it stands ("Fact: ...") does not.
    """
    return any(edit.prompt not in text for text in naming(edit, edit.training_paraphrases))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` of some items, spread evenly over them."""
    count = min(len(items), count)
    return [items[i * len(items) // count] for i in range(count)]


def rows_of(owner: Tensor) -> Tensor:
    """Return [subjects, most keys] each subject's keys, padded with its last one."""
    counts = torch.bincount(owner)
    if not len(counts) or not bool(counts.all()):
        raise ValueError("every subject of a gate needs a key")
    starts = counts.cumsum(0) - counts
    step = torch.arange(int(counts.max()), device=owner.device)
    return owner.argsort(stable=True)[starts[:, None] + torch.minimum(step, counts[:, None] - 1)]


def rows_of_chosen(owner: Tensor, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the rows of some subjects, and the new number of the subject that each is of.

    Args:
        owner: [rows] number of the subject that each row is of.
        chosen: numbers of subjects; the new number of each is its index in this sequence.
    """
    places = [(owner == subject).nonzero().flatten() for subject in chosen]
    numbers = [torch.full_like(place, number) for number, place in enumerate(places)]
    return torch.cat([owner[:0], *places]), torch.cat([owner[:0], *numbers])
