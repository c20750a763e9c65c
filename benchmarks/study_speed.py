"""The swap study by whole forward passes with a hook per block, against only the row ends above each block.

Run: `python -m benchmarks.study_speed [MODEL] [DATASET] [ENTITIES]`, by default `micro-llama world 300`. Both
ways compute the same numbers, log p of the donor's answer after the swap at every block; their largest
difference is printed. The rows of the whole passes are batched by length, too.
"""

import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lks.data.datasets import load
from lks.models.frozen_prefix import batches
from lks.models.lm import LM
from lks.models.prefill import installed_hooks
from lks.progress import no_progress
from lks.studies.base import Entities
from lks.studies.blockwise import captured
from lks.studies.donors import Pair, exchanged, pairs

Places = tuple[Tensor, Tensor]


@torch.no_grad()
def naive(lm: LM, chosen: list[Pair], batch_tokens: int = 8192) -> Tensor:
    """Compute log p of the donors' answers [blocks, pairs] with one whole forward pass per block."""
    rows = lm.encode(
        [p.asked.prompt for p in chosen],
        [p.donor.ground_truth for p in chosen],
        [p.asked.subject for p in chosen],
    )
    donors = lm.encode(
        [p.donor.prompt for p in chosen], [""] * len(chosen), [p.donor.subject for p in chosen]
    )
    given = captured(
        lm, [d.ids for d in donors], [[d.subject[1]] for d in donors if d.subject], list(lm.blocks)
    )[:, :, 0]
    found = torch.zeros(len(lm.blocks), len(chosen), dtype=torch.float64)
    for group in batches([len(row.ids) for row in rows], batch_tokens):
        ids, mask = lm.pad([rows[i].ids for i in group])
        at = torch.tensor([span[1] for i in group if (span := rows[i].subject)], device=lm.device)
        places = torch.arange(len(group), device=lm.device)
        for block in range(len(lm.blocks)):

            def put(
                _module: object,
                _args: object,
                output: Tensor,
                new: Tensor = given[block, group],
                where: Places = (places, at),
            ) -> Tensor:
                return output.index_put(where, new)

            with installed_hooks([lm.block(block).register_forward_hook(put)]):
                logprobs = lm.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
            picked = logprobs.gather(2, ids[:, 1:, None])[..., 0].double().cpu()
            for row, i in enumerate(group):
                found[block, i] = picked[row, rows[i].n_prompt - 1 : len(rows[i].ids) - 1].sum()
    return found


def main(model: str = "micro-llama", dataset: str = "world", entities: str = "300") -> None:
    """Measure both ways and print seconds, ratio and largest difference."""
    lm = LM.load(model)
    edits = [case.edit for case in load(dataset).cases[: int(entities)]]
    chosen = pairs(lm, Entities(edits, edits), 0)
    exchanged(lm, chosen[:8], no_progress)  # warm up
    start = time.perf_counter()
    slow = naive(lm, chosen)
    middle = time.perf_counter()
    fast = exchanged(lm, chosen, no_progress).logprob[1:]
    end = time.perf_counter()
    made = Table("model", "pairs", "whole passes s", "ends only s", "ratio", "largest difference", box=None)
    cells = [
        model,
        str(len(chosen)),
        f"{middle - start:.2f}",
        f"{end - middle:.2f}",
        f"{(middle - start) / (end - middle):.1f}",
    ]
    made.add_row(*cells, f"{(slow - fast).abs().max().item():.1e}")
    Console(width=120).print(made)


if __name__ == "__main__":
    main(*sys.argv[1:4])
