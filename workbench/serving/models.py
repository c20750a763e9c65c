"""Served model names: the unedited model and one per patch, checked before the model is loaded."""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from lks.editing.patch import NoPatch, Patch
from lks.errors import UserError
from lks.io.untrusted import one_line
from lks.models.lm import LM
from lks.models.registry import shape_of
from workbench.patch_folder import SavedEdits, read

log = logging.getLogger("lks.serve")


@dataclass(frozen=True, slots=True)
class Choice:
    """An edited version to serve.

    Attributes:
        name: name by which clients request it.
        folder: folder of the patch.
    """

    name: str
    folder: Path


def chosen(patches: Sequence[str], base: str) -> list[Choice]:
    """Parse patches given as FOLDER or NAME=FOLDER; without a name the folder's own is used.

    Raises:
        UserError: a name is used twice, or clients could not request it.
    """
    found: dict[str, Choice] = {}
    for given in patches:
        name, equals, folder = given.partition("=")
        if not equals or Path(given).is_dir():
            name, folder = Path(given).resolve().name, given
        if not name or any(not one.isprintable() or one.isspace() for one in name):
            raise UserError(f"{name!r} cannot be the name of a model. Give another: --patch NAME={folder}")
        if name == base:
            raise UserError(
                f"Patch {folder} would be served as {name!r}, which is the unedited model's name. "
                f"Name it: --patch NAME={folder}"
            )
        if name in found:
            raise UserError(
                f"Two patches would be served as {name!r}: {found[name].folder} and {folder}. "
                f"Name one: --patch NAME={folder}"
            )
        found[name] = Choice(name, Path(folder))
    return list(found.values())


def base_name(model: str) -> str:
    """Return the name under which the unedited model is served: the last part of its name or path."""
    return Path(model).resolve().name if Path(model).is_dir() else model.rstrip("/").rpartition("/")[2]


def read_all(choices: Sequence[Choice], model: str) -> dict[str, SavedEdits]:
    """Read all patches and check them against the model's configuration; its weights are not read yet.

    Raises:
        UserError: a patch does not exist, is damaged, or was made for a model of another shape; or there is
            no such model.
    """
    edited = {choice.name: read(choice.folder) for choice in choices}
    shape = shape_of(model)
    for choice in choices:
        origin, patch = edited[choice.name].origin, edited[choice.name].patch
        if origin is not None and (origin.base.blocks, origin.base.dim) != shape:
            raise UserError(
                f"Patch {choice.folder} was made for {origin.base}, not for {model}. "
                f"Serve it with that model, or edit {model}."
            )
        if needs := patch.misfit(*shape):
            raise UserError(
                f"Patch {choice.folder} changes {needs}; {model} has {shape[0]} blocks of width {shape[1]}. "
                "Serve it with its own model."
            )
    return edited


def check(lm: LM, choices: Sequence[Choice], edited: Mapping[str, SavedEdits]) -> None:
    """Apply each patch to the loaded model once and have it read a prompt that the patch acts on.

    Raises:
        UserError: a patch was made for other weights or shapes.
    """
    for choice in choices:
        edits = edited[choice.name]
        try:
            edits.check_model(lm)
        except UserError as error:
            raise UserError(
                f"{choice.folder}: "
                f"{str(error).removesuffix(' Give that model, edit this one, or use --force.')}"
            ) from None
        if edits.origin is None:
            log.warning(
                "%s does not record which model it was made for; it is served without that check.",
                choice.folder,
            )
        subject = next((one for one in edits.patch.subjects if one), "The")
        ids, mask = lm.pad([encoded.ids for encoded in lm.encode([subject], [""])])
        try:
            with edits.patch.applied(lm), torch.no_grad():
                lm.model(input_ids=ids, attention_mask=mask)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            what = one_line(f"{type(error).__name__}: {error}")
            raise UserError(
                f"Patch {choice.folder} does not fit {lm.name} ({what}). "
                "Serve it with the model it was made for."
            ) from error


def served(base: str, edited: Mapping[str, SavedEdits]) -> dict[str, Patch]:
    """Return the patches by name, the unedited model first."""
    return {base: NoPatch(), **{name: edits.patch for name, edits in edited.items()}}


def facts_of(edits: SavedEdits) -> dict[str, object]:
    """Return what /v1/models reports about a patch."""
    patch = edits.patch
    facts: dict[str, object] = {"kind": patch.kind, "bytes": patch.nbytes}
    if edits.origin is not None:
        facts["method"] = edits.origin.title
    if edits.facts is not None or patch.subjects:
        facts["subjects"] = len(set(patch.subjects)) if patch.subjects else None
    facts |= patch.counts()
    return cast(dict[str, object], {key: value for key, value in facts.items() if value is not None})


def curl(address: str, name: str, with_key: bool, prompt: str) -> str:
    """Return a first request for a shell."""
    body = json.dumps({"model": name, "prompt": prompt, "max_tokens": 16, "temperature": 0})
    key = ' -H "Authorization: Bearer $LKS_API_KEY"' if with_key else ""
    return f"curl {address}/v1/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
