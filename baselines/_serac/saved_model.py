"""The configuration of a model in a saved patch, which may come from a stranger: it may say how large the model is, and nothing else.

A configuration of transformers can name code on the hub, kernels to download and other folders, and a few digits can ask for any amount of
memory. So only the plain settings of the class are taken, and the model is first laid out without memory and held against the tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from lks.models.architectures import ARCHITECTURES

LARGEST_NUMBER = 1 << 24
LARGEST_BUFFERS = 1 << 28
"""Bytes of what a model holds beside its parameters: masks and rotations."""
PREFIX = "counterfactual.model."


def plain(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings of a model that has exactly the tensors named `counterfactual.model.*`.

    Raises:
        ValueError: no known family, or it would not have these tensors.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise ValueError(f"counterfactual model of family {family!r}")
    from transformers import AutoConfig

    known = AutoConfig.for_model(family).to_dict()
    kept = {key: value for key, value in config.items() if key in known and _is_plain(key, value)}
    if any(isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER for value in kept.values()):
        raise ValueError("the counterfactual model's settings hold a huge number")
    if max((int(kept.get(name, 1)) for name in ("num_hidden_layers", "n_layer")), default=1) > len(tensors):
        raise ValueError("the counterfactual model has more blocks than tensors")
    _check_size(
        kept | {"model_type": family},
        {name.removeprefix(PREFIX): t.shape for name, t in tensors.items() if name.startswith(PREFIX)},
    )
    return kept | {"model_type": family}


def _is_plain(key: str, value: object) -> bool:
    """A number, flag or word, or what says how positions turn; nothing that transformers keeps to itself or looks up elsewhere."""
    flat = isinstance(value, bool | int | float | str | None)
    turning = (
        key.startswith("rope_")
        and isinstance(value, dict)
        and all(isinstance(v, bool | int | float | str | None) for v in value.values())
    )
    return not key.startswith(("_", "auto_map", "quantization", "dtype", "torch_dtype")) and (flat or turning)


def _check_size(config: dict[str, Any], shapes: dict[str, torch.Size]) -> None:
    """Lay the model out without memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (StrictDataclassError, ArithmeticError, AttributeError, AssertionError) as error:
        raise ValueError(f"the counterfactual model's settings make no model ({error})") from None
    if {name: parameter.shape for name, parameter in model.named_parameters()} != shapes:
        raise ValueError("the counterfactual model's settings and tensors do not fit together")
    if sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()) > LARGEST_BUFFERS:
        raise ValueError("the counterfactual model's settings ask for too much memory")
