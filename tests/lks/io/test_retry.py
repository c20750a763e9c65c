"""Pauses between tries: how long they are, when they end, and that the last try falls on the end of the time."""

import pytest

from lks.io import retry
from lks.io.retry import Retries


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retry, "time", made)
    return made


@pytest.mark.parametrize(
    ("made", "pauses"),
    [
        ((10.0, 1.0, 4.0), [1, 2, 4, 3]),
        ((10.0, 1.0, 100.0, 3.0), [1, 3, 6]),
        ((0.25, 0.1), [0.1, 0.1, 0.05]),
        ((1.0, 5.0, 0.5), [1.0]),
        ((0.0, 1.0), []),
        ((-1.0, 1.0), []),
    ],
)
def test_pauses_grow_up_to_the_longest_and_end_with_the_time(made, pauses, clock):
    retries = Retries(*made)
    while retries.pause():
        pass
    assert clock.slept == pytest.approx(pauses) and clock.now == pytest.approx(100 + max(made[0], 0))
    assert not retries.pause()


def test_time_that_a_try_takes_counts(clock):
    retries = Retries(10, 1, 4)
    clock.now += 9.5
    assert retries.pause() and clock.slept == [0.5]
    assert not retries.pause()


def test_what_is_not_retried_costs_no_time(clock):
    Retries(10, 1)
    assert clock.slept == []
