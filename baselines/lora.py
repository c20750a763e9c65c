"""LoRA: low-rank adapters of the attention's query and value projections (Hu et al. 2021, arXiv 2106.09685).

W becomes W + (alpha / r) B A, with A [r, in] random and B [out, r] zero at the start; only A and B are
trained, on the negative log-likelihood of the target tokens. As an editor it is a baseline of the KnowEdit
survey (arXiv 2401.01286).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from baselines._adapters import ADAPTER, Adapter, Rule, config_of, trained
from baselines._targets import TargetParams, encode_targets
from lks.editing.editor import LONG, After, Editor, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import Choices, LogRange, SearchSpace
from lks.edits import Edit
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class LoRAParams(TargetParams):
    """Parameters of LoRA, in addition to the end of the answer.

    Attributes:
        rank: rank r of each adapter.
        alpha: scaling; the adapter is scaled by alpha / rank.
        dropout: dropout rate of the adapter's input during training.
        lr: Adam learning rate.
        epochs: maximum number of passes over the edits; with one edit, of steps.
        batch_size: edits per step.
        stop_loss: epoch mean loss below which training stops; 0 (published) disables stopping.
        target_modules: comma-separated names of the modules to adapt; empty for peft's choice for the family
            or, if it has none, the query and value projections (or the fused projection that contains them).
    """

    search_space: ClassVar[SearchSpace] = (
        Choices("rank", (4, 8, 16, 32)),
        Choices("alpha", (16, 32, 64)),
        Choices("dropout", (0.0, 0.1)),
        LogRange("lr", 1e-4, 1e-2),
        LogRange("epochs", 15, 100),
        Choices("batch_size", (1, 8)),
        Choices("stop_loss", (0.0, 0.1)),
    )

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.1
    lr: float = 5e-3
    epochs: int = 70
    batch_size: int = 1
    stop_loss: float = 0.0
    target_modules: str = ""


def _small(n_edits: int) -> LoRAParams:
    """Return the preset of a testbed model, with a smaller step size for few edits."""
    return LoRAParams(lr=5e-4 if n_edits < 50 else 2e-3, batch_size=8, stop_loss=0.1)


class LoRA(Editor[LoRAParams]):
    """Adam on two factors per projection, with the mean negative log-likelihood of the target tokens."""

    title: ClassVar = "LoRA"
    source: ClassVar = "Hu et al. 2021, arXiv 2106.09685"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = LoRAParams
    effort: ClassVar = "epochs"
    step: ClassVar = "lr"
    made_for: ClassVar = LONG
    presets: ClassVar = {
        # EasyEdit, hparams/LoRA/llama-7b.yaml
        "llama-2-7b-chat": always(LoRAParams()),
        # our choice: the values for Llama-2, since none are published for Mistral
        "mistral-7b-instruct-v0.3": always(LoRAParams()),
        # our choice: the best EP of three to six step sizes at T = 1, 10 and 60, on held-out cases;
        # EasyEdit's 5e-3 costs locality
        "micro": lambda n_edits, dataset: _small(n_edits),
        "mini": lambda n_edits, dataset: _small(n_edits),
    }

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Train adapters, remove them from the model and return their factors."""
        return trained(
            lm,
            encode_targets(lm, edits, self.params),
            Adapter(self._tuner, factors),
            self.params,
            seed,
            progress,
        )

    def _tuner(self, model: nn.Module, steps: int) -> tuple[nn.Module, Rule]:
        from peft import LoraConfig, LoraModel

        p = self.params
        config = LoraConfig(
            r=p.rank, lora_alpha=p.alpha, lora_dropout=p.dropout, **config_of(model, p.target_modules)
        )
        return LoraModel(model, config, ADAPTER), Rule()


def factors(module: Any) -> tuple[Tensor, Tensor]:
    """Return (alpha / r) B [out, r] and A [r, in] of an adapted module."""
    return module.lora_B[ADAPTER].weight * module.scaling[ADAPTER], module.lora_A[ADAPTER].weight
