"""Datasets by name: the made world, zsRE and CounterFact as published with the LKS paper.

The published files are never part of this repository (they name no licence). They are read from a data folder or downloaded
from their public source at a pinned commit; either way the registry's SHA-256 tells whether the content is the published one.
"""

import hashlib
import http.client
import json
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import lks.cache
from lks.derive import PromptSource, Record, TemplateSource
from lks.edits import Case, Dataset, Edit, make_case
from lks.errors import DataError, unknown

REPOSITORY = "Linuxin-xxx/LKS"
COMMIT = "a5ec5452a46f02fcef99082573855ee7d5af27b3"
TIMEOUT_S = 60.0

MakeSource = Callable[[Sequence[Record]], PromptSource]


@dataclass(frozen=True, slots=True)
class Published:
    """A published evaluation file.

    Attributes:
        file: where it is in a data folder.
        path: where it is in the public repository.
        sha256: of the published content.
    """

    file: str
    path: str
    sha256: str

    @property
    def url(self) -> str:
        """The raw file at the pinned commit."""
        return f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/{self.path}"


DATASETS: dict[str, Published | Literal["made"]] = {
    "world": "made",
    "zsre": Published("lks/zsre_eval_data.json", "data/zsre/zsre_eval_data.json", "d14acb1bc87411560a4d7ac385f6c9e4f27ec44888509e6617f87d12d54b55a8"),
    "counterfact": Published(
        "lks/cf_eval_data.json", "data/counterfact/cf_eval_data.json", "765a69a29238af887a40e22d0f0d9949cd3735d9fe3ac20c5fd3e9025e08f9b8"
    ),
}


def names() -> tuple[str, ...]:
    """All dataset names."""
    return tuple(DATASETS)


def load(name: str, data_dir: Path | None = None, make_source: MakeSource = TemplateSource) -> Dataset:
    """A dataset with its training prompts.

    Args:
        name: one of `names()`.
        data_dir: where `lks/zsre_eval_data.json` and the like are; None looks at `LKS_DATA`, then at `shared/data` beside the
            checkout, then downloads into the cache. A folder that was named, here or by `LKS_DATA`, must hold the file.
        make_source: makes the source of training prompts from all records of the file.

    Raises:
        UserError: no such dataset.
        DataError: the file is missing, cannot be downloaded or holds a bad record.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    published = DATASETS[name]
    if published == "made":
        from lks.world import cases

        made = cases()
        return Dataset(name, made, _hash(*(repr(astuple(case)).encode() for case in made)))
    file = find(published, data_dir)
    content = _content(file)
    records = parse(content, file)
    source = make_source(records)
    notes = _notes(records)
    if hashlib.sha256(content).hexdigest() != published.sha256:
        notes["content differs from the published file"] = 1
    return Dataset(name, tuple(_case(record, source) for record in records), _hash(content, source.version.encode()), notes)


def find(published: Published, data_dir: Path | None = None) -> Path:
    """The file of a published dataset on this machine, downloaded if it is nowhere.

    Raises:
        DataError: not in the named folder, or not to be had.
    """
    named = data_dir or (Path(os.environ["LKS_DATA"]) if os.environ.get("LKS_DATA") else None)
    if named is not None:
        file = named.expanduser() / published.file
        if file.is_file():
            return file
        raise DataError(f"{file} does not exist. Put the file there, or unset LKS_DATA and give no data folder to download it.")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / published.file
    if beside.is_file():
        return beside
    cached = lks.cache.folder() / "data" / published.file
    if not cached.is_file():
        download(published, cached)
    return cached


def download(published: Published, file: Path) -> None:
    """Fetch a published file, check it, and only then give it its name.

    Raises:
        DataError: no connection, or the content is not the published one.
    """
    mend = f"Fetch it by hand, save it as <folder>/{published.file} and set LKS_DATA=<folder>."
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{published.url} cannot be downloaded: {error}. {mend}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != published.sha256:
        raise DataError(f"{published.url} has SHA-256 {digest}, expected {published.sha256}: damaged on the way or changed. {mend}")
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{file} cannot be written: {error}. Set LKS_CACHE to a folder with room.") from error


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}.") from error


def parse(content: bytes, file: Path) -> tuple[Record, ...]:
    """Records of an evaluation file, each field checked.

    Raises:
        DataError: not a JSON list of records, or a bad record; names file, index and field.
    """
    try:
        raw: object = json.loads(content)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise DataError(f"{file} is not JSON: {error}. Delete it to have it downloaded again, or mend it.") from error
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{file} must hold a JSON list of at least one record. Delete it to have it downloaded again, or mend it.")
    return tuple(_record(item, index, file) for index, item in enumerate(raw))


def _record(raw: object, index: int, file: Path) -> Record:
    where = f"{file}, record {index}"

    def text(*path: str) -> str:
        value = raw
        for depth, key in enumerate(path):
            if not isinstance(value, dict):
                outer = f"field {'.'.join(path[:depth])!r}" if depth else "the record"
                raise DataError(f"{where}: {outer} must be an object, not {type(value).__name__}. Mend or delete the record.")
            if key not in value:
                raise DataError(f"{where}: field {'.'.join(path)!r} is missing. Add it or delete the record.")
            value = value[key]
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: field {'.'.join(path)!r} must be a non-empty string, not {value!r}. Mend it or delete the record.")
        return value.strip()

    record = Record(
        case_id=str(index),
        subject=text("subject"),
        prompt=text("prompt"),
        target=text("target"),
        ground_truth=text("ground_truth"),
        generality=text("generality"),
        locality=text("locality", "prompt"),
        locality_answer=text("locality", "target"),
    )
    if record.subject not in record.prompt:
        spelt = f"subject {record.subject!r} is not in prompt {record.prompt!r}"
        raise DataError(f"{where}: field 'prompt': {spelt}. Spell the subject in the prompt exactly as in 'subject'.")
    return record


def _case(record: Record, source: PromptSource) -> Case:
    training = source.prompts(record)
    edit = Edit(
        case_id=record.case_id,
        subject=record.subject,
        prompt=record.prompt,
        target=record.target,
        ground_truth=record.ground_truth,
        training_paraphrases=training.paraphrases,
        training_locality=training.locality,
    )
    return make_case(edit, (record.generality,), ((record.locality, record.locality_answer),))


def _notes(records: Sequence[Record]) -> dict[str, int]:
    """Irregularities that are counted and kept; those that do not occur are left out."""
    found: Counter[str] = Counter()
    for record in records:
        found["target equals ground truth"] += record.target == record.ground_truth
        found["subject not in paraphrase prompt"] += record.subject not in record.generality
        found["subject not in locality prompt"] += record.subject not in record.locality
    found["duplicate prompt"] = len(records) - len({record.prompt for record in records})
    found["duplicate subject"] = len(records) - len({record.subject for record in records})
    return {name: count for name, count in sorted(found.items()) if count}


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()[:16]
