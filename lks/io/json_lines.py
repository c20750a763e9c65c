"""JSON Lines files: read with line numbers, or by key with entries appended as they come."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lks.errors import DataError, StoreError
from lks.io.lines import split_lines
from lks.io.untrusted import parse_json

Row = Mapping[str, object]


def lines_of(path: Path) -> Iterable[tuple[int, Row]]:
    """Yield the objects of a JSON Lines file with their line numbers; empty lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not an object.
    """
    try:
        content = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Give a file of JSON lines in UTF-8.") from None
    for number, line in enumerate(split_lines(content), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: not JSON: {error}. Fix or delete the line."
                ) from None
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}, line {number}: must be an object, not {type(row).__name__}. Fix or delete the "
                    "line."
                )
            yield number, row


Entry = Mapping[str, object]


class JsonLinesFile:
    """Entries by key in a JSON Lines file, to which each entry is appended at once."""

    def __init__(self, path: Path) -> None:
        """Read the entries of the file; a line that a kill cut off is left out.

        Raises:
            StoreError: the folder or the file cannot be used.
        """
        self._path = path
        self.entries: dict[str, Entry] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise StoreError(
                f"Cannot use {path}: {error.strerror}. Name another folder, or set LKS_CACHE to one."
            ) from None
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.split(b"\n"):
            try:
                entry = parse_json(line)
            except ValueError:
                continue
            if (
                isinstance(entry, dict)
                and isinstance(entry.get("key"), str)
                and isinstance(entry.get("reply"), str)
            ):
                self.entries[entry["key"]] = entry

    def keep(self, key: str, entry: Entry) -> None:
        """Append an entry with one write, so that other processes may append to the same file.

        Raises:
            StoreError: it cannot be written.
        """
        line = (("\n" if self._torn else "") + json.dumps({"key": key, **entry}) + "\n").encode()
        try:
            with self._path.open("ab", buffering=0) as file:
                written = file.write(line)
        except OSError as error:
            raise StoreError(
                f"Cannot write {self._path}: {error.strerror}. Free space, or set LKS_CACHE to another "
                "folder."
            ) from None
        self._torn = written != len(line)
        if self._torn:
            raise StoreError(
                f"Cannot write all of a line to {self._path}. Free space; a whole line will follow the "
                "broken one."
            )
        self.entries[key] = entry
