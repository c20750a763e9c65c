"""Callbacks that are told how far a long task is."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Called with the fraction done."""
StageProgress = Callable[[str, float], None]
"""Called with what is being done, and the fraction of it that is done."""


def no_progress(*told: object) -> None:
    """Ignore the progress, whatever is told of it."""
