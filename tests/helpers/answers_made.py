"""Answers of which each subject has one of every kind, for results that are compared with others."""

from collections.abc import Sequence

from lks.edits import ProbeKind
from lks.results.answers import Answer
from tests.helpers.stores import ASKED, Wrong


def subjects(count: int) -> tuple[str, ...]:
    """Names of so many subjects, in order."""
    return tuple(f"subject {i:02}" for i in range(count))


NAMES = subjects(12)


def answer(subject: str, kind: ProbeKind, right: bool) -> Answer:
    """Two tokens; a wrong answer has the first right under teacher forcing and none when generated."""
    given, said = ((1, 2), "wanted") if right else ((1, 0), "other")
    generated = given if right else (0, 0)
    return Answer(
        0,
        subject,
        subject,
        kind,
        0,
        f"{kind} of {subject}",
        "wanted",
        (1, 2),
        given,
        generated,
        said,
        -1.0,
        wild_text=said,
    )


def answers(wrong: Wrong, names: Sequence[str] = NAMES) -> list[Answer]:
    """Answers of all kinds; of each kind the first so many subjects have it wrong."""
    return [answer(name, kind, i >= wrong.get(kind, 0)) for i, name in enumerate(names) for kind in ASKED]
