"""The edit scope indicator: which edited subjects a text mentions, and where (paper, Sec. 3.1).

`ExactScope`, the default, finds names as whole words, in any case and Unicode form, with one pass of an automaton over the
text whatever the number of names. `OfficialScope` (see `lks.official_scope`) follows the authors' fuzzy rules.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import ahocorasick_rs

from lks.errors import unknown

ScopeKind = Literal["exact", "official"]

_TYPOGRAPHY = str.maketrans("\u2018\u2019\u02bc\u2010\u2011\u2013", "'''---")  # one character each: offsets stay
_ENDINGS = ("s", "d", "ll", "m", "re", "ve")  # after an apostrophe: still the same word


@dataclass(frozen=True, slots=True)
class Mention:
    """An edited subject in a text.

    Attributes:
        subject_index: position of the subject in the list the scope was made from.
        start: first character.
        end: behind the last character.
    """

    subject_index: int
    start: int
    end: int


class Scope(Protocol):
    """Decides which texts an edit applies to."""

    def find(self, text: str) -> tuple[Mention, ...]:
        """Mentions from left to right, none overlapping another; empty if the text is out of scope."""
        ...


def make_scope(kind: ScopeKind, names: Sequence[Sequence[str]]) -> Scope:
    """The scope indicator of a kind.

    Args:
        kind: "exact" or "official".
        names: for each subject its name, then its aliases.

    Raises:
        UserError: no such kind.
    """
    if kind == "exact":
        return ExactScope(names)
    if kind == "official":
        from lks.official_scope import OfficialScope

        return OfficialScope(names)
    raise unknown("scope", kind, ("exact", "official"))


@dataclass(frozen=True, slots=True)
class _Name:
    """One spelling of a subject, in NFKC."""

    spelling: str
    subject: int


class ExactScope:
    """Whole names, found by Aho-Corasick.

    - Case, Unicode form (NFKC) and typographic apostrophes or hyphens do not matter; every other character does. One exception:
      a single word in lower case mentions no name written otherwise, for "life" is a word and "Life" a magazine.
    - A mention neither begins nor ends inside a word. A possessive or contraction ("Mara Kel's") is a mention; "Mara Kel" in
      "Mara Kelorin" or "O'Mara Kel" is none. Scripts written without spaces (Chinese, Japanese, Korean, Thai, ...) need no boundary.
    - Where mentions overlap, the leftmost counts, and of those the longest: "Anna Toll Vesting" is not "Anna Toll".
    - Where subjects share a name, the one whose spelling is the text's, letter for letter, counts; else the first in the list.

    Args:
        names: for each subject its name, then its aliases. Blank ones are ignored.
    """

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        self._names: list[list[_Name]] = []
        patterns: dict[str, int] = {}
        for subject, spellings in enumerate(names):
            for spelling in spellings:
                folded = fold(spelling.strip())[0]
                if folded:
                    place = patterns.setdefault(folded, len(patterns))
                    if place == len(self._names):
                        self._names.append([])
                    self._names[place].append(_Name(unicodedata.normalize("NFKC", spelling.strip()), subject))
        self._automaton = ahocorasick_rs.AhoCorasick(list(patterns), store_patterns=False)

    def find(self, text: str) -> tuple[Mention, ...]:
        """Mentions of names and aliases.

        All matches are looked at, not the automaton's leftmost-longest ones: the longest may end inside a word and hide a
        shorter one that does not.
        """
        folded, places = fold(text)
        matches = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        if not matches:
            return ()
        matches.sort(key=lambda match: (match[1], -match[2]))
        found: list[Mention] = []
        free = 0
        for index, start, end in matches:
            if start < free or not _whole(folded, start, end):
                continue
            if places is None:
                own_start, own_end = start, end
            elif places[start][0] == start and places[end - 1][1] == end:
                own_start, own_end = places[start][2], places[end - 1][3]
            else:  # part of a character
                continue
            subject = self._subject(index, text[own_start:own_end])
            if subject is not None:
                found.append(Mention(subject, own_start, own_end))
                free = end
        return tuple(found)

    def _subject(self, index: int, spelt: str) -> int | None:
        """Whose name this is, as the text spells it."""
        spelt = unicodedata.normalize("NFKC", spelt)
        names = self._names[index]
        for name in names:
            if name.spelling == spelt:
                return name.subject
        return None if spelt.isalpha() and spelt.islower() else names[0].subject


Place = tuple[int, int, int, int]


def fold(text: str) -> tuple[str, list[Place] | None]:
    """Case-folded NFKC, and where its characters come from.

    Returns:
        The folded text, and per folded character (first, end) of its cluster in the folded text and (first, end) in the text;
        None if every character stays in its place.
    """
    if text.isascii():
        return text.lower(), None
    text = text.translate(_TYPOGRAPHY)
    if unicodedata.is_normalized("NFKC", text):
        folded = text.casefold()
        if len(folded) == len(text):
            return folded, None
    parts: list[str] = []
    places: list[Place] = []
    start = at = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _joins(text[end]):
            end += 1
        part = unicodedata.normalize("NFKC", text[start:end]).casefold()
        parts.append(part)
        places += [(at, at + len(part), start, end)] * len(part)
        start, at = end, at + len(part)
    return "".join(parts), places


def _joins(character: str) -> bool:
    """Whether a character belongs to the one before: combining marks, Hangul vowels and finals."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def _whole(text: str, start: int, end: int) -> bool:
    """Whether [start, end) of a folded text begins and ends at a word boundary."""
    if start and _is_word(text[start]):
        before = text[start - 1]
        if _is_word(before) or (before == "'" and start > 1 and _is_word(text[start - 2])):
            return False
    if end == len(text) or not _is_word(text[end - 1]):
        return True
    after = text[end]
    if after != "'":
        return not _is_word(after)
    rest = end + 1
    while rest < len(text) and _is_word(text[rest]):
        rest += 1
    return rest == end + 1 or text[end + 1 : rest] in _ENDINGS


def _is_word(character: str) -> bool:
    """Whether a character makes a word longer: letters, digits, marks and undecodable ones, but no script without spaces."""
    if character.isascii():
        return character.isalnum() or character == "_"
    if not (character.isalnum() or character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character)[0] == "M"):
        return False
    return not _spaceless(ord(character))


def _spaceless(code: int) -> bool:
    """Thai to Myanmar, Khmer, Hangul, kana and Han."""
    return (
        0x0E00 <= code <= 0x0EFF
        or 0x1000 <= code <= 0x109F
        or 0x1100 <= code <= 0x11FF
        or 0x1780 <= code <= 0x17FF
        or 0x2E80 <= code <= 0x9FFF
        or 0xAC00 <= code <= 0xD7FF
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x3FFFF
    )
