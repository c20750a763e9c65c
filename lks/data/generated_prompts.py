"""Training prompts read from a file written by `lks data make`."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from lks.data.template_prompts import Record, TrainingPrompts
from lks.data.templates import normalised
from lks.errors import DataError
from lks.io.json_lines import lines_of
from lks.io.records import checked
from lks.io.untrusted import one_line

TRAINING = "training.jsonl"
"""Name of the training file."""


ENVIRONMENT = "LKS_TRAINING_PROMPTS"
"""Environment variable naming the folder whose `<dataset>/training.jsonl` holds a dataset's training prompts.
"""


class _TrainingLine(BaseModel):
    """A line of a training file."""

    subject: str
    prompt: str
    target: str
    rephrase_prompt: str
    locality: tuple[str, ...]


class GeneratedSource:
    """A `PromptSource` that reads a training file. A record that is not in the file has no training prompts.

    Args:
        file: training file written by `lks data make`.
        records: records of the dataset; none of their evaluation prompts may be in the file.

    Raises:
        DataError: the file is bad, or holds an evaluation prompt.
    """

    def __init__(self, file: Path, records: Sequence[Record]) -> None:
        self._prompts: dict[tuple[str, str, str], TrainingPrompts] = {}
        forbidden = {
            normalised(text)
            for record in records
            for text in (record.prompt, record.generality, record.locality)
        }
        for number, row in lines_of(file):
            where = f"{file}, line {number}"
            line = checked(_TrainingLine, row, where, "line")
            texts = (line.rephrase_prompt, *line.locality)
            if leaks := [text for text in texts if normalised(text) in forbidden]:
                raise DataError(
                    f"{where}: {one_line(repr(leaks[0]))} is an evaluation prompt of the dataset. "
                    "Rebuild the file for this dataset."
                )
            key = line.subject, line.prompt, line.target
            self._prompts[key] = TrainingPrompts((line.rephrase_prompt,), line.locality, 1)
        self.version = f"generated-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"

    def prompts(self, record: Record) -> TrainingPrompts:
        """Return the record's prompts from the file; empty if it is not there."""
        return self._prompts.get((record.subject, record.prompt, record.target), TrainingPrompts((), (), 0))


def generated_file(dataset: str) -> Path | None:
    """Return a dataset's training file in the folder named by `LKS_TRAINING_PROMPTS`.

    Returns None if the variable is not set, or its folder has no file for the dataset.

    Raises:
        DataError: the folder does not exist.
    """
    named = os.environ.get(ENVIRONMENT)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{ENVIRONMENT} names {folder}, which is not a folder. Create one with `lks data make "
            f"--dataset {dataset} --out {folder / dataset}`."
        )
    file = folder / dataset / TRAINING
    return file if file.is_file() else None
