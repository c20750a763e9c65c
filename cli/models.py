"""Commands `lks models`: list, fetch and remove models."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lks.errors import UserError

models = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List, fetch and remove models.")


@models.command("list")
def show() -> None:
    """List the models with a short name: size, licence, source, and whether they are on this machine.

    In every command any folder in the layout of Hugging Face, any GGUF file and any OWNER/NAME on the hub is
    a model, too.

    [bold]Example[/]

      lks models list
    """
    Console().print(table())


@models.command("fetch")
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names from [bold]lks models list[/], OWNER/NAME on the hub, or GGUF files.",
            metavar="NAME...",
        ),
    ],
) -> None:
    """Download models from the hub (or a Python package), convert GGUF files, and keep the result.

    Commands that use a model do this themselves; run it beforehand for commands that will have no network.

    [bold]Examples[/]

      lks models fetch smollm2-135m

      lks models fetch Qwen/Qwen2.5-0.5B-Instruct
    """
    from cli.readying import make_ready
    from flows.settings import calm_transformers
    from lks.models.registry import check_name

    for name in names:
        check_name(name)
    calm_transformers()
    console = Console()
    for name, here in make_ready(console, names).items():
        weights = f" (GGUF, {here.quantisation})" if here.quantisation else ""
        console.print(f"{name}{weights}: {here.folder}", highlight=False, soft_wrap=True, markup=False)


@models.command("remove")
def remove(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names from [bold]lks models list[/], OWNER/NAME on the hub, or GGUF files.",
            metavar="NAME...",
        ),
    ],
) -> None:
    """Delete fetched and converted models from this machine. Your own folders, GGUF files and results stay.

    [bold]Example[/]

      lks models remove smollm2-135m
    """
    from lks.models.registry import check_name

    for name in names:
        check_name(name)
    for name in names:
        freed = _removed(name)
        said = f"{freed / 1e6:,.0f} MB freed" if freed else "nothing of it is in the cache"
        Console().print(f"{name}: {said}.", highlight=False, soft_wrap=True, markup=False)


def table() -> Table:
    """Return a table of the models with a short name."""
    from flows.running.planning import revision_of_model
    from lks.models.registry import KNOWN
    from lks.models.testbed_models import NAMES, build_command

    made = Table(
        "model",
        "parameters",
        "licence",
        "where from",
        "revision",
        "on this machine",
        box=None,
        header_style="bold",
    )
    for name in NAMES:
        try:
            made.add_row(name, "", "Apache-2.0", "testbed", revision_of_model(name), "yes")
        except UserError:
            made.add_row(name, "", "Apache-2.0", "testbed", "", f"no: {build_command(name)}")
    for name, known in KNOWN.items():
        source = f"{known.repository}{' (gated)' if known.gated else ''}" + (
            f", or package {known.package.requirement}" if known.package else ""
        )
        made.add_row(name, known.parameters, known.licence, source, *_here(name))
    made.add_row("FOLDER", "", "", "a model in the layout of Hugging Face, with *.safetensors files", "", "")
    made.add_row("FILE.gguf", "", "", "a GGUF file of a known family", "", "")
    made.add_row("OWNER/NAME", "", "", "any causal language model of a known family on the hub", "", "")
    return made


def _here(name: str) -> tuple[str, str]:
    """Return a model's revision and whether it is on this machine."""
    from lks.models.registry import found, package_file, pinned

    here = found(name)
    if here is None:
        return pinned(name)[:16], "downloaded, to be converted" if package_file(name) else "no"
    return here.revision[:16], f"yes, GGUF {here.quantisation}" if here.quantisation else "yes"


def _removed(name: str) -> int:
    """Delete what the caches hold of a model and return the bytes freed.

    Raises:
        UserError: it is a user's folder or a testbed model, or it cannot be deleted.
    """
    from lks.models.registry import found, kind_of, package_file, repository_of

    kind, freed = kind_of(name), 0
    if kind in ("folder", "testbed"):
        raise UserError(
            f"{name} is {'a folder of yours' if kind == 'folder' else 'a testbed model'}; "
            "delete it yourself if you do not need it."
        )
    if kind == "hub":
        freed += _removed_from_hub_cache(repository_of(name))
    here, file = found(name), package_file(name)
    freed += sum(_deleted(path) for path in (here.folder if here else None, file) if path)
    return freed


def _removed_from_hub_cache(repository: str) -> int:
    """Delete all revisions of a repository from the hub's cache and return the bytes freed."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return 0
    here = [repo for repo in cache.repos if (repo.repo_id, repo.repo_type) == (repository, "model")]
    plan = cache.delete_revisions(*(revision.commit_hash for repo in here for revision in repo.revisions))
    plan.execute()
    return int(plan.expected_freed_size)


def _deleted(path: Path) -> int:
    """Delete a file or folder of the cache and return the bytes freed.

    Raises:
        UserError: it cannot be deleted.
    """
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    try:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    except OSError as error:
        raise UserError(f"{path} cannot be deleted: {error.strerror}.") from None
    return size
