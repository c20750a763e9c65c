"""A scope indicator that also recognises a name with one typing mistake in it, or without its diacritics."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from rapidfuzz.distance import OSA

from lks.scope.english_words import WORD, is_plain, words
from lks.scope.exact import ExactScope, Mention
from lks.scope.name_boundaries import inside_longer_name
from lks.scope.normalization import fold, original, plain_letters, whole
from lks.scope.typo_index import LONGEST, SHORTEST, WORDS, Hashed, Hashes, Places, TypoIndex
from lks.scope.typo_rules import is_typo

CODE = 4
"""Maximum length of a code, a word in capitals in which no letter counts as a typing mistake."""

_SEVERAL = -1  # owner of a name that several subjects share


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A piece of a text that is near to a subject's name."""

    start: int
    end: int
    mistakes: int
    subject: int


class FuzzyScope:
    """A scope indicator that finds exact mentions, and names with one mistake in the rest of the text.

    - What `ExactScope` finds is found, and nothing overlapping it.
    - Elsewhere a piece of up to 9 words, not all of them English ones, is a mention if it is not part of a
      longer name and equals a name of at least 6 letters except for missing diacritics or one inserted, left
      out, wrong or swapped letter. `lks.scope.typo_rules` says what is not taken for a mistake.
    - Where pieces overlap, the one with fewer mistakes counts, then the longer. Where two subjects are
      equally near, none counts.

    Args:
        names: for each subject its name, then its aliases.
        loose: passed on to the exact stage.
    """

    def __init__(self, names: Sequence[Sequence[str]], loose: Collection[int] = ()) -> None:
        self._exact = ExactScope(names, loose)
        owners: dict[str, int] = {}
        marked: list[str] = []
        for subject, spellings in enumerate(names):
            for spelling in spellings:
                key = _key(spelling)
                if SHORTEST <= len(key) <= LONGEST and key.count(" ") < WORDS:
                    if owners.setdefault(key, subject) != subject:
                        owners[key] = _SEVERAL
                    if not spelling.isascii():
                        marked.append(key)
        keys = list(owners)
        self._owners = np.fromiter(owners.values(), np.int32, len(owners))
        self._marked = frozenset(marked)
        del owners
        self._index = TypoIndex(keys)
        self._known = _word_hashes(keys)

    def find(self, text: str) -> tuple[Mention, ...]:
        """Return exact mentions and those with one mistake, from left to right."""
        exact = self._exact.find(text)
        folded, places = fold(text)
        folded = plain_letters(folded)
        words_at = [match.span() for match in WORD.finditer(folded)]
        ordinary = words().ordinary
        odd = [folded[start:end] not in ordinary for start, end in words_at]
        if not len(self._owners) or not any(odd):
            return exact
        starts, ends = _pieces(words_at, odd)
        candidates = []
        for number, place in self._index.near(Hashed(folded), starts, ends):
            start, end, name = int(starts[number]), int(ends[number]), self._index.name(place)
            mistakes = OSA.distance(folded[start:end], name, score_cutoff=1)
            if mistakes > 1 or not whole(folded, start, end):
                continue
            span = original(places, start, end)
            if (
                span is None
                or any(m.start < span[1] and span[0] < m.end for m in exact)
                or inside_longer_name(text, *span)
            ):
                continue
            if self._is_meant(text, span, folded[start:end], name):
                candidates.append(_Candidate(*span, mistakes, int(self._owners[place])))
        others = [Mention(c.subject, c.start, c.end) for c in _clearest(candidates)]
        return tuple(sorted([*exact, *others], key=lambda m: m.start))

    def _is_meant(self, text: str, span: tuple[int, int], written: str, name: str) -> bool:
        """Return whether a piece of a text, at most one mistake away from a name, means it."""
        if written != name:
            return not _has_other_code(text[slice(*span)], name) and is_typo(
                written, name, _capitals(text, span), self._is_known
            )
        seen = text.isascii() and name not in self._marked  # the exact stage has seen and rejected it
        return not seen and not is_plain(name)

    def _is_known(self, word: str) -> bool:
        """Return whether a word is English, or a part of an edited name."""
        known = words()
        if word in known.ordinary or word in known.proper:
            return True
        own = Hashed(word).of(np.zeros(1, np.int64), np.full(1, len(word)))
        at = int(np.searchsorted(self._known, own[0]))
        return at < len(self._known) and bool(self._known[at] == own[0])


def _key(spelling: str) -> str:
    """Return a name's index key: folded, without diacritics, from its first to its last letter or digit."""
    folded = plain_letters(fold(spelling.strip())[0])
    if not folded or (folded[0].isalnum() and folded[-1].isalnum()):
        return folded
    spans = [match.span() for match in WORD.finditer(folded)]
    return folded[spans[0][0] : spans[-1][1]] if spans else ""


def _word_hashes(names: Sequence[str]) -> Hashes:
    """Return the hashes of all words of the names, sorted."""
    found = [np.zeros(0, np.uint64)]
    rest = iter(names)
    while chunk := "\n".join(islice(rest, 20_000)):
        spans = np.array([match.span() for match in WORD.finditer(chunk)], np.int64).reshape(-1, 2)
        found.append(np.unique(Hashed(chunk).of(spans[:, 0], spans[:, 1])))
    return np.unique(np.concatenate(found))


def _pieces(spans: Sequence[tuple[int, int]], odd: Sequence[bool]) -> tuple[Places, Places]:
    """Return starts and ends of pieces of whole words of suitable length, with at least one unusual word."""
    bounds = np.array(spans, np.int64)
    before = np.zeros(len(spans) + 1, np.int64)
    np.cumsum(odd, out=before[1:])
    first = np.arange(len(spans))[:, None]
    last = first + np.arange(WORDS + 1)
    stop = np.minimum(last, len(spans) - 1)
    ends = bounds[stop, 1]
    starts = bounds[:, :1]
    lengths = ends - starts
    fits = (
        (last < len(spans))
        & (before[stop + 1] > before[:-1, None])
        & (lengths >= SHORTEST - 1)
        & (lengths <= LONGEST)
    )
    ends = ends[fits]
    return ends - lengths[fits], ends


def _capitals(text: str, span: tuple[int, int]) -> bool:
    """Return whether a piece is written as a name: with capitals that do more than open a sentence."""
    piece = text[slice(*span)]
    if piece == piece.lower():
        return False
    if piece[1:] != piece[1:].lower() or WORD.fullmatch(piece):
        return True
    before = text[: span[0]].rstrip()
    return bool(before) and (before[-1].isalnum() or before[-1] in ",-")


def _has_other_code(piece: str, name: str) -> bool:
    """Return whether a short word in capitals is not in the name: "Cadillac XTS" for "Cadillac DTS"."""
    if piece == piece.upper():
        return False
    return any(
        len(word) <= CODE and word.isupper() and len(word) > 1 and word.lower() not in name
        for word in WORD.findall(piece)
    )


def _clearest(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the candidates that no better one overlaps, and none where two subjects are equally near."""
    kept: list[_Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.mistakes, c.start - c.end)):
        rivals = [other for other in kept if one.start < other.end and other.start < one.end]
        if not rivals:
            kept.append(one)
        elif any(
            (r.start, r.end, r.mistakes) == (one.start, one.end, one.mistakes) and r.subject != one.subject
            for r in rivals
        ):
            kept.append(_Candidate(one.start, one.end, one.mistakes, _SEVERAL))
    blocked = {(c.start, c.end) for c in kept if c.subject == _SEVERAL}
    return [c for c in kept if (c.start, c.end) not in blocked]
