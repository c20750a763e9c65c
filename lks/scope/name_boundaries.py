"""Rules for whether a span of a text is a name by itself or part of a longer one.

For example, "Chicago" in "Chicago Opera House" is no mention of Chicago.
"""

import re

from lks.scope.english_words import FUNCTION, words
from lks.scope.normalization import APOSTROPHES, is_word
from lks.scope.running_text import CapitalsReading, reading, sentence

_AFTER = re.compile(
    r"(?: & | (?:de|van|von|di|da|del|der|ibn|bin) |[ \u00a0\-\u2010\u2011/]|(?<=\d)\.(?=\d))(\w+)"
)
_YEAR = re.compile("1[0-9]{3}|20[0-9]{2}")
_ENDING = re.compile(rf"[{APOSTROPHES}](\w+)")
_ENDINGS = frozenset(["s", "d", "ll", "m", "re", "ve"])  # English, after an apostrophe: still the same name
_AFTER_PLAIN = re.compile(r" (?:of|and) (\w+)")
_LINKS = frozenset(
    ["of", "de", "la", "von", "van", "du", "di", "da", "del", "der", "den", "ibn", "bin", "till"]
)  # inside names
_WHEN = frozenset(["in", "by", "since", "until", "from", "before", "after", "during", "around"])
_DAY_WORDS = (
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july "
    "august september october november december spring summer autumn winter christmas easter"
)
_DAYS = frozenset(_DAY_WORDS.split())
_WHICH_DAY = _WHEN | {"on", "last", "next", "this", "every", "each", "late", "early", "mid"}
_TITLE_WORDS = (
    "mr mrs ms miss dr sir lord lady dame president minister chancellor senator governor king queen prince "
    "princess emperor pope saint st cardinal bishop professor prof general colonel captain major judge "
    "justice actor actress singer author director coach chairman editor creator"
)
_TITLES = frozenset(_TITLE_WORDS.split())
_SHORTENED = frozenset(["st", "dr", "mr", "mrs", "ms", "jr", "sr", "mt", "ft"])
_OPENERS = frozenset('.?!:;"“”(—]>«„¿¡')
_BEFORE_WORDS = "(\"'“‘[-«„¿¡"


def inside_longer_name(text: str, start: int, end: int, plain: bool = False) -> bool:
    """Return whether capitals or numbers next to [start, end) make it a part of another name.

    Next to means: separated by one space, hyphen, slash, " & " or " de ", " von ", ..., so a comma, a bracket
    or a possessive ends a name. Before the span, function words do not count, nor an everyday word that opens
    a sentence, nor a title before a name of several words ("President Anna Toll"); before a single word a
    number does, and before any name a year, unless it gives a time ("in 1998 Chicago slept"). A name and "of"
    before the span count too ("Constance of Toulouse"), but "CEO of", a title and, before several words, any
    ordinary word do not. Letters after an apostrophe count unless they are an English ending ("Qur'an").

    These rules are for English. They apply in a sentence that reads as English or does not show its language
    (`lks.scope.running_text`). A span without capitals, a line without lower-case letters, and, unless the
    name could be ordinary text, a sentence in title case give no evidence.

    Args:
        text: the text.
        start: index of the span's first character.
        end: index after the span's last character.
        plain: the name could be ordinary text (`lks.scope.english_words.is_plain`); then a capitalised
            function word before it and "of" or "and" after it count as well: "The Fight of My Life", "The
            Science of Illusion".
    """
    line, stop = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    if line or stop >= 0:
        text, start, end = text[line : stop if stop >= 0 else len(text)], start - line, end - line
    ending = _ENDING.match(text, end)
    if (
        ending is not None
        and is_word(text[end - 1])
        and is_word(ending[1][0])
        and ending[1].lower() not in _ENDINGS
    ):
        return reading(sentence(text, start, end)) is not CapitalsReading.FOREIGN
    span = text[start:end]
    if span == span.lower() or not any(map(str.islower, text)):
        return False
    if not (_goes_on(text, end, plain) or (start > 1 and _continues(text, start, " " in span, plain))):
        return False
    kind = reading(sentence(text, start, end))
    return kind is CapitalsReading.ENGLISH or (plain and kind is CapitalsReading.TITLE)


def _goes_on(text: str, end: int, plain: bool) -> bool:
    """Return whether what follows `end` continues the name."""
    after = _AFTER.match(text, end)
    if after is not None and (after[1][0].isupper() or after[1][0].isdigit()):
        return True
    title = _AFTER_PLAIN.match(text, end) if plain else None
    return title is not None and title[1][0].isupper()


def _continues(text: str, start: int, several: bool, plain: bool) -> bool:
    """Return whether what precedes `start` begins the name."""
    joint = text[start - 1]
    elided = joint in APOSTROPHES and is_word(text[start - 2])
    if joint not in " \u00a0-\u2010\u2011" and not elided:
        return False
    stop = start - 1
    if text[stop - 2 : stop] == " &":
        stop -= 2
    at, word = _word_before(text, stop)
    if elided and word[:1].isupper():  # "D'Angelo"
        return True
    if elided or (joint.isspace() and word in _LINKS):
        at, word = _word_before(text, at - 1)
        if word in _LINKS and word != "of":  # "Juan de la Cruz"
            at, word = _word_before(text, at - 1)
        if not plain and (word.isupper() or word.lower() in (words().ordinary if several else _TITLES)):
            return False
        several = False
    if word.isdecimal() and joint.isspace():
        return _word_before(text, at - 1)[1].lower() not in _WHEN if _YEAR.fullmatch(word) else not several
    if word.lower() in _DAYS and joint.isspace():
        before = _word_before(text, at - 1)[1].lower()
        return not (before in _WHICH_DAY or before.isdecimal())
    return _is_name_part(text, at, word, several, plain)


def _word_before(text: str, stop: int) -> tuple[int, str]:
    """Return where the word that ends at `stop` starts, and the word."""
    if stop <= 0:
        return 0, ""
    at = text.rfind(" ", 0, stop) + 1
    while at < stop and text[at] in _BEFORE_WORDS:
        at += 1
    return at, text[at:stop]


def _is_name_part(text: str, at: int, word: str, several: bool, plain: bool) -> bool:
    """Return whether a word before a name belongs to it."""
    if not word or not word[0].isupper():
        return False
    lower = word.replace("’", "'").lower()
    before = text[:at].rstrip(" -(")
    opens = not before or before[-1] in _OPENERS
    if lower.split("'")[0] in FUNCTION and len(lower) > 1:
        return plain and not opens
    if word[-1] == ".":
        lower = lower[:-1]
        if len(lower) > 1 and lower not in _SHORTENED:  # the sentence ends here
            return False
    elif not word[-1].isalnum() or lower.endswith("'s"):
        return False
    if lower in _TITLES:
        return not several
    return not (opens and word[-1] != "." and lower in words().everyday)
