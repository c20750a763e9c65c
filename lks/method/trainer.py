"""Algorithm 1 of the paper: training of h_phi on cached block states.

The training data (`lks.method.training_data`) is prepared once: every prompt's states at block l, the
subject's position in it, keys and values of what precedes it, and the unedited model's distributions on the
locality prompts. A step gathers the ends of some rows, from the subject's replaced token on, inserts the new
knowledge blocks, runs the blocks above l and projects at the positions that carry a loss. The language
model's weights get no gradient.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lks.io.checkpoint import Checkpoint
from lks.io.training_state import TrainingState
from lks.method.hypernetwork import Design, Hypernetworks
from lks.method.params import LKSParams
from lks.method.row_adam import RowAdam
from lks.method.training_data import PARTS, Part, TrainingData, losses_at
from lks.models.frozen_prefix import batches
from lks.models.lm import LM
from lks.models.losses import row_means
from lks.progress import Progress, no_progress

STEP_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Padded tokens that run together in a step."""


UNSEEN = -1.0
"""In place of a loss, for a row that has not been in a step."""


class LatestLosses(nn.Module):
    """The loss that each row had when it was last in a step.

    Args:
        material: training data, whose rows they are.
        lambda_edit: weight of the edit and paraphrase losses.
    """

    def __init__(self, material: TrainingData, lambda_edit: float) -> None:
        super().__init__()
        self.owned, self.lambda_edit = material.owned, lambda_edit
        self.rows: Tensor
        self.register_buffer("rows", torch.full((len(material.ids),), UNSEEN, device=material.spans.device))

    def mean(self) -> float:
        """Compute Eq. 2 over all rows that have been in a step."""
        total = 0.0
        for part, owned in self.owned.items():
            found = self.rows[[row for rows in owned for row in rows]]
            found = found[found != UNSEEN]
            if len(found):
                total += (1.0 if part == "locality" else self.lambda_edit) * float(found.mean())
        return total

    def hardest(self, rows: Sequence[int], count: int) -> list[int]:
        """Return the `count` rows with the highest losses, those that have not been in a step first."""
        found = self.rows[list(rows)].tolist()
        order = sorted(range(len(rows)), key=lambda i: -found[i] if found[i] != UNSEEN else float("-inf"))
        return [rows[i] for i in order[:count]]

    def learnt(self, below: float) -> list[bool]:
        """Return for each edit whether its prompt and all its paraphrases have losses below a number.

        One with locality rows never counts as learnt.
        """
        low = ((self.rows != UNSEEN) & (self.rows < below)).tolist()
        return [
            not locality and all(low[row] for row in (*prompt, *paraphrases))
            for prompt, paraphrases, locality in zip(*(self.owned[part] for part in PARTS), strict=True)
        ]


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
        design = Design(
            params.hypernetwork, params.form, params.features, params.width, own_scale=params.independent
        )
        self.networks = Hypernetworks(design, material.keys, material.own, seed, learnt)
        self.generator = torch.Generator().manual_seed(seed)
        self.latest = LatestLosses(material, params.lambda_edit)

    def loss(self, chosen: dict[Part, list[int]]) -> Tensor:
        """Compute Eq. 2 over some rows: lambda_edit * (L_edit + L_eq) + L_locality.

        A part without rows adds nothing. Rows of similar length run together, which keeps padding low; each
        row contributes its share of its part's mean.
        """
        m, p = self.material, self.params
        count = {part: max(1, len(chosen.get(part, ()))) for part in PARTS}
        shares = {part: (1.0 if part == "locality" else p.lambda_edit) / count[part] for part in PARTS}
        pairs = [(row, shares[part]) for part in PARTS for row in chosen.get(part, ())]
        index = torch.tensor([row for row, _ in pairs], device=m.subject.device)
        share = torch.tensor([share for _, share in pairs], device=m.subject.device)
        lengths = (m.cached.lengths[index] - m.spans[index, 0]).tolist()
        total = share.new_zeros(())
        for group in batches(lengths, STEP_TOKENS[index.device.type]):
            here = torch.tensor(group, device=index.device)
            losses = self._row_losses(index[here])
            self.latest.rows[index[here]] = losses.detach().float()
            total = total + (share[here] * losses).sum()
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
        states = final[rows, m.positions[where] - start[rows]]
        kept = m.reference_offsets[index][rows]
        held = kept >= 0
        losses = states.new_zeros(len(index), dtype=torch.float32)
        if held.any():
            at = (kept + where - m.offsets[index][rows])[held]
            losses = losses + row_means(
                m.references.kl(m.upper.logits(states[held]), at), rows[held], len(index)
            )
        if not held.all():
            wanted = m.upper.cross_entropy(states[~held], m.labels[where[~held]])
            losses = losses + row_means(wanted, rows[~held], len(index))
        return losses

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
        weights = self.networks.parameters()
        optimiser = (
            RowAdam(weights, lr=p.lr)
            if p.independent
            else torch.optim.AdamW(weights, lr=p.lr, weight_decay=p.weight_decay)
        )
        per_epoch = len(self._epoch_batches())
        steps = 1 if p.independent else per_epoch  # of the schedule in an epoch
        decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=p.max_epochs * steps)
        parts = {"latest": self.latest} if p.independent else {}
        state = TrainingState(
            self.networks, kept, optimiser=optimiser, decay=decay, generator=self.generator, **parts
        )
        history = state.history
        if not history:
            state.keep_weights()  # the result if the first loss is NaN
        with torch.enable_grad():
            while len(history) < p.max_epochs and (
                not history or (state.since < p.patience and history[-1] >= p.stop_loss)
            ):
                losses, batches_left = [], self._epoch_batches()
                if not batches_left:  # every edit is learnt
                    break
                for number, batch in enumerate(batches_left):
                    loss = self.loss(batch)
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
                    if not p.independent:
                        decay.step()
                    losses.append(loss.detach())
                    if number % 10 == 0:
                        progress((len(history) + number / per_epoch) / p.max_epochs)
                if p.independent:
                    decay.step()
                mean = self.latest.mean() if p.independent else float(torch.stack(losses).mean())
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
        """Return the rows of each step of one epoch; paraphrases and locality prompts are drawn again.

        Where vectors are independent, edits that are learnt are left out, and the paraphrases are those that
        had the highest losses, after those that have not been in a step: each is soon known to be learnt.
        """
        p, owned = self.params, self.material.owned
        order = torch.randperm(len(owned["edit"]), generator=self.generator).tolist()
        if p.independent:
            learnt = self.latest.learnt(p.stop_loss)
            order = [edit for edit in order if not learnt[edit]]
        result: list[dict[Part, list[int]]] = []
        for start in range(0, len(order), p.batch_size):
            chosen: dict[Part, list[int]] = {part: [] for part in PARTS}
            for edit in order[start : start + p.batch_size]:
                chosen["edit"] += owned["edit"][edit]
                chosen["paraphrase"] += (
                    self.latest.hardest(owned["paraphrase"][edit], p.paraphrases)
                    if p.independent
                    else self._sample(owned["paraphrase"][edit], p.paraphrases)
                )
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
