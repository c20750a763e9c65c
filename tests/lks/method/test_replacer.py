"""Where and when knowledge blocks are put in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lks.editing.patch
from lks.edits import make_case
from lks.errors import UserError
from lks.evaluation.readouts import ask
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.lm import LM
from tests.helpers import tiny

BLOCK = 1


def patch_for(lm: LM, names: list[list[str]], positions: str = "last") -> KnowledgeBlockPatch:
    table = torch.randn(1, len(names), lm.dim, generator=torch.Generator().manual_seed(7)) * 10
    return KnowledgeBlockPatch(names, table, (BLOCK,), positions, "exact")  # type: ignore[arg-type]


def block_states(lm: LM, prompts: list[str], side: str, block: int = BLOCK) -> list[torch.Tensor]:
    """Output of a block as the rest of the model sees it, without padding."""
    seen: list[torch.Tensor] = []
    ids, mask = lm.pad([e.ids for e in lm.encode(prompts, [""] * len(prompts))], side)

    def look(module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = lm.block(block + 1).register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        lm.model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0))
    handle.remove()
    return [row[m.bool()] for row, m in zip(seen[0], mask, strict=True)]


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_blocks_go_to_the_subject_tokens_and_nowhere_else(family: str, side: str, positions: str) -> None:
    lm = tiny.lm(family)
    prompts = ["The birthplace of Zoë Quist is", "Mara Kelorin was born in", "Nobody was born in"]
    patch = patch_for(lm, [["Mara Kelorin"], ["Zoë Quist", "Z. Quist"]], positions)
    before = block_states(lm, prompts, side)
    with patch.applied(lm):
        after = block_states(lm, prompts, side)
    spans = [e.subject for e in lm.encode(prompts, [""] * 3, ["Zoë Quist", "Mara Kelorin", "?"])]
    for old, new, span, subject in zip(before, after, spans, (1, 0, None), strict=True):
        changed = [i for i in range(len(old)) if not torch.allclose(old[i], new[i], rtol=1e-4, atol=1e-4)]
        if span is None:
            assert changed == []
            continue
        assert changed == list(range(span[0] if positions == "all" else span[1], span[1] + 1))
        assert all(torch.equal(new[i], patch.table[0, subject]) for i in changed)


def test_every_mention_of_every_edited_subject_is_replaced() -> None:
    lm = tiny.lm("llama")
    prompt = "Ada Moss works for Tomas Verin and Ada Moss"
    patch = patch_for(lm, [["Ada Moss"], ["Tomas Verin"]])
    with patch.applied(lm):
        states = block_states(lm, [prompt], "right")[0]
    hits = [(i, s) for i, state in enumerate(states) for s in (0, 1) if torch.equal(state, patch.table[0, s])]
    assert [s for _, s in hits] == [0, 1, 0]


def test_only_the_last_mention_of_each_subject_if_asked_for() -> None:
    lm = tiny.lm("llama")
    prompt = "Ada Moss works for Tomas Verin and Ada Moss"
    every = patch_for(lm, [["Ada Moss"], ["Tomas Verin"]])
    last = KnowledgeBlockPatch(every.names, every.table, every.blocks, "last", "exact", mentions="last")
    ids = lm.encode([prompt], [""])[0].ids
    found = sorted(every.find(lm, ids))
    assert [s for _, s in found] == [0, 1, 0] and sorted(last.find(lm, ids)) == found[1:]
    with last.applied(lm):
        states = block_states(lm, [prompt], "left")[0]
    assert [i for i, state in enumerate(states) if torch.equal(state, last.table[0, 0])] == [found[2][0]]


@pytest.mark.parametrize("family", tiny.MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_of_several_blocks_has_its_own_table(family: str, side: str) -> None:
    lm = tiny.lm(family)
    prompts = ["The birthplace of Zoë Quist is", "Mara Kelorin was born in", "Nobody was born in"]
    table = torch.randn(2, 2, lm.dim, generator=torch.Generator().manual_seed(1)) * 10
    patch = KnowledgeBlockPatch([["Mara Kelorin"], ["Zoë Quist"]], table, (0, 2), "last", "exact")
    spans = [e.subject for e in lm.encode(prompts, [""] * 3, ["Zoë Quist", "Mara Kelorin", "?"])]
    plain = {block: block_states(lm, prompts, side, block) for block in (0, 2)}
    with patch.applied(lm):
        edited = {block: block_states(lm, prompts, side, block) for block in (0, 1, 2)}
    for place, block in enumerate(patch.blocks):
        for old, new, span, subject in zip(plain[block], edited[block], spans, (1, 0, None), strict=True):
            if span is None:
                torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)
            else:
                assert [i for i in range(len(new)) if torch.equal(new[i], table[place, subject])] == [span[1]]
    between = [
        torch.equal(state, row) for states in edited[1] for state in states for row in table.flatten(0, 1)
    ]
    assert not any(between)


@pytest.mark.parametrize("family", tiny.MODELS)
def test_several_blocks_generate_the_same_with_and_without_a_cache(family: str) -> None:
    lm = tiny.lm(family)
    table = torch.randn(3, 2, lm.dim, generator=torch.Generator().manual_seed(2)) * 5
    patch = KnowledgeBlockPatch([["Mara Kelorin"], ["Ada Moss"]], table, (0, 1, 3), "all", "exact")
    ids, mask = lm.pad(
        [
            e.ids
            for e in lm.encode(["Ada Moss likes Mara Kelorin and", "Mara Kelorin was", "Nobody"], [""] * 3)
        ],
        "left",
    )
    made = []
    for cache in (True, False):
        with patch.applied(lm):
            made.append(
                lm.model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=6,
                    do_sample=False,
                    use_cache=cache,
                    pad_token_id=0,
                )
            )
    plain = lm.model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(*made)
    assert torch.equal(made[0][2], plain[2]) and not torch.equal(made[0], plain)


def test_what_another_hook_has_kept_stays_as_it_was() -> None:
    lm = tiny.lm("llama")
    patch = patch_for(lm, [["Ada Moss"]])
    kept: list[torch.Tensor] = []
    handle = lm.block(BLOCK).register_forward_hook(lambda module, args, output: kept.append(output))
    plain = block_states(lm, ["Ada Moss was"], "right")[0]
    with patch.applied(lm):
        edited = block_states(lm, ["Ada Moss was"], "right")[0]
    handle.remove()
    assert torch.equal(kept[1], kept[0]) and not torch.equal(edited, plain)


def test_a_name_inside_a_longer_word_is_no_mention() -> None:
    lm = tiny.lm("llama")
    patch = patch_for(lm, [["Ada"]])
    before = block_states(lm, ["Adamant was born in"], "right")[0]
    with patch.applied(lm):
        torch.testing.assert_close(block_states(lm, ["Adamant was born in"], "right")[0], before)


def test_a_gold_answer_that_names_an_edited_subject_does_not_fire() -> None:
    """The decision is taken on the prompt; teacher forcing must not leak the answer into it."""
    lm = tiny.lm("llama")
    edit = replace(tiny.edits(1)[0], prompt="The friend of Mara Kelorin is", target="Ada Moss and many more")
    case = make_case(edit, (), ())
    unedited = ask(lm, [case])
    with patch_for(lm, [["Ada Moss"]]).applied(lm):
        edited = ask(lm, [case])
    assert not any(one.fired for one in edited) and [replace(one, fired=None) for one in edited] == unedited


def test_cached_decoding_keeps_the_decision_of_the_prompt() -> None:
    """A prompt that is continued by an edited name fires neither with nor without a cache."""
    lm = tiny.lm("llama")
    prompt = lm.encode(["They say that Ada"], [""])[0].ids
    full = lm.encode(["They say that Ada Moss works for"], [""])[0].ids
    assert full[: len(prompt)] == prompt
    made = []
    for patch in (None, patch_for(lm, [["Ada Moss"]])):
        with patch.applied(lm) if patch else torch.no_grad(), torch.no_grad():
            out = None
            for end in range(len(prompt), len(full) + 1):
                out = lm.model(input_ids=torch.tensor([full[:end]]), use_cache=False).logits[0, -1]
            made.append(out)
    assert torch.equal(made[0], made[1])


def test_names_and_table_must_fit_together(tmp_path: Path) -> None:
    lm = tiny.lm("llama")
    patch_for(lm, [["Ada"], ["Zoë"]]).save(tmp_path)
    damaged = (tmp_path / "patch.json").read_text().replace('["Ada"], ', "")
    (tmp_path / "patch.json").write_text(damaged)
    with pytest.raises(UserError, match="Damaged patch"):
        lks.editing.patch.load(tmp_path)


def test_everything_is_saved(tmp_path: Path) -> None:
    table = torch.randn(2, 2, 8)
    patch = KnowledgeBlockPatch([["Ada", "A."], ["Zoë"]], table, (1, 3), "all", "exact", mentions="last")
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert isinstance(again, KnowledgeBlockPatch)
    assert (
        torch.equal(again.table, table)
        and again.settings() == patch.settings()
        and again.blocks == (1, 3)
        and again.gate is None
    )


def test_a_patch_of_one_block_saved_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    patch_for(tiny.lm("llama"), [["Ada"]]).save(tmp_path)
    table = torch.randn(1, 8)
    save_file({"table": table}, tmp_path / "patch.safetensors")
    settings = {"names": [["Ada"]], "block": 2, "positions": "last", "scope": "exact"}
    document = {
        "format": 1,
        "kind": "knowledge_blocks",
        "module": "lks.method.replacer",
        "settings": settings,
    }
    (tmp_path / "patch.json").write_text(json.dumps(document))
    patch = lks.editing.patch.load(tmp_path)
    assert isinstance(patch, KnowledgeBlockPatch)
    assert (
        patch.blocks == (2,)
        and torch.equal(patch.table[0], table)
        and patch.mentions == "all"
        and patch.gate is None
    )


@pytest.mark.parametrize(
    ("blocks", "shape"),
    [((2, 1), (2, 1, 4)), ((1, 1), (2, 1, 4)), ((), (0, 1, 4)), ((1,), (2, 1, 4)), ((1,), (1, 4))],
)
def test_blocks_ascend_and_fit_the_table(blocks: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ascending|shape"):
        KnowledgeBlockPatch([["Ada"]], torch.zeros(shape), blocks, "last", "exact")


@pytest.mark.parametrize("harm", ["missing", "truncated", "newer", "other kind", "not json"])
def test_a_damaged_patch_is_one_clear_line(tmp_path: Path, harm: str) -> None:
    lm = tiny.lm("llama")
    patch_for(lm, [["Ada"]]).save(tmp_path)
    document, weights = tmp_path / "patch.json", tmp_path / "patch.safetensors"
    if harm == "missing":
        weights.unlink()
    elif harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:40])
    elif harm == "newer":
        document.write_text(document.read_text().replace('"format": 1', '"format": 99'))
    elif harm == "other kind":
        document.write_text(document.read_text().replace("knowledge_blocks", "no_such_kind"))
    else:
        document.write_text("{")
    with pytest.raises(UserError) as caught:
        lks.editing.patch.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_patch_of_a_module_that_is_not_there_says_which(tmp_path: Path) -> None:
    patch_for(tiny.lm("llama"), [["Ada"]]).save(tmp_path)
    document = tmp_path / "patch.json"
    document.write_text(
        document.read_text()
        .replace('"knowledge_blocks"', '"strange"')
        .replace('"lks.method.replacer"', '"no_such_module"')
    )
    with pytest.raises(UserError, match="kind 'strange', made by no_such_module, which is not installed"):
        lks.editing.patch.load(tmp_path)
