"""Agreement of an LLM judge with human labels, on the included labelled answers or on the user's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, StrictBool

from lks.errors import DataError
from lks.io.json_lines import lines_of
from lks.io.records import checked
from lks.llm.judge import Judge, JudgeItem
from lks.progress import Progress, no_progress
from lks.statistics import kappa

CALIBRATION = Path(__file__).with_name("judge_calibration.jsonl")


@dataclass(frozen=True, slots=True)
class Labelled:
    """An item with a human verdict."""

    item: JudgeItem
    label: bool


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of verdicts of judge and human.

    They agree, the judge alone says correct (lenient) or incorrect (strict), or the judge says neither.
    """

    both_correct: int
    both_incorrect: int
    lenient: int
    strict: int
    neither: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well a judge agrees with human labels.

    Attributes:
        agreement: share of items with the same verdict; a reply that is neither word agrees with no label.
        kappa: agreement beyond chance (Cohen), with "neither" as a third verdict.
        n: number of items.
        confusion: counts of agreements and disagreements by kind.
    """

    agreement: float
    kappa: float
    n: int
    confusion: Confusion


def calibrate(judge: Judge, items: Sequence[Labelled], progress: Progress = no_progress) -> Calibration:
    """Compare a judge with human labels on at least one labelled item."""
    verdicts = [ruling.verdict for ruling in judge.rule([labelled.item for labelled in items], progress)]
    labels = [labelled.label for labelled in items]
    pairs = list(zip(labels, verdicts, strict=True))
    confusion = Confusion(
        both_correct=pairs.count((True, True)),
        both_incorrect=pairs.count((False, False)),
        lenient=pairs.count((False, True)),
        strict=pairs.count((True, False)),
        neither=verdicts.count(None),
    )
    agreement = (confusion.both_correct + confusion.both_incorrect) / len(pairs)
    return Calibration(
        agreement,
        kappa([str(label) for label in labels], [str(verdict) for verdict in verdicts]),
        len(pairs),
        confusion,
    )


class _CalibrationLine(BaseModel, extra="forbid"):
    """A line of a calibration file."""

    question: Annotated[str, Field(min_length=1)]
    target: Annotated[str, Field(min_length=1)]
    answer: str
    label: StrictBool
    accepted: tuple[str, ...] = ()


def labelled_items(file: Path = CALIBRATION) -> list[Labelled]:
    """Read the items of a calibration file.

    The file holds JSON lines with question, target, answer, label (true: the answer is right) and optionally
    accepted.

    Raises:
        DataError: the file cannot be read, is empty or holds a bad line; the message names file, line and
            field.
    """
    rows = (
        checked(_CalibrationLine, row, f"{file}, line {number}", "line") for number, row in lines_of(file)
    )
    items = [
        Labelled(JudgeItem(row.question, row.target, row.answer, row.accepted), row.label) for row in rows
    ]
    if not items:
        raise DataError(
            f"{file} holds no items. Write one JSON object a line: question, target, answer, label."
        )
    return items
