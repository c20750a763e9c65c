"""Classification of a sentence for reading its capitals: English, another language, or title case."""

import re
from enum import Enum
from functools import lru_cache

from lks.scope.english_words import FUNCTION, words
from lks.scope.normalization import APOSTROPHES, is_word

_TOKEN = re.compile(rf"[^\W\d_]+(?:[{APOSTROPHES}-][^\W\d_]+)*")
_JOINT = re.compile(rf"[{APOSTROPHES}-]")


def _set(text: str) -> frozenset[str]:
    """Split a text into a set of words."""
    return frozenset(text.split())


_SHARED = _set(
    "a am an as at do had i in is me no of on so was we will"
)  # also function words of other languages
_ELSEWHERE = _set(
    "che chi com como con das dem den der die em hat las les oder pas"
)  # foreign function words that an English word list contains
_LINKS = _set("d da das de del della den der di do dos du la van von")  # also in names
_ARTICLES = _set("das de den der det die een ein eine el en et gli het il la le les los o os un una une")
_ENDS = (". ", "? ", "! ", ": ", "; ")
SURE, WEAK = 2, 1
"""Weights of a word that determines the language, and of one that only suggests it."""


class CapitalsReading(Enum):
    """How the capitals of a sentence are to be read."""

    ENGLISH = 1
    """English, or too short to tell."""
    TITLE = 2
    """Title Case Throughout: capitals say nothing of names."""
    FOREIGN = 3
    """Another language, whose rules for capitals and apostrophes are not known here."""


def sentence(line: str, start: int, end: int) -> str:
    """Return the sentence around [start, end), as far as punctuation shows; "Q: Wo liegt Torvik?" is two."""
    before = max(line.rfind(sign, 0, start) for sign in _ENDS)
    after = min((at for sign in _ENDS if (at := line.find(sign, end)) >= 0), default=len(line))
    return line[before + 1 : after + 1]


@lru_cache(maxsize=512)
def reading(line: str) -> CapitalsReading:
    """Classify a sentence by its words that are not names.

    Those are the words in lower case, or all words of a sentence in capitals. Another language: words unknown
    to an English word list outweigh English function words. Words that may occur inside a name ("de la") or
    are function words in several languages ("in") weigh less. Title case: no content word is in lower case,
    and a function word that opens no sentence is capitalised ("Where Does Mara Kel Work?").
    """
    if not any(map(str.islower, line)):
        line = line.lower()
    english = foreign = content = titled = 0
    last = ""
    for match in _TOKEN.finditer(line):
        word = _JOINT.split(match[0], maxsplit=1)[0]
        lower = word.lower()
        if lower in FUNCTION and (word == lower or word.istitle()):
            english += WEAK if lower in _SHARED else SURE
            titled += word != lower and len(word) > 1 and not _opens(line, match.start())
        elif word == lower:
            content += 1
            foreign += _weight(match[0], word, last)
        elif not all(map(is_word, word)):
            foreign += SURE
        elif not last:
            foreign += WEAK * (lower in _ARTICLES)
        last = lower
    if foreign > max(english, WEAK):
        return CapitalsReading.FOREIGN
    return CapitalsReading.TITLE if titled and not content else CapitalsReading.ENGLISH


def _weight(token: str, word: str, last: str) -> int:
    """Return how strongly a lower-case word indicates that a line is not English."""
    if word in _LINKS:
        return 0 if last in _LINKS else WEAK
    known = words()
    if word in _ELSEWHERE:
        return SURE
    return 0 if word in known.ordinary or word in known.proper or token[-3:] in ("n't", "n’t") else SURE


def _opens(line: str, start: int) -> bool:
    """Return whether a sentence begins at `start`."""
    before = line[:start].rstrip(" \"'“‘(¿¡")
    return not before or before[-1] in ".?!:;"
