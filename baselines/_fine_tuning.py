"""Fine-tuning of one MLP output layer: the training loop shared by FT-M and FT-L, which differ in their loss.

The blocks below the trained one are frozen, so their states are computed once (`lks.models.frozen_prefix`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lks.editing.patch import WeightPatch
from lks.models.frozen_prefix import BlockStates, UpperBlocks, states
from lks.models.lm import LM, Encoded
from lks.models.losses import negative_log_likelihood
from lks.progress import Progress


class FineTuningSettings(Protocol):
    """Settings of the training loop; the parameters of a fine-tuning method have these fields."""

    @property
    def block(self) -> int:
        """Block whose MLP output layer is trained (0-based)."""

    @property
    def lr(self) -> float:
        """Adam learning rate."""

    @property
    def max_epochs(self) -> int:
        """Maximum number of passes over the edits."""

    @property
    def batch_size(self) -> int:
        """Edits per step."""

    @property
    def stop_loss(self) -> float:
        """Loss below which a batch is skipped; training stops once an epoch's mean loss is below it."""

    @property
    def max_change(self) -> float:
        """Bound on the change of any weight (L-infinity norm); 0 for none."""


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One training sequence.

    Attributes:
        ids: input token ids.
        places: (position, label) pairs; the loss trains each position to predict its label.
    """

    ids: list[int]
    places: list[tuple[int, int]]


def target_in_place(encoded: Encoded) -> TrainingSequence:
    """Predict each target token at the token before it: the usual language-modelling loss on the target."""
    return TrainingSequence(
        encoded.ids, [(t - 1, encoded.ids[t]) for t in range(encoded.n_prompt, len(encoded.ids))]
    )


def target_from_last_token(encoded: Encoded) -> TrainingSequence:
    """Predict all target tokens at the prompt's last token, as a bag of next tokens: FT-L's loss."""
    return TrainingSequence(
        encoded.ids[: encoded.n_prompt], [(encoded.n_prompt - 1, token) for token in encoded.answer]
    )


def places(examples: Sequence[TrainingSequence], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, position and label of every loss position of a batch, each [places]."""
    found = [
        (row, position, label) for row, example in enumerate(examples) for position, label in example.places
    ]
    row, position, label = torch.tensor(found, device=device, dtype=torch.long).reshape(-1, 3).T
    return row, position, label


def tune(
    lm: LM, examples: Sequence[TrainingSequence], settings: FineTuningSettings, seed: int, progress: Progress
) -> WeightPatch:
    """Train one matrix in place with Adam, return the difference as a patch and restore the matrix.

    The loss of a batch is the mean over its examples of the mean negative log-likelihood of each example's
    labels.
    """
    if not examples:
        return WeightPatch({})
    module = lm.mlp_output(settings.block)
    weight: nn.Parameter = module.weight  # type: ignore[assignment]
    kept = weight.detach().clone()
    cached = states(lm, settings.block - 1, [e.ids for e in examples])
    upper = UpperBlocks(lm, settings.block - 1)

    def loss(chosen: Tensor) -> Tensor:
        return _loss(upper, cached, [examples[i] for i in chosen.tolist()], chosen)

    try:
        weight.requires_grad_(True)
        _train(weight, kept, loss, len(examples), settings, torch.Generator().manual_seed(seed), progress)
        return WeightPatch({lm.parameter_name(module): (weight.detach() - kept).clone()})
    finally:
        weight.requires_grad_(False)
        weight.grad = None
        with torch.no_grad():
            weight.copy_(kept)


def _train(
    weight: nn.Parameter,
    kept: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    s: FineTuningSettings,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """Train on shuffled batches up to `max_epochs`, clamping the change to `max_change` after each step."""
    optimiser = torch.optim.Adam([weight], lr=s.lr)
    for epoch in range(s.max_epochs):
        order = torch.randperm(count, generator=generator)
        total = 0.0
        for start in range(0, count, s.batch_size):
            chosen = order[start : start + s.batch_size]
            with torch.enable_grad():
                loss = loss_of(chosen)
            total += float(loss.detach()) * len(chosen)
            if float(loss.detach()) < s.stop_loss:
                continue
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            if s.max_change:
                with torch.no_grad():
                    weight.copy_(torch.clamp(weight, kept - s.max_change, kept + s.max_change))
        progress((epoch + 1) / s.max_epochs)
        if not total / count >= s.stop_loss:
            break


def _loss(
    upper: UpperBlocks, cached: BlockStates, examples: Sequence[TrainingSequence], chosen: Tensor
) -> Tensor:
    """Compute the mean loss of the chosen examples from the cached states below the trained block."""
    hidden, mask = cached.rows(chosen.to(cached.flat.device))
    final = upper(hidden, mask)
    row, position, label = places(examples, final.device)
    return negative_log_likelihood(upper.logits(final[row, position]), label, row, len(examples))
