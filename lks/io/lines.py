"""Lines of text files: what ends one, and JSON that stays on one."""

import json
import re

_ENDS_ELSEWHERE = re.compile("[\x85\u2028\u2029]")
"""Characters that `json.dumps` leaves as they are and that `str.splitlines`, httpx and others take for the end of a line."""


def split_lines(text: str) -> list[str]:
    r"""Split a text at `\n` and `\r\n`, and nowhere else: `str.splitlines` also splits at U+2028, U+0085 and others, which texts may hold.

    Args:
        text: of a file, read without translation of its line ends.

    Returns:
        The lines without their ends. An end behind the last line begins no further line.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def json_line(value: object) -> str:
    """Write a value as JSON on one line, whatever its reader takes for the end of a line; letters of all scripts stay readable.

    Raises:
        ValueError: a text holds half a surrogate pair, which UTF-8 cannot encode.
    """
    text = _ENDS_ELSEWHERE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    text.encode()  # UnicodeEncodeError is a ValueError
    return text
