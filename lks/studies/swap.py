"""Swap: put another entity's knowledge block in place of the subject's, and see whose fact is answered."""

from dataclasses import dataclass
from typing import ClassVar

from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.study_rows import ANYWHERE
from lks.studies.base import Entities, Findings, Study
from lks.studies.donors import NO_DONOR, SITE, exchanged, pairs


@dataclass(frozen=True, slots=True)
class SwapParams:
    """Parameters of the swap, which has none."""


class Swap(Study[SwapParams]):
    """The state at the subject's last token is replaced by a donor's after block l.

    The donor is asked the same and has another answer. Quantities, each 0 or 1: `rises` (the first token of
    the donor's answer has a better rank than without the swap), `first` (it has become the likeliest token),
    `old_first` (the first token of the old answer is the likeliest), `likelier` (the donor's whole answer has
    become likelier); at block -1 `known`: without a swap the old answer's first token is the likeliest.
    """

    title: ClassVar = "Swap"
    source: ClassVar = "LKS, arXiv 2508.03741, Sec. 2.2, Fig. 4"
    params_type: ClassVar = SwapParams

    def run(self, lm: LM, entities: Entities, seed: int = 0, progress: Progress = no_progress) -> Findings:
        """Swap at every block; entities without a donor are left out."""
        chosen = pairs(lm, entities, seed)
        if not chosen:
            return Findings([], {NO_DONOR: len(entities.edits)})
        said = exchanged(lm, chosen, progress)
        known = said.best[0] == said.old_first
        rows = [
            entities.row(pair.asked, -1, ANYWHERE, "known", known[i].item()) for i, pair in enumerate(chosen)
        ]
        quantities = {
            "rises": said.rank[1:] < said.rank[0],
            "first": said.best[1:] == said.donor_first,
            "old_first": said.best[1:] == said.old_first,
            "likelier": said.logprob[1:] > said.logprob[0],
        }
        for block in range(len(lm.blocks)):
            for i, pair in enumerate(chosen):
                rows += [
                    entities.row(pair.asked, block, SITE, quantity, value[block, i].item())
                    for quantity, value in quantities.items()
                ]
        return Findings(rows, {NO_DONOR: len(entities.edits) - len(chosen)})
