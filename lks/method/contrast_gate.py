"""Contrast gate: does a prompt about an edited subject ask for the edited fact, or for another fact?

For each edit, the unedited model reads the edit prompt and its training paraphrases, and the training prompts
that ask for other facts of the same subject. Each prompt becomes one vector: the mean of its tokens' block-l
states, each scaled to length 1, beside the state of its last token. The gate opens for a prompt whose vector
lies nearer to the mean of the first kind than to that of the second. Directions count the less the more the
vectors of one edit's own prompts differ along them: that is how wording, which should not matter, moves a
vector (Fisher's linear discriminant, with the scatter of the first kind alone). Measurements, also against
the relation gate, are in docs/experiments/relation-gate.md.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lks.edits import Edit
from lks.method.gate_parts import judged, last_of, messages, naming, rows_of, rows_of_chosen, spread
from lks.models.frozen_prefix import batches, states
from lks.models.lm import LM

LAST = 0.3
"""Length of the last token's state beside the mean of all."""
WORDING = 0.5
"""Share of the wording's scatter in the metric; the rest is the identity, scaled to the same trace."""
BORDER = 0.45
"""Where the border lies, as a fraction of the way from the mean of the other prompts to the edit's mean."""
MOST_OTHERS = 8
"""Largest number of prompts about other facts per edit."""
MOST_RESIDUALS = 4096
"""Largest number of prompts that the wording's scatter is taken from."""
ALWAYS = -1.0
"""Border of an edit whose gate always opens: its direction is 0, so that every prompt is beyond it."""


class ContrastGate:
    """A direction and a border per edit.

    Args:
        direction: [edits, 2 d] normal of the border, in float32; 0 for a gate that always opens.
        border: [edits] product of a vector on the border with the direction.
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
        has any, the gate always opens. It does so, too, for an edit that it cannot judge (`judged`).

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
            spread(
                [
                    text
                    for text in naming(edit, dict.fromkeys(edit.training_locality))
                    if (edit.subject, text) not in edited
                ],
                MOST_OTHERS,
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
        residuals = [
            vectors[[index[text] for text in texts]] - mean
            for texts, mean in zip(asking, ask, strict=True)
            if len(texts) > 1
        ]
        direction = without_wording(ask - rest, residuals)
        border = (direction * (BORDER * ask + (1 - BORDER) * rest)).sum(1)
        judges = torch.tensor(judged(edits), device=lm.device)
        return cls(direction * judges[:, None], border.where(judges, border.new_full((), ALWAYS)), owner)

    @staticmethod
    def read(lm: LM, block: int, texts: Sequence[str]) -> Tensor:
        """Return the vectors [texts, 2 d] of prompts of one message each, on the unedited model."""
        rows = [encoded.ids for encoded in lm.encode(texts, [""] * len(texts))]
        found = states(lm, block, rows)
        vectors = torch.empty(len(texts), 2 * lm.dim, device=lm.device)
        for chosen in batches(found.lengths.tolist(), 8192):
            index = torch.tensor(chosen, device=lm.device)
            hidden, mask = found.rows(index)
            ids, _ = lm.pad([rows[i] for i in chosen], side="right")
            last = last_of(mask.bool() & ~torch.isin(ids, lm.special))
            numbers = torch.arange(len(chosen), device=lm.device)
            row, message, _ = messages(ids, mask.bool(), lm.special, numbers, last)
            vectors[index] = ContrastGate.features(hidden, row, message)
        return vectors

    @staticmethod
    def features(hidden: Tensor, rows: Tensor, message: Tensor) -> Tensor:
        """Return the vectors [n, 2 d] of messages, in float32.

        They are the mean of the tokens' states, each of length 1, and the last token's state, of length
        `LAST`.

        Args:
            hidden: [batch, time, d] block-l states.
            rows: [n] the row that each message is in.
            message: [n, time] the tokens of the messages.
        """
        directions = F.normalize(hidden[rows].float(), dim=-1)
        weights = message / message.sum(1, keepdim=True).clamp_min(1)
        last = directions[torch.arange(len(rows), device=rows.device), last_of(message)]
        return torch.cat([(directions * weights[..., None]).sum(1), LAST * last], 1)

    def opens(self, asked: Tensor, subjects: Tensor) -> Tensor:
        """Return [n] whether vectors [n, 2 d] of prompts that mention subjects [n] ask for an edited fact."""
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


def without_wording(difference: Tensor, residuals: Sequence[Tensor]) -> Tensor:
    """Return differences of means [edits, k] times the inverse of the wording's scatter, up to a factor.

    The scatter is `WORDING * S + (1 - WORDING) * mean(diag S) * I`, S being the covariance of the residuals.
    It is inverted through the residuals' singular values, which is cheap for few of them.

    Args:
        difference: [edits, k].
        residuals: per edit with several prompts [prompts, k] their distances from the edit's mean.
    """
    chosen = spread(residuals, max(1, MOST_RESIDUALS // max(map(len, residuals), default=1)))
    found = torch.cat([difference[:0], *chosen])
    freedom = len(found) - len(chosen)  # one per edit went into its mean
    size = found.pow(2).mean() * len(found) / max(1, freedom)
    if not freedom or not size > 0:
        return difference
    _, singular, axes = torch.linalg.svd(found, full_matrices=False)
    variance = WORDING * singular.pow(2) / freedom
    kept = variance / (variance + (1 - WORDING) * size)
    unworded: Tensor = difference - (difference @ axes.T * kept) @ axes
    return unworded
