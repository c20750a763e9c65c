"""What an LLM judge said: its replies, kept as they come, and its verdicts as rows of a shard."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from lks.edits import Context, ProbeKind
from lks.errors import StoreError
from lks.intake import parse_json
from lks.rows import columns

PROMPT_VERSION = 1
"""Part of a reply's key; to be raised when a judge is asked in another way that its instruction and prompt do not show."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict beside the deterministic score, never instead of it.

    Attributes:
        judge: name of the model that judged.
        draw, case_id, kind, probe_index, context: of the answer that was judged (`lks.shards.Answer`).
        verdict: whether the judge takes the answer for right; None where its reply says neither.
        reply: what it said.
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
    """A model's name made safe for a file's; a hash keeps names apart that look the same then."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', model)[:60]}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


class Replies:
    """Replies of one model by prompt: a file of JSON lines, to which each reply is appended at once."""

    def __init__(self, folder: Path, model: str, instruction: str) -> None:
        """Read what is there; a line that a kill cut off is left out.

        Raises:
            StoreError: the folder or the file cannot be used.
        """
        self._path = folder / f"{file_name(model)}.jsonl"
        self._asked_with = [model, PROMPT_VERSION, instruction]
        self._known: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise StoreError(f"Cannot use {self._path}: {error.strerror}. Set LKS_CACHE to another folder.") from None
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                entry = parse_json(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("key"), str) and isinstance(entry.get("reply"), str):
                self._known[entry["key"]] = entry["reply"]

    def __contains__(self, prompt: str) -> bool:
        return self._key(prompt) in self._known

    def __getitem__(self, prompt: str) -> str:
        return self._known[self._key(prompt)]

    def keep(self, prompt: str, reply: str) -> None:
        """Put a reply on disk with one write, so that other processes may append to the same file.

        Raises:
            StoreError: it cannot be written.
        """
        key = self._key(prompt)
        line = json.dumps({"key": key, "prompt": prompt, "reply": reply}) + "\n"
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(("\n" if self._torn else "").encode() + line.encode())
        except OSError as error:
            raise StoreError(f"Cannot write {self._path}: {error.strerror}. Free space, or set LKS_CACHE to another folder.") from None
        self._torn = False
        self._known[key] = reply

    def _key(self, prompt: str) -> str:
        """Hash of all that a reply depends on."""
        return hashlib.sha256(json.dumps([*self._asked_with, prompt]).encode()).hexdigest()
