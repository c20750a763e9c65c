"""The real models and tokenizers that other tests rest on."""

import pytest

from tests.helpers import real


@pytest.mark.parametrize("name", real.FAMILIES)
def test_a_real_tokenizer_spells_what_it_reads(name: str) -> None:
    lm = real.tokenizer_only(name)
    text = "The capital of France is Paris, since 1,234.5 C++ 北京 मुंबई."
    assert lm.pieces.text(lm.encode([text], [""])[0].ids).strip() == text


def test_a_real_model_knows_facts() -> None:
    import torch

    lm = real.model()
    ids = torch.tensor([lm.encode(["The capital of France is"], [""])[0].ids])
    assert "Paris" in lm.tokenizer.decode(lm.greedy(ids, torch.ones_like(ids), 8)[0])
