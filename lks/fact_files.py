"""Files of facts, read line by line: JSON lines, CSV, triples. What the lines say is looked at by `lks.fact_checks`."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lks.errors import DataError, unknown
from lks.fact_checks import Bad
from lks.intake import content_of, one_line, parse_json

TEXTS = ("id", "subject", "prompt", "target", "ground_truth", "relation", "object")
LISTS = ("aliases", "paraphrases", "training_paraphrases", "training_locality")
PAIRS = ("locality", "portability")
SEPARATOR, ARROW = "|", "=>"
"""In a CSV field: between the entries of a list, and between a prompt and its answer. In a triple: between its parts."""
LARGEST = 256 << 20
"""Bytes of a file of facts."""
JSON_LINES, TABLES, TRIPLES = (".jsonl", ".ndjson"), (".csv",), (".txt", ".triples")
SUFFIXES = (*JSON_LINES, *TABLES, *TRIPLES)


@dataclass(frozen=True, slots=True)
class Row:
    """One line's fields, of the right types.

    Attributes:
        line: its number, from 1.
        values: field -> text, list of texts, or list of (prompt, answer).
    """

    line: int
    values: Mapping[str, object] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A text, "" where it is not given."""
        return cast(str, self.values.get(name, ""))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return cast(tuple[str, ...], self.values.get(name, ()))

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """A list of prompts with answers."""
        return cast(tuple[tuple[str, str], ...], self.values.get(name, ()))


def rows_of(path: Path) -> tuple[list[Row], list[Bad]]:
    """The lines of a file with their fields, and what cannot be read of it.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    readers = {**dict.fromkeys(JSON_LINES, _json_lines), **dict.fromkeys(TABLES, _table), **dict.fromkeys(TRIPLES, _triples)}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: facts are read from files that end in {', '.join(readers)}. Rename it, or write one fact per line as JSON.")
    try:
        text = content_of(path, LARGEST).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give a file of facts: .jsonl, .csv or .txt (docs/edit-your-model.md).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    rows: list[Row] = []
    bad: list[Bad] = []
    for found in readers[path.suffix.lower()](text):
        (bad if isinstance(found, Bad) else rows).append(found)  # type: ignore[arg-type]
    return rows, bad


def _json_lines(text: str) -> Iterator[Row | Bad]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            raw = parse_json(line)
        except ValueError as error:
            where = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else one_line(error)
            yield Bad(number, f"not JSON: {where}")
            continue
        if not isinstance(raw, dict):
            yield Bad(number, 'not a JSON object; write {"subject": ..., "prompt": ..., "target": ...}')
            continue
        yield from _row(number, cast(dict[str, object], raw))


def _table(text: str) -> Iterator[Row | Bad]:
    reader = csv.reader(io.StringIO(text), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(header):
                advice = "put a field that holds a comma in quotation marks" if len(cells) > len(header) else "an empty field needs its comma too"
                yield Bad(reader.line_num, f"{len(cells)} fields, the header has {len(header)}; {advice}")
                continue
            if lacking := [part for name, cell in zip(header, cells, strict=True) if name in PAIRS for part in _parts(cell) if ARROW not in part]:
                yield Bad(reader.line_num, f"{one_line(repr(lacking[0]), 60)} lacks its answer; write PROMPT {ARROW} ANSWER")
                continue
            yield from _row(reader.line_num, {name: _split(name, cell) for name, cell in zip(header, cells, strict=True) if cell.strip()})
    except csv.Error as error:
        yield Bad(reader.line_num, f"not CSV: {error}")


def _split(name: str, cell: str) -> object:
    """A CSV field as JSON lines would have it."""
    if name not in (*LISTS, *PAIRS):
        return cell
    parts = _parts(cell)
    if name in LISTS:
        return parts
    return [dict(zip(("prompt", "answer"), (half.strip() for half in part.split(ARROW, 1)), strict=False)) for part in parts]


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(SEPARATOR) if part.strip()]


def _triples(text: str) -> Iterator[Row | Bad]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if len(parts) == 3 and not all(parts):
            yield Bad(number, f"{('subject', 'relation', 'object')[parts.index('')]} is empty")
            continue
        if len(parts) != 3:
            yield Bad(number, f"not of the form 'subject {SEPARATOR} relation {SEPARATOR} object'")
            continue
        yield Row(number, dict(zip(("subject", "relation", "object"), parts, strict=True)))


def _row(line: int, raw: dict[str, object]) -> Iterator[Row | Bad]:
    """A row, if all its fields are known and of the right type; else what is wrong."""
    values: dict[str, object] = {}
    wrong = list[str]()
    for name, value in raw.items():
        if value is None:
            continue
        found = _texts(value) if name in LISTS else _pairs(value) if name in PAIRS else value if isinstance(value, str) else None
        if name not in (*TEXTS, *LISTS, *PAIRS):
            wrong.append(str(unknown("field", one_line(name), (*TEXTS, *LISTS, *PAIRS))))
        elif found is None:
            shape = 'a list of {"prompt": ..., "answer": ...}' if name in PAIRS else "a list of texts" if name in LISTS else "a text"
            wrong.append(f"{name} must be {shape}, not {one_line(repr(value), 60)}")
        else:
            values[name] = found
    if wrong:
        needed = ("subject", "relation", "object") if {"relation", "object"} & set(raw) else ("subject", "prompt", "target")
        wrong += [f"{name} is missing" for name in needed if name not in raw]
    yield from (Bad(line, what) for what in wrong) if wrong else (Row(line, values),)


def _texts(value: object) -> tuple[str, ...] | None:
    whole = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
    return tuple(cast(list[str], value)) if whole else None


def _pairs(value: object) -> tuple[tuple[str, str], ...] | None:
    if not isinstance(value, list):
        return None
    found = [(one.get("prompt"), one.get("answer")) for one in value if isinstance(one, dict) and set(one) <= {"prompt", "answer"}]
    whole = len(found) == len(value) and all(isinstance(text, str) and text.strip() for pair in found for text in pair)
    return tuple(cast(list[tuple[str, str]], found)) if whole else None
