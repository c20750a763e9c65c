"""Text of fact files: Unicode normalisation on reading, and the difference between texts that look alike."""

import unicodedata

_INVISIBLE = (0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Soft hyphen, zero-width space and no-break space, word joiner, and direction marks. The joiners U+200C and
U+200D are part of how words are spelt, so they are kept.
"""
_PLAIN: dict[int, str] = {**dict.fromkeys((0xA0, 0x2007, 0x202F), " "), **dict.fromkeys(_INVISIBLE, "")}
_ALIKE = str.maketrans(
    "АВЕКМНОРСТУХІЈЅаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧοIl|\u2018\u2019\u02bc\u00b4`\u2010\u2011\u2012\u2013\u2014\u2212",
    "ABEKMHOPCTYXIJSaeopcyxijsABEZHIKMNOPTYXo111'''''------",
)
"""Letters of other scripts, quotes and dashes that are easily mistaken for each other."""


def tidy(text: str, is_prompt: bool = False) -> str:
    """Normalise a text to the form in which facts are stored.

    Args:
        text: the text as read from the file.
        is_prompt: whether a newline at its end is kept: the answer then begins on a new line.

    Returns:
        The text in NFC, with no-break spaces turned into spaces, and without invisible characters or
        surrounding white space.
    """
    plain = unicodedata.normalize("NFC", text.translate(_PLAIN))
    return plain.lstrip() if is_prompt and plain.endswith("\n") and plain.strip() else plain.strip()


def has_half_character(text: str) -> bool:
    r"""Return whether a text holds half a surrogate pair.

    JSON can express it (`"\ud83d"`), UTF-8 and tokenizers cannot.
    """
    return any("\ud800" <= character <= "\udfff" for character in text)


def difference(name: str, text: str) -> str:
    """Describe the first character in which a name and its look-alike in a text differ.

    Returns "" if the text has no look-alike of the name, or contains the name itself.
    """
    wanted = _skeleton(name)[0]
    if not wanted or name in text:
        return ""
    skeleton, places = _skeleton(text)
    start = skeleton.find(wanted)
    if start < 0:
        return ""
    there = text[places[start] :]
    at = next(
        (i for i, (one, other) in enumerate(zip(name, there, strict=False)) if one != other),
        min(len(name), len(there)),
    )
    return (
        f"character {at + 1} is {_named(name[at : at + 1])} in the subject and "
        f"{_named(there[at : at + 1])} in the prompt"
    )


def _skeleton(text: str) -> tuple[str, list[int]]:
    """Reduce a text to its rough appearance: without marks, case, spaces and invisible characters.

    Returns:
        The reduced text, and for each of its characters the position in the original text.
    """
    found: list[tuple[str, int]] = []
    for place, character in enumerate(text):
        plain = unicodedata.normalize("NFKD", character.translate(_ALIKE))
        found += [
            (letter, place) for letter in plain.casefold() if unicodedata.category(letter)[0] not in "MCZ"
        ]
    return "".join(letter for letter, _ in found), [place for _, place in found]


def _named(character: str) -> str:
    """Return a character's code point and Unicode name, for messages."""
    return f"U+{ord(character):04X} {unicodedata.name(character, 'unnamed')}" if character else "missing"
