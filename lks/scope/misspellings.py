"""Seeded generation of names in all their common written forms, for examining a scope indicator."""

import unicodedata
from collections.abc import Callable
from random import Random
from string import ascii_lowercase
from typing import Literal

Form = Literal[
    "exact",
    "upper case",
    "title case",
    "lower case",
    "decomposed",
    "full width",
    "typographic",
    "possessive",
    "no diacritics",
    "one typo",
]

TYPO_LETTERS = 6
"""Minimum number of letters of a name that is asked for with a typo."""


def written(form: Form, name: str, rng: Random) -> str | None:
    """Return a name in a form; None if it has no such form, or one that is the name itself."""
    made = _FORMS[form](name, rng)
    return made if form in ("exact", "possessive") or (made is not None and made != name) else None


def one_typo(name: str, rng: Random) -> str | None:
    """Insert, leave out, change or swap one letter, each equally often; a wrong capital stays a capital.

    Digits, spaces and punctuation are left alone. Returns None for a name of fewer than six letters.
    """
    letters = [i for i, c in enumerate(name) if c.isalpha()]
    if len(letters) < TYPO_LETTERS:
        return None
    kind = rng.choice(["insertion", "deletion", "substitution", "transposition"])
    if kind == "transposition":
        letters = [
            i for i in letters if i + 1 < len(name) and name[i + 1].isalpha() and name[i] != name[i + 1]
        ]
        if not letters:
            return None
    at = rng.choice(letters)
    if kind == "transposition":
        return name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if kind == "deletion":
        return name[:at] + name[at + 1 :]
    letter = rng.choice([c for c in ascii_lowercase if c != name[at].lower()])
    if kind == "insertion":
        return name[:at] + letter + name[at:]
    return name[:at] + (letter.upper() if name[at].isupper() else letter) + name[at + 1 :]


def _full_width(name: str) -> str:
    """Replace ASCII characters by their full-width forms."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name)


def _typographic(name: str) -> str:
    """Replace apostrophes and hyphens by typographic ones."""
    return name.replace("'", "’").replace("-", "\u2010")


def _without_marks(name: str) -> str:
    """Remove diacritics."""
    return "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))


_FORMS: dict[Form, Callable[[str, Random], str | None]] = {
    "exact": lambda name, rng: name,
    "upper case": lambda name, rng: name.upper(),
    "title case": lambda name, rng: " ".join(word[:1].upper() + word[1:] for word in name.split(" ")),
    "lower case": lambda name, rng: name.lower(),
    "decomposed": lambda name, rng: unicodedata.normalize("NFD", name),
    "full width": lambda name, rng: _full_width(name),
    "typographic": lambda name, rng: _typographic(name),
    "possessive": lambda name, rng: name + "'s",
    "no diacritics": lambda name, rng: _without_marks(name),
    "one typo": one_typo,
}
FORMS: tuple[Form, ...] = tuple(_FORMS)

_CONSONANTS, _VOWELS, _CODAS = (
    (*"bcdfghklmnprstvz", "br", "kr", "st", "th"),
    "aeiou",
    ("", "n", "r", "l", "s"),
)


def made_names(count: int, seed: int = 0) -> list[str]:
    """Generate distinct invented names of two or three words, for edit sets larger than any dataset."""
    rng = Random(seed)
    syllables = [c + v + e for c in _CONSONANTS for v in _VOWELS for e in _CODAS]
    found: dict[str, None] = {}
    while len(found) < count:
        words = (
            "".join(rng.choices(syllables, k=rng.choice((2, 2, 3)))).capitalize()
            for _ in range(rng.choice((2, 2, 2, 2, 3)))
        )
        found[" ".join(words)] = None
    return list(found)
