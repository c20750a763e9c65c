"""The processes of one `lks up`, by what they are for: what the torture test kills."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

from flows.services.processes import SERVER, marked, services

KINDS = ("cell", "grid flow", "cell worker", "flow worker", "server")
DECK = ("cell", "cell", "cell", "grid flow", "cell worker", "flow worker", "server")
"""How often each kind comes in a round of kills: many cells, as they are what there is most of."""

Key = tuple[int, float]
"""Process id and start time: a number alone may be in use again."""


class Census:
    """Who lives. A process keeps its kind when its parent dies: an orphaned cell still is one.

    Args:
        state: folder of `lks up`.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._known: dict[Key, str] = {}

    def look(self) -> dict[str, list[psutil.Process]]:
        """Living processes by kind. Those below a worker are flows or cells, however many layers there are
        between.
        """
        roots = {service.pid: _kind_of_service(name) for name, service in services(self._state).items()}
        living: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
        for process in marked(self._state):
            try:
                key = process.pid, process.create_time()
                kind = roots.get(process.pid) or self._known.get(key) or _below(process, roots)
            except psutil.Error:
                continue
            if kind:
                self._known[key] = kind
                living[kind].append(process)
        return living


def _kind_of_service(name: str) -> str:
    if name == SERVER:
        return "server"
    return "flow worker" if name == "worker-lks" else "cell worker"


def _below(process: psutil.Process, roots: dict[int, str]) -> str:
    above = next((roots[parent.pid] for parent in process.parents() if parent.pid in roots), "")
    return {"flow worker": "grid flow", "cell worker": "cell"}.get(above, "")


class Killer:
    """Draws victims from a deck that is shuffled anew when it is used up; a kind of which none lives waits
    for its turn.

    Args:
        seed: of the order of kinds, of the victims among several and of the pauses.
    """

    def __init__(self, seed: int) -> None:
        self._random, self._deck = random.Random(seed), list[str]()

    def pause(self, mean_s: float) -> float:
        """Seconds until the next kill, from a tenth of the mean to nearly twice the mean."""
        return self._random.uniform(0.1, 1.9) * mean_s

    def kill(self, living: dict[str, list[psutil.Process]]) -> str:
        """Kill one process with signal 9.

        Returns:
            Its kind; "" if none of the kinds that remain in the deck lives.
        """
        for kind in self._cards():
            if living[kind]:
                victim = self._random.choice(sorted(living[kind], key=lambda process: process.pid))
                try:
                    os.kill(victim.pid, signal.SIGKILL)
                except ProcessLookupError:
                    return ""
                self._deck.remove(kind)
                return kind
        return ""

    def _cards(self) -> Iterator[str]:
        if not self._deck:
            self._deck = list(DECK)
            self._random.shuffle(self._deck)
        yield from list(self._deck)
