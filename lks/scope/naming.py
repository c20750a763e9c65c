"""Rules for where a text names a subject, shared by fact checking, training and evaluation.

A text names a subject where the exact scope rules (`lks.scope.exact`) find its name or an alias, or, if they
find it nowhere, where it is a whole word. Token positions follow from the text that token ids spell
(`mentioned`), in training as in the prompts that an edited model is asked.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from lks.scope.exact import ExactScope, Mention, Scope
from lks.scope.normalization import fold, is_word
from lks.scope.token_text import PieceText, token_of


@lru_cache(maxsize=1024)
def _scope(names: tuple[str, ...], loose: bool) -> ExactScope:
    """Return the scope of one subject."""
    return ExactScope([names], (0,) if loose else ())


def mentions(text: str, *names: str) -> tuple[Mention, ...]:
    """Find a subject's mentions by the scope rules, or else without the rule about longer names.

    Args:
        text: a prompt or another text.
        names: the subject's name, then its aliases.

    Returns:
        Mentions from left to right, none overlapping another.
    """
    return _scope(names, False).find(text) or _scope(names, True).find(text)


def names_subject(text: str, *names: str) -> bool:
    """Return whether a text names a subject, by its name or an alias."""
    return bool(mentions(text, *names))


def only_in_longer_name(text: str, *names: str) -> bool:
    """Return whether a text has a subject's name only as part of a longer one, where the rules find none."""
    return not _scope(names, False).find(text) and bool(_scope(names, True).find(text))


def spelt(text: str, name: str) -> tuple[Mention, ...]:
    """Find the mentions that spell the name exactly, as an edit prompt must."""
    return tuple(one for one in mentions(text, name) if text[one.start : one.end] == name)


def put(text: str, name: str, filler: str) -> str:
    """Replace the mentions (`spelt`) of a name by a filler."""
    for mention in reversed(spelt(text, name)):
        text = text[: mention.start] + filler + text[mention.end :]
    return text


def frame(text: str, name: str) -> str:
    """Return a text with `{}` for the mentions (`spelt`) of a name, or "" if there are none.

    Prompts of one frame ask the same thing. `lks.data.templates.template` is cruder (it takes "{}s" from
    "Muslims"), which the training prompts of stored cells depend on.
    """
    return put(text, name, "{}") if spelt(text, name) else ""


def mentioned(pieces: PieceText, scope: Scope, ids: Sequence[int]) -> list[tuple[int, int, int]]:
    """Find the mentions in a prompt's token ids, without padding.

    A special token separates words and names.

    Returns:
        (subject, first token, last token) of each, in text order.
    """
    found: list[tuple[int, int, int]] = []
    for start, part in pieces.parts(ids):
        mentions = scope.find(pieces.text(part))
        if mentions:  # most prompts have none
            spans = pieces.decode(part).spans
            tokens = [token_of(spans, one.start, one.end) for one in mentions]
            found += [
                (one.subject_index, start + first, start + last)
                for one, (first, last) in zip(mentions, tokens, strict=True)
            ]
    return found


def last_mention(pieces: PieceText, ids: Sequence[int], *names: str) -> tuple[int, int] | None:
    """Find the [first, last] token of a subject's last mention in a prompt's token ids; None without one."""
    found = mentioned(pieces, _scope(names, False), ids) or mentioned(pieces, _scope(names, True), ids)
    return found[-1][1:] if found else None


def why_unnamed(text: str, name: str, aliases: Iterable[str] = ()) -> str:
    """Explain why a text does not name a subject as an edit prompt must, ending with advice.

    Args:
        text: a text in which `spelt` finds no mention of the name.
        name: the subject's name.
        aliases: its other names.

    Returns:
        The end of a sentence.
    """
    other = mentions(text, name)
    if other:
        return f"because it is spelt {text[other[0].start : other[0].end]!r} there; spell both exactly alike"
    alias = next((one for one in aliases if names_subject(text, one)), None)
    if alias is not None:
        return (
            f"because it has the alias {alias!r} in its place; make that the subject, and {name!r} an alias"
        )
    folded, wanted = fold(text)[0], fold(name.strip())[0]
    at = folded.find(wanted) if wanted else -1
    if at < 0:
        return "because it is not there; spell it there exactly alike"
    begin, end = at, at + len(wanted)
    while begin and (is_word(folded[begin - 1]) or folded[begin - 1] == "'"):
        begin -= 1
    while end < len(folded) and is_word(folded[end]):
        end += 1
    if (begin, end) == (at, at + len(wanted)):
        return (
            "because it reads as ordinary words there; write it with its capitals, and not as the "
            "first word of a sentence"
        )
    word = folded[begin:end]
    return (
        f"because it is there only inside the word {word!r}; let it be a word of its own, or make the "
        "whole word the subject"
    )
