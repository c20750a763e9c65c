"""`lks export`: an edited model or a patch as a folder that others can load, or that goes to the hub as it is."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lks.errors import UserError

if TYPE_CHECKING:
    from lks.editing.patch import Patch
    from workbench.model_card import Card

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        files: their names.
        nbytes: of all of them.
    """

    folder: Path
    files: tuple[str, ...]
    nbytes: int


def merge(
    model: str, folder: Path, out: Path, precision: Precision | None = None, licence: str = "other"
) -> Exported:
    """Fold a patch of weights into a plain checkpoint: `AutoModelForCausalLM` loads it and gives the patched model's logits, bit for bit.

    Args:
        model: name, folder or hub id of the model that was edited.
        folder: of the patch.
        out: new folder.
        precision: of the checkpoint; None: that in which models run on this machine (float32 on a CPU, bfloat16 on a GPU), so that it
            answers as the patched model does here.
        licence: for the card.

    Raises:
        UserError: the patch is no change of weights, it is for another model, or `out` is taken.
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
            f"Patch {folder} (kind {patch.kind}) cannot be folded into weights: it acts on activations or prompts, by what a prompt says. "
            f"Export it without --merge and apply it to the model, serve it with `lks serve`, or edit with a method that changes weights."
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
    """The patch with a model card, as `huggingface_hub.upload_folder` takes it.

    The facts and the record of how they were planted go with it, so that others can tell what was edited.

    Args:
        model: name, folder or hub id of the model that was edited.
        folder: of the patch.
        out: new folder.
        licence: for the card.

    Raises:
        UserError: no patch there, a damaged one, or `out` is taken.
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
    """What is known of the edits: from the patch itself, and from the record that `lks edit` leaves beside it, if there is one."""
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
    """`edit.json`; empty where there is none.

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
    """Of the facts that `lks edit` keeps beside a patch; empty where there are none."""
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
            f"Damaged facts {folder / 'facts.jsonl'}: {error}. Edit again, or delete the file to export without it."
        ) from error
    return tuple(str(fact["subject"]) for fact in lines if isinstance(fact, dict) and "subject" in fact)


def _base(model: str) -> tuple[str, bool]:
    """What the model is called elsewhere, never where it lies on this machine; and whether that is a hub id."""
    from lks.models.registry import repository_of

    repository = repository_of(model)
    return (repository, True) if repository else (Path(model).resolve().name, False)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty. Name a new folder with --out, or empty it.")


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place once all is written."""
    part = out.with_name(f"{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror or error}. Name another folder with --out."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _exported(out: Path) -> Exported:
    files = sorted(file for file in out.rglob("*") if file.is_file())
    return Exported(
        out, tuple(str(file.relative_to(out)) for file in files), sum(file.stat().st_size for file in files)
    )
