"""Memory that is stated before LKS runs, against what it then holds."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, MistralConfig

import lks.models.memory
from lks.errors import UserError
from lks.method.memory_estimate import Load, ModelShape, Needs, check, needs
from lks.method.params import LKSParams
from lks.method.trainer import LKSTrainer
from lks.method.training_data import prepare, stated
from lks.models.frozen_prefix import states
from lks.models.memory import allocate, gibibytes
from lks.models.precision import Training
from tests.helpers import tiny

PARAMS = LKSParams(block=1, batch_size=4)


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize(("top", "precision"), [(0, "model"), (16, "model"), (0, "bfloat16")])
def test_what_is_kept_has_the_stated_size(family: str, top: int, precision: Training) -> None:
    lm = tiny.lm(family)
    params = LKSParams(block=1, batch_size=4, reference_top=top, precision=precision)
    wanted, made = stated(lm, tiny.edits(5), params), prepare(lm, tiny.edits(5), params)
    assert made.cached.flat.nbytes == wanted.states
    assert made.beginnings is not None and made.beginnings.nbytes == wanted.keys_values
    assert made.references.nbytes == wanted.references


@pytest.mark.parametrize("family", tiny.MODELS)
def test_a_step_keeps_about_what_was_stated(family: str) -> None:
    lm = tiny.lm(family)
    trainer = LKSTrainer(lm, prepare(lm, tiny.edits(4), PARAMS), PARAMS, 0)
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.loss(trainer._epoch_batches()[0])
    held = sum(size for place, size in saved.items() if place not in weights)
    assert 0.5 * held < stated(lm, tiny.edits(4), PARAMS).step < 2 * held


_COMMON = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA = LlamaConfig(vocab_size=32000, intermediate_size=11008, **_COMMON)
MISTRAL = MistralConfig(vocab_size=32768, intermediate_size=14336, num_key_value_heads=8, **_COMMON)
SEVEN_B = {"llama": (LLAMA, 6_738_415_616, 16), "mistral": (MISTRAL, 7_248_023_552, 18)}


@pytest.mark.parametrize("family", SEVEN_B)
def test_ten_thousand_edits_of_a_7b_model_fit_80_gb_without_kept_keys_and_values(family: str) -> None:
    """Four rows of 20 tokens an edit, as the paper's data has; keys and values are made anew where they do
    not fit.
    """
    config, parameters, block = SEVEN_B[family]
    load = Load(
        tokens=800_000,
        before=400_000,
        locality_positions=60_000,
        step_tokens=32 * 4 * 13,
        step_positions=32 * 4 * 3,
    )
    wanted = needs(ModelShape.of(config, parameters, 2), load, block, reference_top=256)
    assert wanted.states == pytest.approx(6.5e9, rel=0.02)
    assert wanted.total - wanted.keys_values < 80e9 / 2


def test_a_step_that_cannot_fit_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lks.method.memory_estimate.free_bytes", lambda device: 2**20)
    with pytest.raises(UserError, match=r"needs about 2\.0 GiB, 1 MiB are free.*Lower batch_size \(now 32\)"):
        check(Needs(0, 0, 0, 0, 2**31), torch.device("cpu"), 32)


def test_what_does_not_fit_goes_to_a_file_and_works_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.lm("llama")
    kept = LKSTrainer(lm, prepare(lm, tiny.edits(3), PARAMS), PARAMS, 0)
    monkeypatch.setattr("lks.models.memory.free_bytes", lambda device: 0)
    monkeypatch.setattr("lks.method.training_data.fits", lambda upper, starts: False)
    spilled = LKSTrainer(lm, prepare(lm, tiny.edits(3), PARAMS), PARAMS, 0)
    assert not list(
        lks.models.memory.lks.io.cache.folder().glob("*.states")
    )  # nameless: nothing is left behind
    chosen = {part: [r for own in rows for r in own] for part, rows in kept.material.owned.items()}
    assert spilled.loss(chosen).item() == pytest.approx(kept.loss(chosen).item(), rel=1e-5)
    assert torch.equal(spilled.material.cached.flat, states(lm, 1, spilled.material.ids).flat)
    assert allocate((3, 2), torch.bfloat16, torch.device("cpu")).shape == (3, 2)


def test_sizes_for_people() -> None:
    assert (gibibytes(6.5 * 2**30), gibibytes(12 * 2**20)) == ("6.5 GiB", "12 MiB")


def test_a_step_is_stated_without_locality_rows_where_no_edit_has_any() -> None:
    lm, edits = tiny.lm("llama"), tiny.training(4)
    ungated = LKSParams(block=1, gate="contrast", locality_for="ungated", locality_prompts=4)
    without = replace(ungated, locality_prompts=0, locality_pool=0)
    assert stated(lm, edits, ungated) == stated(lm, edits, without)
    assert stated(lm, edits, replace(ungated, locality_for="all")).step > stated(lm, edits, ungated).step
