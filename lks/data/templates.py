"""Prompt templates: a prompt with `{}` for its subject, and what two templates have in common."""

import re
import unicodedata
from functools import cache


def _set(text: str) -> frozenset[str]:
    """Split a text into a set of words."""
    return frozenset(text.split())


_PRONOUNS = _set("he she it they his her him their them its i you your my")
_STOP = _PRONOUNS | _set(
    """a an the of in on at to for from by with as is are was were be been being do does did has have had what
    which who whom whose where when how why that this these those and or s name named kind type sort called
    there can could will would known one into"""
)
_SYNONYMS = {
    "born": "birth", "die": "death", "died": "death", "dies": "death", "citiz": "natio", "situa": "locat",
    "place": "locat", "occup": "job", "profe": "job", "caree": "job", "caus": "cause", "sex": "gende",
}  # fmt: skip
_PLACES = _set("locat city town")
_TIMES = _set("when date year day month century")
_OPENERS = _set("what which who whom whose where when in on at from by for to under with the name owner")
_SAME_SIGN = str.maketrans(
    {
        **dict.fromkeys("\N{MINUS SIGN}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}", "-"),
        "\N{ACUTE ACCENT}": "'",
        **dict.fromkeys("`\N{COPYRIGHT SIGN}\N{REGISTERED SIGN}\N{TRADE MARK SIGN}", ""),
    }
)
_SIGNS = frozenset("#%&*@\\\N{SECTION SIGN}\N{PER MILLE SIGN}\N{PRIME}")
"""Punctuation marks that distinguish names and amounts wherever they occur; symbols (+, $, <, emoji) do so
too.
"""
_ARTICLE = re.compile(
    r"(^|[.?!:\n]\W*)An?(?=\s+\w)|(?<![^\s(\[{\"'\u2018\u201c\u00ab])an?(?=\s|\W*$)|\b[Tt][Hh][Ee]\b"
)
"""Matches words that are articles. A capital A or An inside a sentence is part of a name: "Vitamin A helps
the".
"""
_NO_WORD = re.compile(r"[^\w\s]")
_PLURAL = re.compile(r"\{\} (are|were|have)\b|\b(are|were|do|have) \{\}")


def normalised(prompt: str) -> str:
    """Reduce a prompt to a key that is equal for prompts asking the same question.

    Case, spaces, articles and punctuation do not count. Letters with their marks, symbols that distinguish
    names ("C++", "C#", ".NET", "A+") and points and dashes in numbers ("3.5", "-5") do.
    """
    text = _ARTICLE.sub(r"\1 ", unicodedata.normalize("NFKC", prompt.translate(_SAME_SIGN)))
    return " ".join(unicodedata.normalize("NFKC", _NO_WORD.sub(_sign, text).casefold()).split())


def _sign(found: re.Match[str]) -> str:
    """Return the replacement, in a question's key, for a character that is no letter, digit or space."""
    sign, before, after = (
        found[0],
        found.string[max(0, found.start() - 1) : found.start()],
        found.string[found.end() : found.end() + 1],
    )
    kind = unicodedata.category(sign)
    if kind in ("Mn", "Mc", "Me", "Cf"):
        return (
            "" if kind == "Cf" or "\N{VARIATION SELECTOR-1}" <= sign <= "\N{VARIATION SELECTOR-16}" else sign
        )
    if kind[0] == "S" or sign in _SIGNS:
        return f" {sign} "
    opens = not before or not (before.isalnum() or before in ".-")
    in_number = before.isdigit() and after.isdigit()
    in_name = (sign == "." and opens and after.isalnum()) or (
        sign == "-" and ((opens and after.isdigit()) or (before.isalnum() and after.isspace()))
    )
    return sign if (in_number and sign in ".,:/-") or in_name else " "


def template(prompt: str, subject: str) -> str | None:
    """Return the prompt with `{}` for its subject; None unless the subject occurs exactly once."""
    if prompt.count(subject) != 1 or "{" in prompt or "}" in prompt:
        return None
    return " ".join(prompt.replace(subject, "{}").split())


@cache
def words(text: str) -> frozenset[str]:
    """Return the lower-case words of a template."""
    return frozenset(re.findall(r"[^\W\d_]+", text.replace("{}", " ").lower()))


@cache
def stems(text: str) -> frozenset[str]:
    """Return the content words of a template, cut to five letters so that "located" matches "location"."""
    return frozenset(_SYNONYMS.get(word[:5], word[:5]) for word in words(text) - _STOP)


def fits(candidate: str, edit: str) -> bool:
    """Return whether another record's template suits this edit: same article, form, pronouns; not cut off."""
    low, edit_low = candidate.lower(), edit.lower()
    if candidate[-1] in ".…,:;!-–" or re.search(r"\{\}(?!'s\b)['’\w]|[-\w]\{\}", candidate):
        return False
    if "{}," in candidate and "{}," not in edit:
        return False
    if ("the {}" in low) != ("the {}" in edit_low) or (words(candidate) & _PRONOUNS) - words(edit):
        return False
    if words(candidate) & {"how", "why"} - words(edit) or (
        _PLURAL.search(candidate) and not _PLURAL.search(edit)
    ):
        return False
    if "?" not in candidate:
        return "?" not in edit
    return low.split()[0].removesuffix("'s") in _OPENERS and (
        "?" in edit or not low.startswith(("the", "{}"))
    )


def question(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return what a question asks for: its content words, and "where", "when", "who" if it has them."""
    return stems(text), words(text) & {"where", "when", "who", "whom", "whose"}


def asked(text: str) -> tuple[frozenset[str], bool]:
    """Reduce a template to its content words and to whether it asks for a time.

    Words for places are dropped unless there are no others, because they distinguish nothing.
    """
    found = stems(text)
    return found - _PLACES or found, not words(text).isdisjoint(_TIMES)
