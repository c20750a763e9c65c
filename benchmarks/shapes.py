"""Models of a given size with random weights, used only to measure speed and memory."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from lks.errors import unknown
from lks.models.lm import LM


@dataclass(frozen=True, slots=True)
class ShapeOf:
    """A published architecture, or one between the small models and the published ones.

    Attributes:
        family: "llama" or "mistral".
        dim, hidden, blocks, heads, kv_heads, vocabulary: sizes.
        block: block at which LKS replaces.
    """

    family: Literal["llama", "mistral"]
    dim: int
    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int
    block: int


SHAPES = {
    "miniature": ShapeOf("llama", 64, 96, 10, 4, 4, 2048, 4),
    "small": ShapeOf("llama", 512, 1376, 16, 8, 8, 32000, 8),
    "llama-2-7b": ShapeOf("llama", 4096, 11008, 32, 32, 32, 32000, 16),
    "mistral-7b": ShapeOf("mistral", 4096, 14336, 32, 32, 8, 32768, 18),
}


def random_model(name: str) -> LM:
    """Create a model of a shape on the GPU in bfloat16 if there is one, else on the CPU in float32.

    The tokenizer is that of `micro-llama`.

    Raises:
        UserError: the shape is unknown.
    """
    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)
    shape = SHAPES[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = LM.load("micro-llama", "cpu").tokenizer
    sizes: dict[str, Any] = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.dim, "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.blocks, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    config = LlamaConfig(**sizes) if shape.family == "llama" else MistralConfig(**sizes)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if device == "cuda" else torch.float32
        )
    assert isinstance(model, nn.Module)
    return LM(model, tokenizer, name, "random")
