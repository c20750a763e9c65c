"""Correctness and cost of serving edited models: whether every request gets its own patch's answer.

Two things are measured on `micro-llama` or another model, with knowledge blocks that exchange the subjects of
the synthetic world:

- *load*: many clients on loopback send requests at random to the unedited model, two edited models with
  contradicting edits and one with changed weights, streamed or whole. Every answer is compared with that of
  the model inside `Patch.applied` to the same prompt alone. Another model's answer counts as a wrong patch;
  an answer that no model gives is counted separately.
- *overhead*: the same prompts through the server's batch, once as rows of the unedited model and once as rows
  of each patch, in interleaved pairs, in processor time of one thread; and through transformers' own
  `generate`.

Run: `python -m benchmarks.serving [--requests 10000] [--clients 32] [--rows 32] [--tokens 32] [--seconds 60]`
"""

import argparse
import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import openai
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import served
from benchmarks.inference_overhead import interval
from lks.editing.patch import Patch
from lks.editing.row_patch import RowPatch
from lks.evaluation.profiling import now
from lks.models.lm import LM
from lks.models.prefill import installed_hooks
from workbench.serving.batch import GeneratingRow, GenerationBatch, Sampling
from workbench.serving.service import Rules
from workbench.serving.text_stream import TextStream

LONGEST = 8
"""Maximum number of tokens of an answer under load."""
TARGET = 3.0
"""Maximum overhead of an edited model over the unedited one, in percent."""


@dataclass(slots=True)
class Tally:
    """Counts of a load test.

    Attributes:
        right, wrong_patch, other: answers that are correct, another model's, or no model's.
        seconds: total time.
    """

    right: int = 0
    wrong_patch: int = 0
    other: int = 0
    seconds: float = 0.0


async def ask(client: openai.AsyncOpenAI, name: str, prompt: str, stream: bool) -> str:
    """Request one answer."""
    if not stream:
        made = await client.completions.create(model=name, prompt=prompt, max_tokens=LONGEST, temperature=0)
        return made.choices[0].text
    parts = await client.completions.create(
        model=name, prompt=prompt, max_tokens=LONGEST, temperature=0, stream=True
    )
    return "".join([part.choices[0].text async for part in parts])


async def load(
    address: str, prompts: Sequence[str], expected: Mapping[str, Sequence[str]], requests: int, clients: int
) -> Tally:
    """Run clients that each send one request after the other until all requests are made."""
    rng, tally, start = random.Random(0), Tally(), time.perf_counter()
    jobs = iter(
        [
            (rng.choice(list(expected)), rng.randrange(len(prompts)), rng.random() < 0.3)
            for _ in range(requests)
        ]
    )
    with Progress() as progress:
        bar = progress.add_task("requests", total=requests)

        async def one_client() -> None:
            async with openai.AsyncOpenAI(
                base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300
            ) as client:
                for name, number, stream in jobs:
                    text = await ask(client, name, prompts[number], stream)
                    if text == expected[name][number]:
                        tally.right += 1
                    elif any(text == texts[number] for texts in expected.values()):
                        tally.wrong_patch += 1
                    else:
                        tally.other += 1
                    progress.advance(bar)

        await asyncio.gather(*(one_client() for _ in range(clients)))
    tally.seconds = time.perf_counter() - start
    return tally


def generated(
    lm: LM, prompts: Sequence[Sequence[int]], patch: RowPatch | None, tokens: int
) -> Callable[[], None]:
    """Return work that runs a prefill and steps in the server's batch, with one patch for all rows."""

    def work() -> None:
        rows = [GeneratingRow(list(ids), patch, Sampling(tokens), TextStream(lm.pieces)) for ids in prompts]
        batch = GenerationBatch(lm, rows)
        batch.prefill()
        for _ in range(tokens - 1):
            batch.step()

    return work


def by_transformers(lm: LM, prompts: Sequence[Sequence[int]], tokens: int) -> Callable[[], None]:
    """Return work that runs transformers' `generate` on the same batch."""
    ids, mask = lm.pad(prompts, "left")

    def work() -> None:
        lm.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )

    return work


def compared(
    plain: Callable[[], None], other: Callable[[], None], seconds: float
) -> list[tuple[float, float]]:
    """Measure pairs of seconds (plain, other), in random order within each pair, until the time is up."""
    rng, taken = random.Random(0), list[tuple[float, float]]()
    end = time.perf_counter() + seconds
    while len(taken) < 6 or time.perf_counter() < end:
        pair = {}
        for which in rng.sample((plain, other), 2):
            start = now("processor")
            which()
            pair[id(which)] = now("processor") - start
        taken.append((pair[id(plain)], pair[id(other)]))
    return taken[1:]


def overheads(
    lm: LM, made: Mapping[str, Patch], prompts: Sequence[str], tokens: int, seconds: float
) -> Table:
    """Compare each patch, and transformers, with the unedited model in the server's batch."""
    encoded = [list(lm.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    by_row = {name: patch.by_rows(lm) for name, patch in made.items()}
    work = {name: generated(lm, encoded, patch, tokens) for name, patch in by_row.items()}
    others = {
        **{name: one for name, one in work.items() if name != "base"},
        "unedited again": generated(lm, encoded, by_row["base"], tokens),
    }
    others["transformers' generate"] = by_transformers(lm, encoded, tokens)
    table = Table(
        "against the unedited rows", "pairs", "unedited ms", "ratio (95 % interval)", "added %", box=None
    )
    with installed_hooks(
        [handle for patch in by_row.values() if patch is not None for handle in patch.handles()]
    ):
        for name, other in others.items():
            taken = compared(work["base"], other, seconds)
            ratio, low, high = interval([b / a for a, b in taken], random.Random(0))
            plain = sorted(a for a, _ in taken)[len(taken) // 2]
            table.add_row(
                name,
                str(len(taken)),
                f"{1e3 * plain:.1f}",
                f"{ratio:.4f} ({low:.4f} to {high:.4f})",
                f"{100 * (ratio - 1):.2f}",
            )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Run both measurements and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="micro-llama")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds per row of the overhead table")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console(width=150)
    lm, questions = LM.load(asked.model), served.questions()
    prompts, made = [prompt for _, prompt in questions], served.patches(lm, questions)
    if asked.requests:
        expected = {name: served.answers(lm, patch, prompts, LONGEST) for name, patch in made.items()}
        with served.serving(lm, made, Rules(length=256, rows=asked.rows, waiting=1000)) as server:
            tally = asyncio.run(load(server.address, prompts, expected, asked.requests, asked.clients))
        rate = asked.requests / tally.seconds
        console.print(
            f"{asked.requests} requests of {asked.clients} clients in {tally.seconds:.0f} s "
            f"({rate:.0f} per second): {tally.right} right, {tally.wrong_patch} with another model's answer, "
            f"{tally.other} with no model's answer."
        )
    if asked.seconds:
        batch = (prompts * asked.rows)[: asked.rows]
        console.print(
            f"{asked.rows} rows, {asked.tokens} new tokens, {threading.active_count()} threads; "
            f"target {TARGET:.0f} % for knowledge blocks"
        )
        console.print(overheads(lm, made, batch, asked.tokens, asked.seconds))


if __name__ == "__main__":
    main()
