"""Joining a prompt and its answer: with one space, or directly where no space is written."""

import re
import unicodedata

_AT_ONCE_AFTER = re.compile(
    r"(?:\n"  # a template's line, which the answer begins
    r"|(?:^|[\s(\[{])[\"'`#@]"  # an opening quotation mark; "#5", "@name"
    r"|\w[-/\u2010\u2011]"  # an unfinished compound or number: "020-", "km/"
    # an elided article: "l'", "dell'"
    r"|(?:^|[\W_])(?:[cdjlmnst]|qu|gl|un|(?:d|n|s)?[aeo]ll|dall|sull)['\u2019]"
    r")$",
    re.IGNORECASE,
)
_AT_ONCE_BEFORE = re.compile(r"[,;:!?)\]}%\u2026]|['\u2019]s(?:\s|$)")
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # Han radicals, ideographic punctuation, kana, Bopomofo
    (0x31A0, 0x9FFF),  # kana extensions, enclosed signs, Han
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFF01, 0xFF9F),  # full-width signs, half-width kana
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)


def separator(prompt: str, answer: str) -> str:
    """Return what separates a prompt from its answer: " " or "".

    Scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan; not Korean) need
    none after their own characters. Neither does an answer after an opening bracket or quotation mark, a
    currency sign, an elided article ("l'"), an unfinished compound ("020-") or a line end, as chat templates
    have it, nor one that begins with closing punctuation.
    """
    if not prompt or not answer:
        return ""
    last = prompt[-1]
    opens = unicodedata.category(last) in ("Ps", "Pi", "Sc")
    return (
        ""
        if opens or _is_unspaced(last) or _AT_ONCE_AFTER.search(prompt) or _AT_ONCE_BEFORE.match(answer)
        else " "
    )


def head(prompt: str) -> str:
    """Return the prompt without trailing white space, unless it ends in a newline, as chat templates do."""
    return prompt if prompt.endswith("\n") else prompt.rstrip()


def joined(prompt: str, answer: str) -> str:
    """Return a prompt and its answer as one text."""
    start = head(prompt)
    return f"{start}{separator(start, answer)}{answer}"


def _is_unspaced(character: str) -> bool:
    """Return whether a character belongs to a script written without spaces."""
    code = ord(character)
    return any(first <= code <= last for first, last in _UNSPACED)
