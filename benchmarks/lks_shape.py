"""LKS on models of published sizes with random weights: speed, memory, arithmetic rate and profile.

Speed is in seconds per edit; memory is compared with the estimate made before the run.

Run: `python -m benchmarks.lks_shape [SHAPE] [T,T,...]`, by default `llama-2-7b 100,1000,10000` on a GPU and
`small 64` on a CPU. For shapes see `benchmarks.shapes`. Edits are those of zsRE if its records are available,
else of the synthetic world. Epochs and batch size are the paper's; early stopping is off, because random
weights never learn.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.shapes import SHAPES, random_model
from lks.data.datasets import load
from lks.edits import Edit
from lks.errors import UserError
from lks.evaluation.profiling import measured
from lks.method.params import LKSParams
from lks.method.trainer import LKSTrainer
from lks.method.training_data import TrainingData, prepare, stated
from lks.models.lm import LM
from lks.models.memory import gibibytes

EPOCHS = 20
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A800": 312.0, "A100": 312.0}
"""Peak dense bfloat16 rate in 10^12 operations per second, as stated by the manufacturers."""


def edits_of(count: int) -> list[Edit]:
    """Return edits of zsRE if available, else of the synthetic world."""
    try:
        known = load("zsre").cases
    except UserError:
        known = load("world").cases
    return [case.edit for case in known[:count]]


def step_flops(lm: LM, material: TrainingData, rows: int) -> float:
    """Return the floating-point operations of a training step.

    Each weight and token costs two forward and two backward (gradients of activations only).
    """
    upper = sum(p.numel() for block in lm.blocks[material.upper.block + 1 :] for p in block.parameters())
    ends = float((material.cached.lengths - material.spans[:, 0]).float().mean())
    losses = len(material.positions) / len(material.ids)
    return 4 * rows * (upper * ends + lm.vocabulary_projection.weight.numel() * losses)


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """Result of LKS with T edits on one model.

    Attributes:
        n_edits: T.
        prepare_s, train_s: seconds of preparation and training.
        steps: number of optimiser steps.
        tflops: arithmetic rate during training, in 10^12 operations per second.
        peak_bytes: peak memory.
        stated_bytes: memory estimated before the run.
    """

    n_edits: int
    prepare_s: float
    train_s: float
    steps: int
    tflops: float
    peak_bytes: int
    stated_bytes: int

    @property
    def per_edit(self) -> float:
        """Seconds per edit, preparation included."""
        return (self.prepare_s + self.train_s) / self.n_edits

    def row(self) -> list[str]:
        """Return the cells of the result's table row."""
        share = f" ({self.tflops / peak:.0%})" if (peak := peak_tflops()) else ""
        step_ms = self.train_s / self.steps * 1e3
        times = [
            f"{self.n_edits:,}",
            f"{self.prepare_s:.1f}",
            f"{self.train_s:.1f}",
            f"{self.per_edit:.4f}",
            f"{step_ms:.0f}",
        ]
        return [*times, f"{self.tflops:.2f}{share}", gibibytes(self.peak_bytes), gibibytes(self.stated_bytes)]


def peak_tflops() -> float | None:
    """Return the stated bfloat16 peak rate of the current GPU; None without a GPU or for an unlisted one."""
    return next(
        (
            v
            for k, v in PEAK_TFLOPS.items()
            if torch.cuda.is_available() and k in torch.cuda.get_device_name()
        ),
        None,
    )


def measure(lm: LM, edits: Sequence[Edit], params: LKSParams) -> tuple[ShapeResult, LKSTrainer]:
    """Train on the edits; return the costs and the trainer, which can be profiled."""
    steps = params.max_epochs * -(-len(edits) // params.batch_size)
    with measured() as preparing:
        material = prepare(lm, edits, params)
    trainer = LKSTrainer(lm, material, params, 0)
    with measured() as training:
        trainer.train()
    rows = min(params.batch_size, len(edits)) * (1 + params.paraphrases + params.locality_prompts)
    rate = step_flops(lm, material, rows) * steps / training.seconds / 1e12
    peak = max(preparing.peak_bytes, training.peak_bytes)
    return ShapeResult(
        len(edits), preparing.seconds, training.seconds, steps, rate, peak, stated(lm, edits, params).total
    ), trainer


def top_five(trainer: LKSTrainer) -> Table:
    """Return a table of the five operations that take most of a step."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    batch = trainer._epoch_batches()[0]
    with profile(activities=kinds) as seen:
        torch.autograd.backward(trainer.loss(batch))
    found = [
        (e.key, e.self_device_time_total if torch.cuda.is_available() else e.self_cpu_time_total, e.count)
        for e in seen.key_averages()
    ]
    whole = sum(t for _, t, _ in found)
    table = Table("operation", "share", "calls", title="one step: where the time goes")
    for key, spent, count in sorted(found, key=lambda f: -f[1])[:5]:
        table.add_row(key[:60], f"{spent / whole:.0%}", str(count))
    return table


def main(shape: str = "", wanted: str = "") -> None:
    """Print the table and the profile."""
    gpu = torch.cuda.is_available()
    shape = shape or ("llama-2-7b" if gpu else "small")
    counts = [int(n) for n in (wanted or ("100,1000,10000" if gpu else "64")).split(",")]
    start = time.perf_counter()
    lm = random_model(shape)
    console = Console(width=140)
    console.print(
        f"{shape} created in {time.perf_counter() - start:.0f} s "
        f"on {torch.cuda.get_device_name() if gpu else 'CPU'}"
    )
    table = Table(title=f"LKS, {EPOCHS} epochs, {shape}")
    for column in ("T", "prepare s", "train s", "s/edit", "ms/step", "TFLOP/s", "peak memory", "stated"):
        table.add_column(column, justify="right")
    trainer: LKSTrainer | None = None
    for count in counts:
        params = LKSParams(
            SHAPES[shape].block, max_epochs=EPOCHS, patience=EPOCHS, stop_loss=0.0, precision="fast"
        )
        found, trainer = measure(lm, edits_of(count), params)
        table.add_row(*found.row())
        console.print(f"T={count}: done")
    console.print(table)
    if trainer is not None:
        console.print(top_five(trainer))


if __name__ == "__main__":
    main(*sys.argv[1:3])
