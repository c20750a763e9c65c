"""What goes wrong inside a cell, as data: a status, one line for people that says where it happened, and the traceback for a file.

Secrets are never part of it: the values of environment variables that are named like one are blanked wherever they turn up.
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
"""A shorter value is no secret, and blanking it would blank half of a text."""

PACKAGES = ("lks", "baselines", "flows", "cli", "reports", "workbench")
"""Whose frames are this project's."""

FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    **dict.fromkeys(FULL, "Free some space and start again: what is finished is kept"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Make it writable, or use another folder with --results, and start again",
    ),
}
"""By kind of failed write: what the user does. All else that fails with a file is the cell's own failure."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as data.

    Attributes:
        status: what kind.
        reason: one line for people; for an unforeseen exception its type, first line and place ("RuntimeError: ... (lks/runs/cell.py:97)").
        trace: the traceback.
    """

    status: Status
    reason: str
    trace: str

    def __str__(self) -> str:
        """As `Outcome.failed` holds it: "oom: CUDA out of memory"."""
        return f"{self.status}: {self.reason}"


@contextlib.contextmanager
def failures() -> Iterator[list[Failure]]:
    """The one place where a failure becomes data: an entry of the list instead of an exception.

    Raises:
        UserError: what the user must mend, a full or unwritable disk included.
    """
    found: list[Failure] = []
    try:
        yield found
    except Unsuited as error:
        found.append(failure_of(error))
    except UserError:
        raise
    except Exception as error:  # the one task border
        unwritable = _unwritable(error)
        if unwritable is not None:
            raise unwritable from error
        found.append(failure_of(error))


def failure_of(error: Exception) -> Failure:
    """An exception as data."""
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
    """File and line of the innermost frame in this project ("lks/evaluation/stages.py:97"), else of the innermost of all."""
    root = Path(__file__).parents[2]
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    for path, line in reversed(frames):
        if any(path.is_relative_to(root / package) for package in PACKAGES):
            return f"{path.relative_to(root)}:{line}"
    return f"{frames[-1][0].name}:{frames[-1][1]}" if frames else "place unknown"


def scrubbed(text: str) -> str:
    """A text without the secrets that the environment holds."""
    secrets = {
        value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^/\s:@]+:[^/\s@]+@", "://***@", text)


def _first_line(error: BaseException) -> str:
    """The first line that says something; the type where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _unwritable(error: Exception) -> StoreError | None:
    """The user's error that a failed write is: no space, no permission; None for all else."""
    number, where = _errno_of(error), getattr(error, "filename", None)
    if number not in _ADVICE:
        return None
    return StoreError(f"Cannot use {where or 'a file'}: {os.strerror(number)}. {_ADVICE[number]}.")


def _errno_of(error: Exception) -> int:
    """Number of the system's error, also where a library tells of it in its message only (safetensors, PyTorch)."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told:
        return int(told[1])
    return errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else 0
