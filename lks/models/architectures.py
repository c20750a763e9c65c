"""The only table of model families: where the parts of each are, and how to add one."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from torch import nn

from lks.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where the parts of a model family are, as attribute paths.

    Attributes:
        decoder: path from the model to the module that turns embeddings into final states.
        blocks: path from the decoder to the list of decoder blocks.
        final_norm: path from the decoder to the norm after the last block.
        mlp_output: path from a block to the last linear layer of the MLP.
        attention_output: path from a block to the last linear layer of the attention.
        positions: path from the decoder to the absolute position embedding (added to `inputs_embeds`); empty
            if there is none.
        output_norms: whether the MLP's output passes a norm before it is added to the block's state. A change
            of the weights of `mlp_output` is then not simply added to the state, as locate-then-edit methods
            assume.
    """

    decoder: str
    blocks: str
    final_norm: str
    mlp_output: str
    attention_output: str
    positions: str = ""
    output_norms: bool = False


_LLAMA = Architecture("model", "layers", "norm", "mlp.down_proj", "self_attn.o_proj")
_OUTPUT_NORMS = Architecture(
    "model", "layers", "norm", "mlp.down_proj", "self_attn.o_proj", output_norms=True
)
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _OUTPUT_NORMS,
    "gemma3_text": _OUTPUT_NORMS,
    "olmo2": _OUTPUT_NORMS,
    "phi": Architecture("model", "layers", "final_layernorm", "mlp.fc2", "self_attn.dense"),
    "phi3": _LLAMA,
    "gpt2": Architecture("transformer", "h", "ln_f", "mlp.c_proj", "attn.c_proj", positions="wpe"),
    "gptj": Architecture("transformer", "h", "ln_f", "mlp.fc_out", "attn.out_proj"),
    "gpt_neox": Architecture(
        "gpt_neox", "layers", "final_layer_norm", "mlp.dense_4h_to_h", "attention.dense"
    ),
}
"""Architectures by `model_type` of the configuration. A new entry should give all paths by keyword, as the
error for an unknown family prints it."""

_ATTENTION = ("attn", "attention")
_MISSING = "?"


def family_of(model: "PreTrainedModel") -> str:
    """Return a model's family, as transformers and `ARCHITECTURES` name it."""
    return str(model.config.model_type)


def architecture_of(model: "PreTrainedModel", given: Architecture | None = None) -> Architecture:
    """Return the entry of a model's family, or the one given, after checking its paths.

    Args:
        model: any causal language model of transformers.
        given: architecture for a family that the table does not have.

    Raises:
        UserError: there is no entry, and the message lists what was found in the model and what to fill in;
            or the entry does not fit the model.
    """
    family = family_of(model)
    chosen = given or ARCHITECTURES.get(family)
    if chosen is None:
        raise UserError(
            f"Unknown model family {family!r}. Known: "
            f"{', '.join(sorted(ARCHITECTURES))}.\n{_advice(model, family)}"
        )
    wrong = list(_dead_ends(model, chosen))
    if wrong:
        raise UserError(
            f"The architecture for {family!r} does not fit the model: "
            f"{'; '.join(wrong)}.\n{_advice(model, family)}"
        )
    return chosen


def _dead_ends(model: "PreTrainedModel", architecture: Architecture) -> Iterator[str]:
    """Yield a description of each path that leads nowhere."""
    decoder = _at(model, architecture.decoder)
    if decoder is None:
        yield f"decoder={architecture.decoder!r}"
        return
    blocks = _at(decoder, architecture.blocks)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        yield f"blocks={architecture.blocks!r} is not a list of blocks"
        return
    for name, root in (
        ("final_norm", decoder),
        ("positions", decoder),
        ("mlp_output", blocks[0]),
        ("attention_output", blocks[0]),
    ):
        path = getattr(architecture, name)
        if _at(root, path) is None:
            yield f"{name}={path!r}"


def _at(root: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a path; None if there is none."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def guess(model: "PreTrainedModel") -> Architecture:
    """Guess an entry for a model from names, classes and shapes of its modules; "?" where none is found."""
    lists = [
        (name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)
    ]
    if not lists:
        return Architecture(_MISSING, _MISSING, _MISSING, _MISSING, _MISSING)
    path, blocks = max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))
    parent, _, name = path.rpartition(".")
    decoder = model.get_submodule(parent)
    norms = [child for child, part in decoder.named_children() if "norm" in type(part).__name__.lower()]
    tables = [
        child
        for child, part in decoder.named_children()
        if isinstance(part, nn.Embedding) and part is not model.get_input_embeddings()
    ]
    assert isinstance(blocks, nn.ModuleList)
    inner = list(blocks[0].named_modules())
    linear = [found for found, part in inner if _width_out(part) == model.config.hidden_size]
    attention = [found for found in linear if any(word in found.lower() for word in _ATTENTION)]
    mlp = [found for found in linear if found not in attention]
    norm, mlp_output, attention_output = ((found or [_MISSING])[-1] for found in (norms, mlp, attention))
    norms_inside = [
        child for child, part in blocks[0].named_children() if "norm" in type(part).__name__.lower()
    ]
    behind = any("post" in child and ("feedforward" in child or "mlp" in child) for child in norms_inside)
    return Architecture(
        parent, name, norm, mlp_output, attention_output, positions=(tables or [""])[0], output_norms=behind
    )


def _width_out(module: nn.Module) -> int | None:
    """Return the output features of a linear layer of any class; None for other modules."""
    width = getattr(module, "out_features", getattr(module, "nf", None))
    return int(width) if width is not None else None


def _advice(model: "PreTrainedModel", family: str) -> str:
    """Return several lines that describe what was found and where to add it."""
    found = guess(model)
    entry = ", ".join(
        f"{f.name}={getattr(found, f.name)!r}"
        for f in fields(found)
        if getattr(found, f.name) not in ("", False)
    )
    blocks = _at(_at(model, found.decoder) or model, found.blocks)
    first = next(iter(blocks.children()), None) if blocks is not None else None
    count = len(list(blocks.children())) if blocks is not None else 0
    seen = (
        [f"  blocks: {count} of class {type(first).__name__}"]
        if first is not None
        else ["  no list of blocks was found"]
    )
    if first is not None:
        seen += [
            f"    {name}: {type(part).__name__}"
            for name, part in first.named_modules()
            if name and not list(part.children())
        ]
    return "\n".join(
        [
            "Its modules:",
            *seen,
            "By these, the entry to add to the table in lks/models/architectures.py would "
            f"be{' (fill in each ?)' if _MISSING in entry else ''}:",
            f"  ARCHITECTURES[{family!r}] = Architecture({entry})",
            "In your own code, without a change there: LM(model, tokenizer, architecture=Architecture(...)).",
            "docs/model-families.md says how to check it.",
        ]
    )
