"""Algorithm 1 of the paper: training of h_phi on cached block states.

The training data (`lks.method.training_data`) is prepared once: every prompt's states at block l, the
subject's position in it, keys and values of what precedes it, and the unedited model's distributions on the
locality prompts. A step gathers the ends of some rows, from the subject's replaced token on, inserts the new
knowledge blocks, runs the blocks above l and projects at the positions that carry a loss. The language
model's weights get no gradient.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lks.editing.editor import Progress, no_progress
from lks.io.checkpoint import Checkpoint
from lks.io.training_state import TrainingState
from lks.method.hypernetwork import Design, Hypernetworks
from lks.method.params import LKSParams
from lks.method.training_data import PARTS, Part, TrainingData, losses_at
from lks.models.frozen_prefix import batches
from lks.models.lm import LM
from lks.models.losses import row_means

STEP_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Padded tokens that run together in a step."""


class LKSTrainer:
    """Runs Algorithm 1 on prepared training data.

    Args:
        lm: the unedited model.
        material: training data of the edits.
        params: parameters of LKS.
        seed: random seed for initial weights and batch order.
        learnt: what the networks of an earlier training learnt (`Hypernetworks.learnt`), to continue from.

    Raises:
        ValueError: `learnt` does not fit the model or the parameters.
    """

    def __init__(
        self,
        lm: LM,
        material: TrainingData,
        params: LKSParams,
        seed: int,
        learnt: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.lm, self.material, self.params = lm, material, params
        design = Design(params.hypernetwork, params.form, params.features, params.width)
        self.networks = Hypernetworks(design, material.keys, material.own, seed, learnt)
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, chosen: dict[Part, list[int]]) -> Tensor:
        """Compute Eq. 2 over some rows: lambda_edit * (L_edit + L_eq) + L_locality.

        A part without rows adds nothing. Rows of similar length run together, which keeps padding low; each
        row contributes its share of its part's mean.
        """
        m = self.material
        shares = {
            part: (1.0 if part == "locality" else self.params.lambda_edit) / max(1, len(chosen.get(part, ())))
            for part in PARTS
        }
        pairs = [(row, shares[part]) for part in PARTS for row in chosen.get(part, ())]
        index = torch.tensor([row for row, _ in pairs], device=m.subject.device)
        share = torch.tensor([share for _, share in pairs], device=m.subject.device)
        lengths = (m.cached.lengths[index] - m.spans[index, 0]).tolist()
        total = share.new_zeros(())
        for group in batches(lengths, STEP_TOKENS[index.device.type]):
            here = torch.tensor(group, device=index.device)
            total = total + (share[here] * self._row_losses(index[here])).sum()
        return total

    def _row_losses(self, index: Tensor) -> Tensor:
        """Compute Eq. 3, 4 or 5 for each row, [rows]."""
        m = self.material
        ends, start = m.ends(index), m.spans[index, 0]
        new, spans = self.networks(m.subject[index]), m.spans[index] - start[:, None]
        final = ends(
            place(ends.hidden, spans, new[0]), lambda number, hidden: place(hidden, spans, new[number + 1])
        )
        rows, where = losses_at(m, index)
        logits = m.upper.logits(final[rows, m.positions[where] - start[rows]])
        kept = m.reference_offsets[index][rows]
        held = kept >= 0
        moved = m.references.kl(logits[held], (kept + where - m.offsets[index][rows])[held])
        wanted = F.cross_entropy(logits[~held], m.labels[where[~held]], reduction="none")
        return row_means(moved, rows[held], len(index)) + row_means(wanted, rows[~held], len(index))

    def train(self, progress: Progress = no_progress, kept: Checkpoint | None = None) -> list[float]:
        """Train to convergence or `max_epochs`; the networks end at their best epoch.

        Args:
            progress: called with the fraction done.
            kept: checkpoint of a long training, saved after some epochs. A killed training resumes from it
                and gives the same result; it is deleted when the training has finished.

        Returns:
            Mean loss of each epoch.
        """
        p = self.params
        optimiser = torch.optim.AdamW(self.networks.parameters(), lr=p.lr, weight_decay=p.weight_decay)
        per_epoch = len(self._epoch_batches())
        decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=p.max_epochs * per_epoch)
        state = TrainingState(self.networks, kept, optimiser=optimiser, decay=decay, generator=self.generator)
        history = state.history
        if not history:
            state.keep_weights()  # the result if the first loss is NaN
        with torch.enable_grad():
            while len(history) < p.max_epochs and (
                not history or (state.since < p.patience and history[-1] >= p.stop_loss)
            ):
                losses = []
                for number, batch in enumerate(self._epoch_batches()):
                    loss = self.loss(batch)
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
                    decay.step()
                    losses.append(loss.detach())
                    if number % 10 == 0:
                        progress((len(history) + number / per_epoch) / p.max_epochs)
                mean = float(torch.stack(losses).mean())
                if mean != mean:
                    history.append(mean)
                    break
                state.record(mean)
                state.save()
        progress(1.0)
        state.use_best()
        if kept:
            kept.remove()
        return history

    def _epoch_batches(self) -> list[dict[Part, list[int]]]:
        """Return the rows of each step of one epoch; paraphrases and locality prompts are drawn again."""
        p, owned = self.params, self.material.owned
        order = torch.randperm(len(owned["edit"]), generator=self.generator).tolist()
        result: list[dict[Part, list[int]]] = []
        for start in range(0, len(order), p.batch_size):
            chosen: dict[Part, list[int]] = {part: [] for part in PARTS}
            for edit in order[start : start + p.batch_size]:
                chosen["edit"] += owned["edit"][edit]
                chosen["paraphrase"] += self._sample(owned["paraphrase"][edit], p.paraphrases)
                chosen["locality"] += self._sample(owned["locality"][edit], p.locality_prompts)
            result += (
                [chosen]
                if p.optimisation == "joint"
                else [{part: rows} for part, rows in chosen.items() if rows]
            )
        return (
            sorted(result, key=lambda c: PARTS.index(next(iter(c))))
            if p.optimisation == "alternating"
            else result
        )

    def _sample(self, rows: list[int], count: int) -> list[int]:
        """Return `count` random rows, or all if there are no more."""
        if len(rows) <= count:
            return rows
        return [rows[i] for i in torch.randperm(len(rows), generator=self.generator)[:count].tolist()]


def place(hidden: Tensor, spans: Tensor, new: Tensor) -> Tensor:
    """Put new blocks [batch, d] at every position of each row's span, with gradients to `new`.

    Args:
        hidden: [batch, time, d] states.
        spans: [batch, 2] first and last position.
        new: [batch, d] new blocks.
    """
    time = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (time >= spans[:, :1]) & (time <= spans[:, 1:])
    return torch.where(inside[..., None], new[:, None].to(hidden.dtype), hidden)
