"""Text normalisation for comparing names, and word boundaries.

The normal form is case-folded NFKC with plain apostrophes and hyphens.
"""

import unicodedata

_TYPOGRAPHY = str.maketrans(
    "\u2018\u2019\u02bc\u2010\u2011\u2013", "'''---"
)  # one character each: offsets stay
APOSTROPHES = "'\u2018\u2019\u02bc"
_ELIDED = frozenset(
    [
        "l",
        "d",
        "qu",
        "un",
        "dell",
        "nell",
        "sull",
        "all",
        "dall",
        "coll",
        "quell",
        "quest",
        "jusqu",
        "lorsqu",
        "puisqu",
        "quoiqu",
    ]
)  # French, Italian, Catalan, Occitan

Place = tuple[int, int, int, int]


def fold(text: str) -> tuple[str, list[Place] | None]:
    """Return case-folded NFKC, and where its characters come from.

    Returns:
        The folded text, and per folded character (first, end) of its cluster in the folded text and (first,
        end) in the text; None if every character keeps its position.
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


def original(places: list[Place] | None, start: int, end: int) -> tuple[int, int] | None:
    """Return the span of the text that a span of its folded form came from; None if it cuts a character."""
    if places is None:
        return start, end
    if places[start][0] == start and places[end - 1][1] == end:
        return places[start][2], places[end - 1][3]
    return None


def plain_letters(folded: str) -> str:
    """Remove diacritics from a folded text, character by character, so that every position stays."""
    if folded.isascii():
        return folded
    return "".join(c if c.isascii() else _base(c) for c in folded)


def _base(character: str) -> str:
    """Return the letter under a letter with marks, or the character itself if it is none."""
    letters = unicodedata.normalize("NFD", character)
    marks = all(unicodedata.category(mark)[0] == "M" for mark in letters[1:])
    return letters[0] if marks and len(letters) > 1 else character


def spelling_of(text: str) -> str:
    """Return a text in NFKC with plain apostrophes and hyphens, keeping its case."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))


def _joins(character: str) -> bool:
    """Return whether a character belongs to the one before: combining marks, Hangul vowels and finals."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def whole(text: str, start: int, end: int) -> bool:
    """Return whether [start, end) of a folded text begins and ends at a word boundary.

    An apostrophe after the span is a boundary; an apostrophe before it only after an elided word ("l'",
    "dell'"): "O'Mara" is one word. Whether what follows the apostrophe belongs to the name ("Qur'an") is
    decided by `lks.scope.name_boundaries`.
    """
    if start and is_word(text[start]):
        before = text[start - 1]
        if is_word(before) or (before == "'" and not _elided(text, start - 1)):
            return False
    return end == len(text) or not is_word(text[end - 1]) or not is_word(text[end])


def _elided(text: str, apostrophe: int) -> bool:
    """Return whether the word that ends in an apostrophe is an elided one, or there is none."""
    at = apostrophe
    while at and is_word(text[at - 1]):
        at -= 1
    return at == apostrophe or text[at:apostrophe] in _ELIDED


def is_word(character: str) -> bool:
    """Return whether a character extends a word.

    Letters, digits, marks and undecodable characters do; those of scripts without spaces do not.
    """
    if character.isascii():
        return character.isalnum() or character == "_"
    if not (
        character.isalnum()
        or character == "\N{REPLACEMENT CHARACTER}"
        or unicodedata.category(character)[0] == "M"
    ):
        return False
    return not _spaceless(ord(character))


def _spaceless(code: int) -> bool:
    """Return whether a code point is in the range of Thai to Myanmar, Khmer, Hangul, kana or Han."""
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
