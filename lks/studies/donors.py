"""Another entity's state in place of the subject's: who lends it, and what the model answers, by block."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lks.data.neighborhood import relation
from lks.edits import Edit
from lks.models.frozen_prefix import batches, states
from lks.models.lm import LM
from lks.progress import Progress
from lks.studies.base import Entities
from lks.studies.blockwise import Blockwise, Ends, captured, replaced

SITE = "subject_last"
NO_DONOR = "without another entity that is asked the same and has another answer"


@dataclass(frozen=True, slots=True)
class Pair:
    """A fact and the one whose subject lends its state; their prompts differ only in the subject."""

    asked: Edit
    donor: Edit


def pairs(lm: LM, entities: Entities, seed: int) -> list[Pair]:
    """Draw a donor for each fact: one of the pool with the same prompt but another subject and answer.

    Answers must differ in their first token too. The choice depends on the seed, the fact and the pool.
    """
    pool = list(
        dict.fromkeys(edit for edit in (*entities.edits, *entities.pool) if edit.subject in edit.prompt)
    )
    encoded = lm.encode([edit.prompt for edit in pool], [edit.ground_truth for edit in pool])
    first = {edit: one.answer[:1] for edit, one in zip(pool, encoded, strict=True)}
    groups: dict[str, list[Edit]] = defaultdict(list)
    for edit in sorted(pool, key=lambda edit: edit.case_id):
        groups[relation(edit)].append(edit)
    found = []
    for edit in entities.edits:
        fits = [
            other
            for other in groups[relation(edit)]
            if other.subject != edit.subject and edit in first and first[other] != first[edit]
        ]
        if fits:
            found.append(Pair(edit, random.Random(f"donor {seed} {edit.case_id}").choice(fits)))
    return found


@dataclass(frozen=True, slots=True)
class DonorOutputs:
    """What the model answers with other states.

    Index 0 of the first axis is the unchanged model, l + 1 the change after block l.

    Attributes:
        rank: [blocks + 1, pairs] number of tokens that are likelier than the first of the donor's answer.
        best: [blocks + 1, pairs] the likeliest first token.
        logprob: [blocks + 1, pairs] log p of the donor's whole answer, in nats.
        donor_first: [pairs] first token of the donor's answer.
        old_first: [pairs] first token of the old answer.
        tokens: [pairs] number of tokens of the donor's answer.
    """

    rank: Tensor
    best: Tensor
    logprob: Tensor
    donor_first: Tensor
    old_first: Tensor
    tokens: Tensor


@torch.no_grad()
def exchanged(lm: LM, chosen: Sequence[Pair], progress: Progress, batch_tokens: int = 8192) -> DonorOutputs:
    """Put the donor's state at the subject's last token after each block in turn.

    The state is taken from the donor's own prompt.

    Args:
        lm: the unedited model.
        chosen: pairs whose prompts name the subjects.
        progress: called with the fraction done.
        batch_tokens: padded tokens per forward pass.
    """
    own, lent = [pair.asked for pair in chosen], [pair.donor for pair in chosen]
    rows = lm.encode([e.prompt for e in own], [e.ground_truth for e in lent], [e.subject for e in own])
    donors = lm.encode([e.prompt for e in lent], [""] * len(lent), [e.subject for e in lent])
    old = lm.encode([e.prompt for e in own], [e.ground_truth for e in own])
    given = captured(
        lm, [d.ids for d in donors], [[_last(d.subject)] for d in donors], list(lm.blocks), batch_tokens
    )[:, :, 0]
    shape = (len(lm.blocks) + 1, len(chosen))
    said = DonorOutputs(
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.float64),
        torch.tensor([row.answer[0] for row in rows]),
        torch.tensor([row.answer[0] for row in old]),
        torch.tensor([len(row.answer) for row in rows]),
    )
    blockwise, done = Blockwise(lm), 0
    cached = states(lm, -1, [row.ids[:-1] for row in rows], batch_tokens)
    for group in batches([len(row.ids) for row in rows], batch_tokens):
        index = torch.tensor(group, device=lm.device)
        starts = torch.tensor([_last(rows[i].subject) for i in group], device=lm.device)
        ends, answers = (
            blockwise.ends(cached, index, starts),
            _Answers([rows[i].ids for i in group], [rows[i].n_prompt for i in group], lm.device),
        )
        for block, hidden in ends.walk():
            changed = replaced(hidden, given[block, index.to(given.device)])
            answers.read(ends, ends.onward(block, changed), said, block + 1, group)
            if block == len(lm.blocks) - 1:
                answers.read(ends, ends.onward(block, hidden), said, 0, group)
        done += len(group)
        progress(done / len(rows))
    return said


def _last(span: tuple[int, int] | None) -> int:
    """Return the position of the subject's last token.

    Raises:
        ValueError: the prompt does not contain the subject.
    """
    if span is None:
        raise ValueError("a prompt lacks its subject")
    return span[1]


class _Answers:
    """Positions that predict the answers of some rows."""

    def __init__(self, rows: Sequence[Sequence[int]], n_prompt: Sequence[int], device: torch.device) -> None:
        places = [
            (row, at - 1, ids[at])
            for row, (ids, n) in enumerate(zip(rows, n_prompt, strict=True))
            for at in range(n, len(ids))
        ]
        self.rows, self.positions, self.labels = torch.tensor(places, device=device).T
        self.first = torch.tensor(
            [next(i for i, place in enumerate(places) if place[0] == row) for row in range(len(rows))],
            device=device,
        )

    def read(self, ends: Ends, final: Tensor, said: DonorOutputs, place: int, group: Sequence[int]) -> None:
        """Store the answers that final states [rows, ends, d] give."""
        logits = ends.logits(final, self.rows, self.positions)
        likelihood = logits.log_softmax(-1).gather(1, self.labels[:, None])[:, 0].double()
        first = logits[self.first]
        said.logprob[place, group] = (
            likelihood.new_zeros(len(group)).index_add(0, self.rows, likelihood).cpu()
        )
        said.rank[place, group] = (first > first.gather(1, self.labels[self.first][:, None])).sum(1).cpu()
        said.best[place, group] = first.argmax(1).cpu()
