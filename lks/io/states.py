"""Nested training states in one file: JSON for dictionaries, lists and numbers, and tensors; no pickle."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lks.io.checkpoint import write
from lks.io.untrusted import parse_json


def save(path: Path, state: object) -> None:
    """Replace a file with a state of dictionaries, lists, tensors, numbers, texts and None.

    Raises:
        StoreError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = _packed(state, tensors)
    write(path, tensors, {"state": json.dumps(tree)})


def load(path: Path) -> object:
    """Return the state that `save` wrote; tuples come back as lists, tensors on the CPU.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: it is damaged.
        ValueError: it holds something else.
    """
    with safe_open(path, "pt") as file:
        tree = parse_json((file.metadata() or {}).get("state", ""))
        return _unpacked(tree, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _packed(value: object, tensors: dict[str, Tensor]) -> object:
    """Return a value as JSON data, with its tensors moved to a dictionary."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # a copy, because tied weights share memory, which the format cannot express
        tensors[name] = value.detach().cpu().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"keys": list(value), "values": [_packed(inner, tensors) for inner in value.values()]}
    return [_packed(inner, tensors) for inner in value] if isinstance(value, list | tuple) else value


def _unpacked(value: object, tensors: dict[str, Tensor]) -> object:
    """Return the value that `_packed` was given, from its JSON data and its tensors."""
    if isinstance(value, list):
        return [_unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return dict(zip(value["keys"], _unpacked(value["values"], tensors), strict=True))  # type: ignore[call-overload]
