"""FT-M: fine-tune one MLP output layer on the target tokens (KnowEdit survey, arXiv 2401.01286, Sec. 3.3).

The blocks below the trained one are frozen, so their states are computed once (`lks.prefix`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lks.editor import After, Editor, Progress, silent, unwatched
from lks.edits import Edit
from lks.lm import LM, Encoded
from lks.losses import negative_log_likelihood
from lks.patch import Patch, WeightPatch
from lks.prefix import States, Upper, states


@dataclass(frozen=True, slots=True)
class FTParams:
    """Parameters of FT-M.

    Attributes:
        block: whose MLP output layer is trained (0-based).
        lr: of Adam.
        max_epochs: passes over the edits.
        batch_size: edits per step.
        stop_loss: no step on a batch below this loss; stop once an epoch's mean is below it.
        max_change: bound on the change of any weight (L-infinity norm); 0 for none.
    """

    block: int
    lr: float = 5e-4
    max_epochs: int = 25
    batch_size: int = 1
    stop_loss: float = 1e-2
    max_change: float = 0.0


def _fixed(params: FTParams) -> Callable[[int, str], FTParams]:
    return lambda n_edits, dataset: params


class FineTuning(Editor[FTParams]):
    """Adam on the target tokens' mean negative log-likelihood, one weight matrix."""

    title: ClassVar = "FT-M"
    source: ClassVar = "Zhang et al. 2024, arXiv 2401.01286"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = FTParams
    presets: ClassVar = {
        # EasyEdit, hparams/FT/llama-7b.yaml and mistral-7b.yaml (objective target_new)
        "llama-2-7b-chat": _fixed(FTParams(block=21)),
        "mistral-7b-instruct-v0.3": _fixed(FTParams(block=21, max_change=5e-5)),
        # own choice: the best EP of blocks 1 to 4 and two or three step sizes at T = 60 or 100, on cases that T <= 100 does not use
        "micro": _fixed(FTParams(block=1, lr=5e-4, max_epochs=25, batch_size=8)),
        "mini": _fixed(FTParams(block=3, lr=2e-3, max_epochs=25, batch_size=8)),
    }

    def edit(self, lm: LM, edits: Sequence[Edit], seed: int = 0, progress: Progress = silent, after: After = unwatched) -> Patch:
        """Train the matrix in place, keep the difference, put the matrix back."""
        module = lm.mlp_output(self.params.block)
        weight: torch.nn.Parameter = module.weight  # type: ignore[assignment]
        name = lm.parameter_name(module)
        kept = weight.detach().clone()
        encoded = lm.encode([e.prompt for e in edits], [e.target for e in edits])
        if not edits:
            return WeightPatch({})
        cached = states(lm, self.params.block - 1, [e.ids for e in encoded])
        try:
            weight.requires_grad_(True)
            self._train(lm, weight, kept, encoded, cached, torch.Generator().manual_seed(seed), progress)
            return WeightPatch({name: (weight.detach() - kept).clone()})
        finally:
            weight.requires_grad_(False)
            weight.grad = None
            with torch.no_grad():
                weight.copy_(kept)

    def _train(
        self, lm: LM, weight: torch.nn.Parameter, kept: Tensor, encoded: list[Encoded], cached: States, generator: torch.Generator, progress: Progress
    ) -> None:
        p = self.params
        upper = Upper(lm, p.block - 1)
        optimiser = torch.optim.Adam([weight], lr=p.lr)
        for epoch in range(p.max_epochs):
            order = torch.randperm(len(encoded), generator=generator)
            total = 0.0
            for start in range(0, len(order), p.batch_size):
                chosen = order[start : start + p.batch_size]
                with torch.enable_grad():
                    loss = self._loss(lm, upper, encoded, cached, chosen)
                total += float(loss.detach()) * len(chosen)
                if float(loss.detach()) < p.stop_loss:
                    continue
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                if p.max_change:
                    with torch.no_grad():
                        weight.copy_(torch.clamp(weight, kept - p.max_change, kept + p.max_change))
            progress((epoch + 1) / p.max_epochs)
            if not total / len(encoded) >= p.stop_loss:
                break

    def _loss(self, lm: LM, upper: Upper, encoded: list[Encoded], cached: States, chosen: Tensor) -> Tensor:
        """Mean over edits of the mean negative log-likelihood of the target tokens."""
        hidden, mask = cached.rows(chosen.to(lm.device))
        final = upper(hidden, mask)
        rows = [(k, e) for k, e in enumerate(encoded[i] for i in chosen.tolist())]
        where = torch.tensor([(k, t - 1, e.ids[t]) for k, e in rows for t in range(e.n_prompt, len(e.ids))], device=lm.device)
        row, position, label = where.T
        return negative_log_likelihood(upper.logits(final[row, position]), label, row, len(rows))
