"""Probe: is the entity's knowledge block nearer to the true statement than to a false one?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lks.edits import Edit
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.scope.naming import names_subject
from lks.studies.base import Entities, Findings, Study
from lks.studies.blockwise import captured

SITE = "subject_last"


@dataclass(frozen=True, slots=True)
class ProbeParams:
    """Parameters of the probe.

    Attributes:
        entity: what the knowledge block is read from: the name "alone" (after the beginning-of-sequence
            token, if the tokenizer adds one; the paper says only "the entity") or the "prompt", where later
            tokens are not seen but earlier ones are.
    """

    entity: Literal["alone", "prompt"] = "alone"


class StateProbe(Study[ProbeParams]):
    """Cosine similarity of the state at the entity's last token with the last states of two statements.

    The statements are "prompt ground_truth" and "prompt target". Quantities at every block's output:
    `cosine_true`, `cosine_false`; `accuracy`, 1 where the first is larger and 1/2 where they are equal; and
    `control`, the same with another entity's knowledge block and these statements: the result if one answer
    is simply likelier than the other.
    """

    title: ClassVar = "Probe"
    source: ClassVar = "LKS, arXiv 2508.03741, Sec. 2.1, Fig. 2"
    params_type: ClassVar = ProbeParams

    def run(self, lm: LM, entities: Entities, seed: int = 0, progress: Progress = no_progress) -> Findings:
        """Measure all blocks with one forward pass of each text.

        Facts whose target is the true answer are left out.
        """
        asked = [
            edit
            for edit in entities.edits
            if edit.ground_truth.casefold() != edit.target.casefold() and edit.subject in edit.prompt
        ]
        others = [_somebody_else(edit, entities.pool, seed) for edit in asked]
        texts = [*self._names(lm, asked), *self._names(lm, others)]
        for answers in ([edit.ground_truth for edit in asked], [edit.target for edit in asked]):
            texts += [
                (one.ids, len(one.ids) - 1) for one in lm.encode([edit.prompt for edit in asked], answers)
            ]
        states = captured(lm, [ids for ids, _ in texts], [[at] for _, at in texts], list(lm.blocks)).reshape(
            len(lm.blocks), 4, len(asked), lm.dim
        )
        entity, other, true, false = states.float().unbind(1)
        cosines = _cosines(entity, true, false)
        values = {
            "accuracy": _right(cosines),
            "control": _right(_cosines(other, true, false)),
            "cosine_true": cosines[0],
            "cosine_false": cosines[1],
        }
        rows = []
        for block in range(len(lm.blocks)):
            for i, edit in enumerate(asked):
                rows += [
                    entities.row(edit, block, SITE, quantity, value[block, i].item())
                    for quantity, value in values.items()
                ]
        progress(1.0)
        return Findings(
            rows,
            {
                "whose target is the true answer or whose prompt lacks the subject": len(entities.edits)
                - len(asked)
            },
        )

    def _names(self, lm: LM, edits: Sequence[Edit]) -> list[tuple[list[int], int]]:
        """Return token ids and position for each knowledge block to read."""
        texts = [edit.subject if self.params.entity == "alone" else edit.prompt for edit in edits]
        spelt = lm.encode(texts, [""] * len(texts), [edit.subject for edit in edits])
        return [(one.ids, one.subject[1] if one.subject else len(one.ids) - 1) for one in spelt]


def _somebody_else(edit: Edit, pool: Sequence[Edit], seed: int) -> Edit:
    """Draw another entity from the pool; return the entity itself where there is no other."""
    drawing = random.Random(f"control {seed} {edit.case_id}")
    for _ in range(100):
        other = drawing.choice(pool)
        if other.subject != edit.subject and names_subject(other.prompt, other.subject):
            return other
    return edit


def _cosines(entity: Tensor, true: Tensor, false: Tensor) -> Tensor:
    """Return cosines [true or false, blocks, entities] of states [blocks, entities, d]."""
    return torch.stack([torch.cosine_similarity(entity, statement, dim=-1) for statement in (true, false)])


def _right(cosines: Tensor) -> Tensor:
    """Return 1 where the true statement is nearer, 1/2 where both are equally near, else 0."""
    return ((cosines[0] - cosines[1]).sign() + 1) / 2
