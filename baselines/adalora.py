"""AdaLoRA: low-rank adapters with ranks allocated by importance during training.

The method is from Zhang et al. 2023 (arXiv 2303.10512). W becomes W + P diag(lambda) Q (peft: B diag(E) A,
scaled by alpha / initial rank) for every adapted projection. Each step scores all triplets (P column, lambda,
Q row) of all modules by smoothed sensitivity times uncertainty (Eqs. 7 to 9) and zeroes the lambda of those
outside the budget b(t) (Eqs. 5, 6 and 11). The budget falls as a cubic from initial_rank to target_rank per
module between step t_i and step total - t_f; after that, training continues with fixed ranks. A penalty keeps
P and Q near orthonormal (Eq. 4).

The schedule is part of the method: peft needs its length in advance, and `update_and_allocate` is called
after every step. The public editing code does neither, so what it runs is LoRA in singular-value form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from baselines._adapters import ADAPTER, Adapter, Rule, config_of, trained
from baselines._targets import TargetParams, encode_targets
from lks.editing.editor import LONG, After, Editor, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import Choices, JointChoices, LogRange, SearchSpace
from lks.edits import Edit
from lks.errors import UserError
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class AdaLoRAParams(TargetParams):
    """Parameters of AdaLoRA, in addition to the end of the answer.

    Attributes:
        initial_rank: rank of every adapter at the start; above `target_rank`.
        target_rank: mean rank of the adapters at the end.
        alpha: scaling; an adapter is scaled by alpha / initial_rank.
        dropout: dropout rate of the adapter's input during training.
        lr: Adam learning rate.
        epochs: maximum number of passes over the edits; with one edit, of steps.
        batch_size: edits per step.
        warmup: share of all steps before the budget starts to fall (t_i).
        settle: share of all steps after it has fallen (t_f).
        interval: steps between two allocations while it falls (Delta_T).
        smoothing: beta_1 and beta_2 of the moving averages of sensitivity and uncertainty.
        orthogonality: weight gamma of the penalty.
        stop_loss: epoch mean loss below which training stops, but never before the budget has fallen; 0
            disables stopping.
        target_modules: comma-separated names of the modules to adapt; empty for peft's choice for the family
            or, if it has none, the query and value projections.
    """

    search_space: ClassVar[SearchSpace] = (
        JointChoices(("initial_rank", "target_rank"), ((6, 4), (12, 8), (24, 16))),
        Choices("alpha", (16, 32, 64)),
        LogRange("lr", 3e-4, 2e-2),
        LogRange("epochs", 15, 100),
        Choices("batch_size", (1, 8)),
        LogRange("orthogonality", 0.05, 1.0),
        Choices("stop_loss", (0.0, 0.1)),
    )

    initial_rank: int = 12
    target_rank: int = 8
    alpha: int = 32
    dropout: float = 0.1
    lr: float = 5e-3
    epochs: int = 70
    batch_size: int = 1
    warmup: float = 0.15
    settle: float = 0.45
    interval: int = 1
    smoothing: float = 0.85
    orthogonality: float = 0.5
    stop_loss: float = 0.0
    target_modules: str = ""


def _small(n_edits: int) -> AdaLoRAParams:
    """Return the preset of a testbed model, with a smaller step size for few edits."""
    return AdaLoRAParams(lr=1e-3 if n_edits < 10 else 5e-3, batch_size=8, stop_loss=0.1)


class AdaLoRA(Editor[AdaLoRAParams]):
    """LoRA with a rank budget shared by all adapted projections."""

    title: ClassVar = "AdaLoRA"
    source: ClassVar = "Zhang et al. 2023, arXiv 2303.10512"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = AdaLoRAParams
    effort: ClassVar = "epochs"
    step: ClassVar = "lr"
    made_for: ClassVar = LONG
    presets: ClassVar = {
        # EasyEdit, hparams/LoRA/llama-7b.yaml (rank, alpha, dropout, lr, steps). EasyEdit has no schedule, so
        # it is our choice: the paper's initial budget of 1.5 times the target, about a seventh of the steps
        # before it falls and under half after
        "llama-2-7b-chat": always(AdaLoRAParams()),
        # our choice: the values for Llama-2, since none are published for Mistral
        "mistral-7b-instruct-v0.3": always(AdaLoRAParams()),
        # our choice: the best EP of two to four step sizes and penalties at T = 1, 10 and 60, on held-out
        # cases
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
        """Train adapters under the schedule, remove them from the model and return their factors.

        Raises:
            UserError: the ranks or the shares of the schedule contradict each other.
        """
        p = self.params
        if not 0 < p.target_rank < p.initial_rank:
            raise UserError(
                f"AdaLoRA's target_rank={p.target_rank} must be above 0 and below "
                f"initial_rank={p.initial_rank}: raise the latter."
            )
        if not (p.warmup >= 0 and p.settle >= 0 and p.warmup + p.settle < 1):
            raise UserError(
                f"AdaLoRA's warmup={p.warmup} and settle={p.settle} must leave steps between them: lower one."
            )
        encoded = encode_targets(lm, edits, p)
        return trained(lm, encoded, Adapter(self._tuner, factors), p, seed, progress)

    def _tuner(self, model: nn.Module, steps: int) -> tuple[nn.Module, Rule]:
        from peft import AdaLoraConfig, AdaLoraModel, LoraModel

        class SameTargets(AdaLoraModel):
            """AdaLoRA with LoRA's default targets, which cover more model families than AdaLoRA's in peft."""

            target_module_mapping = LoraModel.target_module_mapping

        p = self.params
        config = AdaLoraConfig(
            init_r=p.initial_rank,
            target_r=p.target_rank,
            lora_alpha=p.alpha,
            lora_dropout=p.dropout,
            tinit=int(p.warmup * steps),
            tfinal=int(p.settle * steps),
            total_step=steps,
            deltaT=p.interval,
            beta1=p.smoothing,
            beta2=p.smoothing,
            orth_reg_weight=p.orthogonality,
            **config_of(model, p.target_modules),
        )
        tuner = cast(Any, SameTargets)(model, config, ADAPTER)
        return tuner, Allocation(tuner, p.orthogonality)


class Allocation(Rule):
    """AdaLoRA's falling rank budget and orthogonality penalty.

    Attributes:
        tuner: peft's adapted model.
        gamma: weight of the penalty.
    """

    def __init__(self, tuner: Any, gamma: float) -> None:
        self.tuner, self.gamma = tuner, gamma
        self._left = [p for n, p in tuner.model.named_parameters() if f"lora_B.{ADAPTER}" in n]
        self._right = [p for n, p in tuner.model.named_parameters() if f"lora_A.{ADAPTER}" in n]

    def penalty(self) -> Tensor:
        """Return gamma times the mean over all P and Q of ||P^T P - I|| and ||Q Q^T - I|| (Frobenius norm).

        The authors' code and peft use this mean of norms where Eq. 4 has a sum of squares; published values
        of gamma refer to the code, so the code is followed.
        """
        return (
            self.gamma
            * torch.stack(
                [_skewness(p.T @ p) for p in self._left] + [_skewness(q @ q.T) for q in self._right]
            ).mean()
        )

    def stepped(self, step: int) -> None:
        """Score the triplets and zero those outside the budget."""
        self.tuner.update_and_allocate(step)

    def may_stop(self, step: int) -> bool:
        """Return whether the budget has fallen to its target."""
        config = self.tuner.peft_config[ADAPTER]
        return bool(step >= config.total_step - config.tfinal)


def _skewness(gram: Tensor) -> Tensor:
    """Return the Frobenius distance of a Gram matrix from the identity."""
    return cast(Tensor, torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))


def factors(module: Any) -> tuple[Tensor, Tensor]:
    """Return scaled P diag(lambda) [out, rank] and Q [rank, in] of a module, without pruned triplets."""
    scale = module.scaling[ADAPTER] / (module.ranknum[ADAPTER] + 1e-5)
    values = module.lora_E[ADAPTER].flatten()
    kept = values != 0
    return module.lora_B[ADAPTER][:, kept] * values[kept] * scale, module.lora_A[ADAPTER][kept]
