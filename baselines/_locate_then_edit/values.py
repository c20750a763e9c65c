"""Value optimisation (ROME, Eq. 4): per edit, the change of one state that makes the model output the target.

Many edits are optimised at once. Each has its own change, loss, clamp and stopping, so the result is the same
as one after the other. The blocks up to the edited one run once (`lks.models.frozen_prefix`), and above it
only positions from the subject's last token on (`lks.models.frozen_suffix`). Adding to the MLP's output or to
the block's output is equivalent for all that follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines._locate_then_edit.contexts import behind, end_of_subject, placed
from baselines._targets import TargetParams
from lks.editing.search_space import LogRange, SearchSpace
from lks.edits import Edit
from lks.models.frozen_prefix import UpperBlocks, states
from lks.models.frozen_suffix import Suffix
from lks.models.lm import LM, Encoded
from lks.models.memory import scale_batch
from lks.models.precision import Training, training_dtype
from lks.progress import Progress, no_progress

BATCH_BYTES = {"cpu": 1 << 29, "cuda": 1 << 32}
"""Memory of a batch of edits by kind of device. A GPU needs larger batches to be busy; more than that is no
faster, and takes memory from the model."""
PER_END, PER_POSITION = 16, 3
"""Numbers kept for the backward pass, per dimension, block and position: of a position that runs, and of keys
and values. Measured on SmolLM2-135M in bfloat16 with unfused attention, which keeps the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueParams(TargetParams):
    """Parameters of value optimisation, in addition to the end of the answer.

    Attributes:
        steps: maximum number of loss evaluations; there is one update fewer, as in the published code.
        lr: Adam learning rate.
        weight_decay: weight of ||change|| / ||state||^2.
        kl_weight: weight of KL(edited || unedited) at the end of the subject in "{subject} is a".
        clamp: bound on ||change||, as a share of the state's norm.
        stop_loss: loss below which an edit is finished.
        precision: precision of the blocks above the edited one: "model" (that of the model's weights),
            "bfloat16" or "fast" (bfloat16 where the hardware supports it, else "model"). The change, its
            gradient and Adam are float32.
    """

    search_space: ClassVar[SearchSpace] = (
        LogRange("steps", 15, 60),
        LogRange("lr", 0.05, 1.0),
        LogRange("weight_decay", 1e-3, 0.5),
        LogRange("kl_weight", 0.01, 1.0),
        LogRange("clamp", 0.75, 6.0),
    )

    steps: int = 25
    lr: float = 0.5
    weight_decay: float = 1e-3
    kl_weight: float = 0.0625
    clamp: float = 4.0
    stop_loss: float = 5e-2
    precision: Training = "model"


@dataclass(frozen=True, slots=True)
class Values:
    """Result of the optimisation.

    Attributes:
        change: [edits, d] delta, to be added to the state at the end of the subject, float32.
        loss: [edits] loss with this change.
        updates: [edits] number of updates made.
    """

    change: Tensor
    loss: Tensor
    updates: Tensor


def optimise(
    lm: LM,
    edits: Sequence[Edit],
    block: int,
    norms: Tensor,
    texts: Sequence[str],
    params: ValueParams,
    progress: Progress = no_progress,
    memory: int | None = None,
) -> Values:
    """Optimise a change of block `block`'s output for each edit.

    Args:
        lm: the model with its current weights.
        edits: the edits.
        block: block whose output is changed (0-based).
        norms: [edits] norm of the changed state (the MLP's or the block's output), used by clamp and weight
            decay.
        texts: texts to put in front of the prompts; the target has to follow the prompt after each.
        params: parameters of the optimisation.
        progress: called with the fraction of edits done.
        memory: bytes that a batch may take (`needed_bytes`; a batch has at least one edit); by default those
            of the device (`BATCH_BYTES`). Does not affect results.
    """
    upper = UpperBlocks(lm, block, dtype=training_dtype(params.precision, lm.device))
    rows = value_rows(lm, edits, texts, params.end_of_answer)
    room = scale_batch(memory or BATCH_BYTES.get(lm.device.type, BATCH_BYTES["cpu"]))
    parts: list[Values] = []
    order: list[int] = []
    for chosen in pieces(upper, rows, room):
        index = torch.tensor(chosen, device=norms.device)
        parts.append(_ValueBatch(lm, upper, [rows[i] for i in chosen], norms[index].float(), params).run())
        order += chosen
        progress(len(order) / len(edits))
    back = torch.tensor(order, device=norms.device).argsort()
    return Values(
        *(torch.cat([getattr(part, name) for part in parts])[back] for name in ("change", "loss", "updates"))
    )


def value_rows(lm: LM, edits: Sequence[Edit], texts: Sequence[str], end: bool) -> list[list[Encoded]]:
    """Encode each edit's prompt with its target, bare and after each text, and then "{subject} is a"."""
    answered = behind(lm, edits, texts, answered=True, end=end)
    essence = placed(
        lm, [f"{e.subject} is a" for e in edits], edits, [f"{text}. " for text in texts], answered=False
    )
    return [[*own, last] for own, last in zip(answered, essence, strict=True)]


def needed_bytes(upper: UpperBlocks, rows: Sequence[Sequence[Encoded]]) -> int:
    """Estimate the memory of one step on the rows of some edits.

    The step keeps activations of all upper blocks for the backward pass. Most are of the positions that run
    (`PER_END` numbers per dimension, block and position); keys and values of all positions are copied
    (`PER_POSITION`). Each target token has logits, their log-softmax and a gradient, in float32.
    """
    flat = [row for own in rows for row in own]
    ends = max(len(row.ids) - end_of_subject(row) for row in flat)
    width = max(map(end_of_subject, flat)) + ends
    blocks = len(upper.lm.blocks) - upper.block - 1
    numbers = len(flat) * blocks * upper.lm.dim * (PER_END * ends + PER_POSITION * width)
    predicted = len(rows) + sum(len(row.answer) for row in flat)
    vocabulary = int(upper.projection.weight.shape[0])
    return numbers * upper.dtype.itemsize + 3 * 4 * predicted * vocabulary


def pieces(upper: UpperBlocks, rows: Sequence[Sequence[Encoded]], memory: int) -> list[list[int]]:
    """Group edits of similar length so that no group is estimated to take more than `memory` bytes.

    Args:
        upper: the blocks that run.
        rows: the rows of each edit.
        memory: bytes for a group; a group has at least one edit.
    """
    ends = [max(len(row.ids) - end_of_subject(row) for row in own) for own in rows]
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=ends.__getitem__):
        if groups and needed_bytes(upper, [rows[k] for k in (*groups[-1], i)]) <= memory:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


class _ValueBatch:
    """A batch of edits that are optimised together, each with its rows (`value_rows`)."""

    def __init__(
        self,
        lm: LM,
        upper: UpperBlocks,
        rows_of_edits: Sequence[Sequence[Encoded]],
        norms: Tensor,
        params: ValueParams,
    ) -> None:
        self.params, self.norms, self.upper = params, norms, upper
        rows = [row for own in rows_of_edits for row in own]
        self.each = len(rows_of_edits[0])  # rows per edit; the last is "{subject} is a"
        starts = torch.tensor([end_of_subject(r) for r in rows], device=lm.device)
        cached = states(lm, upper.block, [r.ids for r in rows])
        self.suffix = Suffix(self.upper, cached, torch.arange(len(rows), device=lm.device), starts)
        self.answers = [
            self._answers(row, end_of_subject(row), self.each - 1)
            for own in rows_of_edits
            for row in own[:-1]
        ]
        with torch.no_grad():
            essences = torch.arange(self.each - 1, len(rows), self.each, device=lm.device)
            alone = self.suffix.select(essences)
            self.reference = self.upper.logits(alone(alone.hidden)[:, 0]).log_softmax(-1)

    @staticmethod
    def _answers(row: Encoded, start: int, of: int) -> tuple[list[int], list[int], float]:
        """Return the columns that predict the target's tokens, these tokens, and the weight of each token.

        The weights average over tokens and over an edit's rows.
        """
        columns = [t - 1 - start for t in range(row.n_prompt, len(row.ids))]
        return columns, row.answer, 1.0 / (len(columns) * of)

    def run(self) -> Values:
        """Run Adam on all changes; finished edits leave the batch."""
        n, dim = len(self.norms), self.suffix.hidden.shape[-1]
        result = Values(*(torch.zeros(size, device=self.norms.device) for size in ((n, dim), (n,), (n,))))
        change, first, second = (torch.zeros_like(result.change) for _ in range(3))
        active, suffix = torch.arange(n, device=self.norms.device), self.suffix
        for step in range(self.params.steps):
            loss, gradient = self._loss(suffix, active, change)
            result.change[active], result.loss[active], result.updates[active] = change, loss, float(step)
            going = loss >= self.params.stop_loss
            if step == self.params.steps - 1 or not going.any():
                break
            if not going.all():
                active, change, first, second, gradient = (
                    t[going] for t in (active, change, first, second, gradient)
                )
                suffix = self.suffix.select(self._rows(active))
            first = first.lerp(gradient, 0.1)
            second = second.lerp(gradient * gradient, 0.001)
            scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            change = change - self.params.lr * (first / (1 - 0.9 ** (step + 1))) / scale
            limit = self.params.clamp * self.norms[active]
            change = change * (limit / change.norm(dim=-1).clamp_min(1e-12)).clamp_max(1.0)[:, None]
        return result

    def _rows(self, active: Tensor) -> Tensor:
        """Return the row indices of the active edits, edit by edit."""
        return (active[:, None] * self.each + torch.arange(self.each, device=active.device)).flatten()

    def _loss(self, suffix: Suffix, active: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of each edit [active] and its gradient [active, d]."""
        p, each = self.params, self.each
        with torch.enable_grad():
            delta = change.detach().requires_grad_()
            hidden = suffix.hidden.clone()
            hidden[:, 0] = hidden[:, 0] + delta.repeat_interleave(each, 0).to(hidden.dtype)
            final = suffix(hidden)
            row, column, label, weight = self._targets(active)
            nll = F.cross_entropy(self.upper.logits(final[row, column]), label, reduction="none") * weight
            losses = torch.zeros_like(change[:, 0]).index_add(0, row // each, nll)
            now = self.upper.logits(final[each - 1 :: each, 0]).log_softmax(-1)
            losses = losses + p.kl_weight * F.kl_div(
                self.reference[active], now, log_target=True, reduction="none"
            ).sum(-1)
            losses = losses + p.weight_decay * delta.norm(dim=-1) / self.norms[active] ** 2
            (gradient,) = torch.autograd.grad(losses.sum(), delta)
        return losses.detach(), gradient

    def _targets(self, active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return row, column, label and weight of each target token of the active edits, each [tokens]."""
        rows, columns, labels, weights = [], [], [], []
        own = self.each - 1
        for number, edit in enumerate(active.tolist()):
            for k in range(own):
                where, answer, weight = self.answers[edit * own + k]
                rows += [number * self.each + k] * len(where)
                columns += where
                labels += answer
                weights += [weight] * len(where)
        device = active.device
        index = (torch.tensor(v, device=device, dtype=torch.long) for v in (rows, columns, labels))
        return (*index, torch.tensor(weights, device=device))  # type: ignore[return-value]
