"""Estimate of the memory that LKS needs, reported before the work starts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from lks.errors import UserError
from lks.models.losses import FrozenCrossEntropy
from lks.models.memory import free_bytes, gibibytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The properties of a model that decide memory.

    Attributes:
        parameters: number of parameters of the whole model.
        vocabulary, dim, hidden, blocks: sizes; `hidden` is the width inside the MLP.
        kv_dim: width of the keys of all key-value heads together.
        itemsize: bytes per weight.
    """

    parameters: int
    vocabulary: int
    dim: int
    hidden: int
    blocks: int
    kv_dim: int
    itemsize: int

    @classmethod
    def of(cls, config: "PreTrainedConfig", parameters: int, itemsize: int) -> Self:
        """Return the shape of a model from its configuration."""
        heads = int(config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        kv = int(getattr(config, "num_key_value_heads", None) or heads) * width
        hidden = int(
            getattr(config, "intermediate_size", None)
            or getattr(config, "n_inner", None)
            or 4 * config.hidden_size
        )
        return cls(
            parameters,
            int(config.vocab_size),
            int(config.hidden_size),
            hidden,
            int(config.num_hidden_layers),
            kv,
            itemsize,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """Size of the training data.

    Attributes:
        tokens: tokens of all rows.
        before: those of them that precede the first replaced position.
        locality_positions: positions with a reference distribution.
        step_tokens: tokens that run again in a step, padding included.
        step_positions: positions of a step that are held against a reference distribution.
    """

    tokens: int
    before: int
    locality_positions: int
    step_tokens: int
    step_positions: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory needs in bytes.

    All but weights and step move to host memory or a file where the device has no room for them.

    Attributes:
        weights: weights of the model, and their copy in the number format of the training if that is another.
        states: states at block l.
        keys_values: keys and values of the rows' beginnings in the blocks above, recomputed each step where
            they do not fit.
        references: distributions of the unedited model.
        step: approximate activations of one training step.
    """

    weights: int
    states: int
    keys_values: int
    references: int
    step: int

    @property
    def total(self) -> int:
        """Sum of all needs."""
        return self.weights + self.states + self.keys_values + self.references + self.step

    def __str__(self) -> str:
        parts = ("weights", "states", "keys_values", "references", "step")
        return f"{gibibytes(self.total)}: " + ", ".join(
            f"{p.replace('_', ' and ')} {gibibytes(getattr(self, p))}" for p in parts
        )


def needs(
    shape: ModelShape, load: Load, block: int, reference_top: int = 0, trained: torch.dtype | None = None
) -> Needs:
    """Return the memory needs of a training at block l.

    For its backward pass a block keeps, per token: the inputs of both norms in float32, queries, keys, values
    and the attention's result, and three widths of the MLP. A position with a reference distribution keeps
    float32 logits, their log-probabilities and a gradient; answers are projected in pieces
    (`FrozenCrossEntropy`).

    Args:
        shape: the model's.
        load: size of the training data.
        block: block l.
        reference_top: parameter of LKS.
        trained: number format of the training; None for the model's.
    """
    upper = shape.blocks - block - 1
    size = trained.itemsize if trained else shape.itemsize
    per_token = shape.dim * (2 * 4 + 6 * size) + (2 * shape.kv_dim + 4 * shape.hidden) * size
    kept = shape.vocabulary * 4 if not reference_top else (reference_top + 1) * 4 + reference_top * 4
    projected = 4 * load.step_positions + 3 * min(FrozenCrossEntropy.PIECE, load.step_tokens)
    return Needs(
        weights=shape.parameters * (shape.itemsize + (size if size != shape.itemsize else 0)),
        states=load.tokens * shape.dim * size,
        keys_values=2 * load.before * upper * shape.kv_dim * size,
        references=load.locality_positions * kept,
        step=load.step_tokens * upper * per_token + projected * shape.vocabulary * 4,
    )


def check(wanted: Needs, device: torch.device, batch_size: int) -> None:
    """Refuse a training whose step does not fit into the free memory; the model is loaded already.

    Raises:
        UserError: a step does not fit; the message gives the memory needed and the memory free.
    """
    free = free_bytes(device)
    if wanted.step > free:
        raise UserError(
            f"A training step of LKS needs about {gibibytes(wanted.step)}, {gibibytes(free)} are free on "
            f"{device}. Lower batch_size (now {batch_size}) or locality_prompts, or free memory."
        )
