"""EMMET: ROME's equality constraint for many facts at once (Gupta et al. 2024, arXiv 2403.14236).

One MLP output layer is changed so that W K = V holds for all edits while old associations move as little as
possible: Delta = (V - W K) (K^T C^-1 K + mu I)^-1 K^T C^-1 (Eq. 11, mu for stability). This is MEMIT's solve
with lambda = mu on one block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from baselines._locate_then_edit.covariances import Moments, ridge
from baselines._locate_then_edit.spread import Spreading, SpreadParams
from baselines._locate_then_edit.values import ValueParams
from lks.editing.editor import always
from lks.editing.search_space import DepthSpan, LogRange, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class EMMETParams(SpreadParams):
    """Parameters of EMMET.

    Attributes:
        stabiliser: mu, added to the diagonal of K^T C^-1 K.
    """

    search_space: ClassVar[SearchSpace] = (
        *ValueParams.search_space,
        DepthSpan("first_block", "last_block", (1,), 0.0, 0.7),
        LogRange("stabiliser", 1e-3, 10.0),
    )

    stabiliser: float = 0.1


def _small(lr: float, steps: int, contexts: int, stabiliser: float) -> Callable[[int, str], EMMETParams]:
    """Return the preset of a testbed model, with statistics of its own dataset."""
    return lambda n_edits, dataset: EMMETParams(
        first_block=2,
        last_block=2,
        lr=lr,
        steps=steps,
        contexts=contexts,
        stabiliser=stabiliser,
        corpus=dataset,
        corpus_tokens=100_000,
    )


class EMMET(Spreading[EMMETParams]):
    """Equality constraints for all edits."""

    title: ClassVar = "EMMET"
    source: ClassVar = "Gupta et al. 2024, arXiv 2403.14236"
    params_type: ClassVar = EMMETParams
    presets: ClassVar = {
        # EasyEdit, hparams/EMMET/llama-7b.yaml (emmet_lambda 0.1). Mistral: our choice, since its ROME and
        # MEMIT use Llama's values
        "llama-2-7b-chat": always(EMMETParams(first_block=5, last_block=5)),
        "mistral-7b-instruct-v0.3": always(EMMETParams(first_block=5, last_block=5)),
        # our choice, on held-out cases (docs/baselines.md); the mini model never saw text in front of a
        # question
        "micro": _small(lr=0.5, steps=25, contexts=5, stabiliser=0.1),
        "mini": _small(lr=0.1, steps=40, contexts=0, stabiliser=1.0),
    }

    def solve(self, moments: Moments, block: int, keys: Tensor, earlier: Tensor) -> Tensor:
        """Solve Eq. 11 for one block."""
        return ridge(moments.blocks[block], keys, self.params.stabiliser)
