"""Export of an edited model or a patch to a folder that others can load or that can be uploaded to the
hub.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lks.errors import UserError
from lks.io.atomic import replaced_folder

if TYPE_CHECKING:
    from lks.editing.patch import Patch
    from workbench.model_card import Card

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export.

    Attributes:
        folder: folder that was written.
        files: names of its files.
        nbytes: total size of the files.
    """

    folder: Path
    files: tuple[str, ...]
    nbytes: int


def merge(
    model: str, folder: Path, out: Path, precision: Precision | None = None, licence: str = "other"
) -> Exported:
    """Fold a patch of weights into a plain checkpoint.

    `AutoModelForCausalLM` loads it and gives the patched model's logits, bit for bit.

    Args:
        model: name, folder or hub id of the model that was edited.
        folder: folder of the patch.
        out: new folder.
        precision: number format of the checkpoint; None: that in which models run on this machine (float32 on
            a CPU, bfloat16 on a GPU), so that it answers as the patched model does here.
        licence: licence stated in the model card.

    Raises:
        UserError: the patch is not a change of weights, it is for another model, or `out` exists already.
    """
    import torch
    from transformers import AutoTokenizer

    from lks.editing.patch import load
    from lks.models.fetching import ready
    from lks.models.lm import LM

    _check_free(out)
    patch = load(folder)
    if not patch.folds:
        raise UserError(
            f"Patch {folder} (kind {patch.kind}) cannot be folded into weights: "
            "it acts on activations or prompts, depending on what a prompt says. "
            "Export it without --merge and apply it to the model, "
            "serve it with `lks serve`, or edit with a method that changes weights."
        )
    lm = LM.load(model)
    if precision is not None:
        lm.model.to(getattr(torch, precision))
    with _written(out) as target, patch.applied(lm):
        lm.model.save_pretrained(target)
        AutoTokenizer.from_pretrained(ready(model).folder, trust_remote_code=False).save_pretrained(target)
        (target / "README.md").write_text(
            _card(model, folder, patch, licence, merged=True).text(), encoding="utf-8"
        )
    return _exported(out)


def publish(model: str, folder: Path, out: Path, licence: str = "other") -> Exported:
    """Export the patch with a model card, in the form that `huggingface_hub.upload_folder` takes.

    The facts and the record of how they were edited are included, so that others can see what was edited.

    Args:
        model: name, folder or hub id of the model that was edited.
        folder: folder of the patch.
        out: new folder.
        licence: licence stated in the model card.

    Raises:
        UserError: there is no patch, it is damaged, or `out` exists already.
    """
    from lks.editing.patch import load

    _check_free(out)
    patch = load(folder)
    with _written(out) as target:
        for name in ("patch.safetensors", "patch.json", "edit.json", "facts.jsonl"):
            if (folder / name).exists():
                shutil.copyfile(folder / name, target / name)
        (target / "README.md").write_text(
            _card(model, folder, patch, licence, merged=False).text(), encoding="utf-8"
        )
    return _exported(out)


def _card(model: str, folder: Path, patch: "Patch", licence: str, merged: bool) -> "Card":
    """Return the model card, filled from the patch and from the record that `lks edit` leaves with it, if
    any.
    """
    from workbench.model_card import Card

    base, on_hub = _base(model)
    method, subjects = _record(folder).get("title", ""), _subjects(folder)
    return Card(
        base,
        on_hub,
        str(method),
        len(subjects),
        tuple(dict.fromkeys(subjects or patch.subjects)),
        licence,
        merged,
    )


def _record(folder: Path) -> dict[str, object]:
    """Return the content of `edit.json`; empty if there is none.

    Raises:
        UserError: it is damaged.
    """
    from lks.io.untrusted import content_of, parse_json

    try:
        record = parse_json(content_of(folder / "edit.json"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"Damaged record {folder / 'edit.json'}: {error}. Edit again, or delete it to export without it."
        ) from error
    return record if isinstance(record, dict) else {}


def _subjects(folder: Path) -> tuple[str, ...]:
    """Return the subjects of the facts that `lks edit` keeps with a patch; empty if there are none.

    Raises:
        UserError: the file of facts is damaged.
    """
    from lks.io.lines import split_lines
    from lks.io.untrusted import content_of, parse_json

    try:
        lines = [
            parse_json(line.encode())
            for line in split_lines(content_of(folder / "facts.jsonl").decode())
            if line.strip()
        ]
    except FileNotFoundError:
        return ()
    except ValueError as error:
        raise UserError(
            f"Damaged facts {folder / 'facts.jsonl'}: {error}. "
            "Edit again, or delete the file to export without it."
        ) from error
    return tuple(str(fact["subject"]) for fact in lines if isinstance(fact, dict) and "subject" in fact)


def _base(model: str) -> tuple[str, bool]:
    """Return the model's public name, never its path on this machine, and whether it is a hub id."""
    from lks.models.registry import repository_of

    repository = repository_of(model)
    return (repository, True) if repository else (Path(model).resolve().name, False)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty. Give a new folder with --out, or empty it.")


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` once everything is written.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replaced_folder(out) as part:
            yield part
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror or error}. Give another folder with --out."
        ) from error


def _exported(out: Path) -> Exported:
    files = sorted(file for file in out.rglob("*") if file.is_file())
    return Exported(
        out, tuple(str(file.relative_to(out)) for file in files), sum(file.stat().st_size for file in files)
    )
