"""Fluency: the entropy of n-grams in SQL against numbers worked by hand and a plain formula; what is written,
and by whom.
"""

import math
import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from lks.edits import make_case
from lks.evaluation import fluency
from lks.results.cells import GENERATIONS, Cell, Costs, Outcome
from lks.results.rows import Generation
from lks.results.shards import write_stage
from lks.results.store import Store
from tests.helpers import tiny
from tests.lks.models.test_generation import leaning, newlines, plainly

CELL = Cell("micro-llama", "world", "lks", 1, 0, 1)


def put(folder: Path, texts: Sequence[str]) -> Store:
    store = Store(folder)
    rows = [Generation(0, "edit", i, "Ann", "Ann is", text, len(text)) for i, text in enumerate(texts)]
    shard = write_stage(store.results, CELL.id, GENERATIONS, rows)
    store.record(Outcome(CELL, "ok", "", (shard,), Costs(), {}))
    return store


def terms(text: str) -> list[str]:
    """Runs of letters, marks and digits; every other character but white space by itself."""
    made: list[str] = []
    joined = False
    for letter in text:
        word = unicodedata.category(letter)[0] in "LMN"
        if word and joined:
            made[-1] += letter
        elif not letter.isspace():
            made.append(letter)
        joined = word
    return made


def entropy(counts: Counter[tuple[str, ...]]) -> float:
    return -sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())


def formula(text: str) -> float | None:
    """2/3 of the entropy of two words, 4/3 of that of three."""
    words = terms(text)
    if len(words) < 3:
        return None
    return (
        entropy(Counter(pairwise(words))) * 2 / 3
        + entropy(Counter(zip(words, words[1:], words[2:], strict=False))) * 4 / 3
    )


def test_the_sum_is_the_hand_worked_one(tmp_path: Path) -> None:
    # "a b a b": two-grams ab twice, ba once: log2(3) - 2/3 bits; three-grams aba, bab: one bit.
    # "Oslo, Oslo, Oslo,": "Oslo ," three times, ", Oslo" twice; "Oslo , Oslo" and ", Oslo ," twice each: one
    # bit.
    store = put(tmp_path, ["a b a b", "one one one one", "Oslo, Oslo, Oslo,", "two words", "", "a b c"])
    first = (math.log2(3) - 2 / 3) * 2 / 3 + 4 / 3
    third = (3 / 5 * math.log2(5 / 3) + 2 / 5 * math.log2(5 / 2)) * 2 / 3 + 4 / 3
    rows = store.query("SELECT weighted_sum, words FROM fluency_of_texts ORDER BY number")
    assert [row[0] for row in rows] == pytest.approx([first, 0, third, None, None, 2 / 3])
    assert [row[1] for row in rows] == [4, 4, 6, 2, 0, 3]
    ((texts, enough, words, total, half, survey, error),) = store.query(
        "SELECT texts, long_enough, words, weighted_sum, fluency, survey, standard_error FROM fluency"
    )
    each = [first, 0, third, 2 / 3]
    mean = sum(each) / 4
    assert (texts, enough, words) == (6, 4, pytest.approx(19 / 6))
    assert (total, half, survey) == pytest.approx((mean, mean / 2, 100 * mean / 2))
    assert error == pytest.approx(math.sqrt(sum((one - mean) ** 2 for one in each) / 3) / 2 / 2)


def test_the_sum_is_the_formula_on_random_texts(tmp_path: Path) -> None:
    rng = random.Random(0)
    vocabulary = ["Oslo", "oslo", "Zoë", "e\u0301te\u0301", "3.5", "don't", "–", "!", "中文", "a", "b", "(x)"]
    texts = [
        rng.choice(["", " ", "\n"])
        + rng.choice([" ", "  ", "\n"]).join(rng.choices(vocabulary, k=rng.randint(0, 40)))
        for _ in range(200)
    ]
    found = put(tmp_path, texts).query("SELECT weighted_sum, words FROM fluency_of_texts ORDER BY number")
    assert [row[1] for row in found] == [len(terms(text)) for text in texts]
    expected = [formula(text) for text in texts]
    assert [row[0] is None for row in found] == [value is None for value in expected]
    assert [row[0] for row in found if row[0] is not None] == pytest.approx(
        [value for value in expected if value is not None], abs=1e-9
    )


def test_texts_are_spread_over_draws() -> None:
    cases = [make_case(e, (), ()) for e in tiny.edits(5)]
    assert [len(fluency.prompts(cases * 20, draw, 4)) for draw in range(4)] == [
        26
    ] * 4  # 13 of each set, 52 in all
    found = fluency.prompts(cases, 0, 1)
    assert found[:5] == [("edit", e.subject, e.prompt) for e in tiny.edits(5)]
    plain = [prompt for prompt_set, subject, prompt in found[5:] if (prompt_set, subject) == ("plain", "")]
    assert len(plain) == len(found) - 5 == 50 and {len(prompt.split()) for prompt in plain} == {4}
    assert found == fluency.prompts(cases, 0, 1)
    assert {p for s, _, p in fluency.prompts(cases, 1, 4) if s == "plain"} != {
        p for s, _, p in fluency.prompts(cases, 0, 4) if s == "plain"
    }


def test_texts_are_plain_greedy_generations_that_newlines_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fluency, "TOKENS", 30)
    lm = tiny.lm("qwen2")
    asked = [("edit", e.subject, e.prompt) for e in tiny.edits(4)]
    with leaning(lm, newlines(lm), 4.0):
        rows = fluency.write(lm, asked, draw=2)
        plain = [
            plainly(lm, encoded.ids, 30) for encoded in lm.encode([prompt for *_, prompt in asked], [""] * 4)
        ]
    for row, made in zip(rows, plain, strict=True):
        length = next((n for n, token in enumerate(made, 1) if token == lm.tokenizer.eos_token_id), 30)
        assert (row.draw, row.tokens, row.prompt) == (2, length, asked[row.number][2])
        assert row.text == lm.tokenizer.decode(made[:length], skip_special_tokens=True).strip(" ")
    assert sum("\n" in row.text.strip() for row in rows) > 1
