"""Line-by-line readers for files of facts: JSON lines, CSV, triples.

What the lines say is checked by `lks.data.fact_validation`.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from lks.data.fact_text import has_half_character, tidy
from lks.data.fact_validation import Bad
from lks.errors import DataError, unknown
from lks.io.lines import split_lines
from lks.io.records import HALF, faults
from lks.io.untrusted import content_of, one_line, parse_json

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


def _whole(text: str, is_prompt: bool = False) -> str:
    """Return a text in normal form (`lks.data.fact_text.tidy`)."""
    if has_half_character(text):
        raise ValueError(HALF)
    return tidy(text, is_prompt)


Text = Annotated[str, AfterValidator(_whole)]
PromptText = Annotated[str, AfterValidator(partial(_whole, is_prompt=True))]
Prompts = tuple[Annotated[PromptText, Field(min_length=1)], ...]


class AnsweredPrompt(BaseModel, extra="forbid"):
    """A prompt with its answer."""

    prompt: Annotated[PromptText, Field(min_length=1)]
    answer: Annotated[Text, Field(min_length=1)]


class FactFields(BaseModel, extra="forbid"):
    """The fields of a fact in normal form; what is not given is empty."""

    id: Text = ""
    subject: Text = ""
    prompt: PromptText = ""
    target: Text = ""
    ground_truth: Text = ""
    relation: Text = ""
    object: Text = ""
    aliases: tuple[Annotated[Text, Field(min_length=1)], ...] = ()
    paraphrases: Prompts = ()
    training_paraphrases: Prompts = ()
    training_locality: Prompts = ()
    locality: tuple[AnsweredPrompt, ...] = ()
    portability: tuple[AnsweredPrompt, ...] = ()


FIELDS = tuple(FactFields.model_fields)
PAIRS = ("locality", "portability")
LISTS = ("aliases", "paraphrases", "training_paraphrases", "training_locality")


@dataclass(frozen=True, slots=True)
class FactRow:
    """The fields of one line, numbered from 1."""

    line: int
    fields: FactFields


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
        yield from _row(number, raw)


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
        yield from _row(number, dict(zip(("subject", "relation", "object"), parts, strict=True)))


def _row(line: int, raw: Mapping[str, object]) -> Iterator[FactRow | Bad]:
    """Yield a row if all its fields are known and of the right type, else what is wrong with it."""
    try:
        given = {name: value for name, value in raw.items() if value is not None}
        yield FactRow(line, FactFields.model_validate(given))
    except ValidationError as error:
        yield from (Bad(line, what) for what in faults(FactFields, error, "line"))
        yield from (Bad(line, f"{name} is missing") for name in _needed(raw) if name not in raw)
