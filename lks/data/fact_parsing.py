"""Line-by-line readers for files of facts: JSON lines, CSV, triples.

What the lines say is checked by `lks.data.fact_validation`.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lks.data.fact_text import has_half_character, tidy
from lks.data.fact_validation import Bad
from lks.errors import DataError, UserError, unknown
from lks.io.lines import split_lines
from lks.io.untrusted import content_of, one_line, parse_json

TEXTS = ("id", "subject", "prompt", "target", "ground_truth", "relation", "object")
LISTS = {
    "aliases": "alias",
    "paraphrases": "paraphrase",
    "training_paraphrases": "training paraphrase",
    "training_locality": "training locality",
}
"""Fields that are lists of texts, with the name of one entry."""
PAIRS = ("locality", "portability")
FIELDS = (*TEXTS, *LISTS, *PAIRS)
SEPARATOR, ARROW = "|", "=>"
"""Separators in a CSV field: between the entries of a list, and between a prompt and its answer. `SEPARATOR`
also separates the parts of a triple.
"""
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Possible delimiters between the fields of a CSV file; the header shows which one is used."""
LARGEST = 256 << 20
"""Maximum size of a file of facts, in bytes."""
JSON_LINES, TABLES, TRIPLES = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".txt", ".triples")
SUFFIXES = (*JSON_LINES, *TABLES, *TRIPLES)


@dataclass(frozen=True, slots=True)
class FactRow:
    """The fields of one line, with the right types.

    Attributes:
        line: its number, from 1.
        values: field -> text, list of texts, or list of (prompt, answer).
    """

    line: int
    values: Mapping[str, object] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return a text field, "" if it is not given."""
        return cast(str, self.values.get(name, ""))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts, empty if it is not given."""
        return cast(tuple[str, ...], self.values.get(name, ()))

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return a list of (prompt, answer) pairs, empty if it is not given."""
        return cast(tuple[tuple[str, str], ...], self.values.get(name, ()))


def rows_of(path: Path) -> tuple[list[FactRow], list[Bad]]:
    """Read the lines of a file into rows, and report what cannot be read.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    readers = {
        **dict.fromkeys(JSON_LINES, _json_lines),
        **dict.fromkeys(TABLES, _table),
        **dict.fromkeys(TRIPLES, _triples),
    }
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path}: facts are read from files that end in {', '.join(readers)}. Rename it, or "
            "write one fact per line as JSON."
        )
    content = b""
    try:
        content = content_of(path, LARGEST)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist. Give a file of facts: .jsonl, .csv or .txt (docs/edit-your-model.md)."
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 (line {line}, byte {error.start} of the file). Save it as UTF-8."
        ) from None
    rows: list[FactRow] = []
    bad: list[Bad] = []
    for found in readers[path.suffix.lower()](text):
        (bad if isinstance(found, Bad) else rows).append(found)  # type: ignore[arg-type]
    return rows, bad


def _json_lines(text: str) -> Iterator[FactRow | Bad]:
    """Parse lines of JSON objects."""
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip():
            continue
        try:
            raw = parse_json(line)
        except ValueError as error:
            where = (
                f"{error.msg}, column {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else one_line(error)
            )
            yield Bad(number, f"not JSON: {where}")
            continue
        if not isinstance(raw, dict):
            yield Bad(number, 'not a JSON object; write {"subject": ..., "prompt": ..., "target": ...}')
            continue
        yield from _row(number, cast(dict[str, object], raw))


def _table(text: str) -> Iterator[FactRow | Bad]:
    """Parse a table with a header."""
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if fault := _fault_of_header(header):
                    yield Bad(0, fault)
                    return
                continue
            yield from _table_row(reader.line_num, header, cells, DELIMITERS[delimiter])
    except csv.Error as error:
        yield Bad(0, f"not CSV from line {reader.line_num} on: {error}")


def _delimiter(text: str) -> str:
    """Return the delimiter that makes most names of the header known ones; a comma in case of a tie."""
    header = next((line for line in io.StringIO(text) if line.strip()), "")

    def known(delimiter: str) -> int:
        try:
            return sum(cell.strip() in FIELDS for cell in next(csv.reader([header], delimiter=delimiter)))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=known)


def _fault_of_header(header: Sequence[str]) -> str:
    """Describe what is wrong with a table's column names; "" if nothing is."""
    unknowns = [name for name in header if name and name not in FIELDS]
    if len(unknowns) == len(header):
        found = one_line(repr(", ".join(header)), 60)
        return (
            f"the header {found} names no field; begin with a line like subject,prompt,target "
            "(separated by commas, semicolons or tabs)"
        )
    if unknowns:
        return str(unknown("field", one_line(unknowns[0]), FIELDS))
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        return f"the header has {twice[0]} twice"
    lacking = [name for name in _needed(header) if name not in header]
    return f"the header lacks {' and '.join(lacking)}" if lacking else ""


def _needed(given: Collection[str]) -> tuple[str, ...]:
    """Return the fields that every fact must have, in the form that the given ones belong to."""
    return (
        ("subject", "relation", "object")
        if "relation" in given or "object" in given
        else ("subject", "prompt", "target")
    )


def _table_row(
    line: int, header: Sequence[str], cells: Sequence[str], between: str
) -> Iterator[FactRow | Bad]:
    """Parse one row of a table."""
    if len(cells) != len(header):
        advice = (
            f"put a field that holds a {between} in quotation marks"
            if len(cells) > len(header)
            else f"an empty field needs its {between} too"
        )
        yield Bad(line, f"{len(cells)} fields, the header has {len(header)}; {advice}")
        return
    filled = {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}
    if lacking := [
        part for name, cell in filled.items() if name in PAIRS for part in _parts(cell) if ARROW not in part
    ]:
        yield Bad(line, f"{one_line(repr(lacking[0]), 60)} lacks its answer; write PROMPT {ARROW} ANSWER")
        return
    yield from _row(line, {name: _split(name, cell) for name, cell in filled.items()})


def _split(name: str, cell: str) -> object:
    """Convert a CSV field to the form it has in JSON lines."""
    if name not in (*LISTS, *PAIRS):
        return cell
    parts = _parts(cell)
    if name in LISTS:
        return parts
    return [dict(zip(("prompt", "answer"), part.split(ARROW, 1), strict=False)) for part in parts]


def _parts(cell: str) -> list[str]:
    """Split a CSV field into its non-empty entries."""
    return [part.strip() for part in cell.split(SEPARATOR) if part.strip()]


def _triples(text: str) -> Iterator[FactRow | Bad]:
    """Parse lines of the form "subject | relation | object"."""
    for number, line in enumerate(split_lines(text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [tidy(part) for part in line.split(SEPARATOR)]
        if len(parts) == 3 and not all(parts):
            yield Bad(number, f"{('subject', 'relation', 'object')[parts.index('')]} is empty")
            continue
        if len(parts) != 3:
            yield Bad(number, f"not of the form 'subject {SEPARATOR} relation {SEPARATOR} object'")
            continue
        yield FactRow(number, dict(zip(("subject", "relation", "object"), parts, strict=True)))


def _row(line: int, raw: dict[str, object]) -> Iterator[FactRow | Bad]:
    """Yield a row if all its fields are known and of the right type, else what is wrong with it."""
    values: dict[str, object] = {}
    wrong = list[str]()
    for name, value in raw.items():
        if value is None:
            continue
        read: Callable[[str, object], object] = (
            _texts if name in LISTS else _pairs if name in PAIRS else _text
        )
        try:
            if name not in FIELDS:
                raise unknown("field", one_line(name), FIELDS)
            values[name] = read(name, value)
        except (ValueError, UserError) as error:
            wrong.append(str(error))
    if wrong:
        wrong += [f"{name} is missing" for name in _needed(raw) if name not in raw]
    yield from (Bad(line, what) for what in wrong) if wrong else (FactRow(line, values),)


def _text(name: str, value: object, is_prompt: bool = False) -> str:
    """Return a text in normal form (`lks.data.fact_text.tidy`).

    Raises:
        ValueError: the value is not a text, or holds half a character.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {one_line(repr(value), 60)}")
    if has_half_character(value):
        raise ValueError(
            f"{name} {one_line(ascii(value), 60)} holds half of a character (\\ud800 to \\udfff); "
            "write the character itself"
        )
    return tidy(value, is_prompt or name == "prompt")


def _filled(name: str, value: object, is_prompt: bool) -> str:
    """Return a text that must not be empty.

    Raises:
        ValueError: it is empty or not a text.
    """
    found = _text(name, value, is_prompt)
    if not found:
        raise ValueError(f"{name} is empty")
    return found


def _texts(name: str, value: object) -> tuple[str, ...]:
    """Return a list of non-empty texts."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of texts, not {one_line(repr(value), 60)}")
    return tuple(
        _filled(f"{LISTS[name]} {number}", one, name != "aliases") for number, one in enumerate(value, 1)
    )


def _pairs(name: str, value: object) -> tuple[tuple[str, str], ...]:
    """Return a list of (prompt, answer) pairs."""
    if not isinstance(value, list):
        raise ValueError(
            f'{name} must be a list of {{"prompt": ..., "answer": ...}}, not {one_line(repr(value), 60)}'
        )
    found = []
    for number, one in enumerate(value, 1):
        if not isinstance(one, dict) or not set(one) <= {"prompt", "answer"}:
            raise ValueError(
                f'{name} {number} must be {{"prompt": ..., "answer": ...}}, not {one_line(repr(one), 60)}'
            )
        if lacking := [part for part in ("prompt", "answer") if one.get(part) is None]:
            raise ValueError(f"{lacking[0]} of {name} {number} is missing")
        found.append(
            (
                _filled(f"prompt of {name} {number}", one["prompt"], True),
                _filled(f"answer of {name} {number}", one["answer"], False),
            )
        )
    return tuple(found)
