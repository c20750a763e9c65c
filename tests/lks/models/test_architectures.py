"""Every family of the table with its own tokenizer class; families that the table does not have."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from baselines import methods
from lks.errors import UserError
from lks.models.architectures import ARCHITECTURES, Architecture, guess
from lks.models.frozen_prefix import UpperBlocks, states
from lks.models.joining import joined
from lks.models.lm import LM
from lks.models.prefill import Pass, track_prefill
from tests.helpers import tiny

WORDS = [
    "the",
    "birthplace",
    "of",
    "was",
    "born",
    "(so",
    "it",
    "is)",
    "—",
    "naïve",
    "日本",
    "\N{GRINNING FACE}",
    "a'b",
    "x_y",
    "12",
    "  ",
    "\n",
]


@cache
def model_of(family: str) -> LM:
    return tiny.lm(family, own=True)


def test_every_family_of_the_table_is_tried() -> None:
    assert set(tiny.FAMILIES) == set(ARCHITECTURES)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_parts_are_what_would_be_guessed(family: str) -> None:
    assert guess(tiny.lm(family).model) == ARCHITECTURES[family]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from(WORDS), max_size=5),
    st.sampled_from([*tiny.NAMES, "Łódź", "名前", "O'Neil"]),
    st.lists(st.sampled_from(WORDS), max_size=5),
)
def test_a_subjects_tokens_cover_it_and_no_more(
    family: str, before: list[str], subject: str, after: list[str]
) -> None:
    lm = model_of(family)
    prompt = " ".join([*before, subject, *after]).strip()
    (encoded,) = lm.encode([prompt], ["Lisbon"], [subject])
    assert encoded.subject is not None
    first, last = encoded.subject
    assert last < encoded.n_prompt

    def spelt(a: int, b: int) -> str:
        return lm.pieces.text(encoded.ids[a : b + 1])

    assert subject in spelt(first, last)
    assert subject not in spelt(first + 1, last) and subject not in spelt(first, last - 1)
    assert lm.pieces.text(encoded.answer).strip() == "Lisbon"
    assert lm.pieces.text(encoded.ids).strip() == joined(prompt, "Lisbon")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_with_a_cache_of_fixed_size_padding_is_told_from_the_prompt(family: str) -> None:
    """`generate` hands on ready-made masks then: one, or one per kind of attention."""
    lm = model_of(family)
    ids, mask = lm.pad(
        [e.ids for e in lm.encode(["Ada", "The birthplace of Zoë Quist is"], ["", ""])], "left"
    )
    seen: list[Pass | None] = []
    with track_prefill(lm) as prefills:
        handle = lm.block(0).register_forward_hook(lambda *_: seen.append(prefills.now))
        made = [
            lm.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=3,
                min_new_tokens=3,
                do_sample=False,
                cache_implementation=kind,
            )
            for kind in ("static", "dynamic")
        ]
        handle.remove()
    assert torch.equal(*made)
    assert [p.is_prefill for p in seen if p is not None] == [True, False, False] * 2
    for prefill in (seen[0], seen[3]):
        assert prefill is not None and torch.equal(prefill.prompt, mask.bool())


def unlisted() -> LM:
    tokenizer = tiny.own_tokenizer("gpt_neox")
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    sizes["vocab_size"] = len(tokenizer)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("stablelm", **sizes, initializer_range=0.3))
    return LM(model, tokenizer, architecture=guess(model))


def test_an_architecture_of_ones_own() -> None:
    lm = unlisted()
    rows = [e.ids for e in lm.encode(["Mara Kelorin was born in", "Ada"], ["Lisbon", "Oslo"])]
    hidden, mask = states(lm, 1, rows).rows(torch.arange(2))
    upper = UpperBlocks(lm, 1)
    with torch.no_grad():
        ours = upper.logits(upper(hidden, mask)[mask.bool()])
        theirs = lm.model(input_ids=lm.pad(rows)[0], attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    method = methods()["ft"].for_model("micro-tiny", "world", 1)
    method.prepare(lm, tiny.training())
    assert method.edit(lm, tiny.edits(1)).nbytes > 0


def test_an_unknown_family_is_told_what_to_fill_in() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **sizes))
    with pytest.raises(UserError) as told:
        LM(model, tiny.own_tokenizer("gpt_neox"))
    text = str(told.value)
    assert (
        "Unknown model family 'falcon'" in text
        and "2 of class FalconDecoderLayer" in text
        and "lks/models/architectures.py" in text
    )
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("ARCHITECTURES[")]
    table: dict[str, Architecture] = {}
    exec(line, {"ARCHITECTURES": table, "Architecture": Architecture})  # noqa: S102  # the line is what it says: Python to be pasted
    assert table == {
        "falcon": Architecture(
            "transformer",
            "h",
            "ln_f",
            mlp_output="mlp.dense_4h_to_h",
            attention_output="self_attention.dense",
        ),
    }


def test_what_cannot_be_found_is_left_to_the_user() -> None:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 99,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **sizes))
    with pytest.raises(UserError, match=r"\(fill in each \?\)[\s\S]*mlp_output='\?'"):
        LM(model, tiny.own_tokenizer("llama"))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [("decoder", "decoder='no'"), ("blocks", "blocks='no'"), ("mlp_output", "mlp_output='no'")],
)
def test_an_architecture_that_does_not_fit_is_refused(wrong: str, named: str) -> None:
    lm = tiny.lm("llama")
    parts = {
        name: getattr(lm.architecture, name)
        for name in ("decoder", "blocks", "final_norm", "mlp_output", "attention_output")
    }
    with pytest.raises(UserError, match=f"does not fit the model: {named}"):
        LM(lm.model, lm.tokenizer, architecture=Architecture(**{**parts, wrong: "no"}))


@pytest.mark.parametrize("family", [family for family, found in ARCHITECTURES.items() if found.output_norms])
def test_locate_then_edit_refuses_norms_behind_the_mlp_before_any_work(family: str) -> None:
    lm = tiny.lm(family)
    for name in ("rome", "memit"):
        with pytest.raises(UserError, match="through a norm"):
            methods()[name].for_model("micro-tiny", "world", 1).prepare(lm)
