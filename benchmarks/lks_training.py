"""Training steps of LKS on cached block states against the plain path, side by side in one run.

The plain path does for the same rows what a straightforward implementation does: the whole model from token ids, weight
gradients on, logits at every position. Both compute the loss and the gradient of the same network on the same rows.

Run: `python -m benchmarks.lks_training [MODEL] [EDITS]`
"""

import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

from lks.datasets import load
from lks.lm import LM
from lks.losses import kl_divergence, negative_log_likelihood
from lks.material import PARTS, Part, prepare
from lks.method import LKS
from lks.training import Trainer, place

REPEATS = 5


def plain_loss(lm: LM, trainer: Trainer, chosen: dict[Part, list[int]]) -> Tensor:
    """Eq. 2 by running the whole model on token ids with a hook, all logits computed."""
    m, p = trainer.material, trainer.params
    total = torch.zeros(())
    for part in PARTS:
        own = torch.tensor(chosen[part])
        ids, mask = lm.pad([m.ids[r] for r in chosen[part]])
        new, spans = trainer.network(m.subject[own]), m.spans[own]

        def put(_module: object, _args: object, output: Tensor, spans: Tensor = spans, new: Tensor = new) -> Tensor:
            return place(output, spans, new)

        handle = lm.block(p.block).register_forward_hook(put)
        logits = lm.model(input_ids=ids, attention_mask=mask).logits.float()
        handle.remove()
        counts = m.offsets[own + 1] - m.offsets[own]
        row = torch.repeat_interleave(torch.arange(len(own)), counts)
        where = m.offsets[own][row] + torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        picked = logits[row, m.positions[where]]
        if part == "locality":
            reference = m.reference[m.reference_offsets[own][row] + where - m.offsets[own][row]]
            total = total + kl_divergence(picked, reference, row, len(own))
        else:
            total = total + p.lambda_edit * negative_log_likelihood(picked, m.labels[where], row, len(own))
    return total


def seconds(step: Callable[[], Tensor]) -> tuple[float, float]:
    """Median seconds of a forward and backward pass, and the loss."""
    times, loss = [], torch.zeros(())
    for _ in range(REPEATS):
        start = time.perf_counter()
        loss = step()
        torch.autograd.backward(loss)
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2], float(loss.detach())


def main(model: str = "micro-llama", n_edits: int = 32) -> None:
    """Print both times, their ratio and both losses."""
    lm = LM.load(model)
    edits = [case.edit for case in load("world").cases[:n_edits]]
    params = LKS.for_model(model, "world", n_edits).params
    trainer = Trainer(lm, prepare(lm, edits, params), params, seed=0)
    chosen: dict[Part, list[int]] = {part: [r for own in trainer.material.owned[part] for r in own[:1]] for part in PARTS}
    ours, our_loss = seconds(lambda: trainer.loss(chosen))
    lm.model.requires_grad_(True)
    plain, plain_loss_value = seconds(lambda: plain_loss(lm, trainer, chosen))
    count = sum(map(len, chosen.values()))
    Console().print(f"{model}, one step on {count} rows: cached {ours * 1e3:.1f} ms, plain {plain * 1e3:.1f} ms, ratio {plain / ours:.1f}")
    Console().print(f"losses {our_loss:.5f} and {plain_loss_value:.5f}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(a) for a in sys.argv[2:3]))
