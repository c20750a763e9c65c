"""MEND: a trained network maps an edit's gradient to a change of the weights.

The method is from Mitchell et al. 2022 (arXiv 2110.11309). The gradient of a linear layer's weight is a sum
of outer products delta x^T, one per token. The network maps each pair to another pair, so it sees d_in +
d_out numbers per token instead of d_in * d_out. Changes of several edits add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from baselines._mend.network import Layer, MendNetwork, live, mlp_layers
from baselines._mend.passes import Border, gradients
from baselines._mend.training import MendTrainer, change, measure
from baselines._meta_training import loop
from baselines._targets import TargetParams, encode_targets
from lks.editing.editor import SHORT, After, Editor, always, canonical, no_callback
from lks.editing.patch import Patch, WeightPatch
from lks.editing.search_space import Choices, LogRange, SearchSpace
from lks.edits import Edit
from lks.errors import UserError
from lks.io.cache import Making, made
from lks.models.frozen_prefix import batches
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class MendParams(TargetParams):
    """Parameters of MEND, in addition to the end of the answer.

    Attributes:
        blocks: blocks whose MLP linear layers are edited (0-based; negative counts from the end).
        compat: whether the edit loss of training is taken on a paraphrase ("published") or on the edit prompt
            itself ("easyedit").
        rank: rank of the networks' low-rank layers; at most d_in + d_out.
        depth: number of residual layers of a network.
        normalise: whether gradient factors are normalised to mean 0 and standard deviation 1.
        edit_lr: initial value of the learned step sizes.
        lr, lr_lr: Adam learning rates of the networks and of the step sizes.
        c_edit, c_loc: weights of the edit loss and of the locality loss.
        edits_per_step: number of edits made at once in training.
        accumulate: sets of `edits_per_step` edits per optimiser step.
        locality_prompts: locality prompts per edit and step.
        locality_tokens: number of tokens of the unedited model's answer to a locality prompt that are
            preserved.
        clip: bound on the norm of the whole gradient.
        max_steps: maximum number of optimiser steps.
        decay: whether the learning rates fall linearly to zero at `max_steps`.
        validation_interval: steps between validations.
        patience: validations without a new best before training stops.
        validation_edits: maximum number of validation edits.
    """

    search_space: ClassVar[SearchSpace] = (
        Choices("blocks", ((-1,), (-2, -1), (-3, -2, -1), (-5, -4, -3))),
        Choices("rank", (64, 256, 1920)),
        LogRange("edit_lr", 1e-5, 1e-2),
        LogRange("lr", 1e-6, 1e-4),
        LogRange("c_edit", 0.03, 1.0),
        Choices("edits_per_step", (1, 10)),
    )

    blocks: tuple[int, ...] = (-3, -2, -1)
    compat: Literal["published", "easyedit"] = "published"
    rank: int = 1920
    depth: int = 2
    normalise: bool = True
    edit_lr: float = 1e-4
    lr: float = 1e-6
    lr_lr: float = 1e-4
    c_edit: float = 0.1
    c_loc: float = 1.0
    edits_per_step: int = 1
    accumulate: int = 10
    locality_prompts: int = 1
    locality_tokens: int = 3
    clip: float = 100.0
    max_steps: int = 10_000
    decay: bool = False
    validation_interval: int = 100
    patience: int = 20
    validation_edits: int = 500


_SMALL = MendParams(rank=64, edit_lr=1e-3, lr=1e-5, lr_lr=1e-3, max_steps=600, validation_interval=50)


class Mend(Editor[MendParams]):
    """A learned transformation of the edit's gradient, with one forward and one backward pass per edit."""

    title: ClassVar = "MEND"
    source: ClassVar = "Mitchell et al. 2022, arXiv 2110.11309"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = MendParams
    trains: ClassVar = True
    effort: ClassVar = "max_steps"
    made_for: ClassVar = SHORT
    presets: ClassVar = {
        # EasyEdit, hparams/TRAINING/MEND/llama-7b.yaml and mistral-7b.yaml: 100,000 single edits, 10 per
        # optimiser step, validated every 1,000
        "llama-2-7b-chat": always(MendParams()),
        "mistral-7b-instruct-v0.3": always(MendParams()),
        # our choice, on cases that no grid evaluates: tried blocks 1 to 3, 2 to 4 and 3 to 5, lr 1e-6 and
        # 1e-5, and 1 and 10 edits per step
        "micro": always(_SMALL),
        "mini": always(_SMALL),
    }

    def __init__(self, params: MendParams) -> None:
        super().__init__(params)
        self._trained: dict[str, Tensor] | None = None

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: Progress = no_progress) -> float:
        """Meta-train the network or load it from the cache."""
        parts = loop.split(training, self.title, self.params.validation_edits)
        depends = {
            "model": lm.identity,
            "parameters": canonical(self.params),
            "training": loop.digest(training),
        }
        kept = made("mend", depends, lambda making: self._train(lm, parts, progress, making))
        self._trained = kept.tensors
        progress(1.0)
        return kept.seconds

    def _blocks(self, lm: LM) -> list[int]:
        """Return the edited blocks, counted from the start."""
        return [b + len(lm.blocks) if b < 0 else b for b in self.params.blocks]

    def network(self, layers: Sequence[Layer]) -> MendNetwork:
        """Create the untrained network."""
        p = self.params
        return MendNetwork(layers, p.rank, p.depth, p.edit_lr, seed=0)

    def _train(self, lm: LM, parts: loop.Split, progress: Progress, making: Making) -> dict[str, Tensor]:
        """Meta-train a new network and return its weights."""
        blocks = self._blocks(lm)
        layers, border = mlp_layers(lm, blocks), Border(lm, min(blocks))
        network = self.network(layers).to(lm.device)
        if self.params.normalise:
            encoded = encode_targets(lm, parts.train, self.params)
            kept = making.checkpoint("measuring")
            network.normalise(making.step("moments", lambda: measure(network, border, layers, encoded, kept)))
        MendTrainer(lm, layers, border, network, self.params, seed=0).fit(
            parts, progress, making.checkpoint("training")
        )
        return network.state_dict()

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Sum the changes of all edits, each computed from its own gradient at the unedited model."""
        if not edits:
            return WeightPatch({})
        if self._trained is None:
            raise UserError(
                f"{self.title} edits with a network that was trained beforehand: "
                "call `prepare` with training edits first."
            )
        blocks = self._blocks(lm)
        layers, border = mlp_layers(lm, blocks), Border(lm, min(blocks))
        network = self.network(layers).to(lm.device)
        network.load_state_dict(self._trained)
        sums = [FactoredChange(layer) for layer in layers]
        encoded = encode_targets(lm, edits, self.params)
        done = 0
        for chosen in batches([len(e.ids) for e in encoded], 4096):
            found = gradients(border, layers, border.rows([encoded[i] for i in chosen]))
            with torch.no_grad():
                for total, (right, left), (_, delta) in zip(
                    sums, change(network, found, 1), found, strict=True
                ):
                    kept = live(delta).reshape(-1)
                    total.add(left[0][kept], right[0][kept])
            done += len(chosen)
            progress(done / len(edits))
        return WeightPatch({name: tensor for total in sums for name, tensor in total.tensors().items()})


class FactoredChange:
    """A weight's change, kept as two factors as long as these are smaller than the dense change."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.left: list[Tensor] = []
        self.right: list[Tensor] = []
        self.dense: Tensor | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add the sum over tokens of left right^T, with left [tokens, d_out] and right [tokens, d_in]."""
        self.left.append(left)
        self.right.append(right)
        if self.dense is not None or sum(map(len, self.left)) >= min(self.layer.d_in, self.layer.d_out):
            product = torch.cat(self.left).T @ torch.cat(self.right)
            self.dense = product if self.dense is None else self.dense + product
            self.left, self.right = [], []

    def tensors(self) -> dict[str, Tensor]:
        """Return the change as `WeightPatch` stores it, in the orientation of the weight."""
        name, flip = self.layer.name, self.layer.transposed
        if self.dense is not None:
            return {name: (self.dense.T if flip else self.dense).contiguous()}
        left, right = torch.cat(self.left), torch.cat(self.right)
        left, right = (right, left) if flip else (left, right)
        return {f"{name}.left": left.T.contiguous(), f"{name}.right": right}
