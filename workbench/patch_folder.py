"""Folder of a patch: `patch.json` and `patch.safetensors`, with files that record where the edits come from.

`edit.json` says how they were made and for which weights, `facts.jsonl` what they are, `skipped.txt` which
lines of the file of facts were skipped and why, and `training.safetensors` holds what a hypernetwork learnt,
to continue from. Nothing in the folder names a machine, a user or a path.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

import lks.editing.patch
from lks.data.user_facts import Facts, read_facts, write_facts
from lks.editing.patch import LARGEST_TENSORS, Patch, checked
from lks.errors import DataError, StoreError, UserError
from lks.evaluation.prompt_formats import Form
from lks.io.atomic import replaced_folder, write_whole
from lks.io.untrusted import check_plain, content_of, one_line, parse_json
from lks.models.lm import LM

FORMAT = 1
ORIGIN, FACTS, TRAINING, SKIPPED = "edit.json", "facts.jsonl", "training.safetensors", "skipped.txt"
OURS = frozenset({"patch.json", "patch.safetensors", ORIGIN, FACTS, TRAINING, SKIPPED})


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The unedited model that a patch belongs to.

    Attributes:
        name: name as users write it; for a local folder its last part.
        revision: hash of the weights or commit on the hub; for a model that has neither, hash of its values.
        blocks, dim, vocabulary: shape of the model.
    """

    name: str
    revision: str
    blocks: int
    dim: int
    vocabulary: int

    @classmethod
    def of(cls, lm: LM) -> "ModelIdentity":
        """Return the identity of a loaded model.

        It is the same on every device, and in every number format if the model's files are hashed.
        """
        published = "/" in lm.name and not Path(lm.name).exists()
        name = lm.name if published else Path(lm.name).name
        return cls(
            name,
            lm.revision or lm.identity,
            len(lm.blocks),
            lm.dim,
            int(lm.vocabulary_projection.weight.shape[0]),
        )

    def is_that_of(self, other: "ModelIdentity") -> bool:
        """Return whether a patch for the one fits the other: the same weights, whatever their names."""
        return (self.revision, self.blocks, self.dim, self.vocabulary) == (
            other.revision,
            other.blocks,
            other.dim,
            other.vocabulary,
        )

    def __str__(self) -> str:
        """Describe the model in one line."""
        return f"{self.name} (revision {self.revision[:16]}, {self.blocks} blocks of width {self.dim})"


@dataclass(frozen=True, slots=True)
class EditRecord:
    """Content of `edit.json`.

    Attributes:
        format: version of this document's format.
        method, title: registry name, and name in tables.
        parameters: parameters as the method resolved them.
        changed: parameters set by the user.
        tuned: preset that the parameters come from.
        base: the unedited model.
        seed: random seed for editing and training.
        seconds: time of editing, updates included.
        prepare_s: time to prepare the method, which is short where that came from the cache.
        made: versions and time (`lks.results.provenance`).
        history: what was done, in order.
        training: dataset that the method was trained on beforehand; "" for none.
        form: form in which prompts were presented for training and are to be asked; patches made before it
            was recorded are "bare".
    """

    format: int
    method: str
    title: str
    parameters: dict[str, object]
    changed: dict[str, str]
    tuned: str
    base: ModelIdentity
    seed: int
    seconds: float
    prepare_s: float
    made: dict[str, str]
    history: tuple[str, ...] = ()
    training: str = ""
    form: Form = "bare"


@dataclass(frozen=True)
class SavedEdits:
    """Edits read from a folder.

    Attributes:
        patch: the edits.
        origin: how they were made; None for a patch without that record.
        facts: the edited facts; None for a patch without them.
        learnt: what a hypernetwork learnt; empty if there is none.
    """

    patch: Patch
    origin: EditRecord | None
    facts: Facts | None
    learnt: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def form(self) -> Form:
        """Form in which prompts are to be asked."""
        return self.origin.form if self.origin else "bare"

    def check_model(self, lm: LM, force: bool = False) -> None:
        """Refuse a model that the edits were not made for.

        Raises:
            UserError: it is another model; the message names both.
        """
        if self.origin is None or force:
            return
        found = ModelIdentity.of(lm)
        if not self.origin.base.is_that_of(found):
            raise UserError(
                f"The patch was made for {self.origin.base}, the model is {found}. "
                "Give that model, edit this one, or use --force."
            )


def read(folder: Path) -> SavedEdits:
    """Read the edits in a folder, which may be from an untrusted source.

    Raises:
        UserError: there are none, or they are damaged.
    """
    patch = lks.editing.patch.load(folder)
    facts = read_facts(folder / FACTS) if (folder / FACTS).exists() else None
    return SavedEdits(patch, _origin(folder), facts, _training(folder))


def _origin(folder: Path) -> EditRecord | None:
    try:
        return checked(EditRecord, parse_json(content_of(folder / ORIGIN)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{folder / ORIGIN} is damaged ({one_line(error)}). Delete it, or edit again."
        ) from None


def _training(folder: Path) -> dict[str, Tensor]:
    file = folder / TRAINING
    try:
        check_plain(file, LARGEST_TENSORS)
        return load_file(file)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001  the library has its own errors for each kind of damage
        raise DataError(
            f"{file} is damaged ({one_line(error)}). Delete it: updates then edit all facts again."
        ) from None


def write(folder: Path, edited: SavedEdits) -> None:
    """Write edits to a folder, replacing its content; the old content stays until everything is written.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        with replaced_folder(folder) as new:
            _write_files(new, edited)
    except OSError as error:
        raise StoreError(
            f"Cannot write {folder}: {error.strerror or error}. Free space or give another folder with --out."
        ) from None


def _write_files(new: Path, edited: SavedEdits) -> None:
    edited.patch.save(new)
    if edited.origin is not None:
        write_whole(new / ORIGIN, json.dumps(asdict(edited.origin), indent=1, ensure_ascii=False).encode())
    if edited.facts is not None:
        write_facts(new / FACTS, edited.facts)
        if edited.facts.skipped:
            write_whole(new / SKIPPED, "".join(f"{line}\n" for line in edited.facts.skipped).encode())
    if edited.learnt:
        learnt = {name: value.detach().contiguous().cpu() for name, value in edited.learnt.items()}
        save_file(learnt, new / TRAINING)


def is_patch(folder: Path) -> bool:
    """Return whether a folder holds a patch and nothing else that would be lost by replacing it."""
    return (folder / "patch.json").is_file() and {part.name for part in folder.iterdir()} <= OURS


def check_writable(folder: Path, may_replace: bool, needed: int = 0) -> None:
    """Check the folder that is to be written, before long work.

    Args:
        folder: the folder.
        may_replace: whether an existing patch may be replaced.
        needed: bytes that must be free.

    Raises:
        UserError: the folder holds something else, cannot be written or has too little space.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give a folder with --out.")
    if folder.is_dir() and any(folder.iterdir()):
        if not is_patch(folder):
            raise UserError(
                f"{folder} holds something other than a patch. Give a new or empty folder with --out."
            )
        if not may_replace:
            raise UserError(
                f"{folder} holds a patch already. Give another --out, or with lks edit "
                "add to it (--update) or replace it (--overwrite)."
            )
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        probe = parent / f".{folder.name}.{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}. Give another folder with --out."
        ) from None
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{folder} may need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free there. "
            "Free some space, or give another --out."
        )


def size(folder: Path) -> int:
    """Return the total size of a folder's files in bytes."""
    total = 0
    for part in folder.iterdir():
        with suppress(OSError):
            total += part.stat().st_size
    return total


def joined_parameters(parameters: Mapping[str, object]) -> str:
    """Format parameters in one line."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())
