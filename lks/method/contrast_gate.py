"""Contrast gate: does a prompt about an edited subject ask for the edited fact, or for another fact?

For each edit, the unedited model reads the edit prompt and its training paraphrases, and the training prompts
that ask for other facts of the same subject. Each prompt becomes one vector: the mean of its tokens' block-l
states, each scaled to length 1. The gate opens for a prompt whose vector is nearer to the mean of the first
kind than to that of the second. Nothing is tuned: the border lies half way. Measurements, also against the
relation gate, are in docs/experiments/relation-gate.md.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lks.edits import Edit
from lks.method.relation_gate import naming, rows_of, rows_of_chosen, share_of
from lks.models.frozen_prefix import batches, states
from lks.models.lm import LM

ALWAYS = -1.0
"""Border of an edit whose gate always opens: its direction is 0, so that every prompt is beyond it."""


class ContrastGate:
    """A direction and a border per edit.

    Args:
        direction: [edits, d] difference of the two means, in float32; 0 for a gate that always opens.
        border: [edits] product of a vector half way between the means with the direction.
        owner: [edits] number of the subject that each edit is about; every subject has one or more.

    Raises:
        ValueError: tensors that do not fit together, or a subject without an edit.
    """

    threshold = 0.0
    joinable = True

    def __init__(self, direction: Tensor, border: Tensor, owner: Tensor) -> None:
        if direction.ndim != 2 or border.shape != direction.shape[:1] or owner.shape != border.shape:
            raise ValueError(
                f"direction {tuple(direction.shape)}, border {tuple(border.shape)} and owner "
                f"{tuple(owner.shape)} do not fit together"
            )
        self.direction, self.border, self.owner = direction, border, owner
        self._of = rows_of(owner)

    @classmethod
    def fit(cls, lm: LM, block: int, edits: Sequence[Edit], numbers: Mapping[str, int]) -> Self:
        """Fit directions to the training prompts on the unedited model.

        An edit without training prompts about other facts takes the mean difference of the others; if no edit
        has any, the gate always opens.

        Args:
            lm: the unedited model.
            block: l, whose output the gate looks at.
            edits: the edits; at least one.
            numbers: number of each subject, as in the table of knowledge blocks.
        """
        asking = [
            list(dict.fromkeys([edit.prompt, *naming(edit, edit.training_paraphrases)])) for edit in edits
        ]
        edited = {(edit.subject, text) for edit, texts in zip(edits, asking, strict=True) for text in texts}
        other = [
            share_of(
                [
                    text
                    for text in naming(edit, dict.fromkeys(edit.training_locality))
                    if (edit.subject, text) not in edited
                ],
                len(edits),
            )
            for edit in edits
        ]
        owner = torch.tensor([numbers[edit.subject] for edit in edits], device=lm.device)
        index = {text: row for row, text in enumerate(dict.fromkeys(chain(*asking, *other)))}
        vectors = cls.read(lm, block, list(index))
        ask = torch.stack([vectors[[index[text] for text in texts]].mean(0) for texts in asking])
        others = [vectors[[index[text] for text in texts]].mean(0) if texts else None for texts in other]
        known = [a - o for a, o in zip(ask, others, strict=True) if o is not None]
        if not known:
            return cls(torch.zeros_like(ask), torch.full_like(ask[:, 0], ALWAYS), owner)
        usual = torch.stack(known).mean(0)
        rest = torch.stack([a - usual if o is None else o for a, o in zip(ask, others, strict=True)])
        direction = ask - rest
        return cls(direction, (direction * (ask + rest)).sum(1) / 2, owner)

    @staticmethod
    def read(lm: LM, block: int, texts: Sequence[str]) -> Tensor:
        """Return the vectors [texts, d] of prompts, from the unedited model's states."""
        found = states(lm, block, [encoded.ids for encoded in lm.encode(texts, [""] * len(texts))])
        vectors = torch.empty(len(texts), lm.dim, device=lm.device)
        for chosen in batches(found.lengths.tolist(), 8192):
            index = torch.tensor(chosen, device=lm.device)
            hidden, mask = found.rows(index)
            vectors[index] = ContrastGate.features(
                hidden, mask.bool(), torch.arange(len(mask), device=lm.device)
            )
        return vectors

    @staticmethod
    def features(hidden: Tensor, prompt: Tensor, rows: Tensor) -> Tensor:
        """Return the mean [rows, d] of the prompts' states, each of length 1, in float32.

        The first token is left out unless it is the only one: in most models it attracts a state that is many
        times larger than all others and says nothing of the prompt.

        Args:
            hidden: [batch, time, d] block-l states.
            prompt: [batch, time] the tokens of the prompts.
            rows: [rows] the rows to look at.
        """
        hidden, prompt = hidden[rows], prompt[rows]
        counted = prompt & (prompt.cumsum(1) > 1)
        counted = torch.where(counted.any(1, keepdim=True), counted, prompt)
        weights = counted / counted.sum(1, keepdim=True).clamp_min(1)
        return (F.normalize(hidden.float(), dim=-1) * weights[..., None]).sum(1)

    def opens(self, asked: Tensor, subjects: Tensor) -> Tensor:
        """Return [n] whether vectors [n, d] of prompts that mention subjects [n] ask for an edited fact."""
        edits = self._of[subjects]
        beyond = (self.direction[edits] @ asked.float()[..., None])[..., 0] - self.border[edits]
        return beyond.amax(1) > 0

    @property
    def subjects(self) -> int:
        """Number of subjects with edits."""
        return len(self._of)

    def only(self, chosen: Sequence[int]) -> "ContrastGate":
        """Return the gate of some subjects, with their directions unchanged.

        Args:
            chosen: numbers of subjects; the new number of each is its index in this sequence.
        """
        kept, owner = rows_of_chosen(self.owner, chosen)
        return ContrastGate(self.direction[kept], self.border[kept], owner)

    def joined(self, other: "ContrastGate") -> "ContrastGate":
        """Return the gate of both gates' subjects, the other's numbered after this one's."""
        pairs = zip(self.tensors().values(), other.tensors().values(), strict=True)
        direction, border, _ = (torch.cat([a.cpu(), b.cpu()]) for a, b in pairs)
        return ContrastGate(
            direction, border, torch.cat([self.owner.cpu(), other.owner.cpu() + self.subjects])
        )

    def to(self, device: torch.device) -> "ContrastGate":
        """Return the same gate on a device."""
        return ContrastGate(self.direction.to(device), self.border.to(device), self.owner.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save."""
        return {"direction": self.direction, "border": self.border, "owner": self.owner}
