"""The default scope indicator: it finds names as whole words, in any case and Unicode form.

One pass of an automaton over the text suffices, regardless of the number of names.
"""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

import ahocorasick_rs

from lks.scope.english_words import FUNCTION, is_plain
from lks.scope.name_boundaries import inside_longer_name
from lks.scope.normalization import fold, is_word, original, spelling_of, whole

_ARTICLES = ("the", "a", "an")


@dataclass(frozen=True, slots=True)
class Mention:
    """An edited subject in a text.

    Attributes:
        subject_index: position of the subject in the list the scope was made from.
        start: index of the first character.
        end: index after the last character.
    """

    subject_index: int
    start: int
    end: int


class Scope(Protocol):
    """Decides which texts an edit applies to."""

    def find(self, text: str) -> tuple[Mention, ...]:
        """Return the mentions from left to right, without overlaps; empty if the text is out of scope."""
        ...


@dataclass(frozen=True, slots=True)
class _Special:
    """A folded name whose spelling must be examined: several subjects share it, or it could be ordinary text.

    Attributes:
        plain: only its capitals make it a name (`lks.scope.english_words.is_plain`).
        spellings: (NFKC spelling, subject) in the order of the subjects.
    """

    plain: bool
    spellings: list[tuple[str, int]]


class ExactScope:
    """A scope indicator that finds whole names by Aho-Corasick.

    - Case, Unicode form (NFKC) and typographic apostrophes or hyphens do not matter; every other character
      does.
    - A mention neither begins nor ends inside a word. A possessive or contraction ("Mara Kel's") and a name
      after an elided article ("l'Italie") are mentions; "Mara Kel" in "Mara Kelorin" or "O'Mara Kel" is none.
      Scripts written without spaces (Chinese, Japanese, Korean, Thai, ...) need no boundary.
    - A part of a longer name is no mention: "Chicago" in "Chicago Opera House", "Mars" in "Mars 7"
      (`lks.scope.name_boundaries`). This rule is about English text, and does not hold for `loose` subjects.
    - A name that could be ordinary text (one ordinary word: "Life"; a few everyday words: "The Band"; up to
      three letters: "It"; `lks.scope.english_words.is_plain`) is mentioned only with at least its own
      capitals, except for an article: "the Band". A function word that opens a sentence ("It is late") is no
      mention. All other names are found in any case ("where is oslo"), except where only the beginning is in
      lower case: "on average Joe" is not "Average Joe".
    - Where mentions overlap, the leftmost counts, and of those the longest: "Anna Toll Vesting" is not "Anna
      Toll".
    - Where subjects share a name, the one spelt exactly as in the text counts; else the first in the list.

    Memory per name: its states of the automaton and four bytes; an object only for names that could be
    ordinary text or are shared.

    Args:
        names: for each subject its name, then its aliases. Blank ones are ignored.
        loose: indices of subjects that are also found as part of a longer name, because their own edit prompt
            has them so.
    """

    def __init__(self, names: Sequence[Sequence[str]], loose: Collection[int] = ()) -> None:
        self._names = names
        self._loose = frozenset(loose)
        self._owners = array("i")
        self._special: dict[int, _Special] = {}
        patterns: dict[str, int] = {}
        for subject, spellings in enumerate(names):
            for spelling in spellings:
                spelling = spelling.strip()
                folded = fold(spelling)[0]
                if folded:
                    place = patterns.setdefault(folded, len(patterns))
                    if place == len(self._owners):
                        self._owners.append(subject)
                        if is_plain(folded):
                            self._special[place] = _Special(True, [(spelling_of(spelling), subject)])
                    else:
                        self._share(place, folded, (spelling_of(spelling), subject))
        self._automaton = ahocorasick_rs.AhoCorasick(
            list(patterns), store_patterns=False, implementation=ahocorasick_rs.Implementation.ContiguousNFA
        )

    def _is_plain(self, place: int) -> bool:
        """Return whether the name could be ordinary text."""
        special = self._special.get(place)
        return special is not None and special.plain

    def _share(self, place: int, folded: str, name: tuple[str, int]) -> None:
        """Add a further spelling of a name that is already there."""
        special = self._special.get(place)
        if special is None:
            special = self._special[place] = _Special(
                False, [(self._first(place, folded), self._owners[place])]
            )
        if name not in special.spellings:
            special.spellings.append(name)

    def _first(self, place: int, folded: str) -> str:
        """Return the spelling of a name that came first."""
        return next(
            spelling_of(s.strip()) for s in self._names[self._owners[place]] if fold(s.strip())[0] == folded
        )

    def find(self, text: str) -> tuple[Mention, ...]:
        """Return the mentions of names and aliases.

        All matches are examined, not the automaton's leftmost-longest ones: the longest may end inside a word
        and hide a shorter one that does not.
        """
        folded, places = fold(text)
        matches = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        if not matches:
            return ()
        if len(matches) > 1:
            matches.sort(key=itemgetter(2), reverse=True)
            matches.sort(key=itemgetter(1))
        found: list[Mention] = []
        free = 0
        for index, start, end in matches:
            if start < free or not whole(folded, start, end):
                continue
            span = original(places, start, end)
            if span is None:
                continue
            subject = self._subject(index, text, *span)
            if subject is not None and (
                subject in self._loose or not inside_longer_name(text, *span, self._is_plain(index))
            ):
                found.append(Mention(subject, *span))
                free = end
        return tuple(found)

    def _subject(self, index: int, text: str, start: int, end: int) -> int | None:
        """Return the subject whose name this is, judging by the text's spelling; None if it is no mention."""
        special = self._special.get(index)
        if special is None:
            spelt = text[start:end]
            if _begins_small(spelt) and self._first(index, fold(spelt)[0])[0].isupper():
                return None
            return self._owners[index]
        spelt = spelling_of(text[start:end])
        if special.plain and spelt.lower() in FUNCTION and _opens(text, start):
            return None
        for spelling, subject in special.spellings:
            if spelling == spelt:
                return subject
        if not special.plain:
            return self._owners[index]
        return next(
            (subject for spelling, subject in special.spellings if _has_capitals(spelt, spelling)), None
        )


def _begins_small(spelt: str) -> bool:
    """Return whether a lower-case first letter is followed by a capitalised word.

    This holds for "average Joe", but not for "the Hague".
    """
    if not spelt[0].islower() or " " not in spelt:
        return False
    first, rest = spelt.split(" ", 1)
    return first not in _ARTICLES and rest != rest.lower()


def _has_capitals(spelt: str, name: str) -> bool:
    """Return whether a text's spelling has at least the capitals of a name, except for an article's."""
    if len(spelt) != len(name) or (len(name) <= 3 and spelt.isupper()):
        return False
    first = 1 if name.lower().startswith(("the ", "a ", "an ")) else 0
    return all(
        mine.isupper() or not its.isupper() for mine, its in zip(spelt[first:], name[first:], strict=True)
    )


def _opens(text: str, start: int) -> bool:
    """Return whether a sentence begins at `start`."""
    before = text[:start].rstrip()
    return not before or "\n" in text[len(before) : start] or not (is_word(before[-1]) or before[-1] in ",-")
