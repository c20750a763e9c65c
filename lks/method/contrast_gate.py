"""Contrast gate: does a prompt about an edited subject ask for the edited fact, or for another fact?

For each edit, the unedited model reads the edit prompt and its training paraphrases, and prompts that ask for
other facts of the same subject: training prompts and common questions (`lks.method.common_questions`). Each
prompt becomes one vector: the mean of its tokens' block-l states, each scaled to length 1, beside the state
of its last token. A linear classifier per edit separates the two kinds (ridge regression, both kinds with
equal weight). Directions count the less the more prompts that ask for the same differ along them: that is
how wording, which should not matter, moves a vector (as in Fisher's linear discriminant, with the scatter of
those prompts alone). Measurements, also against the relation gate, are in docs/experiments/relation-gate.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lks.edits import Edit
from lks.method.common_questions import common_questions
from lks.method.gate_parts import in_other_words, last_of, messages, naming, rows_of, rows_of_chosen, spread
from lks.models.frozen_prefix import PASS_TOKENS, batches, states
from lks.models.lm import LM

LAST = 0.3
"""Length of the last token's state beside the mean of all."""
WORDING = 0.5
"""Share of the wording's scatter in the metric; the rest is the identity, scaled to the same trace."""
BORDER, BORDER_SAME_WORDS = -0.2, -0.5
"""Score at the border; the regression aims at 1 for the edit's prompts and at -1 for the others. The second
is for edits whose prompts are all in the same words: prompts in other words score lower there."""
RIDGE = 0.1
"""Ridge of the regression, in units of the squared distance of the two kinds' means."""
MOST_OTHERS = 8
"""Largest number of training prompts about other facts per edit."""
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
    def fit(
        cls,
        lm: LM,
        block: int,
        edits: Sequence[Edit],
        numbers: Mapping[str, int],
        questions: int = 0,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Fit classifiers to the training prompts on the unedited model.

        Of a prompt that is a rendered chat, the content of its last user turn is used, because that is the
        message that `opens` is asked about. Without any prompt about another fact of an edit's subject, its
        gate is always open.

        Args:
            lm: the unedited model.
            block: l, whose output the gate looks at.
            edits: the edits; at least one.
            numbers: number of each subject, as in the table of knowledge blocks.
            questions: number of common questions per edit.
            dtype: number format in which the model reads the prompts; None for its own.
        """
        edits = [as_said(lm, edit) for edit in edits]
        prompts = [_Prompts.of(edit, questions) for edit in edits]
        texts = dict.fromkeys(chain.from_iterable(chain(*one.alike, one.other) for one in prompts))
        row = {text: number for number, text in enumerate(texts)}
        vectors = cls.read(lm, block, list(row), dtype)

        def of(chosen: Sequence[str]) -> Tensor:
            return vectors[[row[text] for text in chosen]]

        alike = [of(group) for one in prompts for group in one.alike if len(group) > 1]
        shrunk = without_wording([group - group.mean(0) for group in alike], vectors)
        edited = {(edit.subject, text) for edit, one in zip(edits, prompts, strict=True) for text in one.ask}
        direction, border = torch.zeros_like(vectors[: len(edits)]), vectors.new_full((len(edits),), ALWAYS)
        for number, (edit, one) in enumerate(zip(edits, prompts, strict=True)):
            other = [
                text for text in (*one.other, *chain(*one.alike[1:])) if (edit.subject, text) not in edited
            ]
            if other:
                at = BORDER if in_other_words(edit) else BORDER_SAME_WORDS
                direction[number], border[number] = separated(of(one.ask), of(other), shrunk, at)
        owner = torch.tensor([numbers[edit.subject] for edit in edits], device=lm.device)
        return cls(direction, border, owner)

    @staticmethod
    def read(lm: LM, block: int, texts: Sequence[str], dtype: torch.dtype | None = None) -> Tensor:
        """Return the vectors [texts, 2 d] of prompts of one message each, on the unedited model."""
        rows = [encoded.ids for encoded in lm.encode(texts, [""] * len(texts))]
        found = states(lm, block, rows, dtype=dtype)
        vectors = torch.empty(len(texts), 2 * lm.dim, device=lm.device)
        for chosen in batches(found.lengths.tolist(), PASS_TOKENS[lm.device.type]):
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


def as_said(lm: LM, edit: Edit) -> Edit:
    """Return an edit with all its prompts as a user says them, without the chat template."""

    def said(text: str) -> str:
        if lm.turns.place_in(text) is None:
            return text
        (encoded,) = lm.encode([text], [""])
        return str(lm.tokenizer.decode(lm.turns.content(encoded.ids))).strip()

    return replace(
        edit,
        prompt=said(edit.prompt),
        training_paraphrases=tuple(map(said, edit.training_paraphrases)),
        training_locality=tuple(map(said, edit.training_locality)),
    )


@dataclass(frozen=True, slots=True)
class _Prompts:
    """The prompts that the gate of one edit is fitted to.

    Attributes:
        alike: groups of prompts that ask for the same in different words, first those for the edited fact.
        other: training prompts about other facts.
    """

    alike: list[list[str]]
    other: list[str]

    @classmethod
    def of(cls, edit: Edit, questions: int) -> Self:
        """Return the prompts of an edit, with some common questions."""
        ask = list(dict.fromkeys([edit.prompt, *naming(edit, edit.training_paraphrases)]))
        common = [list(group) for group in common_questions(edit, questions)]
        return cls([ask, *common], spread(naming(edit, dict.fromkeys(edit.training_locality)), MOST_OTHERS))

    @property
    def ask(self) -> list[str]:
        """The prompts that ask for the edited fact."""
        return self.alike[0]


Shrunk = Callable[[Tensor], Tensor]
"""Map of vectors [n, k] to vectors times the inverse of the wording's scatter, up to a factor."""


def without_wording(residuals: Sequence[Tensor], like: Tensor) -> Shrunk:
    """Return the map that multiplies vectors by the inverse of the wording's scatter.

    The scatter is `WORDING * S + (1 - WORDING) * mean(diag S) * I`, S being the covariance of the residuals.
    It is inverted through the residuals' singular values, which is cheap for few of them.

    Args:
        residuals: per group of prompts that ask for the same [prompts, k] distances from their mean.
        like: [n, k] vectors of the same kind.
    """
    chosen = spread(residuals, max(1, MOST_RESIDUALS // max(map(len, residuals), default=1)))
    found = torch.cat([like[:0], *chosen])
    freedom = len(found) - len(chosen)  # one per group went into its mean
    size = found.pow(2).mean() * len(found) / max(1, freedom)
    if not freedom or not size > 0:
        return lambda vectors: vectors
    _, singular, axes = torch.linalg.svd(found, full_matrices=False)
    variance = WORDING * singular.pow(2) / freedom
    kept = variance / (variance + (1 - WORDING) * size)
    return lambda vectors: vectors - (vectors @ axes.T * kept) @ axes


def separated(ask: Tensor, other: Tensor, shrunk: Shrunk, at: float) -> tuple[Tensor, Tensor]:
    """Return direction [k] and border of the classifier between two kinds of vectors.

    Ridge regression in its dual form: with K the kernel of the wording's metric about the midpoint m of the
    two means, scaled so that these are 1 apart, and n_c the number of vectors of a vector's kind,
    `(K + 1 + RIDGE diag(2 n_c / n)) a = y`.

    Args:
        ask: [n, k] vectors of the edit's prompts.
        other: [m, k] vectors of prompts about other facts.
        shrunk: the wording's metric.
        at: score at the border.
    """
    vectors = torch.cat([ask, other])
    difference, middle = ask.mean(0) - other.mean(0), (ask.mean(0) + other.mean(0)) / 2
    length = (difference @ shrunk(difference[None])[0]).clamp_min(1e-12)
    centred = vectors - middle
    kernel = centred @ shrunk(centred).T / length
    sizes = vectors.new_tensor([len(ask)] * len(ask) + [len(other)] * len(other))
    wanted = vectors.new_tensor([1.0] * len(ask) + [-1.0] * len(other))
    weights = torch.linalg.solve(kernel + 1 + RIDGE * torch.diag(2 * sizes / len(vectors)), wanted)
    direction = shrunk((weights @ centred)[None])[0] / length
    return direction, direction @ middle - weights.sum() + at
