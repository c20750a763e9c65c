"""Validation of the untrusted model configuration in a saved patch: it may only say how large the model is.

A transformers configuration can name code on the hub, kernels to download and other folders, and a few digits
can ask for any amount of memory. So only plain settings of the class are accepted, and the model is first
created on the meta device and compared with the saved tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from lks.models.architectures import ARCHITECTURES

LARGEST_NUMBER = 1 << 24
LARGEST_BUFFERS = 1 << 28
"""Maximum size in bytes of a model's buffers (masks and rotations), in addition to its parameters."""
PREFIX = "counterfactual.model."


def plain(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the plain settings of a model that has exactly the tensors named `counterfactual.model.*`.

    Raises:
        ValueError: the model family is unknown, or the settings do not match the tensors.
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
    """Return whether a setting is a number, flag or word, or rotary-position settings.

    Private settings of transformers and those that refer to other files or code are rejected.
    """
    flat = isinstance(value, bool | int | float | str | None)
    turning = (
        key.startswith("rope_")
        and isinstance(value, dict)
        and all(isinstance(v, bool | int | float | str | None) for v in value.values())
    )
    return not key.startswith(("_", "auto_map", "quantization", "dtype", "torch_dtype")) and (flat or turning)


def _check_size(config: dict[str, Any], shapes: dict[str, torch.Size]) -> None:
    """Create the model on the meta device and compare its parameters and buffers with what is allowed.

    Raises:
        ValueError: the settings make no model, do not match the tensors, or need too much memory.
    """
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
