"""The contract of every method, on every tiny architecture. A new method in `baselines/` is tested without an
edit here.
"""

from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import lks.editing.patch
from baselines import methods
from lks.editing.editor import Editor
from lks.editing.patch import Patch
from lks.edits import make_case
from lks.errors import UserError
from lks.evaluation.readouts import ask
from lks.models.lm import LM
from tests.helpers import tiny

METHODS = sorted(methods())
LAYOUTS = ("llama", "gpt2")
"""Every method meets both: separate and fused projections, rotation and learnt positions, weights as they are
and transposed.
"""
ON_OTHERS = {
    "mistral": ("memit", "wise"),
    "qwen2": ("lora", "serac", "alphaedit"),
    "qwen3": ("ft",),
    "gemma": ("lks",),
    "gemma2": ("lks",),
    "gemma3_text": ("grace",),
    "olmo2": ("grace", "lora"),
    "phi": ("rome", "grace"),
    "phi3": ("ft", "adalora"),
    "gptj": ("lks", "grace"),
    "gpt_neox": ("rome", "lks"),
}
"""What a family adds is tested on its own (test_prefix.py and test_architectures.py in tests/lks/models); here
each meets a method or two, and each kind of method those families that could trouble it.
"""
PAIRS = [(m, f) for m in METHODS for f in LAYOUTS] + [
    (m, f) for f in tiny.FAMILIES if f not in LAYOUTS for m in ON_OTHERS[f]
]
PAPER_MODELS = ("llama-2-7b-chat", "mistral-7b-instruct-v0.3")


SHORT = {"max_steps": "20"}  # of meta-training, where a method has any


def editor(name: str, lm: LM) -> Editor[object]:
    """The method's micro preset, prepared on a tiny model."""
    method = methods()[name]
    short = {k: v for k, v in SHORT.items() if k in {f.name for f in fields(method.params_type)}}
    made = method.for_model("micro-tiny", "world", 4, short)
    made.prepare(lm, tiny.training())
    return made


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def edited(request: pytest.FixtureRequest) -> tuple[str, LM, Patch, dict[str, torch.Tensor]]:
    name, family = request.param
    lm = tiny.lm(family)
    before = weights(lm)
    return name, lm, editor(name, lm).edit(lm, tiny.edits(4)), before


def weights(lm: LM) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in lm.model.state_dict().items()}


def hooks(lm: LM) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in lm.model.modules()
    )


def same(lm: LM, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, before[k]) for k, v in lm.model.state_dict().items())


def logits(lm: LM, prompts: list[str], side: str = "right") -> list[torch.Tensor]:
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        out = lm.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return [row[m.bool()] for row, m in zip(out, mask, strict=True)]


PROMPTS = [e.prompt for e in tiny.edits(4)] + ["Nobody lives here", "We say that Tomas Verin works for"]


def test_edit_leaves_the_model_as_it_was(edited) -> None:
    _, lm, _, before = edited
    assert same(lm, before) and hooks(lm) == 0
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert not lm.model.training


def test_leaving_a_patch_restores_weights_and_hooks_even_after_an_interrupt(edited) -> None:
    _, lm, patch, before = edited
    with pytest.raises(KeyboardInterrupt), patch.applied(lm):
        logits(lm, PROMPTS)
        raise KeyboardInterrupt
    assert same(lm, before) and hooks(lm) == 0


def test_most_edits_raise_the_likelihood_of_their_target(edited) -> None:
    name, lm, _, _ = edited
    if methods()[name].changes in ("nothing", "context"):
        pytest.skip("changes nothing, or a context that a random model has not learned to read")
    made, raised = editor(name, lm), 0
    for edit in tiny.edits(
        4
    ):  # each alone: in a random model all subjects look alike, and one edit undoes another
        case = [make_case(edit, (), ())]
        before = ask(lm, case)[0].answer_logprob
        with made.edit(lm, [edit]).applied(lm):
            raised += ask(lm, case)[0].answer_logprob > before
    assert raised >= 3


def test_padding_and_batch_composition_do_not_change_an_answer(edited) -> None:
    _, lm, patch, _ = edited
    with patch.applied(lm):
        alone = [logits(lm, [p])[0] for p in PROMPTS]
        for side in ("left", "right"):
            for one, other in zip(alone, logits(lm, PROMPTS, side), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)


def test_generation_agrees_with_and_without_a_cache(edited) -> None:
    _, lm, patch, _ = edited
    ids, mask = lm.pad([e.ids for e in lm.encode(PROMPTS, [""] * len(PROMPTS))], "left")
    with patch.applied(lm):
        made = [
            lm.model.generate(
                ids, attention_mask=mask, max_new_tokens=8, do_sample=False, use_cache=cache, pad_token_id=0
            )
            for cache in (True, False)
        ]
    assert torch.equal(*made)


def test_a_saved_patch_reloads_equal(edited, tmp_path: Path) -> None:
    _, lm, patch, _ = edited
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert again.nbytes == patch.nbytes
    with patch.applied(lm):
        expected = logits(lm, PROMPTS)
    with again.applied(lm):
        for one, other in zip(expected, logits(lm, PROMPTS), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_no_edits_is_the_identity(name: str) -> None:
    lm = tiny.lm("llama")
    patch = editor(name, lm).edit(lm, [])
    expected = logits(lm, PROMPTS)
    with patch.applied(lm):
        for one, other in zip(expected, logits(lm, PROMPTS), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", METHODS)
def test_two_runs_agree(name: str) -> None:
    lm = tiny.lm("mistral")
    one, other = (editor(name, lm).edit(lm, tiny.edits(3), seed=5).tensors() for _ in range(2))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", METHODS)
def test_edits_inside_no_grad(name: str) -> None:
    lm = tiny.lm("llama")
    with torch.no_grad():
        inside = editor(name, lm).edit(lm, tiny.edits(2)).tensors()
    outside = editor(name, lm).edit(lm, tiny.edits(2)).tensors()
    assert all(torch.equal(inside[k], outside[k]) for k in outside)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", PAPER_MODELS)
def test_presets_cover_the_paper_models_and_every_T(name: str, model: str) -> None:
    method = methods()[name]
    for n_edits in (1, 10, 100, 500, 1000, 10000):
        assert isinstance(method.for_model(model, "zsre", n_edits).params, method.params_type)


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_parameter_is_named(name: str) -> None:
    with pytest.raises(UserError, match="Unknown parameter 'no_such'"):
        methods()[name].for_model("micro-tiny", "world", 1, {"no_such": "1"})


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_edit_restores_the_model(name: str) -> None:
    lm = tiny.lm("llama")
    before = weights(lm)

    def interrupt(fraction: float) -> None:
        raise KeyboardInterrupt

    made = editor(name, lm)
    with interrupted():
        made.edit(lm, tiny.edits(2), progress=interrupt)
    assert same(lm, before) and hooks(lm) == 0 and not any(p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_sequential_method_shows_its_patch_after_each_edit(name: str) -> None:
    lm = tiny.lm("llama")
    before = weights(lm)
    seen: list[int] = []

    def after(number: int, patch: Patch) -> None:
        assert same(lm, before) and hooks(lm) == 0
        with patch.applied(lm):
            last.append(logits(lm, PROMPTS))
        seen.append(number)

    last: list[list[torch.Tensor]] = []
    patch = editor(name, lm).edit(lm, tiny.edits(3), after=after)
    assert seen == ([0, 1, 2] if methods()[name].regime == "sequential" else [])
    if seen:
        with patch.applied(lm):
            for one, other in zip(last[-1], logits(lm, PROMPTS), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@contextmanager
def interrupted():
    with suppress(KeyboardInterrupt):
        yield
