"""Test prompts for scope indicators: edited subjects in prompts, and prompts about something else."""

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pydantic import BaseModel

from lks.data.datasets import load
from lks.data.download import named_folder
from lks.errors import DataError, TooManyEdits
from lks.io.json_lines import lines_of
from lks.io.lines import split_lines
from lks.io.records import Text, checked
from lks.scope.english_words import WORD, words
from lks.scope.exact import Mention

CARRIERS = (
    "Where is {} from?",
    "What is known about {}?",
    "{} is best known for",
    "In the year when {} began, everything changed.",
)
"""Carriers for edits that come without prompts."""


_REFERS = re.compile(r"(?:\b(?:of|in|at|from|by|for)(?: the)? |\()$")


@dataclass(frozen=True, slots=True)
class ScopePrompt:
    """A text and the subject that it is about, if the dataset names one."""

    text: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class EditSet:
    """Edited subjects.

    Attributes:
        names: for each subject its name, then aliases.
        carriers: for each subject texts that mention it, with "{}" in its place.
    """

    names: tuple[tuple[str, ...], ...]
    carriers: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Outside:
    """Prompts that no edit is about; `note` says why there are none."""

    name: str
    prompts: tuple[ScopePrompt, ...]
    note: str = ""


def split(
    dataset: str, n_edits: int, data_dir: Path | None = None, seed: int = 0
) -> tuple[EditSet, tuple[ScopePrompt, ...]]:
    """Split a dataset into edited subjects and prompts about other subjects.

    The subjects are those of the first `n_edits` cases of the seeded order; the prompts are those of the
    other cases that are about subjects which are not edited.

    Raises:
        TooManyEdits: the dataset has fewer cases.
    """
    cases = list(load(dataset, data_dir).cases)
    if n_edits > len(cases):
        raise TooManyEdits(
            f"{dataset} has {len(cases)} cases, {n_edits} were asked for. "
            "Lower --n-edits, or add made-up names with --names."
        )
    Random(seed).shuffle(cases)
    carriers: dict[str, list[str]] = {}
    for case in cases[:n_edits]:
        subject = case.edit.subject
        texts = (probe.prompt for probe in case.probes if probe.kind in ("edit", "paraphrase"))
        carriers.setdefault(subject, []).extend(t for t in (carrier(text, subject) for text in texts) if t)
    edited = {name.casefold() for name in carriers}
    rest = tuple(
        ScopePrompt(case.edit.prompt, case.edit.subject)
        for case in cases[n_edits:]
        if case.edit.subject.casefold() not in edited
    )
    return EditSet(tuple((name,) for name in carriers), tuple(map(tuple, carriers.values()))), rest


def carrier(text: str, subject: str) -> str | None:
    """Return a text with "{}" for its only whole-word mention of a subject, or None."""
    found = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", text))
    if len(found) != 1 or "{" in text:
        return None
    return text[: found[0].start()] + "{}" + text[found[0].end() :]


class _EditLine(BaseModel):
    """A line of a file of edits."""

    subject: Text
    aliases: list[str] = []


def read_edits(file: Path) -> EditSet:
    """Read subjects from a file with one JSON object per line: `subject`, and optionally `aliases`.

    Raises:
        DataError: the file is missing, or a line is invalid.
    """
    rows = (checked(_EditLine, row, f"{file}, line {number}", "line") for number, row in lines_of(file))
    names = tuple((row.subject, *row.aliases) for row in rows)
    if not names:
        raise DataError(f"{file} holds no edits. Write one object per line.")
    return EditSet(names, (CARRIERS,) * len(names))


def abilities(data_dir: Path | None = None) -> list[Outside]:
    """Return GSM8K test questions, SST-2 dev sentences, and RTE dev and validation pairs.

    A set is empty, with a note, where its data is missing.
    """
    found = named_folder(data_dir)
    return [
        _outside(
            "GSM8K",
            found,
            ("gsm8k/test.jsonl",),
            lambda text: [str(json.loads(line)["question"]) for line in split_lines(text)],
        ),
        _outside("SST-2", found, ("sst2/dev.tsv",), lambda text: [row["sentence"] for row in _rows(text)]),
        _outside("RTE", found, ("rte/dev.tsv", "rte/val.tsv"), _pairs),
    ]


def _outside(
    name: str, data_dir: Path | None, files: Sequence[str], read: Callable[[str], list[str]]
) -> Outside:
    texts: list[str] = []
    for file in files:
        path = data_dir / file if data_dir else None
        if path is None or not path.is_file():
            return Outside(
                name, (), f"{name} was left out: no {file} in {data_dir or 'LKS_DATA, which is not set'}"
            )
        try:
            texts += read(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read as {name} ({type(error).__name__}: {error}). "
                "Put the published file there."
            ) from None
    return Outside(name, tuple(ScopePrompt(text) for text in texts))


def _rows(text: str) -> Iterable[Mapping[str, str]]:
    return csv.DictReader(split_lines(text), delimiter="\t", quoting=csv.QUOTE_NONE)


def _pairs(text: str) -> list[str]:
    """Return premise and hypothesis of each pair; the columns are not always named."""
    rows = [line.split("\t") for line in split_lines(text)]
    return [f"{row[1]} {row[2]}" for row in rows if len(row) > 3 and row[0] != "index"]


def is_genuine(prompt: ScopePrompt, mention: Mention, spellings: Sequence[str]) -> bool:
    """Return whether a mention is one of a subject's names, used in the prompt as a name.

    This is independent of any scope indicator. A genuine mention covers whole words that are a spelling of
    the subject up to case, Unicode form, diacritics and signs. It is not genuine if it has fewer capitals
    than the name and all its words are ordinary English ones ("new tricks"), nor if it is a part of the
    subject that the prompt is about and the rest of that has a capital or a number ("Chicago" in "Chicago
    Opera House"); what precedes it in that subject does not matter if it ends with a bracket or a preposition
    ("Lord Chancellor of Ireland" mentions Ireland).
    """
    text = prompt.text
    if re.match(r"\w", text[mention.end : mention.end + 1]) or re.match(r"\w", text[: mention.start][-1:]):
        return False
    span = text[mention.start : mention.end]
    names = [name for name in spellings if _bare(name) == _bare(span)]
    if not names:
        return False
    capitals = sum(map(str.isupper, span))
    if all(sum(map(str.isupper, name)) > capitals for name in names) and all(
        w in words().ordinary for w in WORD.findall(span.lower())
    ):
        return False
    at = text.find(prompt.subject) if prompt.subject else -1
    if at < 0 or not at <= mention.start <= mention.end <= at + len(prompt.subject):
        return True
    before, after = text[at : mention.start], text[mention.end : at + len(prompt.subject)]
    if _REFERS.search(before):
        before = ""
    return not re.search(r"\d", before + after) and before + after == (before + after).lower()


def _bare(text: str) -> str:
    """Return the letters and digits alone, case-folded and without diacritics."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())
