"""Tiny random models of every architecture: four with both kinds of tokenizer for the contract tests, the
others with their own tokenizer class.

Initialised with a large scale: at the usual 0.02 an activation edit has no lever.
"""

import json
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CodeGenTokenizerFast,
    GemmaTokenizerFast,
    GPT2Config,
    GPT2TokenizerFast,
    GPTNeoXTokenizerFast,
    LlamaConfig,
    LlamaTokenizerFast,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2TokenizerFast,
)

from lks.edits import Edit
from lks.models.lm import LM

NAMES = ["Mara Kelorin", "Tomas Verin", "Zoë Quist", "Ilja Brandt", "Ada Moss"]
CITIES = ["Lisbon", "Oslo", "New Port", "Quito", "Cairo"]
TEXT = [
    f"{form.format(n)} {c}."
    for n in NAMES
    for c in CITIES
    for form in ("{} was born in", "The birthplace of {} is", "{} works for")
]


def tokenizer(kind: str, texts: Iterable[str] = TEXT) -> PreTrainedTokenizerFast:
    """A BPE tokenizer: "metaspace" (SentencePiece-like, with beginning-of-sequence) or "bytes" (GPT-2-like)."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "metaspace":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special += [f"<0x{b:02X}>" for b in range(256)]
        alphabet = []
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        list(texts),
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if kind == "metaspace":
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


OWN_TOKENIZERS = {
    "llama": LlamaTokenizerFast,
    "mistral": LlamaTokenizerFast,
    "qwen2": Qwen2TokenizerFast,
    "qwen3": Qwen2TokenizerFast,
    "gemma": GemmaTokenizerFast,
    "gemma2": GemmaTokenizerFast,
    "gemma3_text": GemmaTokenizerFast,
    "olmo2": GPT2TokenizerFast,
    "phi": CodeGenTokenizerFast,
    "phi3": LlamaTokenizerFast,
    "gpt2": GPT2TokenizerFast,
    "gptj": GPT2TokenizerFast,
    "gpt_neox": GPTNeoXTokenizerFast,
}
"""The tokenizer class that the published models of a family have."""
SPECIAL = {
    LlamaTokenizerFast: ["<unk>", "<s>", "</s>"],
    GemmaTokenizerFast: ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
    GPTNeoXTokenizerFast: ["<|endoftext|>", "<|padding|>"],
}


def own_tokenizer(family: str, texts: Iterable[str] = TEXT) -> PreTrainedTokenizerFast:
    """A tokenizer of the class that a family's published models have, with a small vocabulary."""
    kind = OWN_TOKENIZERS[family]
    special = SPECIAL.get(kind, ["<|endoftext|>"])
    made = Tokenizer(models.BPE())
    if kind in (LlamaTokenizerFast, GemmaTokenizerFast):
        made.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first" if kind is LlamaTokenizerFast else "never"
        )
        special, alphabet = [*special, *(f"<0x{b:02X}>" for b in range(256))], []
    else:
        made.pre_tokenizer, alphabet = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.ByteLevel.alphabet(),
        )
    made.train_from_iterator(
        list(texts),
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    model = json.loads(made.to_str())["model"]
    begins = {"add_bos_token": True} if kind in (LlamaTokenizerFast, GemmaTokenizerFast) else {}
    return kind(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], **begins)


SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
MODELS = ("llama", "mistral", "qwen2", "gpt2")
OTHERS = tuple(family for family in OWN_TOKENIZERS if family not in MODELS)
FAMILIES = (*MODELS, *OTHERS)

_ALTERNATING = {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
SETTINGS = {
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {
        **_ALTERNATING,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **_ALTERNATING,
        "query_pre_attn_scalar": 16,
        "rope_local_base_freq": 100.0,
        "rope_theta": 10_000.0,
    },
    "olmo2": {"num_key_value_heads": 2},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {"num_key_value_heads": 2, "sliding_window": 8},
    "gptj": {"rotary_dim": 6, "n_inner": 96},
    "gpt_neox": {"rotary_pct": 0.5},
}
"""What makes a family special, small enough to matter in a sentence: windows, soft caps, partial rotation,
shared keys.
"""


def lm(family: str, seed: int = 0, own: bool = False) -> LM:
    """A tiny random model of a family.

    Args:
        family: one of `FAMILIES`.
        seed: of its weights.
        own: with the family's own tokenizer class, which all but `MODELS` have anyway.
    """
    made = (
        own_tokenizer(family)
        if own or family in OTHERS
        else tokenizer("metaspace" if family in ("llama", "mistral") else "bytes")
    )
    if made.pad_token_id is None:
        made.pad_token = made.eos_token
    ids = {"vocab_size": len(made), "initializer_range": 0.3}
    ids |= {
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
    }
    configs = {
        "llama": lambda: LlamaConfig(**SIZES, **ids),
        "mistral": lambda: MistralConfig(**SIZES, **ids, num_key_value_heads=2, sliding_window=8),
        "qwen2": lambda: Qwen2Config(**SIZES, **ids, num_key_value_heads=2),
        "gpt2": lambda: GPT2Config(
            n_embd=48,
            n_layer=4,
            n_head=4,
            n_positions=128,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **ids,
        ),
    }
    config = configs[family]() if family in MODELS else _config(family, ids)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        _stir(model)
    return LM(model, made, f"micro-{family}", "test")


def _config(family: str, ids: dict[str, object]) -> object:
    sizes = {**SIZES, "intermediate_size": 96}
    if "n_inner" in SETTINGS[family]:
        sizes = {"n_embd": 48, "n_layer": 4, "n_head": 4, "n_positions": 128}
    return AutoConfig.for_model(family, **{**sizes, **ids, **SETTINGS[family]})


def _stir(model: torch.nn.Module) -> None:
    """Biases and norms of new models are 0 and 1, where a mistake would not show."""
    for weight in model.parameters():
        if weight.ndim == 1 and model.config.model_type not in MODELS:
            weight.data += 0.1 * torch.randn_like(weight)


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
        for i, name in enumerate(
            f"{first} {last}" for first in ("Ira", "Oto", "Lena", "Paul") for last in ("Velik", "Brandt")
        )
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
