"""Files that may come from a stranger: only plain ones, only inside their folder, only up to a size; and JSON of sensible depth."""

import json
import stat
from pathlib import Path

from lks.errors import DataError

LARGEST_JSON = 64 << 20
"""Bytes of a JSON document beside tensors or rows; the largest known, the names of 100,000 subjects, has 4 MiB."""


def content_of(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """A file's bytes.

    Raises:
        FileNotFoundError: it is not there.
        DataError: it cannot be read, is no plain file or too large.
    """
    check_plain(path, largest)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def check_plain(path: Path, largest: int) -> None:
    """Look at a file before it is opened: a pipe would be waited for without end.

    Raises:
        FileNotFoundError: it is not there.
        DataError: it cannot be looked at, is no plain file or has more than `largest` bytes.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is no plain file. Move it away.")
    if found.st_size > largest:
        raise DataError(f"{path} has {found.st_size:,} bytes; more than {largest:,} are not read.")


def check_inside(folder: Path, path: Path) -> None:
    """Make sure that a path, links followed, stays inside a folder. What is not there yet may be made then.

    Raises:
        DataError: it leads out of the folder.
    """
    try:
        leads_out = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a ring, a zero byte
        raise DataError(f"{path} cannot be followed: {error}.") from None
    if leads_out:
        raise DataError(
            f"{path} is a link that leads out of {folder}. Nothing is read or written there: put the files themselves in its place."
        )


def one_line(text: object, longest: int = 160) -> str:
    """What a file or a library says, as one short line: a stranger's control characters would reach the terminal."""
    said = "".join(letter if letter.isprintable() else " " for letter in str(text)[: 10 * longest])
    said = " ".join(said.split())
    return said if len(said) <= longest else said[: longest - 3] + "..."


def parse_json(content: bytes | str) -> object:
    """What a JSON document says.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
