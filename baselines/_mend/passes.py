"""The two passes of MEND: factored gradients of an edit, and the edited model without changing any weight."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines._fine_tuning import places, target_in_place
from baselines._mend.network import Layer
from lks.models.frozen_prefix import UpperBlocks, lower_blocks
from lks.models.lm import LM, Encoded
from lks.models.losses import row_means
from lks.models.prefill import installed_hooks


@dataclass(frozen=True, slots=True)
class BorderRows:
    """Sequences at the border below the lowest edited block.

    Attributes:
        hidden: [rows, time, d] input of that block.
        mask: [rows, time] attention mask.
        row, position, label: [loss positions] row, position and next token of each loss position.
    """

    hidden: Tensor
    mask: Tensor
    row: Tensor
    position: Tensor
    label: Tensor


class Border:
    """The model split below a block: the lower part is frozen and runs once."""

    def __init__(self, lm: LM, block: int) -> None:
        self.lm = lm
        self.lower = lower_blocks(lm, block - 1)
        self.upper = UpperBlocks(lm, block - 1)

    @torch.no_grad()
    def rows(self, encoded: Sequence[Encoded]) -> BorderRows:
        """Run sequences up to the border, with loss positions where their answers are predicted."""
        ids, mask = self.lm.pad([e.ids for e in encoded])
        row, position, label = places([target_in_place(e) for e in encoded], self.lm.device)
        return BorderRows(
            self.lower(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state,
            mask,
            row,
            position,
            label,
        )

    def logits(self, rows: BorderRows) -> Tensor:
        """Compute logits [loss positions, vocabulary] of the model with its current hooks."""
        return self.upper.logits(self.upper(rows.hidden, rows.mask)[rows.row, rows.position])


def row_losses(logits: Tensor, rows: BorderRows) -> Tensor:
    """Compute the mean negative log-likelihood of each row's labels, [rows]."""
    per_token = F.cross_entropy(logits, rows.label, reduction="none")
    return row_means(per_token, rows.row, len(rows.hidden))


def gradients(border: Border, layers: Sequence[Layer], rows: BorderRows) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's input x [rows, time, d_in] and output gradient delta [rows, time, d_out].

    delta is the gradient of each row's own loss, so the gradient of that loss with respect to the weight is
    the sum over time of delta x^T. No weight is differentiated: zeros are added to the outputs, and the loss
    is differentiated with respect to them.
    """
    inputs: dict[int, Tensor] = {}
    zeros: dict[int, Tensor] = {}

    def hook(number: int) -> object:
        def add(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[number] = args[0].detach()
            zeros[number] = torch.zeros_like(output, requires_grad=True)
            return output + zeros[number]

        return add

    with torch.enable_grad():
        with installed_hooks([layer.module.register_forward_hook(hook(k)) for k, layer in enumerate(layers)]):  # type: ignore[arg-type]
            loss = row_losses(border.logits(rows), rows).sum()
        found = torch.autograd.grad(loss, [zeros[k] for k in range(len(layers))])
    return [(inputs[k], delta) for k, delta in enumerate(found)]


@contextmanager
def with_factors(layers: Sequence[Layer], factors: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Add each layer's change to its output inside the `with`: W x + sum over tokens s of delta_s (x_s . x).

    The batch consists of equal groups, one edit (or set of edits) each; rows see only the change of their own
    group.

    Args:
        layers: the edited layers.
        factors: per layer x~ [groups, tokens, d_in] and delta~ [groups, tokens, d_out]; the latter includes
            step size and sign.
    """

    def hook(right: Tensor, left: Tensor) -> object:
        def add(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0].reshape(len(right), -1, right.shape[-1]).to(right.dtype)
            change = torch.bmm(torch.bmm(x, right.transpose(1, 2)), left)
            return output + change.reshape(output.shape).to(output.dtype)

        return add

    handles = [
        layer.module.register_forward_hook(hook(*pair))  # type: ignore[arg-type]
        for layer, pair in zip(layers, factors, strict=True)
    ]
    with installed_hooks(handles):
        yield
