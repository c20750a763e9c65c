"""What is kept of written prompts: evaluation and training files, rejects, a summary; and training from such a file."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lks.derive import Record, TrainingPrompts
from lks.errors import DataError
from lks.intake import one_line, parse_json
from lks.lines import json_line, split_lines
from lks.shards import write_whole
from lks.templates import normalised
from lks.writing import Outcome
from lks.writing_filters import Fact, Split

FILES: dict[Split, str] = {"evaluation": "evaluation.jsonl", "training": "training.jsonl"}
REPLIES = "replies.jsonl"
ENVIRONMENT = "LKS_TRAINING_PROMPTS"
"""Names the folder whose `<dataset>/training.jsonl` gives the training prompts of that dataset."""

Row = Mapping[str, object]


def keep(folder: Path, facts: Sequence[Fact], splits: Sequence[Split], outcome: Outcome, summary: Row) -> None:
    """Write the files, each whole or not at all; the same outcome gives the same bytes.

    Raises:
        StoreError: the folder cannot be written.
    """
    rows = {"evaluation": _evaluation, "training": _training}
    for split in splits:
        write_lines(folder / FILES[split], rows[split](facts, outcome))
    write_lines(folder / "rejects.jsonl", map(asdict, outcome.rejects))
    write_lines(folder / "lacking.jsonl", map(asdict, outcome.lacking))
    write_whole(folder / "summary.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines.

    Raises:
        StoreError: the file cannot be written.
    """
    write_whole(path, "".join(f"{json_line(row)}\n" for row in rows).encode())


def _evaluation(facts: Sequence[Fact], outcome: Outcome) -> Iterable[Row]:
    """Records with both prompts, with the fields of the published files."""
    for fact in facts:
        made = outcome.written["evaluation", fact.case_id]
        if made.paraphrases and made.locality:
            locality = {"prompt": made.locality[0].text, "target": made.locality[0].answer}
            yield {**_fact(fact), "ground_truth": fact.ground_truth, "locality": locality, "generality": made.paraphrases[0].text}


def _training(facts: Sequence[Fact], outcome: Outcome) -> Iterable[Row]:
    """Records with a paraphrase, and as many locality prompts as there are."""
    for fact in facts:
        made = outcome.written["training", fact.case_id]
        if made.paraphrases:
            yield {**_fact(fact), "rephrase_prompt": made.paraphrases[0].text, "locality": [prompt.text for prompt in made.locality]}


def _fact(fact: Fact) -> Row:
    return {"subject": fact.subject, "prompt": fact.prompt, "target": fact.target}


def prompts_in(folder: Path, split: Split) -> set[str]:
    """The written prompts of an earlier run's file, normalised; empty where there is none.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FILES[split]
    found: set[str] = set()
    if path.is_file():
        for number, row in lines_of(path):
            locality = row.get("locality")
            texts = [row.get("rephrase_prompt"), row.get("generality")]
            texts += locality if isinstance(locality, list) else [locality.get("prompt")] if isinstance(locality, dict) else []
            if not any(texts):
                raise DataError(f"{path}, line {number}: no prompts. Delete the file and make it again.")
            found |= {normalised(text) for text in texts if isinstance(text, str)}
    return found


def lines_of(path: Path) -> Iterable[tuple[int, Row]]:
    """The objects of a file of JSON lines, with their line numbers; empty lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is no object.
    """
    try:
        content = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    for number, line in enumerate(split_lines(content), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: no JSON: {error}. Mend or delete the line.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: must be an object, not {type(row).__name__}. Mend or delete the line.")
            yield number, row


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
        forbidden = {normalised(text) for record in records for text in (record.prompt, record.generality, record.locality)}
        for number, row in lines_of(file):
            where = f"{file}, line {number}"
            (subject, prompt, target, paraphrase), locality = _texts(row, where)
            if leaks := [text for text in (paraphrase, *locality) if normalised(text) in forbidden]:
                raise DataError(f"{where}: {one_line(repr(leaks[0]))} is an evaluation prompt of the dataset. Make the file again, for this dataset.")
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
    found = [text for name in ("subject", "prompt", "target", "rephrase_prompt") if isinstance(text := row.get(name), str)]
    given = row.get("locality")
    locality = [text for text in given if isinstance(text, str)] if isinstance(given, list) else None
    if len(found) < 4 or locality is None or locality != given:
        needed = "'subject', 'prompt', 'target' and 'rephrase_prompt', which are texts, and 'locality', a list of texts"
        raise DataError(f"{where}: needs {needed}. Mend or delete the line.")
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
    file = folder / dataset / FILES["training"]
    return file if file.is_file() else None
