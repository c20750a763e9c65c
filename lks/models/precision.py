"""Number formats that models run in, and which machines have matrix instructions for bfloat16."""

import os
from typing import Literal

import torch
from torch import Tensor, nn

from lks.errors import UserError, unknown

VARIABLE, AUTO = "LKS_DTYPE", "auto"
"""The environment variable that chooses the format, and its default: float32 on a CPU, bfloat16 on a GPU."""
Training = Literal["model", "bfloat16", "fast"]
"""Number format that frozen blocks train in: the model's own, bfloat16, or bfloat16 where the machine
supports it."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for products in bfloat16.

    GPUs from Ampere on and CPUs with AVX512-BF16 or AMX have them; elsewhere bfloat16 is emulated.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def default_device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def automatic(device: torch.device) -> torch.dtype:
    """Return the format of weights where none is chosen: float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def chosen(device: torch.device) -> torch.dtype:
    """Return the format of weights on a device: `LKS_DTYPE`, else `automatic`.

    Raises:
        UserError: a format that is not supported, or that the device can only emulate.
    """
    name = os.environ.get(VARIABLE, "").strip().lower() or AUTO
    if name == AUTO:
        return automatic(device)
    if name not in DTYPES:
        raise unknown(f"number format {VARIABLE} =", name, (AUTO, *DTYPES))
    if DTYPES[name] == torch.bfloat16 and not multiplies_bfloat16(device):
        where = (
            "This CPU has no instructions for bfloat16 (AVX512-BF16 or AMX)"
            if device.type == "cpu"
            else "This GPU has no bfloat16"
        )
        raise UserError(
            f"{VARIABLE}=bfloat16: {where}; it would be slower than float32. Unset {VARIABLE}, or set it to "
            "float32."
        )
    return DTYPES[name]


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a format as users write it: "float32"."""
    return str(dtype).removeprefix("torch.")


def revision_in(revision: str, dtype: torch.dtype, device: torch.device) -> str:
    """Return a model's revision as cells store it.

    In another format than the device's default it is another model ("...-bfloat16").
    """
    return revision if dtype == automatic(device) else f"{revision}-{name_of(dtype)}"


def in_one_piece(projection: nn.Module) -> None:
    """Make a linear layer read its input as contiguous memory.

    On a CPU the product of bfloat16 numbers that are not contiguous, such as the last token of each row of a
    batch, is a thousand times slower (torch 2.13: 19 s instead of 16 ms for 87 rows and 49,152 tokens).
    """
    projection.register_forward_pre_hook(_joined)


def _joined(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the arguments with a contiguous input."""
    return (args[0].contiguous(), *args[1:])


def training_dtype(precision: Training, device: torch.device) -> torch.dtype | None:
    """Return the number format that frozen blocks train in, None for the model's own.

    Args:
        precision: value of the method's parameter.
        device: device of the model.
    """
    half = precision == "bfloat16" or (precision == "fast" and multiplies_bfloat16(device))
    return torch.bfloat16 if half else None
