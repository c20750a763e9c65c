"""Output files of written prompts: evaluation and training files, rejects, a summary."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from lks.data.generated_prompts import TRAINING
from lks.data.templates import normalised
from lks.errors import DataError
from lks.io.atomic import write_whole
from lks.io.json_lines import Row, lines_of
from lks.io.lines import json_line
from lks.prompts.filters import PromptFact, Split
from lks.prompts.pipeline import WritingOutcome

FILES: dict[Split, str] = {"evaluation": "evaluation.jsonl", "training": TRAINING}
REPLIES = "replies.jsonl"


def keep(
    folder: Path, facts: Sequence[PromptFact], splits: Sequence[Split], outcome: WritingOutcome, summary: Row
) -> None:
    """Write the files, each atomically; the same outcome gives the same bytes.

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


def _evaluation(facts: Sequence[PromptFact], outcome: WritingOutcome) -> Iterable[Row]:
    """Yield records that have both prompts, with the fields of the published files."""
    for fact in facts:
        made = outcome.written["evaluation", fact.case_id]
        if made.paraphrases and made.locality:
            locality = {"prompt": made.locality[0].text, "target": made.locality[0].answer}
            yield {
                **_fact(fact),
                "ground_truth": fact.ground_truth,
                "locality": locality,
                "generality": made.paraphrases[0].text,
            }


def _training(facts: Sequence[PromptFact], outcome: WritingOutcome) -> Iterable[Row]:
    """Yield records that have a paraphrase, with however many locality prompts there are."""
    for fact in facts:
        made = outcome.written["training", fact.case_id]
        if made.paraphrases:
            yield {
                **_fact(fact),
                "rephrase_prompt": made.paraphrases[0].text,
                "locality": [prompt.text for prompt in made.locality],
            }


def _fact(fact: PromptFact) -> Row:
    """Return the fields that identify a fact."""
    return {"subject": fact.subject, "prompt": fact.prompt, "target": fact.target}


def prompts_in(folder: Path, split: Split) -> set[str]:
    """Return the written prompts of an earlier run's file, normalised; empty if there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FILES[split]
    found: set[str] = set()
    if path.is_file():
        for number, row in lines_of(path):
            locality = row.get("locality")
            texts = [row.get("rephrase_prompt"), row.get("generality")]
            texts += (
                locality
                if isinstance(locality, list)
                else [locality.get("prompt")]
                if isinstance(locality, dict)
                else []
            )
            if not any(texts):
                raise DataError(f"{path}, line {number}: no prompts. Delete the file and rebuild it.")
            found |= {normalised(text) for text in texts if isinstance(text, str)}
    return found
