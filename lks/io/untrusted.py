"""Guards for untrusted files: regular files only, inside their folder, of limited size and depth."""

import json
import stat
from pathlib import Path

from lks.errors import DataError

LARGEST_JSON = 64 << 20
"""Bytes of a JSON document apart from tensors or rows; the largest known, the names of 100,000 subjects, has
4 MiB."""


def content_of(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """Return the bytes of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: it cannot be read, is not a regular file or is too large.
    """
    check_plain(path, largest)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def check_plain(path: Path, largest: int) -> None:
    """Check a file before it is opened: opening a pipe would block indefinitely.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: it cannot be inspected, is not a regular file or has more than `largest` bytes.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is not a regular file. Move it away.")
    if found.st_size > largest:
        raise DataError(f"{path} has {found.st_size:,} bytes; more than {largest:,} are not read.")


def check_inside(folder: Path, path: Path) -> None:
    """Check that a path, with links resolved, stays inside a folder; the path need not exist yet.

    Raises:
        DataError: it leads out of the folder, or cannot be resolved.
    """
    try:
        leads_out = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # circular links, a null byte
        raise DataError(f"{path} cannot be followed: {error}.") from None
    if leads_out:
        raise DataError(
            f"{path} is a link that leads out of {folder}. Nothing is read or written there: replace the "
            "link with the files themselves."
        )


def one_line(text: object, longest: int = 160) -> str:
    """Return a message from a file or a library as one short line, without control characters.

    Control characters from an untrusted file would otherwise reach the terminal.
    """
    said = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 10 * longest])
    said = " ".join(said.split())
    return said if len(said) <= longest else said[: longest - 3] + "..."


def parse_json(content: bytes | str) -> object:
    """Parse a JSON document.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds a number with thousands of digits.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
