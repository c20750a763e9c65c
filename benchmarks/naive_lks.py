"""LKS as implemented here against a plain implementation of the same, in one run.

The plain path does what a straightforward implementation does, and the authors' published code by its
description: every step runs the whole model from token ids for the edit, the paraphrase and the locality
prompts, one part after the other, with gradients of all its weights (computed and never used) and logits at
every position. The input of h_phi is recomputed by a forward pass for each part, and so are the unedited
distributions on the locality prompts. Both train the same network on the same rows in the same order with the
same optimiser for the same number of steps.

Run: `python -m benchmarks.naive_lks [MODEL or SHAPE] [EDITS] [EPOCHS]`; shapes (random weights) are in
`benchmarks.shapes`.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.shapes import SHAPES, random_model
from lks.data.datasets import load
from lks.edits import Edit
from lks.method.hypernetwork import Hypernetwork
from lks.method.params import LKSParams
from lks.method.trainer import LKSTrainer, place
from lks.method.training_data import PARTS, Part, losses_at, prepare
from lks.models.lm import LM
from lks.models.losses import kl_divergence, negative_log_likelihood

PAPER = LKSParams(block=2, max_epochs=2, patience=1000, stop_loss=0.0)
"""The paper's form of h_phi and batch size, joint optimisation, no early stopping."""


class NaiveTrainer(LKSTrainer):
    """`LKSTrainer` with the loss computed the plain way.

    Rows, order, optimiser and early stopping are inherited.

    Args:
        lm: the model.
        edits: the edits.
        params: parameters of LKS, with plain features.
        seed: random seed for the network and the order.
    """

    def __init__(self, lm: LM, edits: Sequence[Edit], params: LKSParams, seed: int) -> None:
        super().__init__(lm, prepare(lm, edits, params), params, seed)
        self.texts = [lm.encode([f"{edit.prompt.rstrip()} {edit.target}"], [""])[0].ids for edit in edits]
        self.blocks = (params.block, *params.more_blocks)
        keys = self.material.keys.float()
        self.means = keys.mean(1)
        self.scales = (keys - self.means[:, None]).pow(2).mean((1, 2)).sqrt()

    def loss(self, chosen: dict[Part, list[int]]) -> Tensor:
        """Compute the loss (Eq. 2) by whole forward passes, one part after the other."""
        total = torch.zeros((), device=self.lm.device)
        for part in PARTS:
            if chosen.get(part):
                weight = 1.0 if part == "locality" else self.params.lambda_edit
                total = total + weight * self._part(part, torch.tensor(chosen[part], device=self.lm.device))
        return total

    def _part(self, part: Part, index: Tensor) -> Tensor:
        """Compute the loss of one part for some rows."""
        m = self.material
        ids, mask = self.lm.pad([m.ids[r] for r in index.tolist()])
        with _replaced([self.lm.block(b) for b in self.blocks], m.spans[index], self._new(m.subject[index])):
            logits = self.lm.model(input_ids=ids, attention_mask=mask).logits.float()
        rows, where = losses_at(m, index)
        picked = logits[rows, m.positions[where]]
        if part != "locality":
            return negative_log_likelihood(picked, m.labels[where], rows, len(index))
        with torch.no_grad():
            unedited = self.lm.model(input_ids=ids, attention_mask=mask).logits.float()[
                rows, m.positions[where]
            ]
        return kl_divergence(picked, unedited.log_softmax(-1), rows, len(index))

    def _new(self, subjects: Tensor) -> list[Tensor]:
        """Compute the new knowledge blocks, with inputs of h_phi from a forward pass over "prompt target"."""
        texts = [self.texts[s] for s in subjects.tolist()]
        ids, mask = self.lm.pad(texts)
        states = self.lm.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        last = torch.tensor([len(text) - 1 for text in texts])
        made = []
        for number, (block, network) in enumerate(zip(self.blocks, self.networks, strict=True)):
            assert isinstance(network, Hypernetwork)
            keys = states[block + 1][torch.arange(len(texts)), last].detach().float()
            made.append(
                network.anchor[subjects]
                + network.scale[subjects] * network.network((keys - self.means[number]) / self.scales[number])
            )
        return made


@contextmanager
def _replaced(blocks: Sequence[nn.Module], spans: Tensor, new: Sequence[Tensor]) -> Iterator[None]:
    """Replace the outputs of blocks at the spans inside the `with`."""
    with ExitStack() as hooks:
        for block, made in zip(blocks, new, strict=True):

            def put(
                _module: object, _args: object, output: Tensor | tuple[Tensor, ...], made: Tensor = made
            ) -> Tensor | tuple[Tensor, ...]:
                return (
                    (place(output[0], spans, made), *output[1:])
                    if isinstance(output, tuple)
                    else place(output, spans, made)
                )

            hooks.callback(block.register_forward_hook(put).remove)
        yield


def trained(trainer: LKSTrainer, weight_gradients: bool) -> tuple[list[float], float]:
    """Train; return the loss of each epoch and the seconds."""
    trainer.lm.model.requires_grad_(weight_gradients)
    start = time.perf_counter()
    history = trainer.train()
    seconds = time.perf_counter() - start
    trainer.lm.model.requires_grad_(False)
    for parameter in trainer.lm.model.parameters():
        parameter.grad = None
    return history, seconds


def main(model: str = "small", n_edits: int = 64, epochs: int = 2) -> None:
    """Print seconds, ratio and losses of both paths, and of this implementation in bfloat16."""
    shape = SHAPES.get(model)
    lm = random_model(model) if shape else LM.load(model)
    dataset = "zsre" if "zsre" in model else "world"
    known: dict[str, Edit] = {}
    for case in load(dataset).cases:  # one edit per subject: the plain path computes keys edit by edit
        known.setdefault(case.edit.subject, case.edit)
    edits = list(known.values())[:n_edits]
    params = replace(PAPER, max_epochs=epochs, block=shape.block if shape else PAPER.block)
    start = time.perf_counter()
    ours = LKSTrainer(lm, prepare(lm, edits, params), params, 0)
    preparing = time.perf_counter() - start
    half = replace(params, precision="bfloat16")
    runs = {
        "ours": trained(ours, weight_gradients=False),
        "ours, bfloat16": trained(LKSTrainer(lm, prepare(lm, edits, half), half, 0), weight_gradients=False),
        "plain": trained(NaiveTrainer(lm, edits, params, 0), weight_gradients=True),
    }
    plain = runs["plain"][1]
    table = Table(
        title=f"{model}, {len(edits)} edits of {dataset}, "
        f"{epochs} epochs of {-(-len(edits) // params.batch_size)} steps, {lm.device}"
    )
    for column in ("path", "s", "ms/step", "plain / this", "with preparation", "loss, first epoch", "last"):
        table.add_column(column, justify="right")
    steps = epochs * -(-len(edits) // params.batch_size)
    for name, (history, seconds) in runs.items():
        before = preparing if name != "plain" else 0.0
        ratios = f"{plain / seconds:.1f}", f"{plain / (seconds + before):.1f}"
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{seconds / steps * 1e3:.1f}",
            *ratios,
            f"{history[0]:.5f}",
            f"{history[-1]:.5f}",
        )
    Console(width=140).print(table)
    Console(width=140).print(f"Preparation, once: {preparing:.2f} s for any number of epochs.")


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(a) for a in sys.argv[2:4]))
