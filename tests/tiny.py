"""Tiny random models of several architectures, with both kinds of tokenizer, for the contract tests.

Initialised with a large scale: at the usual 0.02 an activation edit has no lever.
"""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config

from lks.edits import Edit
from lks.lm import LM

NAMES = ["Mara Kelorin", "Tomas Verin", "Zoë Quist", "Ilja Brandt", "Ada Moss"]
CITIES = ["Lisbon", "Oslo", "New Port", "Quito", "Cairo"]
TEXT = [f"{form.format(n)} {c}." for n in NAMES for c in CITIES for form in ("{} was born in", "The birthplace of {} is", "{} works for")]


def tokenizer(kind: str, texts: Iterable[str] = TEXT) -> PreTrainedTokenizerFast:
    """A BPE tokenizer: "metaspace" (SentencePiece-like, with beginning-of-sequence) or "bytes" (GPT-2-like)."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "metaspace":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        special += [f"<0x{b:02X}>" for b in range(256)]
        alphabet = []
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(list(texts), trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    if kind == "metaspace":
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128}
MODELS = ("llama", "mistral", "qwen2", "gpt2")


def lm(family: str, seed: int = 0) -> LM:
    """A tiny random model of a family."""
    made = tokenizer("metaspace" if family in ("llama", "mistral") else "bytes")
    ids = {"vocab_size": len(made), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
    configs = {
        "llama": lambda: LlamaConfig(**SIZES, **ids),
        "mistral": lambda: MistralConfig(**SIZES, **ids, num_key_value_heads=2, sliding_window=8),
        "qwen2": lambda: Qwen2Config(**SIZES, **ids, num_key_value_heads=2),
        "gpt2": lambda: GPT2Config(n_embd=48, n_layer=4, n_head=4, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(configs[family]())
    return LM(model, made, f"micro-{family}", "test")


def training(count: int = 8) -> list[Edit]:
    """Edits to meta-train on: about nobody in `edits`."""
    return [
        Edit(
            case_id=f"t{i}",
            subject=name,
            prompt=f"The birthplace of {name} is",
            target=CITIES[i % 5],
            ground_truth=CITIES[(i + 2) % 5],
            training_paraphrases=(f"{name} was born in",),
            training_locality=(f"{name} works for",),
        )
        for i, name in enumerate(f"{first} {last}" for first in ("Ira", "Oto", "Lena", "Paul") for last in ("Velik", "Brandt"))
    ][:count]


def edits(count: int = 4) -> list[Edit]:
    """Edits of birthplaces."""
    return [
        Edit(
            case_id=str(i),
            subject=name,
            prompt=f"The birthplace of {name} is",
            target=CITIES[i],
            ground_truth=CITIES[(i + 1) % 5],
            training_paraphrases=(f"{name} was born in", f"Surely {name} was born in"),
            training_locality=(f"{name} works for", f"The birthplace of the friend of {name} is"),
        )
        for i, name in enumerate(NAMES[:count])
    ]
