"""Failures inside a cell, as data: a status, a readable line that says where it happened, and the traceback.

Secrets are never part of it: the values of environment variables that are named like one are blanked wherever
they occur.
"""

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lks.errors import BadRecord, Collapsed, StoreError, Unsuited, UserError
from lks.models.memory import is_shortage
from lks.results.cells import Status

SECRET = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH|CONNECTION_URL)(?:_|$)", re.IGNORECASE
)
"""Environment variables with a name like this hold secrets."""
SHORTEST_SECRET = 6
"""A shorter value is not treated as a secret: blanking it would blank half of a text."""

PACKAGES = ("lks", "baselines", "flows", "cli", "reports", "workbench")
"""Packages whose frames are this project's."""

FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    **dict.fromkeys(FULL, "Free some space and start again: finished work is kept"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Make it writable, or use another folder with --results, and start again",
    ),
}
"""What the user should do, by kind of failed write. Any other failure with a file is the cell's own
failure."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as data.

    Attributes:
        status: kind of failure.
        reason: one readable line; for an unforeseen exception its type, first line and place ("RuntimeError:
            ... (lks/runs/cell.py:97)").
        trace: the traceback.
    """

    status: Status
    reason: str
    trace: str

    def __str__(self) -> str:
        """Return the failure as `Outcome.failed` holds it: "oom: CUDA out of memory"."""
        return f"{self.status}: {self.reason}"


@contextlib.contextmanager
def failures() -> Iterator[list[Failure]]:
    """Turn an exception into an entry of the list that the `with` gives.

    This is the one place where a failure becomes data.

    Raises:
        UserError: something that the user must fix, including a full or unwritable disk.
    """
    found: list[Failure] = []
    try:
        yield found
    except Unsuited as error:
        found.append(failure_of(error))
    except UserError:
        raise
    except Exception as error:  # the one place that catches every failure of a cell
        unwritable = _unwritable(error)
        if unwritable is not None:
            raise unwritable from error
        found.append(failure_of(error))


def failure_of(error: Exception) -> Failure:
    """Return an exception as data."""
    trace = scrubbed("".join(traceback.format_exception(error)))
    first = scrubbed(_first_line(error))
    if is_shortage(error):
        return Failure("oom", first, trace)
    if isinstance(error, FloatingPointError):
        return Failure("diverged", first, trace)
    if isinstance(error, Collapsed):
        return Failure("collapsed", first, trace)
    if isinstance(error, Unsuited):
        return Failure("error", first, trace)
    if isinstance(error, BadRecord):
        return Failure("error", f"bad record: {first}", trace)
    return Failure("error", f"{type(error).__name__}: {first} ({place_of(error)})", trace)


def place_of(error: BaseException) -> str:
    """Return file and line of the innermost frame in this project ("lks/evaluation/stages.py:97").

    If the project has no frame, they are those of the innermost frame of all.
    """
    root = Path(__file__).parents[2]
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    for path, line in reversed(frames):
        if any(path.is_relative_to(root / package) for package in PACKAGES):
            return f"{path.relative_to(root)}:{line}"
    return f"{frames[-1][0].name}:{frames[-1][1]}" if frames else "place unknown"


def scrubbed(text: str) -> str:
    """Return a text without the secrets that the environment holds."""
    secrets = {
        value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^/\s:@]+:[^/\s@]+@", "://***@", text)


def _first_line(error: BaseException) -> str:
    """Return the first line that is not blank; the type's name where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _unwritable(error: Exception) -> StoreError | None:
    """Return the user's error for a failed write (no space, no permission); None for everything else."""
    number, where = _errno_of(error), getattr(error, "filename", None)
    if number not in _ADVICE:
        return None
    return StoreError(f"Cannot use {where or 'a file'}: {os.strerror(number)}. {_ADVICE[number]}.")


def _errno_of(error: Exception) -> int:
    """Return the number of the system's error.

    It is found even where a library reports it only in its message (safetensors, PyTorch).
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told:
        return int(told[1])
    return errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else 0
