"""Latent Knowledge Scalpel (LKS): shared machinery for knowledge editors, and their evaluation.

    from lks import LM, load_patch
    lm = LM.load("path or hub id")
    with load_patch("patch/").applied(lm):
        ids = lm.tokenizer("Alan Turing was born in", return_tensors="pt")
        print(lm.tokenizer.decode(lm.model.generate(**ids, max_new_tokens=8)[0]))

`lks.patched(model, tokenizer, "patch/")` applies a patch to a transformers model until it is removed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lks.editing.patched_model import load_patch, patched
    from lks.models.architectures import Architecture
    from lks.models.lm import LM

__all__ = ["LM", "Architecture", "load_patch", "patched"]

_HOMES = {
    "LM": "lks.models.lm",
    "Architecture": "lks.models.architectures",
    "load_patch": "lks.editing.patched_model",
    "patched": "lks.editing.patched_model",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, since torch and transformers take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
