"""Training batches: facts put into words, with donors for interchange training.

A fact is (subject, template, answer). Rows come in pairs: one row asks a template about a subject, its
*donor* is a row about another subject whose answer to that template is known too. `lks.testbed.interchange`
says how they are used.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

IGNORED = -100  # label of a position without loss


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One training text.

    Attributes:
        prompt: token ids up to the answer, `<s>` first.
        answer: token ids of the answer, `</s>` last.
        last: position of the subject's last token; 0 if there is no subject.
        donor: offset of the donor row from this row; 0 without interchange.
        traits: per relation the number of the subject's value, for the auxiliary heads; empty without them.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    last: int = 0
    donor: int = 0
    traits: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows as tensors, padded on the right.

    Attributes:
        ids: token ids [rows, time].
        labels: token ids where there is loss, else `IGNORED` [rows, time].
        last: position of the subject's last token [rows].
        donor: index of the row that gives the state at that token; the row itself without interchange [rows].
        traits: number of the subject's value per relation, or `IGNORED` [rows, relations].
    """

    ids: Tensor
    labels: Tensor
    last: Tensor
    donor: Tensor
    traits: Tensor

    def to(self, device: torch.device) -> "TokenBatch":
        """Return the same batch on a device."""
        return TokenBatch(
            self.ids.to(device),
            self.labels.to(device),
            self.last.to(device),
            self.donor.to(device),
            self.traits.to(device),
        )


def collate(rows: Sequence[TrainingText], pad: int) -> TokenBatch:
    """Pad rows to one batch."""
    width = max(len(row) for row in rows)
    ids = [[*row.prompt, *row.answer] + [pad] * (width - len(row)) for row in rows]
    labels = [[IGNORED] * len(row.prompt) + list(row.answer) + [IGNORED] * (width - len(row)) for row in rows]
    donor = [i + row.donor for i, row in enumerate(rows)]
    traits = torch.tensor([row.traits for row in rows])
    return TokenBatch(
        torch.tensor(ids),
        torch.tensor(labels),
        torch.tensor([row.last for row in rows]),
        torch.tensor(donor),
        traits,
    )


class TextSource(Protocol):
    """Source of rows. The same `rng` state gives the same rows."""

    def pair(self, rng: random.Random) -> tuple[TrainingText, ...]:
        """Draw a row with its donor, or a row alone if no other subject can be its donor."""
        ...

    def side(self, rng: random.Random) -> TrainingText:
        """Draw a row about no subject.

        It is an ability item (loss on its answer) or a sentence (with a prompt of `<s>` only).
        """
        ...


@dataclass(frozen=True)
class FactTable:
    """Facts as indices, and their words as token ids.

    Attributes:
        names: per subject, its spellings, the full name first.
        templates: per template, the token ids before and after the subject.
        answers: per answer, its token ids with `</s>`.
        facts: (subject, template, answer) triples.
        leads: token ids of lead-ins.
        lead_share: fraction of the rows that begin with a lead-in.
        alias_share: fraction of the rows that use another spelling, if there is one.
        bos: id of `<s>`.
        traits: per subject, the number of its value for every relation; empty without auxiliary heads.
    """

    names: tuple[tuple[tuple[int, ...], ...], ...]
    templates: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    answers: tuple[tuple[int, ...], ...]
    facts: tuple[tuple[int, int, int], ...]
    leads: tuple[tuple[int, ...], ...]
    lead_share: float
    alias_share: float
    bos: int
    traits: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def by_template(self) -> dict[int, dict[int, int]]:
        """Template -> subject -> answer."""
        table: dict[int, dict[int, int]] = defaultdict(dict)
        for subject, template, answer in self.facts:
            table[template][subject] = answer
        return table

    @cached_property
    def by_subject(self) -> dict[int, list[int]]:
        """Subject -> its templates."""
        table: dict[int, list[int]] = defaultdict(list)
        for subject, template, _ in self.facts:
            table[subject].append(template)
        return table

    @cached_property
    def subjects_of(self) -> dict[int, list[int]]:
        """Template -> the subjects whose answer is known."""
        return {template: list(table) for template, table in self.by_template.items()}

    def row(self, subject: int, template: int, answer_of: int, rng: random.Random) -> TrainingText:
        """Build a text that asks `template` about `subject`, answered as for `answer_of`."""
        before, after = self.templates[template]
        spellings = self.names[subject]
        name = (
            rng.choice(spellings) if len(spellings) > 1 and rng.random() < self.alias_share else spellings[0]
        )
        lead = rng.choice(self.leads) if self.leads and rng.random() < self.lead_share else ()
        head = (self.bos, *lead, *before, *name)
        return TrainingText(
            head + after,
            self.answers[self.by_template[template][answer_of]],
            len(head) - 1,
            0,
            self.traits[subject] if self.traits else (),
        )

    def pair(self, rng: random.Random) -> tuple[TrainingText, ...]:
        """Draw a row whose answer is that of its donor, and the donor.

        The donor is a row about another subject in a phrasing drawn independently.
        """
        subject, template, _ = rng.choice(self.facts)
        other = rng.choice(self.subjects_of[template])
        if other == subject:
            return (self.row(subject, template, subject, rng),)
        row = self.row(subject, template, other, rng)
        donors = [self.row(other, rng.choice(self.by_subject[other]), other, rng) for _ in range(3)]
        return (replace(row, donor=1), min(donors, key=lambda donor: abs(len(donor) - len(row))))


def batches(source: TextSource, pool: int, rows: int, seed: int, pad: int) -> list[TokenBatch]:
    """Return the `pool`-th group of 16 batches, each of rows of similar length, in shuffled order.

    The result depends on the arguments alone.
    """
    rng = random.Random(f"{seed} {pool}")
    pairs: list[tuple[TrainingText, ...]] = []
    while sum(map(len, pairs)) < 16 * rows:
        pairs += [source.pair(rng) for _ in range(rows)]
    pairs.sort(key=lambda pair: max(len(row) for row in pair))
    chunks: list[list[TrainingText]] = [[]]
    for pair in pairs:
        if len(chunks[-1]) >= rows and len(chunks) < 16:
            chunks.append([])
        if len(chunks[-1]) < rows:
            chunks[-1] += pair
    rng.shuffle(chunks)
    return [collate(chunk, pad) for chunk in chunks]


def side_batch(source: TextSource, step: int, rows: int, seed: int, pad: int) -> TokenBatch:
    """Return rows about no subject for one step."""
    rng = random.Random(f"side {seed} {step}")
    return collate([source.side(rng) for _ in range(rows)], pad)
