"""Models of the Hugging Face hub: what is on this machine, which commit it is, and fetching the rest."""

import json
from collections.abc import Callable
from pathlib import Path

from lks.errors import UserError
from lks.io import hub

FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Patterns of the files that a model is loaded from."""
NOT = ("*/*", "consolidated*")
"""Patterns of other formats of the same weights, in folders or under the authors' own names."""


def cached(repository: str, revision: str = "") -> Path | None:
    """Return the snapshot of a repository on this machine, named by its commit; None if incomplete.

    Args:
        repository: OWNER/NAME.
        revision: commit; "" for that of the main branch when it was last fetched.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=revision or "main")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if any(folder.glob("*.safetensors")) and _whole(folder) else None


def _whole(folder: Path) -> bool:
    """Return whether all shards of the weights are there."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return (folder / "model.safetensors").exists() or not list(folder.glob("model-*-of-*.safetensors"))
    try:
        return all(
            (folder / name).exists()
            for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def newest(repository: str) -> str:
    """Return the current commit of a repository's main branch.

    Raises:
        UserError: the hub does not answer, or refuses the repository.
    """
    from huggingface_hub import HfApi

    return _asked(repository, lambda: str(HfApi().model_info(repository, timeout=10).sha))


def config(repository: str, revision: str = "") -> Path:
    """Return a repository's configuration file, fetched if needed.

    Raises:
        UserError: the hub does not answer, or refuses the repository.
    """
    from huggingface_hub import hf_hub_download

    return Path(
        _asked(repository, lambda: str(hf_hub_download(repository, "config.json", revision=revision or None)))
    )


def fetch(repository: str, revision: str = "") -> Path:
    """Fetch all files that a model is loaded from, except those that are already here.

    Returns:
        The snapshot's folder, whose name is the commit.

    Raises:
        UserError: the hub does not answer, refuses the repository, or it has no safetensors.
    """
    from huggingface_hub import snapshot_download

    def download() -> str:
        return str(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(FILES), ignore_patterns=list(NOT)
            )
        )

    folder = Path(_asked(repository, download))
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"The repository {repository} has no *.safetensors files; other formats run code when they are "
            "read. Convert it first."
        )
    return folder


def _asked(repository: str, question: Callable[[], str]) -> str:
    """Return the hub's answer, or raise the reason why there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if no_hub := hub.why_not():
        raise UserError(
            f"Model {repository} is not on this machine. {no_hub} Fetch it where the hub can be asked, or "
            "give a folder."
        )
    try:
        return question()
    except GatedRepoError:
        advice = f"Accept its terms on https://huggingface.co/{repository} and log in: hf auth login"
        raise UserError(
            f"The hub provides {repository} only to accounts that have accepted its terms. {advice}"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub has no repository {repository}, or it is private. Check the name, or log in: hf auth "
            "login"
        ) from None
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"The hub did not provide {repository}: {first}") from error
