"""Prompt templates: a prompt with `{}` for its subject, and what two templates have in common."""

import re
import unicodedata
from functools import cache


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRONOUNS = _set("he she it they his her him their them its i you your my")
_STOP = _PRONOUNS | _set(
    """a an the of in on at to for from by with as is are was were be been being do does did has have had what which who whom whose
    where when how why that this these those and or s name named kind type sort called there can could will would known one into"""
)
_SYNONYMS = {
    "born": "birth", "die": "death", "died": "death", "dies": "death", "citiz": "natio", "situa": "locat", "place": "locat",
    "occup": "job", "profe": "job", "caree": "job", "caus": "cause", "sex": "gende",
}  # fmt: skip
_OPENERS = _set("what which who whom whose where when in on at from by for to under with the name owner")
_ARTICLES = _set("the a an")
_WORD = re.compile(r"\w+")
_PLURAL = re.compile(r"\{\} (are|were|have)\b|\b(are|were|do|have) \{\}")


def normalised(prompt: str) -> str:
    """A prompt without case, punctuation, articles and extra spaces, to tell whether two are the same question."""
    found = _WORD.findall(unicodedata.normalize("NFKC", prompt).casefold())
    return " ".join([word for word in found if word not in _ARTICLES])


def template(prompt: str, subject: str) -> str | None:
    """The prompt with `{}` for its subject; None unless the subject occurs exactly once."""
    if prompt.count(subject) != 1 or "{" in prompt or "}" in prompt:
        return None
    return " ".join(prompt.replace(subject, "{}").split())


@cache
def words(text: str) -> frozenset[str]:
    """Lower-case words of a template."""
    return frozenset(re.findall(r"[^\W\d_]+", text.replace("{}", " ").lower()))


@cache
def stems(text: str) -> frozenset[str]:
    """Content words of a template, cut to five letters so that "located" meets "location"."""
    return frozenset(_SYNONYMS.get(word[:5], word[:5]) for word in words(text) - _STOP)


def fits(candidate: str, edit: str) -> bool:
    """Whether a template of another record can stand beside this edit's: same article, form and pronouns, not cut off."""
    low, edit_low = candidate.lower(), edit.lower()
    if candidate[-1] in ".…,:;!-–" or re.search(r"\{\}(?!'s\b)['’\w]|[-\w]\{\}", candidate):
        return False
    if "{}," in candidate and "{}," not in edit:
        return False
    if ("the {}" in low) != ("the {}" in edit_low) or (words(candidate) & _PRONOUNS) - words(edit):
        return False
    if words(candidate) & {"how", "why"} - words(edit) or (_PLURAL.search(candidate) and not _PLURAL.search(edit)):
        return False
    if "?" not in candidate:
        return "?" not in edit
    return low.split()[0].removesuffix("'s") in _OPENERS and ("?" in edit or not low.startswith(("the", "{}")))


def question(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a question asks for: its content words, and "where", "when", "who" if it has them."""
    return stems(text), words(text) & {"where", "when", "who", "whom", "whose"}
