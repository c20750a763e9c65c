"""Published evaluation files: where they are, how they are fetched, and reading them as a list of records.

They are never part of this repository. They are read from a data folder or downloaded from their public
source at a pinned commit; either way the SHA-256 of the registry tells whether the content is the published
one.
"""

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import lks.io.cache
from lks.errors import DataError
from lks.io import hub
from lks.io.atomic import CACHE_ADVICE, write_whole
from lks.io.untrusted import parse_json

REPOSITORY = "Linuxin-xxx/LKS"
COMMIT = "a5ec5452a46f02fcef99082573855ee7d5af27b3"
TIMEOUT_S = 60.0
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"  # the data folder next to the checkout


@dataclass(frozen=True, slots=True)
class Published:
    """A published evaluation file.

    Attributes:
        file: path within a data folder.
        path: path within the public repository.
        sha256: hash of the published content.
        repository: the public repository, "owner/name".
        commit: the pinned commit.
        records: what a record holds, for a file without a pinned public copy (path and sha256 are ""), which
            must be put in place by hand.
    """

    file: str
    path: str
    sha256: str
    repository: str = REPOSITORY
    commit: str = COMMIT
    records: str = ""

    @property
    def url(self) -> str:
        """URL of the raw file at the pinned commit."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"

    def missing(self, file: Path) -> DataError:
        """Return the error for a file that is not where it was expected."""
        advice = "Put the file there, or unset LKS_DATA and give no data folder to download it."
        if not self.path:
            advice = (
                "No public copy is pinned: put it there yourself (or into another folder named by "
                f"LKS_DATA). It is a JSON list of {self.records}."
            )
        return DataError(f"{file} does not exist. {advice}")


def named_folder(data_dir: Path | None = None) -> Path | None:
    """Return the data folder named by the argument or else by `LKS_DATA`; None if neither is given."""
    named = data_dir or os.environ.get("LKS_DATA")
    return Path(named).expanduser() if named else None


def find(published: Published, data_dir: Path | None = None) -> Path:
    """Return the local file of a published dataset, downloading it if it is not found.

    Raises:
        DataError: the file is not in the named folder, or cannot be obtained.
    """
    named = named_folder(data_dir)
    if named is not None:
        file = named / published.file
        if file.is_file():
            return file
        raise published.missing(file)
    beside = BESIDE / published.file
    if beside.is_file():
        return beside
    if not published.path:
        raise published.missing(beside)
    cached = lks.io.cache.folder() / "data" / published.file
    if not cached.is_file():
        download(published, cached)
    return cached


def download(published: Published, file: Path) -> None:
    """Fetch a published file and check it before moving it to its final name.

    Raises:
        DataError: no connection, or the content is not the published one.
        StoreError: the file cannot be written.
    """
    advice = f"Fetch it by hand, save it as <folder>/{published.file} and set LKS_DATA=<folder>."
    if not hub.is_reachable(published.url):
        raise DataError(f"{published.url} cannot be downloaded: its server does not answer. {advice}")
    try:
        with urllib.request.urlopen(published.url, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{published.url} cannot be downloaded: {error}. {advice}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != published.sha256:
        raise DataError(
            f"{published.url} has SHA-256 {digest}, expected {published.sha256}: damaged in transit "
            f"or changed. {advice}"
        )
    write_whole(file, content, CACHE_ADVICE)


def content_of(file: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}.") from error


def listed(content: bytes, file: Path) -> list[object]:
    """Parse a JSON list with at least one item and return its items.

    Raises:
        DataError: the content is not such a list.
    """
    try:
        raw = parse_json(content)
    except ValueError as error:
        raise DataError(
            f"{file} is not JSON: {error}. Delete it to have it downloaded again, or fix it."
        ) from error
    if not isinstance(raw, list) or not raw:
        raise DataError(
            f"{file} must hold a JSON list of at least one record. Delete it to have it downloaded "
            "again, or fix it."
        )
    return raw
