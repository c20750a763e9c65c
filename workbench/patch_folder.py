"""The folder that editing leaves: `patch.json` and `patch.safetensors`, and beside them where the edits come from.

`edit.json` says how they were made and for which weights, `facts.jsonl` what they are, `skipped.txt` which lines of the file of facts were left
out and why, `training.safetensors` what a hypernetwork learnt, to continue from. Nothing in it names a machine, a user or a path.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

import lks.editing.patch
from lks.data.user_facts import Facts, read_facts, write_facts
from lks.editing.patch import LARGEST_TENSORS, Patch, checked
from lks.errors import DataError, StoreError, UserError
from lks.evaluation.prompt_formats import Form
from lks.io.atomic import write_whole
from lks.io.untrusted import check_plain, content_of, one_line, parse_json
from lks.models.lm import LM

FORMAT = 1
ORIGIN, FACTS, TRAINING, SKIPPED = "edit.json", "facts.jsonl", "training.safetensors", "skipped.txt"
OURS = frozenset({"patch.json", "patch.safetensors", ORIGIN, FACTS, TRAINING, SKIPPED})


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The unedited model that a patch belongs to.

    Attributes:
        name: as people say it; of a local folder the last part.
        revision: hash of the weights or commit on the hub; of a model that has neither, of its values.
        blocks, dim, vocabulary: its shape.
    """

    name: str
    revision: str
    blocks: int
    dim: int
    vocabulary: int

    @classmethod
    def of(cls, lm: LM) -> "ModelIdentity":
        """The identity of a loaded model, the same on every device and in every number format where its files are hashed."""
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
        """Whether a patch for the one fits the other: the same weights, whatever they are called."""
        return (self.revision, self.blocks, self.dim, self.vocabulary) == (
            other.revision,
            other.blocks,
            other.dim,
            other.vocabulary,
        )

    def __str__(self) -> str:
        """In one line."""
        return f"{self.name} (revision {self.revision[:16]}, {self.blocks} blocks of width {self.dim})"


@dataclass(frozen=True, slots=True)
class EditRecord:
    """`edit.json`.

    Attributes:
        format: of this document.
        method, title: registry name and how tables call it.
        parameters: as the method resolved them.
        changed: those that were given by hand.
        tuned: which preset they come from.
        base: the unedited model.
        seed: of all randomness.
        seconds: editing, updates included; prepare_s: preparing the method.
        made: versions and time (`lks.results.provenance`).
        history: what was done, in order.
        training: dataset that the method was trained on beforehand; "" for none.
        form: in which form prompts were put for training, and are to be asked; patches from before it was kept are "bare".
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
    """A folder with edits, read.

    Attributes:
        patch: the edits.
        origin: how they were made; None for a patch without that record.
        facts: what they are; None likewise.
        learnt: what a hypernetwork learnt; empty where there is none.
    """

    patch: Patch
    origin: EditRecord | None
    facts: Facts | None
    learnt: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def form(self) -> Form:
        """The form in which prompts are to be asked."""
        return self.origin.form if self.origin else "bare"

    def check_model(self, lm: LM, force: bool = False) -> None:
        """Refuse a model that the edits were not made for.

        Raises:
            UserError: it is another one; names both.
        """
        if self.origin is None or force:
            return
        found = ModelIdentity.of(lm)
        if not self.origin.base.is_that_of(found):
            raise UserError(
                f"The patch was made for {self.origin.base}, the model is {found}. Give that model, edit this one, or use --force."
            )


def read(folder: Path) -> SavedEdits:
    """The edits in a folder, which may come from a stranger.

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
    except Exception as error:  # noqa: BLE001  the library has errors of its own for each kind of damage
        raise DataError(
            f"{file} is damaged ({one_line(error)}). Delete it: updates then edit all facts again."
        ) from None


def write(folder: Path, edited: SavedEdits) -> None:
    """Put edits into a folder, in place of what it holds; until all is written the old ones stay.

    Raises:
        StoreError: it cannot be written.
    """
    with _replaced(folder) as new:
        edited.patch.save(new)
        if edited.origin is not None:
            write_whole(
                new / ORIGIN, json.dumps(asdict(edited.origin), indent=1, ensure_ascii=False).encode()
            )
        if edited.facts is not None:
            write_facts(new / FACTS, edited.facts)
            if edited.facts.skipped:
                write_whole(new / SKIPPED, "".join(f"{line}\n" for line in edited.facts.skipped).encode())
        if edited.learnt:
            save_file(
                {name: value.detach().contiguous().cpu() for name, value in edited.learnt.items()},
                new / TRAINING,
            )


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A new folder beside the given one, which takes its place on leaving without an error."""
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("part", "old"))
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise StoreError(
            f"Cannot write {folder}: {error.strerror or error}. Free space or give another folder with --out."
        ) from None
    finally:
        for rest in (new, old):
            shutil.rmtree(rest, ignore_errors=True)


def is_patch(folder: Path) -> bool:
    """Whether a folder holds a patch, and nothing that replacing it would lose."""
    return (folder / "patch.json").is_file() and {part.name for part in folder.iterdir()} <= OURS


def check_writable(folder: Path, may_replace: bool, needed: int = 0) -> None:
    """Look at the folder that is to be written, before long work.

    Args:
        folder: it.
        may_replace: whether a patch that is there is to be replaced.
        needed: bytes that have to be free.

    Raises:
        UserError: something else is there, or it cannot be written or has too little space.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give a folder with --out.")
    if folder.is_dir() and any(folder.iterdir()):
        if not is_patch(folder):
            raise UserError(
                f"{folder} holds something else than a patch. Give a new or empty folder with --out."
            )
        if not may_replace:
            raise UserError(
                f"{folder} holds a patch already. Give another --out, or with lks edit add to it (--update) or replace it (--overwrite)."
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
            f"{folder} may need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free there. Free some, or give another --out."
        )


def size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    total = 0
    for part in folder.iterdir():
        with suppress(OSError):
            total += part.stat().st_size
    return total


def joined_parameters(parameters: Mapping[str, object]) -> str:
    """Parameters in one line."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items())
