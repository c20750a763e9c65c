"""Published editors, one module each, found by the module's name."""

import importlib
import inspect
import pkgutil
from functools import cache
from types import MappingProxyType

from lks.editor import Editor
from lks.method import LKS


@cache
def methods() -> MappingProxyType[str, type[Editor[object]]]:
    """Every method by name: LKS and one `Editor` per module of this package whose name has no leading underscore."""
    found: dict[str, type[Editor[object]]] = {"lks": LKS}  # type: ignore[dict-item]
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found[module.name] = _editor(f"{__name__}.{module.name}")
    return MappingProxyType(dict(sorted(found.items())))


def _editor(module: str) -> type[Editor[object]]:
    """The one editor that a module defines."""
    contents = vars(importlib.import_module(module)).values()
    own = [c for c in contents if inspect.isclass(c) and issubclass(c, Editor) and c.__module__ == module]
    if len(own) != 1:
        raise TypeError(f"{module} must define exactly one Editor, it defines {len(own)}")
    return own[0]
