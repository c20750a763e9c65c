"""The scope rules of the authors' published code, for comparison with `lks.scope.exact.ExactScope`.

They always look for *one* subject and compare the whole prompt with every edited name, so each additional
edit makes a false alarm on an unrelated prompt more likely.
"""

import re
from collections.abc import Sequence

from rapidfuzz import fuzz, process
from rapidfuzz.utils import default_process

from lks.scope.exact import Mention

PARTIAL_MIN = 90  # fuzz.partial_ratio, 0 to 100
SORTED_MIN, SORTED_TRUSTED = 50, 60  # fuzz.token_sort_ratio, 0 to 100
LEVENSHTEIN_MIN = 0.64  # Levenshtein.ratio, 0 to 1

_WORD = re.compile(r"\w[\w'’.-]*")
_LINKS = frozenset(
    ["of", "the", "de", "la", "von", "van", "and", "du", "di", "da"]
)  # may occur inside a name
_OPENING = (
    "What Which Who Whom Whose Where When How Why Is Was Are Were Did Does Do Has Have In On At From "
    "By For To The A An Q Question"
)
_OPENERS = frozenset(_OPENING.split())  # capitalised only because they begin the text


class OfficialScope:
    """A scope indicator with the authors' rules.

    1. The longest name that is a substring of the prompt, case-sensitive; no word boundaries. Its first
       occurrence is the mention.
    2. Else the best `partial_ratio` and the best `token_sort_ratio` of the prompt against all names,
       lower-cased and without punctuation, as whole numbers. If the first is above 90 or the second above 50:
       with partial_ratio >= 90 the subject is the best by token_sort_ratio if that is above 60, else the best
       by partial_ratio; below 90 the best by token_sort_ratio. The mention is the prompt's entity span most
       like the name (partial_ratio).
    3. Else the pair of entity span and name with the highest Levenshtein ratio, if above 0.64; the mention is
       the span.

    Differences from the published code: there, entity spans come from spaCy's large English model; here they
    are approximated by runs of capitalised words (every word if there is none). rapidfuzz's `partial_ratio`
    finds the best alignment, which fuzzywuzzy's sometimes misses. These rules do not use aliases: only the
    first name of a subject counts.

    Args:
        names: for each subject its name, then aliases (ignored).
    """

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        firsts: dict[str, int] = {}
        for subject, spellings in enumerate(names):
            if spellings and spellings[0].strip():
                firsts.setdefault(spellings[0].strip(), subject)
        self._names = list(firsts)
        self._subjects = list(firsts.values())
        self._processed = [default_process(name) for name in self._names]

    def find(self, text: str) -> tuple[Mention, ...]:
        """Return at most one mention."""
        if not self._names or not text.strip():
            return ()
        exact = max(
            (i for i, name in enumerate(self._names) if name in text),
            key=lambda i: len(self._names[i]),
            default=None,
        )
        if exact is not None:
            start = text.index(self._names[exact])
            return (Mention(self._subjects[exact], start, start + len(self._names[exact])),)
        found = self._fuzzy(text) or self._levenshtein(text)
        if found is None:
            return ()
        place, (start, end) = found
        return (Mention(self._subjects[place], start, end),)

    def _fuzzy(self, text: str) -> tuple[int, tuple[int, int]] | None:
        """Apply rule 2; return the index of the name, and the span."""
        query = default_process(text)
        _, partial, by_partial = process.extractOne(query, self._processed, scorer=fuzz.partial_ratio)
        _, ordered, by_order = process.extractOne(query, self._processed, scorer=fuzz.token_sort_ratio)
        partial, ordered = round(partial), round(ordered)
        if partial <= PARTIAL_MIN and ordered <= SORTED_MIN:
            return None
        place = by_partial if partial >= PARTIAL_MIN and ordered <= SORTED_TRUSTED else by_order
        name = self._processed[place]
        span = max(
            entity_spans(text), key=lambda s: fuzz.partial_ratio(name, default_process(text[slice(*s)]))
        )
        return place, span

    def _levenshtein(self, text: str) -> tuple[int, tuple[int, int]] | None:
        """Apply rule 3; return the index of the name, and the span."""
        best: tuple[float, int, tuple[int, int]] | None = None
        for span in entity_spans(text):
            _, score, place = process.extractOne(text[slice(*span)], self._names, scorer=fuzz.ratio)
            if best is None or score > best[0]:
                best = score, place, span
        if best is None or best[0] / 100 <= LEVENSHTEIN_MIN:
            return None
        return best[1], best[2]


def entity_spans(text: str) -> list[tuple[int, int]]:
    """Return runs of capitalised words, without a mere opening word; every word if there is none."""
    spans: list[tuple[int, int]] = []
    last = 0  # end of the words that may belong to the open run
    for number, match in enumerate(_WORD.finditer(text)):
        word = match[0].rstrip(".'’-")
        end = match.start() + len(word)
        joined = bool(spans) and last > 0 and text[last : match.start()].isspace()
        if word[0].isupper() and not (number == 0 and word in _OPENERS):
            spans[-1:] = [(spans[-1][0], end)] if joined else [*spans[-1:], (match.start(), end)]
            last = match.end()
        elif joined and word[0].isdigit():
            spans[-1] = spans[-1][0], end
            last = match.end()
        else:
            last = match.end() if joined and word in _LINKS else 0
    return spans or [match.span() for match in re.finditer(r"\S+", text)]
