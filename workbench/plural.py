"""How things are said to people."""


def many(count: int, noun: str) -> str:
    """A number of things: "1 fact", "2 facts", "1,000 facts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
