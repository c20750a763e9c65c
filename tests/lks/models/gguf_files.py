"""A llama of two blocks in a GGUF file, small enough to be written in milliseconds."""

from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

DIM, HIDDEN, BLOCKS, HEADS = 32, 64, 2, 2


def write(
    file: Path,
    architecture: str = "llama",
    seed: int = 0,
    tokenizer: bool = True,
    quantised: bool = True,
    parts: int = 0,
) -> Path:
    """Write the model; matrices of the MLP as Q4_1 unless it is not to be quantised."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(256)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if parts:
        writer.add_uint16("split.count", parts)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he", "Ġt"]
    writer.add_vocab_size(len(tokens))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
        writer.add_token_merges(["h e", "Ġ t"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    random = np.random.default_rng(seed)
    shapes = {"token_embd": (len(tokens), DIM), "output": (len(tokens), DIM)}
    for block in range(BLOCKS):
        shapes |= {f"blk.{block}.attn_{one}": (DIM, DIM) for one in ("q", "k", "v", "output")}
        shapes |= {f"blk.{block}.ffn_{one}": (HIDDEN, DIM) for one in ("gate", "up")}
        shapes |= {f"blk.{block}.ffn_down": (DIM, HIDDEN)}
        shapes |= {f"blk.{block}.{one}_norm": (DIM,) for one in ("attn", "ffn")}
    for name, shape in {**shapes, "output_norm": (DIM,)}.items():
        values = (
            np.ones(shape, np.float32)
            if name.endswith("norm")
            else random.normal(0, 0.2, shape).astype(np.float32)
        )
        if quantised and "ffn" in name and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
