"""The result of editing: inside a `with`, a `Patch` turns a model into the edited one."""

import importlib
import importlib.util
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lks.editing.row_patch import RowPatch, weight_rows
from lks.errors import DataError, UserError
from lks.io.atomic import move_synced
from lks.io.untrusted import check_plain, content_of, one_line, parse_json
from lks.models.lm import LM

FORMAT = 1
HOMES = {
    "knowledge_blocks": "lks.method.replacer",
    "facts in front": "baselines._in_context.retrieval_patch",
    "serac": "baselines._serac.patch",
}
"""Kind of patch -> the module of its class. Any other kind belongs to a single method: its class is in the
method's file, in `baselines`."""
METHODS = "baselines"
LARGEST_TENSORS = 64 << 30
"""Bytes of `patch.safetensors`; a dense change of a model with 7 billion weights takes 28 GB."""

T = TypeVar("T")


class Patch(ABC):
    """The result of editing, separate from the model.

    On exit from `applied`, however it is left, the model is bit for bit what it was. A patched model stays an
    ordinary `PreTrainedModel`: `generate` and lm-eval need no wrapper.
    """

    kind: ClassVar[str]

    @abstractmethod
    def applied(self, lm: LM) -> AbstractContextManager[None]:
        """Make the model the edited one inside the `with`."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the tensors that hold the edits."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are saved in `patch.safetensors`."""

    def settings(self) -> dict[str, object]:
        """Return the settings that are saved in `patch.json` next to the kind."""
        return {}

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool] | None:
        """Return whether the edits act on each prompt, judged from its text alone.

        A patch with a gate also reports it whenever it runs (`lks.models.prefill.FIRED`). False is a
        guarantee: on this prompt the model is bit for bit the unedited one. True means that the edits act or
        may act.

        Args:
            lm: the model, whose tokenizer reads the prompts; it is not run.
            prompts: texts as they are asked, without answers.

        Returns:
            One value per prompt; None where the patch has no gate, or where only running the model can
            decide.
        """
        return None

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the edited subjects, as `lks.models.prefill.FOUND` numbers them.

        It is empty where the patch does not say which subject it acts for.
        """
        return ()

    def context_tokens(self, lm: LM) -> int:
        """Return how many tokens a prompt may grow by inside `applied`, for sizing batches."""
        return 0

    folds: ClassVar[bool] = False
    """Whether the model inside `applied` can be saved as the edited model: only its weights are changed."""

    def without(self, subjects: Collection[str]) -> "Patch | None":
        """Return the patch without some subjects; None if its edits are not kept apart by subject."""
        return None

    @property
    def extensible(self) -> bool:
        """Whether edits of further subjects can be added later (`merged_with`) without changing these."""
        return False

    def merged_with(self, other: "Patch") -> "Patch":
        """Return one patch that makes the edits of both.

        Raises:
            UserError: they are of kinds that cannot be merged, or do not fit together.
        """
        raise cannot_merge(self, other)

    def parts(self) -> dict[str, Tensor]:
        """Return what is compared when two patches are: tensors by subject, parameter or name."""
        return self.tensors()

    def names_in(self, text: str) -> bool:
        """Return whether a text mentions an edited subject; False for a patch that does not go by names."""
        return False

    def misfit(self, blocks: int, dim: int) -> str:
        """Return what a model of this shape lacks ("block 30 of width 4096"); "" if nothing."""
        return ""

    def counts(self) -> dict[str, int]:
        """Return numbers that describe the patch to users, by name."""
        return {}

    def by_rows(self, lm: LM) -> RowPatch | None:
        """Return the patch ready for rows of any batch; None if it needs separate batches."""
        return None

    @classmethod
    @abstractmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Return the patch from its saved tensors and settings."""

    def save(self, folder: Path) -> None:
        """Write `patch.safetensors` and `patch.json`; the JSON last, so that a folder with it is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = folder / "patch.safetensors.part"  # never follows a link: renamed, not overwritten
        tensors.unlink(missing_ok=True)
        save_file({k: v.detach().contiguous().cpu() for k, v in self.tensors().items()}, tensors)
        move_synced(tensors, folder / "patch.safetensors")
        document = {
            "format": FORMAT,
            "kind": self.kind,
            "module": type(self).__module__,
            "settings": self.settings(),
        }
        temporary = folder / "patch.json.part"
        temporary.unlink(missing_ok=True)
        temporary.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        move_synced(temporary, folder / "patch.json")


def cannot_merge(one: Patch, two: Patch) -> UserError:
    """Make the error for two patches of kinds that do not go together."""
    return UserError(
        f"A patch of kind {one.kind!r} and one of kind {two.kind!r} cannot be merged. "
        "Edit again with the facts of both."
    )


def kinds() -> dict[str, type[Patch]]:
    """Return all patch classes that are loaded, by kind."""
    found: dict[str, type[Patch]] = {}
    todo: list[type[Patch]] = list(Patch.__subclasses__())
    while todo:
        patch = todo.pop()
        todo.extend(patch.__subclasses__())
        if "kind" in vars(patch):
            found[patch.kind] = patch
    return found


@dataclass(frozen=True, slots=True)
class _Document:
    """Content of `patch.json`."""

    format: int
    kind: str
    module: str
    settings: dict[str, object]


def _method_modules() -> set[str]:
    """Return the modules of all methods, including those of the folder `LKS_METHODS`."""
    if importlib.util.find_spec(METHODS) is None:
        return set()
    return {
        f"{METHODS}.{part.name}"
        for part in pkgutil.iter_modules(importlib.import_module(METHODS).__path__)
        if not part.ispkg
    }


def _kind(folder: Path, document: _Document) -> type[Patch]:
    """Return the class of a saved patch, importing its module if needed.

    The module must be one of this program's own, because importing runs code. The module that a patch names
    counts only for kinds of single methods: the others may move after a patch was saved.
    """
    if document.kind not in kinds():
        module = HOMES.get(document.kind, document.module)
        if module not in HOMES.values() and module not in _method_modules():
            made = f"of kind {document.kind!r}, made by {one_line(document.module)}"
            raise UserError(
                f"Patch {folder} is {made}, which is not installed as a part of this program. Update the "
                "program, or edit again."
            )
        importlib.import_module(module)
    if document.kind not in kinds():
        raise ValueError(f"{document.module} has no patch of kind {document.kind!r}")
    return kinds()[document.kind]


def load(folder: Path) -> Patch:
    """Load the patch saved in a folder, which may be untrusted.

    Nothing in it is executed, and no memory is allocated by its declarations without a check.

    Raises:
        UserError: there is no patch, a damaged one, or one of a newer format.
    """
    file = folder / "patch.safetensors"
    try:
        raw = parse_json(content_of(folder / "patch.json"))
        if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise UserError(
                f"Patch {folder} has format {raw['format']}; this version reads {FORMAT}. Upgrade lks-grid "
                "or edit again."
            )
        document = checked(_Document, raw)
        if document.format != FORMAT:
            raise ValueError(f"format {document.format}")
        kind = _kind(folder, document)
        check_plain(file, LARGEST_TENSORS)
        return kind.restore(load_file(file), document.settings)
    except FileNotFoundError:
        if not folder.exists():
            raise UserError(f"{folder} does not exist. Name the folder of a patch.") from None
        raise UserError(
            f"No patch in {folder}: patch.json and patch.safetensors are needed. Name another folder, or "
            "edit again."
        ) from None
    except (
        SafetensorError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        RuntimeError,
        OverflowError,
    ) as error:
        what = one_line(f"{type(error).__name__}: {error}")
        raise DataError(f"Damaged patch in {folder} ({what}). Delete the folder and edit again.") from error


def checked(kind: type[T], settings: object) -> T:
    """Return settings from JSON as a dataclass.

    Every field must be there, of its own type, with finite numbers; unknown fields are ignored.

    Args:
        kind: the dataclass.
        settings: as `json` gives them.

    Raises:
        ValueError: they are something else; the message names the field.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(settings, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'settings'}: {first['msg']}") from None


def check_finite(patch: Patch) -> None:
    """Check that every number of a patch is finite, before anything is asked of the edited model.

    Raises:
        FloatingPointError: a tensor of the patch holds NaN or infinity: its training has diverged.
    """
    tensors = patch.tensors()
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if bad:
        raise FloatingPointError(
            f"{len(bad)} of the {len(tensors)} tensors of the edits hold NaN or infinity, {bad[0]} first"
        )


def check_tensor(name: str, tensor: Tensor, *shape: int | None) -> Tensor:
    """Return a tensor after checking that it is floating-point and has the given shape.

    Args:
        name: for the error message.
        tensor: the saved tensor.
        shape: size of each dimension; None for any.

    Raises:
        ValueError: it is of another type or shape.
    """
    fits = tensor.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits or not tensor.is_floating_point():
        raise ValueError(f"{name} is of shape {tuple(tensor.shape)} and type {tensor.dtype}")
    return tensor


class NoPatch(Patch):
    """A patch that changes nothing: the unedited model."""

    kind = "nothing"
    nbytes = 0

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Change nothing."""
        yield

    def by_rows(self, lm: LM) -> RowPatch:
        """Return a patch that acts on no row."""
        return RowPatch()

    def tensors(self) -> dict[str, Tensor]:
        """Return no tensors."""
        return {}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Return a patch without content."""
        return cls()


class WeightPatch(Patch):
    """Changed weights: parameter name -> difference to the unedited weight, dense or as two factors.

    A low-rank difference is stored as `name.left` [out, rank] and `name.right` [rank, in].
    """

    kind = "weights"
    folds = True

    def __init__(self, deltas: dict[str, Tensor]) -> None:
        self.deltas = deltas

    @property
    def nbytes(self) -> int:
        """Bytes of all differences as stored."""
        return sum(t.numel() * t.element_size() for t in self.deltas.values())

    def difference(self, name: str) -> Tensor:
        """Return the dense difference of one parameter."""
        if name in self.deltas:
            return self.deltas[name]
        return self.deltas[f"{name}.left"] @ self.deltas[f"{name}.right"]

    def _shape(self, name: str) -> torch.Size:
        """Return the shape of a difference without computing it."""
        if name in self.deltas:
            return self.deltas[name].shape
        return torch.Size((self.deltas[f"{name}.left"].shape[0], self.deltas[f"{name}.right"].shape[1]))

    @property
    def names(self) -> list[str]:
        """Names of the parameters that change."""
        return sorted({n.removesuffix(".left").removesuffix(".right") for n in self.deltas})

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Add the differences, and restore the original values on exit.

        Raises:
            UserError: the model has no parameter of that name and shape.
        """
        parameters = dict(lm.model.named_parameters())
        for name in self.names:
            if name not in parameters or parameters[name].shape != self._shape(name):
                raise UserError(
                    f"The patch changes {name} of shape {tuple(self._shape(name))}, which "
                    f"{lm.name or 'the model'} does not have. Edit again."
                )
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

    def _factors(self, name: str) -> list[Tensor]:
        """Return a difference as stored: dense, or as two factors."""
        if name in self.deltas:
            return [self.deltas[name]]
        return [self.deltas[f"{name}.left"], self.deltas[f"{name}.right"]]

    def by_rows(self, lm: LM) -> RowPatch | None:
        """Return the patch for rows of any batch; None if it changes more than weights of single layers."""
        if type(self).applied is not WeightPatch.applied:  # a subclass that does more
            return None
        return weight_rows(lm, {name: self._factors(name) for name in self.names})

    def merged_with(self, other: Patch) -> "WeightPatch":
        """Return the sum of both changes; the edits may disturb each other.

        Raises:
            UserError: the other patch changes no weights.
        """
        if not isinstance(other, WeightPatch):
            raise cannot_merge(self, other)
        deltas: dict[str, Tensor] = {}
        for name in sorted({*self.names, *other.names}):
            having = [patch for patch in (self, other) if name in patch.names]
            if any(name in patch.deltas for patch in having):
                deltas[name] = torch.stack([patch.difference(name) for patch in having]).sum(0)
            else:
                deltas[f"{name}.left"] = torch.cat([patch.deltas[f"{name}.left"] for patch in having], 1)
                deltas[f"{name}.right"] = torch.cat([patch.deltas[f"{name}.right"] for patch in having], 0)
        return WeightPatch(deltas)

    def parts(self) -> dict[str, Tensor]:
        """Return the dense differences by parameter."""
        return {name: self.difference(name) for name in self.names}

    def counts(self) -> dict[str, int]:
        """Return the number of changed weights (parameters)."""
        return {"weights": len(self.names)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the differences."""
        return self.deltas

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Return a patch from saved differences.

        Raises:
            ValueError: tensors that are not floating-point, or factors that do not fit together.
        """
        patch = cls(tensors)
        for name in patch.names:
            if name in tensors:
                check_tensor(name, tensors[name], *(None,) * tensors[name].ndim)
            else:
                left = check_tensor(f"{name}.left", tensors[f"{name}.left"], None, None)
                check_tensor(f"{name}.right", tensors[f"{name}.right"], left.shape[1], None)
        return patch
