"""Rules for what counts as a typing mistake in a name, and what makes it another name."""

import re
from collections.abc import Callable
from itertools import takewhile

from lks.scope.english_words import FUNCTION, WORD, words

LETTERS = 6
"""Minimum number of letters of a name that is recognised with a mistake in it."""

LOWER = 8
"""Minimum number of letters in a text without capitals."""

SHORT = 4
"""Maximum length of a word in which a mistake is accepted only with `ANCHOR` right letters in the other
words.
"""

ANCHOR = 4
LONG = 8
"""Minimum number of letters of a one-word name whose last letter may be wrong; the first never, unless
swapped.
"""

_ROMAN = re.compile("[ivxlcm]{2,}")


def is_typo(written: str, name: str, capitals: bool, known: Callable[[str], bool]) -> bool:
    """Return whether `written`, one edit away from `name`, is a typing mistake and not another name.

    An edit is an insertion, deletion, substitution or transposition. Never a mistake: a changed number,
    including a Roman one; a changed word that is itself a word or a part of a known name ("Joan" for "John"),
    except for what `_slip` allows; a plural or adjective ("Martins", "Sri Lankan"); in a name of one word
    another first letter ("Merlin"), another last one unless it is long ("Donets"), and in one of six letters
    a wrong or added one ("Monato").

    Args:
        written: folded, without diacritics.
        name: likewise.
        capitals: the text writes it as a name.
        known: returns whether a string is a word or part of a name.
    """
    letters = sum(map(str.isalpha, name))
    if letters < (LETTERS if capitals else LOWER) or re.findall(r"\d+", written) != re.findall(r"\d+", name):
        return False
    parts = WORD.findall(name)
    mine, its = _changed(WORD.findall(written), parts)
    wrong, right = "".join(mine), "".join(its)
    if not mine or not its:  # only a space or a punctuation mark differs
        return letters >= LOWER
    if any(map(str.isdigit, wrong + right)) or _ROMAN.fullmatch(right):
        return False
    anchor = letters - len(right)
    if (
        wrong in (right + "s", right + "n")
        or right == wrong + "s"
        or (len(parts) > 1 and len(right) <= SHORT and anchor < ANCHOR)
    ):
        return False
    if any(known(word) for word in mine) and not _slip(wrong, right, anchor):
        return False
    if not capitals and all(word in words().ordinary for word in parts):
        return False
    if len(parts) > 1 or sorted(wrong) == sorted(right):
        return True
    return (
        wrong[0] == right[0]
        and (wrong[-1] == right[-1] or letters >= LONG)
        and (letters > LETTERS or len(wrong) < len(right))
    )


def _slip(wrong: str, right: str, anchor: int) -> bool:
    """Return whether a mistake has made a word by chance.

    This requires that the right word is unknown or a function word, and that enough letters of the other
    words are right.
    """
    if anchor < LOWER or wrong in words().proper:
        return False
    if right in FUNCTION:
        return wrong not in FUNCTION
    english = words()
    return right not in english.ordinary and right not in english.proper and wrong in english.ordinary


def _changed(mine: list[str], its: list[str]) -> tuple[list[str], list[str]]:
    """Return the words in the middle that differ."""
    front = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(mine, its, strict=False))))
    mine, its = mine[front:], its[front:]
    back = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(mine[::-1], its[::-1], strict=False))))
    return mine[: len(mine) - back], its[: len(its) - back]
