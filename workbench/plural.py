"""Formatting of counts for display."""


def many(count: int, noun: str) -> str:
    """Format a number of things: "1 fact", "2 facts", "1,000 facts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
