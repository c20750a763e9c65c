"""The common part of MEMIT, EMMET and AlphaEdit: residuals at the last block, spread over several blocks."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from baselines._locate_then_edit.contexts import behind, first_token_warnings, prefixes
from baselines._locate_then_edit.covariances import STATISTICS, Moments, second_moments
from baselines._locate_then_edit.keys import Subjects
from baselines._locate_then_edit.values import ValueParams, optimise
from baselines._locate_then_edit.weight_updates import Updates
from lks.editing.editor import SHORT, After, Editor, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import DepthSpan, SearchSpace
from lks.edits import Edit
from lks.errors import UserError
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadParams(ValueParams):
    """Parameters of all methods that spread an update, in addition to those of value optimisation.

    Attributes:
        first_block, last_block: first and last block whose MLP output layers are updated (0-based,
            inclusive).
        contexts: number of sampled texts of 10 tokens to put in front of the prompt.
        batch_size: edits made at once; each batch is made on the model left by the earlier ones. 0 for all at
            once.
        corpus: text for C; see `baselines._locate_then_edit.corpus`.
        corpus_tokens: number of tokens of the corpus to use.
    """

    search_space: ClassVar[SearchSpace] = (
        *ValueParams.search_space,
        DepthSpan("first_block", "last_block", (1, 3, 5), 0.0, 0.7),
    )

    first_block: int
    last_block: int
    contexts: int = 5
    batch_size: int = 0
    corpus: str = "wikitext"
    corpus_tokens: int = 5_000_000

    @property
    def blocks(self) -> range:
        """The blocks that change."""
        return range(self.first_block, self.last_block + 1)


ParamsT = TypeVar("ParamsT", bound=SpreadParams)


class Spreading(Editor[ParamsT]):
    """Editor with values at the last block, whose residual all blocks share equally (MEMIT, Alg. 1)."""

    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    effort: ClassVar = "steps"
    step: ClassVar = "lr"
    made_for: ClassVar = SHORT
    remembers_keys: ClassVar[bool] = False
    """Whether later batches must preserve the outputs for earlier batches' keys."""

    _texts: list[str] | None = None
    _moments: Moments | None = None

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: Progress = no_progress) -> float:
        """Sample the contexts and compute the factorised second moments of all blocks."""
        p = self.params
        self._texts = prefixes(lm, [10] * p.contexts)
        self._moments = second_moments(lm, p.blocks, p.corpus, p.corpus_tokens, progress)
        self.notes = {STATISTICS: self._moments.text}
        return self._moments.seconds

    @abstractmethod
    def solve(self, moments: Moments, block: int, keys: Tensor, earlier: Tensor) -> Tensor:
        """Compute A [d_in, n] such that the block's update is R A^T for residuals R [d_out, n].

        Args:
            moments: second moments of all blocks.
            block: the block to solve for.
            keys: K [d_in, n].
            earlier: keys of earlier batches [d_in, m]; m = 0 unless `remembers_keys`.
        """

    def warnings(self, lm: LM, edits: Sequence[Edit]) -> list[str]:
        """Warn of subjects that are the first token of their prompt."""
        return first_token_warnings(lm, edits)

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Update the layers, batch by batch.

        Raises:
            UserError: `prepare` was not called, or a prompt does not contain its subject.
        """
        if self._moments is None:
            raise UserError(f"{self.title} needs the model's second moments: call prepare(lm) before edit.")
        p = self.params
        earlier: dict[int, list[Tensor]] = {block: [] for block in p.blocks}
        size = p.batch_size or len(edits)
        with Updates(lm, p.blocks) as updates:
            for start in range(0, len(edits), max(1, size)):
                batch = edits[start : start + size]

                def within(done: float, start: int = start, count: int = len(batch)) -> None:
                    progress((start + done * count) / len(edits))

                self._round(lm, batch, updates, earlier, within)
            return updates.patch()

    def _round(
        self,
        lm: LM,
        edits: Sequence[Edit],
        updates: Updates,
        earlier: dict[int, list[Tensor]],
        progress: Progress,
    ) -> None:
        """Make one batch of edits."""
        assert self._texts is not None and self._moments is not None
        blocks = self.params.blocks
        subjects = begin = Subjects.before(lm, behind(lm, edits, self._texts, answered=False), blocks[0])
        state = subjects.bare(lm, blocks[-1])
        wanted = (
            state
            + optimise(lm, edits, blocks[-1], state.norm(dim=-1), self._texts, self.params, progress).change
        )
        for block in blocks:
            subjects = subjects.move(lm, block)
            keys = mean_keys(subjects.keys(lm))
            missing = (wanted - subjects.bare(lm, blocks[-1])) / (blocks[-1] - block + 1)
            known = torch.cat([keys[:, :0], *earlier[block]], 1)
            updates.add(block, missing.T, self.solve(self._moments, block, keys, known).T)
        if self.remembers_keys:
            for block in blocks:
                begin = begin.move(lm, block)
                earlier[block].append(mean_keys(begin.keys(lm)))


def mean_keys(keys: Tensor) -> Tensor:
    """Compute K [d_in, edits] from keys [edits, contexts, d_in].

    K is the average of the bare prompt's key and the mean key after the sampled texts.
    """
    return (keys[:, 0] if keys.shape[1] == 1 else (keys[:, 0] + keys[:, 1:].mean(1)) / 2).T
