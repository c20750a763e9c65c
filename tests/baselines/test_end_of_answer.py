"""`end_of_answer`: which methods have it, what it trains, and that ids of stored cells do not depend on it."""

from collections.abc import Sequence
from dataclasses import fields

import pytest
import torch

from baselines import methods
from baselines._targets import TargetParams
from baselines.grace import GraceParams
from lks.editing.editor import Editor, canonical
from lks.editing.patch import Patch
from lks.errors import UserError
from lks.models.lm import LM, Encoded
from lks.results.cells import Cell
from tests.helpers import tiny

WITHOUT = {"none", "ice", "ike", "serac"}
"""Methods that train nothing on targets; SERAC weighs the end of its answers by a parameter of its own."""
SHARED = sorted(set(methods()) - WITHOUT - {"lks"})
STORED = {
    "adalora": ("aadc3c7b06ba6fdd", "df83b8a9e85f0622"),
    "alphaedit": ("fb70e30f4f9d8724", "bc9c6cc3400cf97b"),
    "emmet": ("4928b505ddd64712", "d3d567652eb58a2e"),
    "ft": ("3d047d6446b8ecd8", "8101e51f8dd7a7f4"),
    "ft_l": ("d4fe3aa469b0959a", "ac4b8236ce63fcd6"),
    "grace": ("db1fa1fff52d23d8", "96d714848ca1855e"),
    "lora": ("eb5aea1040650cad", "ff1b34f0ba18d4c8"),
    "memit": ("9dda7e16ecd453fe", "9fb8978c9c32ce91"),
    "mend": ("cc01bca810b88e2e", "de79d8f16b724063"),
    "r_rome": ("ff9716a4cd4ca20b", "e3300c719e3ff139"),
    "rome": ("4e5bf0354f36b59f", "a7a940b5091a1369"),
    "serac": ("2c4b0655d9dbd83d", "f8391901a085b0f9"),
    "wise": ("a3da7f7c949f1c83", "5922ea44d8f94cf6"),
}
"""Ids of cells at the presets of llama-2-7b-chat and micro-llama, from before the parameter existed."""
SHORT = {"max_steps": "20", "n_iter": "5", "steps": "5"}


def test_every_method_that_trains_on_targets_has_it() -> None:
    kinds = {name: {field.name for field in fields(m.params_type)} for name, m in methods().items()}
    assert {name for name, known in kinds.items() if "end_of_answer" not in known} == WITHOUT
    assert all(issubclass(methods()[name].params_type, TargetParams) for name in SHARED)


@pytest.mark.parametrize("name", STORED)
def test_at_its_default_it_changes_no_id(name: str) -> None:
    for model, known in zip(("llama-2-7b-chat", "micro-llama"), STORED[name], strict=True):
        params = methods()[name].for_model(model, "world", 10).params
        cell = Cell(
            model,
            "world",
            name,
            10,
            parameters=canonical(params),
            model_revision="m",
            data_revision="d",
        )
        assert cell.id == known


def _edited(name: str, lm: LM, overrides: dict[str, str]) -> Patch:
    """Edit a tiny model with a method's micro preset, trained as briefly as it can be."""
    method: type[Editor[object]] = methods()[name]
    known = {field.name for field in fields(method.params_type)}
    short = {key: value for key, value in SHORT.items() if key in known}
    editor = method.for_model("micro-tiny", "world", 3, short | overrides)
    editor.prepare(lm, tiny.training())
    return editor.edit(lm, tiny.edits(3))


@pytest.mark.parametrize("name", SHARED)
def test_the_end_is_trained_where_asked_for_and_nowhere_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every target that the method encodes ends with the token, and the patch is another one."""
    lm = tiny.lm("llama")
    seen: list[Encoded] = []
    encode = LM.encode

    def spy(
        self: LM,
        prompts: Sequence[str],
        answers: Sequence[str],
        subjects: Sequence[str] | None = None,
        end: bool = False,
    ) -> list[Encoded]:
        found = encode(self, prompts, answers, subjects, end)
        seen.extend(row for row, answer in zip(found, answers, strict=True) if answer)
        return found

    monkeypatch.setattr(LM, "encode", spy)
    more = {"objective": "in_place"} if name == "ft_l" else {}
    patches = []
    for wanted in (False, True):
        seen.clear()
        patches.append(_edited(name, lm, more | {"end_of_answer": str(wanted)}))
        assert seen and {row.ids[-1] == lm.tokenizer.eos_token_id for row in seen} == {wanted}
    plain, ended = (patch.tensors() for patch in patches)
    assert plain.keys() == ended.keys()
    assert any(
        plain[key].shape != ended[key].shape or not torch.equal(plain[key], ended[key]) for key in plain
    )


def test_only_the_rules_of_lks_and_grace_train_it_and_no_preset_of_a_paper_does() -> None:
    rules = {name: method.untuned(30, 576) for name, method in methods().items()}
    ended = {name for name, rule in rules.items() if rule and getattr(rule(10, "zsre"), "end_of_answer", 0)}
    assert ended == {"lks", "grace"}
    assert methods()["grace"].for_model("llama-2-7b-chat", "zsre", 10).params == GraceParams(block=27)
    grace = rules["grace"]
    assert grace and grace(10, "zsre") == GraceParams(block=25, n_iter=100, end_of_answer=True)


def test_ft_l_refuses_the_end_for_its_bag_of_tokens() -> None:
    with pytest.raises(UserError, match=r"answer nothing. Set end_of_answer to false, or objective to in_pl"):
        _edited("ft_l", tiny.lm("llama"), {"end_of_answer": "true"})
