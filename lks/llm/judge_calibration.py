"""Agreement of an LLM judge with human labels, on the included labelled answers or on the user's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError

from lks.errors import DataError
from lks.io.lines import split_lines
from lks.io.untrusted import one_line
from lks.llm.judge import Judge, JudgeItem, Progress, no_progress
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


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a calibration file."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    question: Annotated[str, StringConstraints(min_length=1)]
    target: Annotated[str, StringConstraints(min_length=1)]
    answer: str
    label: bool
    accepted: tuple[str, ...] = ()


_LINE = TypeAdapter(_Line)


def labelled_items(file: Path = CALIBRATION) -> list[Labelled]:
    """Read the items of a calibration file.

    The file holds JSON lines with question, target, answer, label (true: the answer is right) and optionally
    accepted.

    Raises:
        DataError: the file cannot be read, is empty or holds a bad line; the message names file, line and
            field.
    """
    try:
        lines = split_lines(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read: {error}. Name a file of JSON lines with --calibration."
        ) from None
    items = []
    for number, line in enumerate(lines, 1):
        try:
            found = _LINE.validate_json(line) if line.strip() else None
        except ValidationError as error:
            first = error.errors()[0]
            where = one_line(".".join(map(str, first["loc"]))) or "JSON"
            raise DataError(
                f"{file}, line {number}, {where}: {first['msg']}. It takes question, target, answer, label "
                "and accepted."
            ) from None
        if found:
            items.append(
                Labelled(JudgeItem(found.question, found.target, found.answer, found.accepted), found.label)
            )
    if not items:
        raise DataError(
            f"{file} holds no items. Write one JSON object a line: question, target, answer, label."
        )
    return items
