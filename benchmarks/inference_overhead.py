"""Overhead of scope indicator and replacer in a forward pass, with plain and patched passes interleaved.

Two things are measured for each model, number of prompts, and prompts that mention edited subjects or none:

- *ratio*: pairs of a plain and a patched pass, in random order within each pair; the median of the pairs'
  ratios with a 95 % bootstrap interval. It is what a user sees, but a pass of a second varies by more than
  the hooks cost.
- *added*: the same pairs on a model of the same shapes whose blocks do nothing, which isolates what the hooks
  add: in microseconds, and as a share of the whole model's plain pass. The share is compared with the
  targets.

The knowledge blocks are random: writing them costs the same. On a CPU, with one thread, time is processor
time of the process, which other processes do not affect; on a GPU it is wall-clock time after a
synchronisation.

Run: `python -m benchmarks.inference_overhead [--edits 1000] [--seconds 6] [--models micro-llama,llama-1024]
[--work prefill,generate]`
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM

from lks.data.datasets import load
from lks.edits import Edit
from lks.evaluation.profiling import now
from lks.method.relation_gate import RelationGate
from lks.method.replacer import KnowledgeBlockPatch
from lks.method.training_data import subjects_of
from lks.models.frozen_prefix import last_states
from lks.models.lm import LM

TARGETS = {"outside": 1.0, "inside": 2.0, "gate": 2.0}
"""Maximum overhead in percent of a plain pass."""
NEW_TOKENS = 20
SLOW_S = 0.5
"""Prefill seconds above which generation of many prompts at once is left out."""
What = Literal["outside", "inside", "gate"]


@dataclass(frozen=True, slots=True)
class Overhead:
    """One row of the table.

    Attributes:
        model, what, rows, work: model name, kind of prompts, number of prompts at once, "prefill" or
            "generate".
        plain_s: median seconds of a plain pass.
        ratio: median of patched / plain over pairs, with its confidence interval.
        added_s: median seconds that the patch adds, with its confidence interval.
    """

    model: str
    what: What
    rows: int
    work: str
    plain_s: float
    ratio: tuple[float, float, float]
    added_s: tuple[float, float, float]

    @property
    def share(self) -> float:
        """Overhead in percent of the plain pass."""
        return 100 * self.added_s[0] / self.plain_s


class _Still(nn.Module):
    """A block that only copies its input and extends the cache."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(
        self, hidden_states: Tensor, *_: object, past_key_values: Cache | None = None, **__: object
    ) -> Tensor:
        """Return a copy of the states [batch, time, d], after extending the cache."""
        if past_key_values is not None:
            key = hidden_states[:, None, :, :1]
            past_key_values.update(key, key, self.number)
        return hidden_states.clone()


@contextmanager
def hollow(lm: LM) -> Iterator[None]:
    """Replace the model's blocks by blocks that do nothing inside the `with`; a patch's hooks stay."""
    own = list(lm.blocks)
    try:
        for i in range(len(own)):
            still = _Still(i)
            still._forward_hooks = own[i]._forward_hooks  # the patch's hooks
            lm.blocks[i] = still
        yield
    finally:
        for i, block in enumerate(own):
            lm.blocks[i] = block


def large(small: LM) -> LM:
    """Create a random Llama of dimension 1024 with 12 blocks and another model's tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(small.tokenizer),
            hidden_size=1024,
            intermediate_size=2752,
            num_hidden_layers=12,
            num_attention_heads=16,
        )
        model = LlamaForCausalLM(config)
    cast(nn.Module, model).to(small.device)
    return LM(model, small.tokenizer, "llama-1024")


def strangers(edits: Sequence[Edit], patch: KnowledgeBlockPatch) -> list[str]:
    """Return the edits' prompts about unedited subjects, made by recombining first and last names."""
    rng = random.Random(0)
    prompts = [
        e.prompt.replace(e.subject, f"{e.subject.split()[0]} {rng.choice(edits).subject.split()[-1]}")
        for e in edits
    ]
    return [prompt for prompt in prompts if not patch.scope.find(prompt)]


def patches(lm: LM, edits: Sequence[Edit], block: int) -> tuple[KnowledgeBlockPatch, KnowledgeBlockPatch]:
    """Create a patch of random knowledge blocks, without and with a gate whose keys are the edit prompts."""
    names = [[subject] for subject in subjects_of(edits)]
    table = torch.randn(1, len(names), lm.dim, generator=torch.Generator().manual_seed(0))
    last = last_states(lm, block, [e.prompt for e in edits]).float().cpu()
    owner = torch.tensor([subjects_of(edits)[e.subject] for e in edits])
    gate = RelationGate.of(last, owner, last.mean(0), threshold=0.5)
    return tuple(KnowledgeBlockPatch(names, table, (block,), "last", "exact", gate=g) for g in (None, gate))  # type: ignore[return-value]


def switch(hooks: Mapping[int, dict[int, object]], modules: Sequence[nn.Module], on: bool) -> None:
    """Remove or restore a patch's hooks, which is cheaper and less disruptive than applying it again."""
    for module in modules:
        for registered in (module._forward_hooks, module._forward_pre_hooks):
            registered.clear()
            if on:
                registered.update(hooks[id(registered)])  # type: ignore[arg-type]


def pairs(
    lm: LM, work: Callable[[], object], seconds: float, rng: random.Random
) -> list[tuple[float, float]]:
    """Measure pairs of seconds (plain, patched) of a patched model until the time is up, at least 5 pairs.

    The order within each pair is random.
    """
    modules = [lm.decoder, *lm.blocks]
    hooks = {
        id(registered): dict(registered)
        for m in modules
        for registered in (m._forward_hooks, m._forward_pre_hooks)
    }
    taken: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(taken) < 6 or time.perf_counter() < end:
        pair = {}
        for patched in rng.sample((False, True), 2):
            switch(hooks, modules, patched)
            start = now("processor")
            work()
            pair[patched] = now("processor") - start
        taken.append((pair[False], pair[True]))
    switch(hooks, modules, on=True)
    return taken[1:]  # the first pair is a warm-up


def interval(values: Sequence[float], rng: random.Random) -> tuple[float, float, float]:
    """Return the median with its 95 % bootstrap interval."""
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(400))
    return statistics.median(values), medians[10], medians[-11]


def work_of(lm: LM, prompts: Sequence[str], kind: str) -> Callable[[], object]:
    """Return work that runs a prefill, or greedy generation of exactly `NEW_TOKENS` tokens with a cache."""
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], "left")

    @torch.no_grad()
    def prefill() -> object:
        return lm.model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)

    def generate() -> object:
        return lm.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )

    return prefill if kind == "prefill" else generate


def overheads(
    lm: LM, edits: Sequence[Edit], block: int, seconds: float, kinds: Sequence[str]
) -> Iterator[Overhead]:
    """Measure all combinations of prompts, number of prompts at once, and prefill or generation."""
    bare, gated = patches(lm, edits, block)
    prompts: dict[What, list[str]] = {"outside": strangers(edits, bare), "inside": [e.prompt for e in edits]}
    prompts["gate"] = prompts["inside"]
    rng = random.Random(0)
    prefill_s = 0.0
    for kind, rows in (("prefill", 1), ("prefill", 32), ("generate", 1), ("generate", 32)):
        if kind not in kinds or (kind == "generate" and rows > 1 and prefill_s > SLOW_S):
            continue
        for what, texts in prompts.items():
            work = work_of(lm, texts[:rows], kind)
            with (gated if what == "gate" else bare).applied(lm):
                whole = pairs(lm, work, seconds, rng)
                with hollow(lm):
                    empty = pairs(lm, work, seconds / 3, rng)
            plain = statistics.median(p for p, _ in whole)
            prefill_s = plain if kind == "prefill" else prefill_s
            ratio, added = interval([q / p for p, q in whole], rng), interval([q - p for p, q in empty], rng)
            yield Overhead(lm.name, what, rows, kind, plain, ratio, added)


def shown(found: Sequence[Overhead], n_edits: int) -> Table:
    """Return the table of all rows."""
    table = Table(title=f"What the patch adds with {n_edits} edits")
    for name in ("model", "work", "prompts", "at once"):
        table.add_column(name)
    for name in ("plain ms", "patched / plain", "added µs", "added %", "target %"):
        table.add_column(name, justify="right")
    for o in found:
        ratio, low, high = o.ratio
        added, least, most = (1e6 * s for s in o.added_s)
        colour = "green" if o.share <= TARGETS[o.what] else "yellow"
        table.add_row(
            o.model, o.work, o.what, str(o.rows), f"{1e3 * o.plain_s:.2f}",
            f"{ratio:.4f} ({low:.4f} to {high:.4f})", f"{added:.0f} ({least:.0f} to {most:.0f})",
            f"[{colour}]{o.share:.2f}[/]", f"{TARGETS[o.what]:.0f}",
        )  # fmt: skip
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all models and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds per row of the table")
    parser.add_argument("--work", default="prefill,generate")
    parser.add_argument("--models", default="micro-llama,llama-1024", help="llama-1024 has random weights")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    edits = [case.edit for case in load("world").cases[: asked.edits]]
    small = LM.load("micro-llama")
    found: list[Overhead] = []
    for name in asked.models.split(","):
        lm = large(small) if name == "llama-1024" else LM.load(name)
        found += overheads(lm, edits, len(lm.blocks) // 3, asked.seconds, asked.work.split(","))
    Console(width=150).print(shown(found, len(edits)))


if __name__ == "__main__":
    main()
