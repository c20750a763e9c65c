"""Published editors, one module each, found by module name, plus those of the folder `LKS_METHODS`."""

import importlib
import inspect
import os
import pkgutil
from functools import cache
from pathlib import Path
from types import MappingProxyType

from lks.editing.editor import Editor
from lks.errors import UserError
from lks.method.lks import LKS

if os.environ.get(
    "LKS_METHODS"
):  # part of this package, so that saved patches find their class by the same rule
    __path__.append(str(Path(os.environ["LKS_METHODS"]).expanduser().absolute()))


@cache
def methods() -> MappingProxyType[str, type[Editor[object]]]:
    """Return all methods by name: LKS and the `Editor` of each module here without a leading underscore.

    Raises:
        UserError: the folder `LKS_METHODS` does not exist, or a file in it defines no method or has the name
            of a built-in one.
    """
    for folder in __path__[1:]:
        _check_own(Path(folder))
    found: dict[str, type[Editor[object]]] = {"lks": LKS}  # type: ignore[dict-item]
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found[module.name] = _editor(f"{__name__}.{module.name}")
    return MappingProxyType(dict(sorted(found.items())))


def _editor(module: str) -> type[Editor[object]]:
    """Return the one editor class that a module defines."""
    contents = vars(importlib.import_module(module)).values()
    own = [c for c in contents if inspect.isclass(c) and issubclass(c, Editor) and c.__module__ == module]
    if len(own) != 1:
        raise UserError(
            f"{importlib.import_module(module).__file__} must define exactly one Editor, "
            f"it defines {len(own)}."
        )
    return own[0]


def _check_own(folder: Path) -> None:
    """Raise `UserError` if a folder of user methods does not exist or reuses a built-in method's name."""
    if not folder.is_dir():
        raise UserError(
            f"LKS_METHODS={folder}: no such folder. Make it, with one file per method, or unset the variable."
        )
    taken = {"lks"} | {module.name for module in pkgutil.iter_modules(__path__[:1])}
    for file in sorted(folder.glob("*.py")):
        if file.stem in taken:
            raise UserError(f"{file}: {file.stem!r} is the name of a method of lks-grid. Rename the file.")
