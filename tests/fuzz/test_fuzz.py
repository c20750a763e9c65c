"""Every reader of files that may come from a stranger, on a seeded sample of damaged ones; `python -m
tests.fuzz` tries many more.
"""

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.readers import READERS

INPUTS = {"wild": 6, "store": 10, "report": 1}


@pytest.mark.parametrize("reader", READERS)
def test_damage_brings_a_result_or_a_clear_error(reader: str):
    count = INPUTS.get(reader, 300)
    tally = fuzz(reader, count, seed=1)
    assert not tally.findings
    assert tally.inputs == count
    assert tally.errors or reader in INPUTS, "no input was refused: is anything damaged?"
    assert tally.results or reader == "report", "no input was read: is everything refused?"


@pytest.mark.parametrize(
    ("reader", "said"),
    [("raises", "IndexError"), ("ends", "process ended"), ("hangs", "more than 2 s"), ("grows", "gigabyte")],
)
def test_what_readers_must_not_do_is_found(reader: str, said: str):
    tally = fuzz(reader, 4)
    assert tally.findings and all(said in finding for finding in tally.findings)
    assert tally.inputs == 4, "the other inputs are tried all the same"
