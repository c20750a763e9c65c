"""Detection of whether a text gives an answer and ends there.

"42 arches" says 42, "420" only begins with it, and "Yorkshire" only begins with York. Generated tokens cannot
tell: digits and parts of words are separate tokens, so the first tokens of another answer may be the whole of
the wanted one. This module looks at the text that follows.
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lks.results.answers import Answer
from lks.scope.normalization import is_word

Says = Literal["answered", "begins", "no"]
"""What a text says. "answered": the answer, and it ends there; "begins": the answer, but its last word or
number continues; "no": something else."""

_PLAIN = str.maketrans("\u2018\u2019\u02bc\u2010\u2011\u05be", "'''---")
_OPENING = re.compile(r"[\s\"'“”„«»‹›「『《*_(\[]+")
_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
_DIGITS = re.compile(r"[.,:/^'_٫٬·．，⁄~‒–—−-]?\d")
_GROUP = re.compile(r"[ \u00a0\u2009\u202f]\d{3}(?!\d)")
_UNIT = re.compile(r"(?:[kcm]m|[km]?g|m?l|ft|mph|[kMG]?Hz|[kMG]Wh?|[kMGT]B|[ap]m)\b")
_SCALE = re.compile(
    r"[\s-]+(?:hundreds?|thousands?|dozens?|lakh|crore|[mb]illions?|trillions?"
    r"|tausend|million(?:en)?|milliarden?|milliards?|mil|mille|mila"
    r"|mill[oó]n(?:es)?|milion[ei]|miliard[oi]|[mb]ilh(?:ão|ões)|тысяч\w*|миллион\w*|миллиард\w*)\b",
    re.IGNORECASE,
)
_JOINERS = "\u00ad\u200c\u200d\u2060"
_JOINING = "&@/·"


def says(text: str, answer: str) -> Says:
    """Return whether a text opens with an answer, and whether the answer ends there.

    Case, Unicode form (NFC), the kind of apostrophe and hyphen, quotation marks in front and an article in
    front do not matter. What follows the answer decides:

    - A number continues with a digit, also after one of . , : / - and the like ("3.5", "1976-77", "10'000"),
      in groups of three ("10 000"), with a fraction or numeral sign ("2½", "42万"), a word for a large number
      ("42 million") or letters ("1970s", "42nd"), but not with a unit ("42km", "42 %") or in a compound
      ("42-year-old").
    - A word continues with a letter, digit or combining mark, with + or # ("C++"), after & @ / or after a
      full stop followed by a small letter ("AT&T", "amazon.com"). A hyphen or apostrophe ends a name before a
      small letter ("New York-based", "Ankara'da") and joins everything else ("Guinea-Bissau",
      "mother-in-law", "O'Brien"); 's ends any word.
    - Scripts that are written without spaces (Chinese, Japanese, Thai, Khmer, ...; Korean, whose particles
      follow without one) need no boundary: whether 北京 ends in 北京市 cannot be told from the text. Only
      katakana needs one: a run of it is a word.

    A name that continues after a space ("York Minster") is taken for an answer.

    Args:
        text: what was generated, from its beginning.
        answer: the wanted answer; surrounding blanks are ignored.
    """
    wanted = _spelt(answer).strip()
    if not wanted:
        return "no"
    rest = _rest(_spelt(text), wanted)
    if rest is None:  # a letter with a mark that the answer lacks still begins like it
        shown, short = (unicodedata.normalize("NFD", part) for part in (_spelt(text).lstrip(), wanted))
        return "begins" if shown.startswith(short) and _is_mark(shown[len(short) : len(short) + 1]) else "no"
    return "begins" if _goes_on(wanted, rest) else "answered"


def wild_right(answers: Sequence[Answer]) -> list[bool]:
    """Return whether each free answer is right by the WILD rule (`wild.sql`); False if none was generated."""
    import duckdb

    with duckdb.connect() as connection:
        for statement in duckdb.extract_statements(
            (Path(__file__).parents[1] / "results" / "wild.sql").read_text(encoding="utf-8")
        ):
            connection.execute(statement)
        given = [
            [one.wild_text for one in answers],
            [one.answer for one in answers],
            [list(one.accepted) for one in answers],
        ]
        columns = (
            "generate_subscripts($1::VARCHAR[], 1) AS row, unnest($1::VARCHAR[]) AS text, "
            "unnest($2::VARCHAR[]) AS answer"
        )
        query = (
            f"SELECT wild_right(text, answer, accepted) FROM (SELECT {columns}, "
            "unnest($3::VARCHAR[][]) AS accepted) ORDER BY row"
        )
        return [right == 1 for (right,) in connection.execute(query, given).fetchall()]


def judged(answers: Sequence[Answer]) -> list[Says]:
    """Classify what each free answer says.

    "answered": it is the wanted answer by the WILD rule, or opens with it, in one of its spellings, and the
    answer ends there. "begins": the wanted answer's text or tokens come first, but its last word or number
    continues.

    Args:
        answers: answers with free text (`Asking.wild`).
    """
    found: list[Says] = []
    for one, right in zip(answers, wild_right(answers), strict=True):
        each = {says(one.wild_text or "", spelling) for spelling in (one.answer, *one.accepted)}
        if right or "answered" in each:
            found.append("answered")
        else:
            found.append("begins" if "begins" in each or one.ar_ids == one.answer_ids else "no")
    return found


def _spelt(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(_PLAIN)


def _rest(text: str, wanted: str) -> str | None:
    """Return what follows the wanted answer at the beginning of a text; None if the text begins otherwise."""
    pattern = re.compile(r"\s+".join(map(re.escape, wanted.split())), re.IGNORECASE)
    starts = [0]
    for skipped in (re.compile(r"\s*"), _OPENING, _ARTICLE):
        found = skipped.match(text, starts[-1])
        starts.append(found.end() if found else starts[-1])
    matches = (pattern.match(text, start) for start in dict.fromkeys(starts))
    return next((text[found.end() :] for found in matches if found), None)


def _goes_on(wanted: str, rest: str) -> bool:
    """Return whether the last word or number of an answer continues in what follows."""
    last, after = wanted[-1], rest[:1]
    if not after:
        return False
    if _is_mark(after) or (after in _JOINERS and _wordy(rest[1:2])):
        return True
    if _is_numeral(last):
        return _number_goes_on(wanted, rest)
    if last.isalpha() or _is_mark(last) or last == "_":
        return _word_goes_on(wanted, rest)
    if last in "-'":
        return _wordy(after)
    return last in ".," and (
        (after.isdigit() and wanted[-2:-1].isdigit())
        or (after.isalpha() and re.search(r"\b[^\W\d_]\.$", wanted) is not None)
    )


def _number_goes_on(wanted: str, rest: str) -> bool:
    if _DIGITS.match(rest) or _SCALE.match(rest) or _is_numeral(rest[0]):
        return True
    if re.search(r"(?<!\d)\d{1,3}$", wanted) and _GROUP.match(rest):
        return True
    return is_word(rest[0]) and not _UNIT.match(rest)


def _word_goes_on(wanted: str, rest: str) -> bool:
    last, after, second = wanted[-1], rest[0], rest[1:2]
    if after in "-'" and is_word(second):
        small = second.islower() and re.split(r"[\s-]+", wanted)[-1][:1].isupper()
        return not small and not re.match(r"'s\b", rest)
    if after == "." and second.isalpha():
        return second.islower() or re.search(r"\b\w$", wanted[-2:]) is not None
    if after in _JOINING:
        return _wordy(second)
    return after in "+#" or (is_word(after) and is_word(last)) or (_is_katakana(after) and _is_katakana(last))


def _wordy(character: str) -> bool:
    return bool(character) and character.isalnum()


def _is_mark(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] == "M"


def _is_numeral(character: str) -> bool:
    """Return whether a character is numeric.

    This covers digits of any script, fractions, superscripts, and ideographs that are numerals (三, 万).
    """
    return unicodedata.numeric(character, None) is not None


def _is_katakana(character: str) -> bool:
    return "\u30a1" <= character <= "\u30fa" or character == "\u30fc"
