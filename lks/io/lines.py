"""Lines of text files: splitting at line ends, and JSON on a single line."""

import json
import re

_ENDS_ELSEWHERE = re.compile("[\x85\u2028\u2029]")
"""Characters that `json.dumps` keeps and that `str.splitlines`, httpx and others treat as line ends."""


def split_lines(text: str) -> list[str]:
    r"""Split a text at `\n` and `\r\n`, and nowhere else.

    `str.splitlines` also splits at U+2028, U+0085 and others, which texts may hold.

    Args:
        text: content of a file, read without translation of its line ends.

    Returns:
        The lines without their ends. A line end after the last line begins no further line.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def json_line(value: object) -> str:
    """Return a value as JSON on one line, whatever its reader takes for a line end.

    Letters of all scripts stay readable.

    Raises:
        ValueError: a text holds half a surrogate pair, which UTF-8 cannot encode.
    """
    text = _ENDS_ELSEWHERE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    text.encode()  # UnicodeEncodeError is a ValueError
    return text
