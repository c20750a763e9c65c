"""English word lists, for distinguishing a name from text that only looks like one."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lks.io.lines import split_lines

WORD = re.compile(r"\w+")

_FUNCTION = (
    "a about after all also am among an and any are as at be because been before being between both but by "
    "can could did do does during each either every for from had has have he her hers him his how i if in "
    "into is it its just may me might must my neither no nor not of on once or our out over shall she "
    "should since so some than that the their them then there these they this those through to under until "
    "up upon us was we were what when where which while who whom whose why will with would yes yet you your"
)
FUNCTION = frozenset(_FUNCTION.split())
"""Function words. When capitalised they open a sentence more often than a name."""


@dataclass(frozen=True, slots=True)
class Words:
    """English words, case-folded.

    Attributes:
        everyday: the most frequent ordinary words.
        ordinary: words that are written in lower case, everyday ones included.
        proper: first names, places and other words that are always capitalised.
    """

    everyday: frozenset[str]
    ordinary: frozenset[str]
    proper: frozenset[str]


@cache
def words() -> Words:
    """Read the word list that comes with the package (`words.txt`)."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in split_lines((Path(__file__).parent / "words.txt").read_text(encoding="utf-8")):
        if line.startswith("["):
            current = sections.setdefault(line[1:-1], [])
        elif not line.startswith("#"):
            current.append(line)
    everyday = frozenset(sections["everyday"]) | FUNCTION
    return Words(everyday, everyday | frozenset(sections["ordinary"]), frozenset(sections["proper"]))


def is_plain(folded: str) -> bool:
    """Return whether a name could as well be ordinary text, so that only its capitals make it a name.

    This holds for at most three letters; one ordinary word, with or without function words ("the corner");
    two ordinary words, one of them everyday ("new tricks"); three everyday words. Numbers count as everyday
    words ("60 minutes").
    """
    if len(folded) <= 3:
        return True
    parts = folded.split(None, 3)
    if len(parts) > 3:
        return False
    known, rare, content = words(), 0, 0
    for part in parts:
        part = part.strip(",!?.&")
        if part not in known.everyday and not part.isdecimal():
            if part and part not in known.ordinary:
                return False
            rare += bool(part)
        content += part not in FUNCTION
    return not folded.isdecimal() and (content <= 1 or rare <= (content == 2))
