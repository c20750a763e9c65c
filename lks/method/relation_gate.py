"""Relation gate: does a prompt about an edited subject ask for the edited fact, or for another fact?

The replacer sees that a prompt mentions the subject, and would insert the new knowledge block whatever is
asked. The gate looks at what is asked: the block-l state of the last token of the message that mentions the
subject, which the same forward pass has just computed. A message passes if that state is near, by cosine, to
that of a training prompt that asks for the edited fact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lks.edits import Edit
from lks.method.gate_parts import last_of, naming, rows_of, rows_of_chosen, spread
from lks.models.frozen_prefix import last_states
from lks.models.lm import LM
from lks.models.memory import scale_batch

OTHER_FACTS = 2000
"""Approximate total number of prompts about other facts; each edit gives its share, at least two where it has
them, spread evenly over those it has."""
ENOUGH_SUBJECTS = 8
"""Smallest number of subjects for which the centre is taken from one half of them and the threshold from the
other."""
CHUNK = 1024


class RelationGate:
    """Keys by subject, and how near a prompt must be to one of its subject's keys.

    States of one block share a large common part, which makes all cosines nearly 1: the centre is subtracted
    first. Whitening and discriminant directions were tried instead and separate no better (see
    docs/method.md).

    Args:
        keys: [keys, d] centred and of length 1, in float32.
        owner: [keys] number of the subject each key belongs to; every subject has one or more.
        centre: [d] centre of the states.
        threshold: cosine above which the gate opens; -1 always opens.

    Raises:
        ValueError: tensors that do not fit together, or a subject without a key.
    """

    def __init__(self, keys: Tensor, owner: Tensor, centre: Tensor, threshold: float) -> None:
        if keys.ndim != 2 or owner.shape != keys.shape[:1] or centre.shape != keys.shape[1:]:
            raise ValueError(
                f"keys {tuple(keys.shape)}, owner {tuple(owner.shape)} and centre {tuple(centre.shape)} do "
                "not fit together"
            )
        self.keys, self.owner, self.centre, self.threshold = keys, owner, centre, threshold
        self._of = rows_of(owner)

    @classmethod
    def of(cls, asked: Tensor, owner: Tensor, centre: Tensor, threshold: float) -> Self:
        """Return a gate with keys from the states [keys, d] of prompts that ask for edited facts."""
        return cls(_direction(asked, centre), owner, centre.float(), threshold)

    @classmethod
    def fit(
        cls,
        lm: LM,
        block: int,
        edits: Sequence[Edit],
        numbers: Mapping[str, int],
        false_positive_rate: float = 0.05,
        seed: int = 0,
    ) -> Self:
        """Fit keys to training prompts on the unedited model, and a threshold to held-out prompts.

        Edit prompts and training paraphrases ask for the edited fact and become keys; `training_locality`
        asks for other facts. The centre is taken from half of the subjects, the threshold from the other
        half, where each prompt is compared with all keys but its own. Below `ENOUGH_SUBJECTS` subjects, all
        serve for both: the centre is only a mean, and the keys are held out all the same.

        Args:
            lm: the unedited model.
            block: l, whose output the gate looks at.
            edits: the edits; at least one.
            numbers: number of each subject, as in the table of knowledge blocks.
            false_positive_rate: share of held-out prompts about other facts that may open the gate. The
                threshold is higher, half way to where that share of the held-out prompts for the edited fact
                would be shut out, if that is higher.
            seed: random seed for the choice of halves.
        """
        prompts = _prompts(edits, numbers)
        found = last_states(lm, block, [p.text for p in prompts]).float()
        subject = torch.tensor([p.subject for p in prompts], device=found.device)
        asks = torch.tensor([p.asks for p in prompts], device=found.device)
        held = _held_out(subject, seed)
        fitted = ~held if held.any() else torch.ones_like(held)
        measured = held if held.any() else fitted
        if asks.all():  # nothing to tell apart
            return cls.of(found, subject, torch.zeros_like(found[0]), -1.0)
        sides = [
            found[fitted & side].mean(0) if bool((fitted & side).any()) else found[side].mean(0)
            for side in (asks, ~asks)
        ]
        gate = cls.of(found[asks], subject[asks], (sides[0] + sides[1]) / 2, -1.0)
        own = torch.where(asks, asks.cumsum(0) - 1, -1)
        near = gate.nearness(found[measured], subject[measured], own[measured])
        gate.threshold = _threshold(near[asks[measured]], near[~asks[measured]], false_positive_rate)
        return gate

    joinable = False

    @staticmethod
    def read(lm: LM, block: int, texts: Sequence[str]) -> Tensor:
        """Return the states [texts, d] of the prompts' last tokens on the unedited model, in float32."""
        return last_states(lm, block, texts).float()

    @staticmethod
    def features(hidden: Tensor, rows: Tensor, message: Tensor) -> Tensor:
        """Return the states [n, d] of the messages' last tokens.

        Args:
            hidden: [batch, time, d] block-l states.
            rows: [n] the row that each message is in.
            message: [n, time] the tokens of the messages.
        """
        return hidden[rows, last_of(message)]

    def nearness(self, asked: Tensor, subjects: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the largest cosine [n] of states [n, d] with a key of their subject [n].

        It is -inf where the only key is left out.

        Args:
            asked: block-l states of the prompts' last tokens.
            subjects: numbers of the subjects that the prompts mention.
            own: [n] number of a key not to compare with, -1 for none.
        """
        parts = []
        step = scale_batch(CHUNK)
        for start in range(0, len(asked), step):
            rows = slice(start, start + step)
            keys = self._of[subjects[rows]]
            cosine = torch.einsum("nkd,nd->nk", self.keys[keys], _direction(asked[rows], self.centre))
            if own is not None:
                cosine = cosine.masked_fill(keys == own[rows, None], -torch.inf)
            parts.append(cosine.amax(1))
        return torch.cat(parts) if parts else self.keys.new_zeros(0)

    def opens(self, asked: Tensor, subjects: Tensor) -> Tensor:
        """Return [n] whether states [n, d] of prompts that mention subjects [n] ask for the edited fact."""
        centred = asked.float() - self.centre
        products = (self.keys[self._of[subjects]] @ centred[..., None]).amax((1, 2))
        lengths: Tensor = torch.linalg.vector_norm(centred, dim=-1)
        return products > self.threshold * lengths

    @property
    def subjects(self) -> int:
        """Number of subjects with keys."""
        return len(self._of)

    def only(self, chosen: Sequence[int]) -> "RelationGate":
        """Return the gate of some subjects, with their keys unchanged.

        Args:
            chosen: numbers of subjects; the new number of each is its index in this sequence.
        """
        kept, owner = rows_of_chosen(self.owner, chosen)
        return RelationGate(self.keys[kept], owner, self.centre, self.threshold)

    def to(self, device: torch.device) -> "RelationGate":
        """Return the same gate on a device."""
        return RelationGate(
            self.keys.to(device), self.owner.to(device), self.centre.to(device), self.threshold
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save."""
        return {"keys": self.keys, "owner": self.owner, "centre": self.centre}


@dataclass(frozen=True, slots=True)
class _GatePrompt:
    """A training prompt that mentions a subject, and whether it asks for an edited fact."""

    text: str
    subject: int
    asks: bool


def _prompts(edits: Sequence[Edit], numbers: Mapping[str, int]) -> list[_GatePrompt]:
    """Return the prompts that name their subject, each once.

    A prompt that asks for a fact that another edit changes does not count as asking for another fact.
    """
    asking: dict[tuple[int, str], None] = {}
    other: dict[tuple[int, str], None] = {}
    for edit in edits:
        number = numbers[edit.subject]
        asking |= {(number, text): None for text in naming(edit, (edit.prompt, *edit.training_paraphrases))}
        rest = naming(edit, edit.training_locality)
        other |= {(number, text): None for text in spread(rest, max(2, OTHER_FACTS // len(edits)))}
    found = [_GatePrompt(text, number, True) for number, text in asking]
    return found + [
        _GatePrompt(text, number, False) for number, text in other if (number, text) not in asking
    ]


def _held_out(subject: Tensor, seed: int) -> Tensor:
    """Return which prompts are held out for the threshold: those of half the subjects; none of a few."""
    count = int(subject.max()) + 1
    if count < ENOUGH_SUBJECTS:
        return torch.zeros_like(subject, dtype=torch.bool)
    half = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: count // 2]
    return torch.isin(subject, half.to(subject.device))


def _threshold(inside: Tensor, outside: Tensor, rate: float) -> float:
    """Return the threshold from the nearness of held-out prompts inside and outside the edited facts."""
    inside = inside[inside.isfinite()]
    highest = float(outside.quantile(1 - rate)) if len(outside) else 0.0
    # without a paraphrase there is nothing to hold out: an edit prompt is its own key
    lowest = float(inside.quantile(rate)) if len(inside) else 1.0
    return max(highest, (highest + lowest) / 2)


def _direction(asked: Tensor, centre: Tensor) -> Tensor:
    """Return states [n, d] centred and scaled to length 1."""
    return torch.nn.functional.normalize(asked.float() - centre, dim=-1)
