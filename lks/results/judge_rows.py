"""Replies of an LLM judge, kept as they come, and its verdicts as rows of a shard."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from lks.edits import Context, ProbeKind
from lks.io.json_lines import JsonLinesFile
from lks.results.rows import columns

PROMPT_VERSION = 1
"""Part of a reply's key; to be raised when a judge is asked differently in a way that its instruction and
prompt do not show."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict, stored in addition to the deterministic score, never instead of it.

    Attributes:
        judge: name of the model that judged.
        draw, case_id, kind, probe_index, context: those of the answer that was judged
            (`lks.results.answers.Answer`).
        verdict: whether the judge considers the answer right; None where its reply says neither.
        reply: the judge's reply.
    """

    judge: str
    draw: int
    case_id: str
    kind: ProbeKind
    probe_index: int
    context: Context
    verdict: bool | None
    reply: str


SCHEMA = columns(Judgement, "lks-judgements", 1)


def file_name(model: str) -> str:
    """Return a file name for a model; a hash distinguishes models whose names become the same."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', model)[:60]}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


class Replies:
    """Stored replies of one model by prompt."""

    def __init__(self, folder: Path, model: str, instruction: str) -> None:
        """Read the stored replies.

        Raises:
            StoreError: the folder or the file cannot be used.
        """
        self._lines = JsonLinesFile(folder / f"{file_name(model)}.jsonl")
        self._asked_with = [model, PROMPT_VERSION, instruction]

    def __contains__(self, prompt: str) -> bool:
        return self._key(prompt) in self._lines.entries

    def __getitem__(self, prompt: str) -> str:
        return str(self._lines.entries[self._key(prompt)]["reply"])

    def keep(self, prompt: str, reply: str) -> None:
        """Write a reply to disk at once.

        Raises:
            StoreError: it cannot be written.
        """
        self._lines.keep(self._key(prompt), {"prompt": prompt, "reply": reply})

    def _key(self, prompt: str) -> str:
        """Return a hash of everything that a reply depends on."""
        return hashlib.sha256(json.dumps([*self._asked_with, prompt]).encode()).hexdigest()
