"""Algorithm 1 of the paper: train h_phi on cached block states.

What the network is trained on (`lks.material`) is prepared once: every prompt's states at block l, the subject's position
in it, and the unedited model's distributions on the locality prompts. A step gathers some rows, puts the new knowledge
blocks in, runs the blocks above l and projects at the positions that carry a loss. The language model's weights get no
gradient.
"""

import copy

import torch
from torch import Tensor

from lks.editor import Progress, silent
from lks.hypernetwork import Hypernetwork
from lks.lm import LM
from lks.losses import kl_divergence, negative_log_likelihood
from lks.material import PARTS, LKSParams, Material, Part
from lks.prefix import Upper


class Trainer:
    """Runs Algorithm 1 on prepared material."""

    def __init__(self, lm: LM, material: Material, params: LKSParams, seed: int) -> None:
        self.lm, self.material, self.params = lm, material, params
        self.upper = Upper(lm, params.block)
        self.network = Hypernetwork(params.hypernetwork, params.form, params.features, material.keys, material.own, seed)
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, chosen: dict[Part, list[int]]) -> Tensor:
        """Eq. 2 over some rows: lambda_edit * (L_edit + L_eq) + L_locality; a part without rows adds nothing."""
        m = self.material
        rows = [r for part in PARTS for r in chosen.get(part, ())]
        index = torch.tensor(rows, device=m.subject.device)
        hidden, mask = m.cached.rows(index)
        hidden = place(hidden, m.spans[index], self.network(m.subject[index]))
        final = self.upper(hidden, mask)
        total = hidden.new_zeros((), dtype=torch.float32)
        before = 0
        for part in PARTS:
            own = index[before : before + len(chosen.get(part, ()))]
            if len(own):
                weight = 1.0 if part == "locality" else self.params.lambda_edit
                total = total + weight * self._part_loss(part, own, final[before : before + len(own)])
            before += len(own)
        return total

    def _part_loss(self, part: Part, own: Tensor, final: Tensor) -> Tensor:
        m = self.material
        counts = m.offsets[own + 1] - m.offsets[own]
        rows = torch.repeat_interleave(torch.arange(len(own), device=own.device), counts)
        within = torch.arange(len(rows), device=own.device) - (counts.cumsum(0) - counts)[rows]
        where = m.offsets[own][rows] + within
        logits = self.upper.logits(final[rows, m.positions[where]])
        if part == "locality":
            return kl_divergence(logits, m.reference[m.reference_offsets[own][rows] + within], rows, len(own))
        return negative_log_likelihood(logits, m.labels[where], rows, len(own))

    def train(self, progress: Progress = silent) -> list[float]:
        """Train to convergence or `max_epochs`; the network is left at its best epoch. Returns mean losses per epoch."""
        p = self.params
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=p.lr, weight_decay=p.weight_decay)
        steps = p.max_epochs * len(self._epoch_batches())
        decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
        history: list[float] = []
        best, best_state, since = float("inf"), copy.deepcopy(self.network.state_dict()), 0
        with torch.enable_grad():
            for epoch in range(p.max_epochs):
                losses = []
                for batch in self._epoch_batches():
                    loss = self.loss(batch)
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
                    decay.step()
                    losses.append(loss.detach())
                history.append(float(torch.stack(losses).mean()))
                progress((epoch + 1) / p.max_epochs)
                since += 1
                if history[-1] < best:
                    best, best_state, since = history[-1], copy.deepcopy(self.network.state_dict()), 0
                if since >= p.patience or history[-1] < p.stop_loss or history[-1] != history[-1]:
                    break
        self.network.load_state_dict(best_state)
        return history

    def _epoch_batches(self) -> list[dict[Part, list[int]]]:
        """The rows of each step of one epoch; which paraphrases and locality prompts is drawn anew."""
        p, owned = self.params, self.material.owned
        order = torch.randperm(len(owned["edit"]), generator=self.generator).tolist()
        result: list[dict[Part, list[int]]] = []
        for start in range(0, len(order), p.batch_size):
            chosen: dict[Part, list[int]] = {part: [] for part in PARTS}
            for edit in order[start : start + p.batch_size]:
                chosen["edit"] += owned["edit"][edit]
                chosen["paraphrase"] += self._sample(owned["paraphrase"][edit], p.paraphrases)
                chosen["locality"] += self._sample(owned["locality"][edit], p.locality_prompts)
            result += [chosen] if p.optimisation == "joint" else [{part: rows} for part, rows in chosen.items() if rows]
        return sorted(result, key=lambda c: PARTS.index(next(iter(c)))) if p.optimisation == "alternating" else result

    def _sample(self, rows: list[int], count: int) -> list[int]:
        if len(rows) <= count:
            return rows
        return [rows[i] for i in torch.randperm(len(rows), generator=self.generator)[:count].tolist()]


def place(hidden: Tensor, spans: Tensor, new: Tensor) -> Tensor:
    """Put new blocks [batch, d] at every position of each row's span, keeping gradients to `new`.

    Args:
        hidden: [batch, time, d].
        spans: [batch, 2] first and last position.
        new: [batch, d].
    """
    time = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (time >= spans[:, :1]) & (time <= spans[:, 1:])
    return torch.where(inside[..., None], new[:, None].to(hidden.dtype), hidden)
