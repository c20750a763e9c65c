"""Damage for readers: what chance, a stranger or a fault may make of a good file. All of it follows from a
seed.
"""

import json
import random
from collections.abc import Callable, Iterator

Json = object
CHARACTERS = (
    "a",
    " ",
    "\n",
    "\t",
    '"',
    "'",
    "\\",
    "\x00",
    "\x1e",
    "\x7f",
    "\xe9",
    "\u0301",
    "\u200d",
    "\u0130",
    "\xdf",
    "\ufb01",
    "\u4e2d",
    "\u0e17",
    "\u0627",
    "\u202e",
    "\U0001f1eb\U0001f1f7",
    "\U0001f469\u200d\U0001f680",
    "\ufeff",
    "\U0010ffff",
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "NaN",
        "../../x",
        "/etc/passwd",
        "a\0b",
        "x" * 5000,
        "1" * 5000,
        "${HOME}",
        "'; DROP TABLE cells; --",
        "%s%n",
        "{}",
        "os.system",
    ),
    *("cells/0123456789abcdef/../../x.parquet", "C:\\x", "file:///etc/passwd", "*", "[", "\u202e", "\ufffe"),
)
ODD_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    -(2**31) - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    -float("inf"),
)


def bytes_of(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Some bytes, damaged once or a few times.

    Args:
        rng: the chance.
        content: what is damaged.
        other: a second good file, of which pieces may be put in.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 10))):
        content = rng.choice(BYTES)(rng, content, other)
    return content


def _flip(rng: random.Random, content: bytes, other: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _cut(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def _double(rng: random.Random, content: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.choice((1, 8, 64, 1024))]
    return content[:start] + piece * rng.choice((2, 3, 50)) + content[start + len(piece) :]


def _drop(rng: random.Random, content: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 4, 100)) :]


def _noise(rng: random.Random, content: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    made = rng.randbytes(rng.choice((1, 4, 8, 64)))
    return content[:start] + made + content[start + len(made) :]


def _extreme(rng: random.Random, content: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    made = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * rng.choice((1, 4, 8))
    return content[:start] + made + content[start + len(made) :]


BYTES: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip,
    _cut,
    _splice,
    _double,
    _drop,
    _noise,
    _extreme,
)


def text_of(rng: random.Random) -> str:
    """Some text of any script, or one that programs are known to fall over."""
    if rng.random() < 0.3:
        return rng.choice(ODD_TEXTS)
    letters = (
        *CHARACTERS,
        *"the of Paris U.S. 3.5 1,000 [{(<>)}]",
        chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))),
    )
    return "".join(rng.choice(letters) for _ in range(rng.choice((1, 3, 20, 200)))) * rng.choice(
        (1, 1, 1, 30)
    )


def odd(rng: random.Random) -> Json:
    """A JSON value of any type."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind in (1, 2):
        return rng.choice(ODD_NUMBERS)
    if kind == 3:
        return text_of(rng)
    if kind == 4:
        return [odd(rng) for _ in range(rng.choice((0, 1, 3)))]
    if kind == 5:
        return {text_of(rng): odd(rng) for _ in range(rng.choice((0, 1, 3)))}
    return _nested(rng.choice((3, 100, 250)))


def _nested(depth: int) -> Json:
    found: Json = 1
    for number in range(depth):
        found = [found] if number % 2 else {"a": found}
    return found


def json_of(rng: random.Random, value: Json) -> bytes:
    """A JSON document in which one value or a few are replaced, removed, added or renamed; at times it is
    then damaged as bytes, or endless.
    """
    if rng.random() < 0.02:
        return rng.choice((b"[", b'{"a":', b"[{},")) * rng.choice((1000, 100_000))
    content = json.dumps(changed(rng, value), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )
    return bytes_of(rng, content, content) if rng.random() < 0.2 else content


def changed(rng: random.Random, value: Json) -> Json:
    """A JSON value in which one or a few are replaced, removed, added or renamed."""
    copied = json.loads(json.dumps(value))
    for _ in range(
        rng.choice((1, 1, 1, 2))
    ):  # each may nest 250 deep: more than three cannot be written down any more
        copied = _changed(rng, copied)
    return copied


def _changed(rng: random.Random, value: Json) -> Json:
    places = [(), *_places(value, ())]
    place = rng.choice(places[1:] or places) if rng.random() < 0.98 else ()
    if not place:
        return odd(rng)
    holder: object = value
    for key in place[:-1]:
        holder = holder[key]  # type: ignore[index]
    key, kind = place[-1], rng.randrange(5)
    if kind == 0 or not isinstance(holder, dict | list):
        holder[key] = odd(rng)  # type: ignore[index]
    elif kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[text_of(rng)] = holder.pop(key)
    elif kind == 3:
        holder[key] = _at(value, rng.choice(places))
        return json.loads(json.dumps(value)) if not _circular(value) else odd(rng)
    else:
        holder[key] = _near(rng, holder[key])
    return value


def _near(rng: random.Random, value: Json) -> Json:
    """Something of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((value + 1, -value, value * 1000, *ODD_NUMBERS))
    if isinstance(value, str):
        return rng.choice((text_of(rng), value + text_of(rng), value[: len(value) // 2], value.upper()))
    if isinstance(value, list):
        return value * rng.choice((0, 2, 50)) + [odd(rng)] * rng.randrange(2)
    return odd(rng)


def _circular(value: Json) -> bool:
    try:
        json.dumps(value)
    except (ValueError, RecursionError):
        return True
    return False


def _places(value: Json, before: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    """Paths to all values within a value."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value[:50]) if isinstance(value, list) else ()
    )
    for key, inner in entries:
        yield (*before, key)
        if len(before) < 20:
            yield from _places(inner, (*before, key))


def _at(value: Json, place: tuple[object, ...]) -> Json:
    for key in place:
        value = value[key]  # type: ignore[index]
    return value


def toml(value: Json) -> str:
    """A value as TOML, in line; what TOML cannot say as something that it refuses."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | float) else json.dumps(value)
