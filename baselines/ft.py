"""FT-M: fine-tune one MLP output layer on the target tokens (KnowEdit survey, arXiv 2401.01286, Sec. 3.3).

The blocks below the trained one are frozen, so their states are computed once (`lks.models.frozen_prefix`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from baselines._fine_tuning import target_in_place, tune
from baselines._targets import TargetParams, encode_targets
from lks.editing.editor import LONG, After, Editor, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import Choices, DepthRange, LogRange, SearchSpace
from lks.edits import Edit
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class FTParams(TargetParams):
    """Parameters of FT-M, in addition to the end of the answer.

    Attributes:
        block: block whose MLP output layer is trained (0-based).
        lr: Adam learning rate.
        max_epochs: maximum number of passes over the edits.
        batch_size: edits per step.
        stop_loss: a batch below this loss is skipped; training stops once an epoch's mean is below it.
        max_change: bound on the change of any weight (L-infinity norm); 0 for none.
    """

    search_space: ClassVar[SearchSpace] = (
        DepthRange("block"),
        LogRange("lr", 1e-4, 1e-2),
        LogRange("max_epochs", 10, 60),
        Choices("batch_size", (1, 8, 32)),
        Choices("max_change", (0.0, 1e-2, 3e-3, 1e-3)),
    )

    block: int
    lr: float = 5e-4
    max_epochs: int = 25
    batch_size: int = 1
    stop_loss: float = 1e-2
    max_change: float = 0.0


class FineTuning(Editor[FTParams]):
    """Adam on one weight matrix, with the mean negative log-likelihood of the target tokens."""

    title: ClassVar = "FT-M"
    source: ClassVar = "Zhang et al. 2024, arXiv 2401.01286"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = FTParams
    effort: ClassVar = "max_epochs"
    step: ClassVar = "lr"
    made_for: ClassVar = LONG
    presets: ClassVar = {
        # EasyEdit, hparams/FT/llama-7b.yaml and mistral-7b.yaml (objective target_new)
        "llama-2-7b-chat": always(FTParams(block=21)),
        "mistral-7b-instruct-v0.3": always(FTParams(block=21, max_change=5e-5)),
        # our choice: the best EP of blocks 1 to 4 and two or three step sizes at T = 60 or 100, on cases that
        # T <= 100 does not use
        "micro": always(FTParams(block=1, lr=5e-4, max_epochs=25, batch_size=8)),
        "mini": always(FTParams(block=3, lr=2e-3, max_epochs=25, batch_size=8)),
    }

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Train the matrix in place, return the difference and restore the matrix."""
        encoded = encode_targets(lm, edits, self.params)
        return tune(lm, [target_in_place(e) for e in encoded], self.params, seed, progress)
