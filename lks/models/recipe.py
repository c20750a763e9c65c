"""Everything that determines a testbed model apart from its text: its shape and its training."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TestbedShape:
    """The architecture of a testbed model."""

    family: str
    dim: int = 160
    blocks: int = 6
    heads: int = 4
    kv_heads: int = 4
    hidden: int = 384
    window: int = 0  # sliding attention window in tokens, 0 for none


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a trained model apart from its text.

    Attributes:
        shape: the architecture.
        block: the knowledge block l: facts are put into the state after it.
        steps: optimiser steps.
        rows: fact rows per step.
        side_rows: ability items and sentences per step.
        lr_muon: step size of matrices inside blocks (Muon).
        lr_adam: step size of embeddings and norms (AdamW).
        weight_decay: weight decay of both.
        warmup: steps of linear warm-up; the rest decays linearly to zero.
        noise: standard deviation of the Gaussian noise on the state, as a multiple of its root mean square.
        mixing: largest share of another row's state that is mixed into a state without changing its answer.
        noisy_share: share of the rows with noise and mixing.
        smoothing: amount of label smoothing.
        heads_weight: weight of the auxiliary heads' loss.
        heads: auxiliary heads: number of relations and largest number of values of one; they read the state
            linearly and are dropped after training.
        seed: random seed for initial weights, batch order and noise.
        economical: cheaper training for many facts: matrix products in bfloat16 where the machine supports it
            (weights and sums stay float32), and an auxiliary head distinguishes its value only from the
            values that occur in the batch.
    """

    shape: TestbedShape
    block: int = 2
    steps: int = 1500
    rows: int = 192
    side_rows: int = 48
    lr_muon: float = 0.02
    lr_adam: float = 0.003
    weight_decay: float = 0.1
    warmup: int = 100
    noise: float = 0.3
    mixing: float = 0.25
    noisy_share: float = 0.5
    smoothing: float = 0.05
    heads_weight: float = 1.0
    heads: tuple[int, int] = (0, 0)
    seed: int = 0
    economical: bool = False
