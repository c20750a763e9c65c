"""MEMIT: one least-squares update of several MLP output layers for many facts.

The method is from Meng et al. 2023 (arXiv 2210.07229). A value vector per edit is optimised at the output of
the last block. Block by block from below, the update R K^T (lambda C + K K^T)^-1 (Eq. 14) contributes an
equal share of the remaining residual. It is solved as an N x N system by the Woodbury identity.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from torch import Tensor

from baselines._locate_then_edit.covariances import Moments, ridge
from baselines._locate_then_edit.spread import Spreading, SpreadParams
from lks.editing.editor import PUBLISHED_DIM, always
from lks.editing.search_space import LogRange, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class MEMITParams(SpreadParams):
    """Parameters of MEMIT.

    Attributes:
        old_keys_weight: lambda, weight of preserving old associations relative to the new ones.
    """

    search_space: ClassVar[SearchSpace] = (
        *SpreadParams.search_space,
        LogRange("old_keys_weight", 10.0, 100_000.0),
    )

    old_keys_weight: float = 15_000.0


def _small(lr: float, steps: int, contexts: int, old_keys_weight: float) -> Callable[[int, str], MEMITParams]:
    """Return the preset of a testbed model, with statistics of its own dataset."""
    return lambda n_edits, dataset: MEMITParams(
        first_block=0,
        last_block=2,
        lr=lr,
        steps=steps,
        contexts=contexts,
        old_keys_weight=old_keys_weight,
        corpus=dataset,
        corpus_tokens=100_000,
    )


class MEMIT(Spreading[MEMITParams]):
    """Least squares of new associations against old keys weighted by lambda."""

    title: ClassVar = "MEMIT"
    source: ClassVar = "Meng et al. 2023, arXiv 2210.07229"
    params_type: ClassVar = MEMITParams
    presets: ClassVar = {
        # EasyEdit, hparams/MEMIT/llama-7b.yaml and mistral-7b.yaml; WikiText instead of its Wikipedia is our
        # choice
        "llama-2-7b-chat": always(MEMITParams(first_block=4, last_block=8)),
        "mistral-7b-instruct-v0.3": always(MEMITParams(first_block=4, last_block=8)),
        # our choice, on held-out cases (docs/baselines.md); the mini model never saw text in front of a
        # question
        "micro": _small(lr=0.5, steps=25, contexts=5, old_keys_weight=100.0),
        "mini": _small(lr=0.1, steps=40, contexts=0, old_keys_weight=1000.0),
    }

    @classmethod
    def untuned(cls, blocks: int, dim: int) -> Callable[[int, str], MEMITParams]:
        """Return Llama-2-7B's parameters, scaled, with a weight of old keys in proportion to the width.

        `solve` compares that weight with k^T C^-1 k. Over the corpus of C this is on average the number of
        the layer's inputs, whatever the scale of the keys, and that number grows with the width of the model.
        """
        scaled = super().untuned(blocks, dim)
        assert scaled is not None

        def preset(n_edits: int, dataset: str) -> MEMITParams:
            published = cast(MEMITParams, scaled(n_edits, dataset))
            return replace(published, old_keys_weight=published.old_keys_weight * dim / PUBLISHED_DIM)

        return preset

    def solve(self, moments: Moments, block: int, keys: Tensor, earlier: Tensor) -> Tensor:
        """Solve Eq. 14 for one block."""
        return ridge(moments.blocks[block], keys, self.params.old_keys_weight)
