"""Information gain: how many bits less surprising does a new block after block l make its answer?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from lks.editing.patch import NoPatch, Patch
from lks.edits import Edit, make_case
from lks.errors import UserError
from lks.evaluation.readouts import Asking, ask
from lks.method.lks import LKS
from lks.method.params import LKSParams
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.study_rows import StudyRow
from lks.studies.base import Entities, Findings, Study
from lks.studies.donors import NO_DONOR, SITE, exchanged, pairs

Bits = Sequence[float]


@dataclass(frozen=True, slots=True)
class GainParams:
    """Parameters of the information gain.

    Attributes:
        blocks_from: origin of the new knowledge blocks: a "donor" (as in the swap; Y is the donor's answer;
            needs no training) or "edited" (LKS itself is trained at block l on these entities' edits; Y is
            the target, on the edit prompt).
        per: bits of the whole answer, summed over its tokens ("answer"), or their mean per token ("token").
        editor: parameters of LKS apart from its block, where `blocks_from` is "edited": the preset for the
            model.
    """

    blocks_from: Literal["donor", "edited"] = "donor"
    per: Literal["answer", "token"] = "answer"
    editor: LKSParams | None = None


class Gain(Study[GainParams]):
    """Information gain dI(l) = H(Y|R) - H(Y|R~), with H the mean of -log2 f[R](Y): Eq. 9.

    R is the entity's own knowledge block, R~ the new one. Quantities, in bits per entity: `before_bits`
    (-log2 f[R](Y)), `after_bits` (-log2 f[R~](Y)), `bits` (their difference).
    """

    title: ClassVar = "Information gain"
    source: ClassVar = "LKS, arXiv 2508.03741, Sec. 4.3, Eq. 9, Fig. 7"
    params_type: ClassVar = GainParams

    @classmethod
    def for_model(
        cls, model: str, dataset: str, n_edits: int, overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Return the study with its parameters; for edited blocks, with the LKS preset for the model.

        Raises:
            UserError: an override that does not fit, or no preset of LKS for the model.
        """
        if "editor" in (overrides or {}):
            raise UserError(
                "Parameter 'editor' of gain cannot be overridden: it is the preset of LKS for the model."
            )
        study = super().for_model(model, dataset, n_edits, overrides)
        if study.params.blocks_from == "edited":
            study.params = replace(study.params, editor=LKS.for_model(model, dataset, n_edits).params)
        return study

    def run(self, lm: LM, entities: Entities, seed: int = 0, progress: Progress = no_progress) -> Findings:
        """Measure at every block.

        With edited blocks the last one is left out, where a change at the subject reaches no answer.
        """
        if self.params.blocks_from == "edited":
            return self._of_edits(lm, entities, seed, progress)
        chosen = pairs(lm, entities, seed)
        if not chosen:
            return Findings([], {NO_DONOR: len(entities.edits)})
        said = exchanged(lm, chosen, progress)
        bits = -said.logprob / math.log(2)
        if self.params.per == "token":
            bits = bits / said.tokens
        asked = [pair.asked for pair in chosen]
        rows = [
            row
            for block, after in enumerate(bits[1:].tolist())
            for row in _rows(entities, asked, block, bits[0].tolist(), after)
        ]
        return Findings(rows, {NO_DONOR: len(entities.edits) - len(chosen)})

    def _of_edits(self, lm: LM, entities: Entities, seed: int, progress: Progress) -> Findings:
        """Measure with the blocks of LKS, trained at each block in turn."""
        if self.params.editor is None:
            raise ValueError("blocks of an edited model need the editor's parameters")
        edits = [edit for edit in entities.edits if edit.subject in edit.prompt]
        before, blocks = self._bits(lm, edits, NoPatch()), len(lm.blocks) - 1
        rows: list[StudyRow] = []
        for block in range(blocks):
            editor = LKS(replace(self.params.editor, block=block, more_blocks=()))
            patch = editor.edit(lm, edits, seed, lambda done, block=block: progress((block + done) / blocks))  # type: ignore[misc]
            rows += _rows(entities, edits, block, before, self._bits(lm, edits, patch))
        return Findings(rows, {"whose prompt lacks the subject": len(entities.edits) - len(edits)})

    def _bits(self, lm: LM, edits: Sequence[Edit], patch: Patch) -> Bits:
        """Return -log2 f(target) of each edit prompt."""
        with patch.applied(lm):
            answers = ask(lm, [make_case(edit, (), ()) for edit in edits], Asking(wild=False))
        return [
            -answer.answer_logprob
            / math.log(2)
            / (1 if self.params.per == "answer" else len(answer.answer_ids))
            for answer in answers
        ]


def _rows(entities: Entities, asked: Sequence[Edit], block: int, before: Bits, after: Bits) -> list[StudyRow]:
    """Return the rows of one block."""
    made = []
    for edit, old, new in zip(asked, before, after, strict=True):
        values = {"bits": old - new, "before_bits": old, "after_bits": new}
        made += [entities.row(edit, block, SITE, quantity, value) for quantity, value in values.items()]
    return made
