"""Retries of what may fail for a while."""

import time


class Retries:
    """Pauses until a time limit: `first_s`, then each `factor` times the one before, up to `longest_s`."""

    def __init__(self, limit_s: float, first_s: float, longest_s: float = 0.0, factor: float = 2.0) -> None:
        self._deadline = time.monotonic() + limit_s
        self._next_s, self._longest_s, self._factor = first_s, max(first_s, longest_s), factor

    def pause(self) -> bool:
        """Wait for the next try and return True; return False at once when the time is over.

        The last pause is cut, so that the last try is made at the end of the time.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(self._next_s, left))
        self._next_s = min(self._factor * self._next_s, self._longest_s)
        return True
