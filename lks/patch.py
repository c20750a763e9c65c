"""What editing leaves behind: a `Patch` makes a model the edited one inside a `with`."""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lks.errors import UserError
from lks.lm import LM

FORMAT = 1


class Patch(ABC):
    """The result of editing, apart from the model.

    On leaving `applied`, however it is left, the model is bit for bit what it was. A patched model stays an ordinary
    `PreTrainedModel`: `generate` and lm-eval need no wrapper.
    """

    kind: ClassVar[str]

    @abstractmethod
    def applied(self, lm: LM) -> AbstractContextManager[None]:
        """The model is the edited one inside the `with`."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the tensors that hold the edits."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is saved in `patch.safetensors`."""

    def settings(self) -> dict[str, object]:
        """What is saved in `patch.json` beside the kind."""
        return {}

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool] | None:
        """Whether the edits act on each prompt, told from its text alone. A patch with a gate also says so whenever it runs (`lks.prefill.FIRED`).

        False is a proof: on this prompt the model is bit for bit the unedited one. True: the edits act or may act.

        Args:
            lm: the model, whose tokenizer reads the prompts; it is not run.
            prompts: texts as they are asked, without answers.

        Returns:
            None where the patch has no gate, or where only running the model tells.
        """
        return None

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the edited subjects, as `lks.prefill.FOUND` numbers them; empty where the patch does not say which subject it acts for."""
        return ()

    def context_tokens(self, lm: LM) -> int:
        """Tokens that a prompt may grow by inside `applied`, for those who size batches."""
        return 0

    @classmethod
    @abstractmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """The patch from what was saved."""

    def save(self, folder: Path) -> None:
        """Write `patch.safetensors` and `patch.json`; the JSON last, so that a folder with it is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().contiguous().cpu() for k, v in self.tensors().items()}, folder / "patch.safetensors")
        document = {"format": FORMAT, "kind": self.kind, "module": type(self).__module__, "settings": self.settings()}
        temporary = folder / "patch.json.part"
        temporary.write_text(json.dumps(document, ensure_ascii=False))
        temporary.replace(folder / "patch.json")


def kinds() -> dict[str, type[Patch]]:
    """All patch classes that are loaded, by kind."""
    found: dict[str, type[Patch]] = {}
    todo: list[type[Patch]] = list(Patch.__subclasses__())
    while todo:
        patch = todo.pop()
        todo.extend(patch.__subclasses__())
        if "kind" in vars(patch):
            found[patch.kind] = patch
    return found


def _kind(folder: Path, document: dict[str, str]) -> type[Patch]:
    """The class of a saved patch; its module is imported if nobody has yet."""
    if document["kind"] not in kinds():
        try:
            importlib.import_module(document["module"])
        except ImportError:
            raise UserError(f"Patch {folder} is of kind {document['kind']!r}, made by {document['module']}, which is not installed.") from None
    return kinds()[document["kind"]]


def load(folder: Path) -> Patch:
    """The patch saved in a folder.

    Raises:
        UserError: no patch there, a damaged one, or one of a newer format.
    """
    try:
        document = json.loads((folder / "patch.json").read_text())
        patch = _kind(folder, document)
        if document["format"] != FORMAT:
            raise UserError(f"Patch {folder} has format {document['format']}; this version reads {FORMAT}. Upgrade lks-grid or edit again.")
        return patch.restore(load_file(folder / "patch.safetensors"), document["settings"])
    except FileNotFoundError:
        raise UserError(f"No patch in {folder}: patch.json and patch.safetensors are needed. Run the edit again.") from None
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"Damaged patch in {folder} ({type(error).__name__}: {error}). Delete the folder and edit again.") from error


class NoPatch(Patch):
    """The unedited model."""

    kind = "nothing"
    nbytes = 0

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Change nothing."""
        yield

    def tensors(self) -> dict[str, Tensor]:
        """Nothing to save."""
        return {}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Nothing to restore."""
        return cls()


class WeightPatch(Patch):
    """Changed weights: parameter name -> difference to the unedited weight, dense or as two factors.

    A low-rank difference is stored as `name.left` [out, rank] and `name.right` [rank, in].
    """

    kind = "weights"

    def __init__(self, deltas: dict[str, Tensor]) -> None:
        self.deltas = deltas

    @property
    def nbytes(self) -> int:
        """Bytes of all differences as stored."""
        return sum(t.numel() * t.element_size() for t in self.deltas.values())

    def difference(self, name: str) -> Tensor:
        """The dense difference of one parameter."""
        if name in self.deltas:
            return self.deltas[name]
        return self.deltas[f"{name}.left"] @ self.deltas[f"{name}.right"]

    @property
    def names(self) -> list[str]:
        """The parameters that change."""
        return sorted({n.removesuffix(".left").removesuffix(".right") for n in self.deltas})

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Add the differences; put the very same values back on leaving."""
        parameters = dict(lm.model.named_parameters())
        kept: dict[str, Tensor] = {}
        try:
            with torch.no_grad():
                for name in self.names:
                    kept[name] = parameters[name].detach().clone()
                    parameters[name].add_(self.difference(name).to(parameters[name]))
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    parameters[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """The differences."""
        return self.deltas

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """The differences as read."""
        return cls(tensors)
