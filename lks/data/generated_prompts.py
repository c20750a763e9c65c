"""Training prompts from a file that `lks data make` has written."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lks.data.template_prompts import Record, TrainingPrompts
from lks.data.templates import normalised
from lks.errors import DataError
from lks.io.json_lines import lines_of
from lks.io.untrusted import one_line

TRAINING = "training.jsonl"
"""The file's name."""


ENVIRONMENT = "LKS_TRAINING_PROMPTS"
"""Names the folder whose `<dataset>/training.jsonl` gives the training prompts of that dataset."""


class GeneratedSource:
    """A `PromptSource` that reads a training file. A record that is not in it has no prompts to train on.

    Args:
        file: of `lks data make`.
        records: of the dataset: none of their evaluation prompts may be in the file.

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
            (subject, prompt, target, paraphrase), locality = _texts(row, where)
            if leaks := [text for text in (paraphrase, *locality) if normalised(text) in forbidden]:
                raise DataError(
                    f"{where}: {one_line(repr(leaks[0]))} is an evaluation prompt of the dataset. Make the file again, for this dataset."
                )
            self._prompts[subject, prompt, target] = TrainingPrompts((paraphrase,), tuple(locality), 1)
        self.version = f"generated-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"

    def prompts(self, record: Record) -> TrainingPrompts:
        """As the file says."""
        return self._prompts.get((record.subject, record.prompt, record.target), TrainingPrompts((), (), 0))


def _texts(row: Mapping[str, object], where: str) -> tuple[list[str], list[str]]:
    """Subject, prompt, target and paraphrase of a line, and its locality prompts.

    Raises:
        DataError: something else stands there.
    """
    found = [
        text
        for name in ("subject", "prompt", "target", "rephrase_prompt")
        if isinstance(text := row.get(name), str)
    ]
    given = row.get("locality")
    locality = [text for text in given if isinstance(text, str)] if isinstance(given, list) else None
    if len(found) < 4 or locality is None or locality != given:
        needed = "'subject', 'prompt', 'target' and 'rephrase_prompt', which are texts, and 'locality', a list of texts"
        raise DataError(f"{where}: needs {needed}. Fix or delete the line.")
    return found, locality


def generated_file(dataset: str) -> Path | None:
    """The training file that `LKS_TRAINING_PROMPTS` gives for a dataset; None where the variable is not set, or its folder has none for it.

    Raises:
        DataError: the folder does not exist.
    """
    named = os.environ.get(ENVIRONMENT)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{ENVIRONMENT} names {folder}, which is no folder. Make one with `lks data make --dataset {dataset} --out {folder / dataset}`."
        )
    file = folder / dataset / TRAINING
    return file if file.is_file() else None
