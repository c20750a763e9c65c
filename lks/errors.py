"""Errors the user can act on.

There are two kinds of failure. *The user must act*: a `UserError`, raised before any long work starts, says
what is wrong, where, and what to do; the command line prints it as one line. *A cell failed*: an `Outcome`
row in the store (see `lks.runs.cell`), which never ends a grid.
"""

from collections.abc import Iterable

from rapidfuzz import fuzz, process


class UserError(Exception):
    """A problem the user can fix. The message is complete on its own: what, where, what to do."""


class DataError(UserError):
    """A data file is missing, damaged or holds a bad record; the message names file, index and field."""


class NewerError(DataError):
    """A data file has a newer version than this program reads; it is intact and must not be rebuilt."""


class StoreError(UserError):
    """The results folder cannot be used: unwritable, full, damaged or of another protocol version."""


class Unsuited(UserError):
    """A method cannot edit this model, or lacks what it needs for it.

    In a grid, its cell fails with this reason and the other cells run.
    """


class TooManyEdits(UserError):
    """More edits were requested than the dataset holds."""


class NothingToLearnFrom(UserError):
    """A method lacks the texts or edits it must learn from before editing; another dataset has some."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, listing the nearest known names.

    Args:
        kind: what the name was meant to be ("method", "grid", ...).
        name: the name the user gave.
        known: all valid names.
    """
    names = sorted(known)
    near = similar(name, names)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UserError(f"Unknown {kind} {name!r}. {hint}Known: {', '.join(names) or 'none'}.")


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Return at most two known names that the given name may be a misspelling of, nearest first."""
    return [
        match
        for match, _, _ in process.extract(name, sorted(known), scorer=fuzz.WRatio, score_cutoff=60, limit=2)
    ]


class Collapsed(Exception):
    """The edited model no longer writes text, so its abilities need not be tested."""


class BadRecord(Exception):
    """A record that this model cannot be asked about; the message says which, where, and what to do."""
