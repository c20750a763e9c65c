"""Value optimisation of many edits at once against one edit after the other, in one run.

The plain path does what a straightforward implementation does: one edit at a time, the whole model from token
ids in every step, a hook that adds the change, logits at every position. Both find the same values.

Run: `python -m benchmarks.value_optimisation [MODEL] [EDITS]`
"""

import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from baselines import methods
from baselines._locate_then_edit.contexts import behind, end_of_subject, prefixes
from baselines._locate_then_edit.values import ValueParams, optimise
from lks.data.datasets import load
from lks.edits import Edit
from lks.models.lm import LM


def plain(lm: LM, edit: Edit, block: int, norm: float, texts: Sequence[str], params: ValueParams) -> Tensor:
    """Optimise the change [d] of one edit with the whole model and torch's Adam."""
    rows = behind(lm, [edit], texts, answered=True)[0] + lm.encode(
        [f"{edit.subject} is a"], [""], [edit.subject]
    )
    ids, mask = lm.pad([r.ids for r in rows])
    ends = torch.tensor([end_of_subject(r) for r in rows])
    delta = torch.zeros(lm.dim, requires_grad=True)

    def add(
        _module: object, _args: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        changed = (output[0] if isinstance(output, tuple) else output).clone()
        changed[torch.arange(len(rows)), ends] += delta
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with torch.no_grad():
        reference = lm.model(input_ids=ids, attention_mask=mask).logits[-1, ends[-1]].log_softmax(-1)
    optimiser = torch.optim.Adam([delta], lr=params.lr)
    handle = lm.block(block).register_forward_hook(add)
    try:
        for step in range(params.steps):
            optimiser.zero_grad()
            scores = lm.model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
            nll = torch.stack(
                [-_target(scores[k], r.ids, r.n_prompt) for k, r in enumerate(rows[:-1])]
            ).mean()
            kl = F.kl_div(reference, scores[-1, ends[-1]], log_target=True, reduction="sum")
            loss = nll + params.kl_weight * kl + params.weight_decay * delta.norm() / norm**2
            if float(loss.detach()) < params.stop_loss or step == params.steps - 1:
                break
            torch.autograd.backward(loss)
            optimiser.step()
            with torch.no_grad():
                if delta.norm() > params.clamp * norm:
                    delta *= params.clamp * norm / delta.norm()
    finally:
        handle.remove()
    return delta.detach()


def _target(scores: Tensor, ids: Sequence[int], n_prompt: int) -> Tensor:
    """Compute the mean log-likelihood of the target's tokens under [time, vocabulary] log-probabilities."""
    return torch.stack([scores[t - 1, ids[t]] for t in range(n_prompt, len(ids))]).mean()


def main(model: str = "micro-llama", n_edits: int = 100) -> None:
    """Print seconds per edit of both paths, their ratio and the relative difference of the values.

    The settings are those of ROME, MEMIT and AlphaEdit.
    """
    lm = LM.load(model, device="cpu")
    data = "world" if model.startswith("micro") else model.split("-")[1]
    edits = [case.edit for case in load(data).cases[:n_edits]]
    table = Table(
        "method",
        "edits",
        "at once, s/edit",
        "one by one, s/edit",
        "whole model, s/edit",
        "ratio",
        "difference",
        title=model,
    )
    for name, texts in (
        ("rome", prefixes(lm, [5] * 10 + [10] * 10)),
        ("memit", prefixes(lm, [10] * 5)),
        ("alphaedit", prefixes(lm, [10] * 5)),
    ):
        params = methods()[name].for_model(model, data, n_edits).params
        block = params.block if hasattr(params, "block") else params.last_block  # type: ignore[attr-defined]
        norms = torch.full((len(edits),), 10.0)
        start = time.perf_counter()
        ours = optimise(lm, edits, block, norms, texts, params).change  # type: ignore[arg-type]
        at_once = (time.perf_counter() - start) / len(edits)
        few = edits[: max(5, n_edits // 10)]
        start = time.perf_counter()
        for edit in few:
            optimise(lm, [edit], block, norms[:1], texts, params)  # type: ignore[arg-type]
        single = (time.perf_counter() - start) / len(few)
        start = time.perf_counter()
        theirs = torch.stack([plain(lm, edit, block, 10.0, texts, params) for edit in few])  # type: ignore[arg-type]
        slow = (time.perf_counter() - start) / len(few)
        difference = float((ours[: len(few)] - theirs).norm() / theirs.norm())
        table.add_row(
            name,
            str(n_edits),
            f"{at_once:.4f}",
            f"{single:.4f}",
            f"{slow:.4f}",
            f"{slow / at_once:.1f}",
            f"{difference:.1e}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(a) for a in sys.argv[2:3]))
