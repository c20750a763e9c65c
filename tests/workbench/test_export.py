"""`lks export`: merged checkpoints give the patched model's logits bit for bit; what goes to the hub says
what it is and nothing else.
"""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from cli.app import app
from lks import LM, load_patch
from lks.editing.patch import Patch, WeightPatch
from lks.errors import UserError
from lks.method.replacer import KnowledgeBlockPatch
from workbench.export import merge, publish
from workbench.model_card import SAMPLE, Card


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama")


@pytest.fixture(scope="module")
def weights(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch of two layers, dense and in factors, as `lks edit` leaves it: with a record and its facts."""
    made = torch.Generator().manual_seed(0)
    names = [lm.parameter_name(lm.mlp_output(block)) for block in (1, 2)]
    rows, columns = dict(lm.model.named_parameters())[names[0]].shape
    factors = {
        f"{names[1]}.left": torch.randn(rows, 2, generator=made),
        f"{names[1]}.right": torch.randn(2, columns, generator=made),
    }
    folder = tmp_path_factory.mktemp("weights")
    WeightPatch({names[0]: 0.3 * torch.randn(rows, columns, generator=made), **factors}).save(folder)
    (folder / "edit.json").write_text(json.dumps({"method": "ft", "title": "FT-M"}))
    (folder / "facts.jsonl").write_text(
        "".join(
            json.dumps({"subject": s, "prompt": "p", "target": "t"}) + "\n"
            for s in ("Ada [1]", "Zoë", "Ada [1]")
        )
    )
    return folder


@pytest.fixture
def blocks(lm: LM, tmp_path: Path) -> Path:
    names = [[f"Person {i}"] for i in range(SAMPLE + 3)]
    KnowledgeBlockPatch(names, torch.zeros(1, len(names), lm.dim), (1,), "last", "exact").save(
        tmp_path / "blocks"
    )
    return tmp_path / "blocks"


def logits(model: torch.nn.Module, lm: LM) -> torch.Tensor:
    ids, mask = lm.pad([e.ids for e in lm.encode(["Tomas Verin's pet is a", "The"], ["", ""])])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return found


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_merged_checkpoint_is_the_patched_model(
    lm: LM, weights: Path, tmp_path: Path, precision: str | None
) -> None:
    done = merge("micro-llama", weights, tmp_path / "out", precision)  # type: ignore[arg-type]
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "generation_config.json",
    } <= set(done.files)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    source = lm.model.config._name_or_path
    again = LM(
        AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, precision or "float32")),
        AutoTokenizer.from_pretrained(source),
    )
    plain = logits(again.model, again)
    with load_patch(weights).applied(again):
        expected = logits(again.model, again)
    assert torch.equal(logits(model, again), expected) and not torch.equal(plain, expected)
    text = "Tomas Verin, who is Zoë's friend"
    assert tokenizer(text)["input_ids"] == lm.tokenizer(text)["input_ids"]
    assert (
        tokenizer.special_tokens_map
        == AutoTokenizer.from_pretrained(lm.model.config._name_or_path).special_tokens_map
    )


def test_a_patch_that_acts_on_activations_is_refused_with_what_to_do(blocks: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"knowledge_blocks\) cannot be folded.*without --merge"):
        merge("micro-llama", blocks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_goes_to_the_hub_is_the_patch_and_its_card(weights: Path, tmp_path: Path) -> None:
    done = publish("meta-llama/Llama-2-7b-chat-hf", weights, tmp_path / "out", licence="cc-by-4.0")
    assert set(done.files) == {"README.md", "patch.json", "patch.safetensors", "edit.json", "facts.jsonl"}
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "meta-llama/Llama-2-7b-chat-hf" and card.data.license == "cc-by-4.0"
    assert {"knowledge-editing", "ft-m"} <= set(card.data.tags)
    text = card.content
    assert "3 facts" in text and "the method FT-M" in text and r"Subjects: Ada \[1\], Zoë." in text
    assert "may be false" in text and "How to tell" in text
    assert isinstance(load_patch(tmp_path / "out"), WeightPatch)


@pytest.mark.parametrize("merged", [False, True])
def test_no_path_of_this_machine_is_in_what_is_exported(
    lm: LM, weights: Path, tmp_path: Path, merged: bool
) -> None:
    local = tmp_path / "private" / "my-model"
    lm.model.save_pretrained(local)
    lm.tokenizer.save_pretrained(local)
    done = (merge if merged else publish)(str(local), weights, tmp_path / "out")
    for name in done.files:
        content = (tmp_path / "out" / name).read_bytes()
        assert (
            b"private" not in content
            and str(weights).encode() not in content
            and str(tmp_path).encode() not in content
        ), name
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None and "my-model" in card.content


def test_a_card_names_a_sample_of_many_subjects(blocks: Path, tmp_path: Path) -> None:
    publish("micro-llama", blocks, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"Person {SAMPLE - 1} and 3 more." in text and f"Person {SAMPLE}" not in text


def test_a_card_without_anything_known() -> None:
    text = Card("", False, "", 0, ()).text()
    assert (
        "Facts of a language model were changed." in text and "Subjects" not in text and "Scores" not in text
    )


def test_a_folder_with_something_in_it_is_left_alone(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        publish("micro-llama", weights, tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]


def test_an_interrupted_export_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.export._card", stop)
    with pytest.raises(KeyboardInterrupt):
        publish("micro-llama", weights, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[" * 100_000], ids=["cut", "deep"])
def test_a_damaged_record_is_named(weights: Path, tmp_path: Path, content: str) -> None:
    load_patch(weights).save(tmp_path / "patch")
    (tmp_path / "patch" / "edit.json").write_text(content)
    with pytest.raises(UserError, match=r"edit\.json"):
        publish("micro-llama", tmp_path / "patch", tmp_path / "out")


def test_the_command(weights: Path, blocks: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["export", "--model", "micro-llama", *map(str, arguments)])
        return done.exit_code, done.output

    code, said = run("--patch", weights, "--out", tmp_path / "a", "--merge")
    assert code == 0 and "model.safetensors" in said
    code, said = run("--patch", blocks, "--out", tmp_path / "b", "--merge")
    assert code == 2 and "cannot be folded" in said
    code, said = run("--patch", blocks, "--out", tmp_path / "b", "--dtype", "float16")
    assert code == 2 and "--merge" in said
    code, said = run("--patch", tmp_path / "nothing", "--out", tmp_path / "b")
    assert code == 2 and "does not exist" in said
    assert isinstance(load_patch(weights), Patch)
