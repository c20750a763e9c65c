"""MEND's meta-training of edits that generalise and preserve other answers (arXiv 2110.11309, Alg. 1)."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from baselines._mend.network import Layer, MendNetwork, live
from baselines._mend.passes import Border, BorderRows, gradients, row_losses, with_factors
from baselines._meta_training.loop import Batches, MetaTraining, Schedule, Split, fit
from lks.edits import Edit
from lks.io.checkpoint import Checkpoint
from lks.method.training_data import continuations
from lks.models.frozen_prefix import batches
from lks.models.lm import LM, Encoded
from lks.models.losses import kl_divergence
from lks.progress import Progress


class MendSettings(Schedule, Protocol):
    """Settings of MEND's training; the method's parameters have these fields."""

    @property
    def compat(self) -> str:
        """Prompt of the edit loss: "published" uses a paraphrase, "easyedit" the edit prompt itself."""

    @property
    def end_of_answer(self) -> bool:
        """Whether targets end with the end-of-sequence token."""

    @property
    def c_edit(self) -> float:
        """Weight of the edit loss."""

    @property
    def c_loc(self) -> float:
        """Weight of the locality loss."""

    @property
    def lr(self) -> float:
        """Adam learning rate of the networks."""

    @property
    def lr_lr(self) -> float:
        """Adam learning rate of the step sizes."""

    @property
    def accumulate(self) -> int:
        """Sets of edits per optimiser step."""

    @property
    def edits_per_step(self) -> int:
        """Edits in a set."""

    @property
    def locality_prompts(self) -> int:
        """Locality prompts per edit and step."""

    @property
    def locality_tokens(self) -> int:
        """Positions of a locality row that are preserved."""


def change(
    network: MendNetwork, found: Sequence[tuple[Tensor, Tensor]], groups: int
) -> list[tuple[Tensor, Tensor]]:
    """Compute each layer's factors x~ and -step * delta~ [groups, tokens, d] from the gradient factors.

    All groups must have the same number of rows.
    """
    made = []
    for number, (x, delta) in enumerate(found):
        x_new, delta_new = network(number, x, delta)
        made.append(
            (
                x_new.reshape(groups, -1, x.shape[-1]),
                (-network.steps[number] * delta_new).reshape(groups, -1, delta.shape[-1]),
            )
        )
    return made


def measure(
    network: MendNetwork,
    border: Border,
    layers: Sequence[Layer],
    encoded: Sequence[Encoded],
    kept: Checkpoint | None = None,
    batch_tokens: int = 4096,
) -> dict[str, Tensor]:
    """Compute moments of the edits' gradient factors in the form that `MendNetwork.normalise` expects.

    The language model is frozen, so the moments do not change while the network trains: one pass before
    training replaces the running statistics of the paper. The pass resumes from the checkpoint `kept`.
    """
    sums: dict[str, Tensor] = {}
    done = 0
    if kept and (state := kept.load()):
        sums = {key: total.to(border.lm.device) for key, total in state["sums"].items()}
        done = state["done"]
    for number, chosen in enumerate(batches([len(e.ids) for e in encoded], batch_tokens)[done:], done + 1):
        for key, (x, delta) in zip(
            network.keys, gradients(border, layers, border.rows([encoded[i] for i in chosen])), strict=True
        ):
            live_tokens = live(delta)
            z = torch.cat([x[live_tokens], delta[live_tokens]], -1).double()
            sums[key] = sums.get(key, 0) + torch.stack(
                [torch.full_like(z.sum(0), len(z)), z.sum(0), z.pow(2).sum(0)]
            )
        if kept and kept.due():
            kept.save({"sums": sums, "done": number})
    return sums


class MendTrainer:
    """Trainer of a MEND network: draws edits and computes the loss of editing them.

    Args:
        lm: the unedited model.
        layers: the edited layers.
        border: the border below the edited layers.
        network: the network to train.
        settings: training settings.
        seed: random seed for all draws.
    """

    def __init__(
        self,
        lm: LM,
        layers: Sequence[Layer],
        border: Border,
        network: MendNetwork,
        settings: MendSettings,
        seed: int,
    ) -> None:
        self.lm, self.layers, self.border, self.network, self.settings = lm, layers, border, network, settings
        self.generator = torch.Generator().manual_seed(seed)
        self.tails: dict[str, list[int]] = {}

    def fit(self, edits: Split, progress: Progress, kept: Checkpoint | None = None) -> list[float]:
        """Train, keep the weights with the best validation loss, and return all validation losses.

        Args:
            edits: training and validation edits.
            progress: called with the fraction done.
            kept: checkpoint, as in `baselines._meta_training.loop.fit`.
        """
        s = self.settings
        groups = [
            {"params": self.network.networks.parameters(), "lr": s.lr},
            {"params": [self.network.steps], "lr": s.lr_lr},
        ]
        batches = Batches(len(edits.train), s.accumulate * s.edits_per_step, self.generator)
        held = self._held(edits.validation)

        def loss() -> Tensor:
            return self.loss(*self.rows([edits.train[i] for i in next(batches)]))

        @torch.no_grad()
        def validation() -> float:
            return sum(float(self.loss(*rows)) for rows in held) / len(held)

        return fit(
            MetaTraining(self.network, torch.optim.Adam(groups), batches, loss, validation, self.tails),
            s,
            progress,
            kept,
        )

    def _held(self, edits: Sequence[Edit]) -> list[tuple[BorderRows, BorderRows, BorderRows]]:
        """Return the fixed validation rows, in sets as large as in training if there are enough edits."""
        size = min(len(edits), self.settings.edits_per_step)
        sets = max(1, min(self.settings.accumulate, len(edits) // size))
        starts = range(0, len(edits) - sets * size + 1, sets * size)
        return [self.rows(edits[start : start + sets * size]) for start in starts]

    def rows(self, edits: Sequence[Edit]) -> tuple[BorderRows, BorderRows, BorderRows]:
        """Return edit rows, edit-loss rows and locality rows of the edits, edit by edit."""
        targets, end = [e.target for e in edits], self.settings.end_of_answer
        prompts = [e.prompt for e in edits]
        outer = (
            [self._pick(e.training_paraphrases or (e.prompt,), 1)[0] for e in edits]
            if self.settings.compat == "published"
            else prompts
        )
        count = self.settings.locality_prompts
        near = [
            p
            for i, e in enumerate(edits)
            for p in self._pick(e.training_locality or (edits[i - 1].prompt,), count)
        ]
        encode = self.lm.encode
        return (
            self.border.rows(encode(prompts, targets, end=end)),
            self.border.rows(encode(outer, targets, end=end)),
            self.border.rows(self._continued(near)),
        )

    def _pick(self, prompts: Sequence[str], count: int) -> list[str]:
        """Draw prompts with replacement."""
        return [prompts[i] for i in torch.randint(len(prompts), (count,), generator=self.generator).tolist()]

    def _continued(self, prompts: Sequence[str]) -> list[Encoded]:
        """Return prompts with the unedited model's greedy answers of up to `locality_tokens` tokens.

        Each prompt's answer is generated only once.
        """
        encoded = dict(zip(prompts, self.lm.encode(prompts, [""] * len(prompts)), strict=True))
        new = [p for p in encoded if p not in self.tails]
        if new:
            self.tails.update(
                zip(
                    new,
                    continuations(self.lm, [encoded[p] for p in new], self.settings.locality_tokens),
                    strict=True,
                )
            )
        # a prompt that the model answers with end-of-text is still preserved at its last token
        return [
            Encoded(encoded[p].ids + (self.tails[p] or [end_of(self.lm)]), encoded[p].n_prompt)
            for p in prompts
        ]

    def loss(self, edit: BorderRows, outer: BorderRows, near: BorderRows) -> Tensor:
        """Compute c_edit * NLL(target | paraphrase, edited) + c_loc * KL(unedited || edited) (Eqs. 4a to 4c).

        The KL term is taken on the locality rows. Each set of edits is applied separately; an edited model
        sees only the paraphrases and locality rows of its own set.
        """
        groups = max(1, len(edit.hidden) // self.settings.edits_per_step)
        with torch.no_grad():
            reference = self.border.logits(near).log_softmax(-1)
        factors = change(self.network, gradients(self.border, self.layers, edit), groups)
        with with_factors(self.layers, factors):
            edit_loss = row_losses(self.border.logits(outer), outer).mean()
            drift = kl_divergence(self.border.logits(near), reference, near.row, len(near.hidden))
        return self.settings.c_edit * edit_loss + self.settings.c_loc * drift


def end_of(lm: LM) -> int:
    """Return the end-of-text token id."""
    return int(lm.tokenizer.pad_token_id if lm.tokenizer.eos_token_id is None else lm.tokenizer.eos_token_id)
