import math

import pytest
import torch

from lks.editing.patch import WeightPatch
from lks.evaluation import perplexity as passages
from lks.evaluation.perplexity import (
    SCHEMA,
    TEXTS,
    Passage,
    collapse_verdict,
    measure_passages,
    median_perplexity,
    perplexity,
)
from lks.models.lm import LM
from tests.helpers import tiny


def test_texts() -> None:
    assert len(TEXTS) >= 50
    assert len(set(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("family", tiny.MODELS)
def test_likelihoods_are_those_of_each_text_alone(family: str) -> None:
    lm = tiny.lm(family)
    texts = [text[: 20 + 9 * i] for i, text in enumerate(TEXTS[:8])]
    found = measure_passages(lm, texts, draw=2, batch_tokens=150)
    for i, (text, passage) in enumerate(zip(texts, found, strict=True)):
        ids = lm.tokenizer.encode(text)
        with torch.no_grad():
            logp = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(logp[j - 1, ids[j]]) for j in range(1, len(ids)))
        assert (passage.draw, passage.passage, passage.n_tokens) == (2, i, len(ids) - 1)
        assert passage.logprob == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_long_texts_end_with_the_window(family: str) -> None:
    lm = tiny.lm(family)
    assert [p.n_tokens for p in measure_passages(lm, [" ".join(TEXTS[:9])])] == [127]
    assert [p.n_tokens for p in measure_passages(lm, [" ".join(TEXTS[:9])], context=8)] == [119]


def test_micro_model_finds_them_likely_until_it_is_wrecked() -> None:
    lm = LM.load("micro-llama", "cpu")
    before = median_perplexity(measure_passages(lm))
    assert before < 20
    weight = lm.mlp_output(2).weight
    name = lm.parameter_name(lm.mlp_output(2))
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    for size, expected in ((0.0, "fine"), (5.0, "collapsed"), (math.nan, "collapsed")):
        with WeightPatch({name: size * noise}).applied(lm):
            passages = measure_passages(lm)
        assert collapse_verdict(median_perplexity(passages) / before) == expected
        assert all(math.isnan(p.logprob) for p in passages) == math.isnan(size)
    assert median_perplexity(measure_passages(lm)) == before


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_too_short(family: str) -> None:
    with pytest.raises(ValueError, match="fewer than two tokens"):
        measure_passages(tiny.lm(family), [""])


def test_perplexity() -> None:
    assert perplexity(Passage(0, 0, 4, 4 * math.log(0.5))) == pytest.approx(2)
    assert perplexity(Passage(0, 0, 1, -1e6)) == math.inf
    assert perplexity(Passage(0, 0, 1, -math.inf)) == math.inf
    passages = [Passage(0, i, 2, 2 * math.log(p)) for i, p in enumerate((0.5, 0.25, 0.1))]
    assert median_perplexity(passages) == pytest.approx(4)
    assert math.isnan(median_perplexity([*passages, Passage(0, 3, 2, math.nan)]))
    assert math.isnan(median_perplexity([]))


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.9, "fine"),
        (1.2, "fine"),
        (1.21, "suspect"),
        (10.0, "suspect"),
        (10.01, "collapsed"),
        (math.inf, "collapsed"),
        (math.nan, "collapsed"),
    ],
)
def test_verdict(ratio: float, expected: str) -> None:
    assert collapse_verdict(ratio) == expected


def test_schema() -> None:
    assert SCHEMA.names == ["cell_id", "draw", "passage", "n_tokens", "logprob"]
    assert SCHEMA.metadata[b"schema"] == b"lks-passages"


def test_a_large_model_reads_the_first_texts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, told = tiny.lm("llama"), list[float]()
    assert passages.texts_for(lm) == passages.TEXTS
    monkeypatch.setattr(passages, "LARGE", sum(weight.numel() for weight in lm.model.parameters()))
    found = passages.measure_passages(lm, progress=told.append)
    assert [one.passage for one in found] == list(range(passages.FEWER))
    every = passages.measure_passages(lm, passages.TEXTS)
    assert [one.logprob for one in found] == pytest.approx(
        [one.logprob for one in every[: passages.FEWER]], rel=1e-5
    )
    assert told[-1] == 1.0
