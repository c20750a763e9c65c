"""A patch put on to stay: every way of generating says what a plain loop without a cache says, and all comes
off again.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, TextIteratorStreamer, pipeline

import lks
from lks.data.synthetic_world import world
from lks.editing.patch import Patch, WeightPatch
from lks.errors import UserError
from lks.method.replacer import KnowledgeBlockPatch
from lks.models.frozen_prefix import states
from lks.models.lm import LM
from lks.models.prefill import Pass, track_prefill
from tests.helpers import tiny

NEW = 6
PEOPLE = [person.name for person in world().people[:4]]
PROMPTS = [
    f"{PEOPLE[0]}'s pet is a",
    f"We all know that the birthplace of {PEOPLE[1]} is",
    f"{PEOPLE[2]} works as a",
    "The",
]


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama")


def knowledge_blocks(lm: LM) -> Patch:
    """Two people get the states of two others: what the hypernetwork makes, without training one."""
    encoded = lm.encode([f"{name} was born in" for name in PEOPLE], [""] * 4, PEOPLE)
    cached = states(lm, 2, [e.ids for e in encoded])
    ends = torch.tensor([e.subject[1] for e in encoded if e.subject])
    donors = cached.at(torch.arange(4), ends)[2:]
    return KnowledgeBlockPatch([[PEOPLE[0]], [PEOPLE[1]]], 1.5 * donors[None], (2,), "last", "exact")


def weights(lm: LM) -> Patch:
    name = lm.parameter_name(lm.mlp_output(2))
    shape = dict(lm.model.named_parameters())[name].shape
    made = torch.Generator().manual_seed(0)
    return WeightPatch(
        {
            f"{name}.left": 0.6 * torch.randn(shape[0], 2, generator=made),
            f"{name}.right": torch.randn(2, shape[1], generator=made),
        }
    )


@pytest.fixture(scope="module", params=[knowledge_blocks, weights], ids=["blocks", "weights"])
def patch(request: pytest.FixtureRequest, lm: LM) -> Patch:
    made: Callable[[LM], Patch] = request.param
    return made(lm)


@pytest.fixture
def edited(lm: LM, patch: Patch) -> Iterator[PreTrainedModel]:
    with lks.patched(lm.model, lm.tokenizer, patch) as model:
        yield model


@pytest.fixture(scope="module")
def expected(lm: LM, patch: Patch) -> list[list[int]]:
    """New tokens of each prompt alone, from a plain loop."""
    with patch.applied(lm):
        return [
            plain_loop(lm.model, row, row.shape[1])
            for row in (lm.pad([e.ids])[0] for e in lm.encode(PROMPTS, [""] * len(PROMPTS)))
        ]


@torch.no_grad()
def plain_loop(model: PreTrainedModel, ids: torch.Tensor, width: int) -> list[int]:
    """Greedy, each token by a pass over the whole text."""
    for _ in range(NEW):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0, width:].tolist()


def batch(lm: LM) -> dict[str, torch.Tensor]:
    ids, mask = lm.pad([e.ids for e in lm.encode(PROMPTS, [""] * len(PROMPTS))], "left")
    return {"input_ids": ids, "attention_mask": mask}


GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None}


def test_the_patches_change_answers(lm: LM, expected: list[list[int]]) -> None:
    plain = [
        plain_loop(lm.model, row, row.shape[1])
        for row in (lm.pad([e.ids])[0] for e in lm.encode(PROMPTS, [""] * len(PROMPTS)))
    ]
    assert [a != b for a, b in zip(plain, expected, strict=True)][:2] == [True, True]


@pytest.mark.parametrize("cache", [None, "dynamic", "static", "offloaded", "offloaded_static"])
def test_a_padded_batch_with_every_kind_of_cache(
    lm: LM, edited: PreTrainedModel, expected: list[list[int]], cache: str | None
) -> None:
    given = batch(lm)
    if cache and "offloaded" in cache and not torch.cuda.is_available():
        pytest.skip("offloading needs a GPU")
    kind = {"use_cache": False} if cache is None else {"cache_implementation": cache}
    for _ in range(2):  # a cache of fixed size is known from the first time
        made = edited.generate(**given, **GREEDY, **kind)
        assert made[:, given["input_ids"].shape[1] :].tolist() == expected


@torch.no_grad()
def score(model: PreTrainedModel, ids: torch.Tensor, width: int) -> float:
    """Log p of what follows the prompt, from one pass over the prompt and one step per token on its cache."""
    out = model(input_ids=ids[:, :width], use_cache=True)
    total = 0.0
    for at in range(width, ids.shape[1]):
        total += float(out.logits[0, -1].log_softmax(-1)[ids[0, at]])
        out = model(input_ids=ids[:, at : at + 1], past_key_values=out.past_key_values, use_cache=True)
    return total


@pytest.mark.parametrize(
    "kind",
    [{"use_cache": True}, {"use_cache": False}, {"cache_implementation": "static"}],
    ids=["cache", "no cache", "static"],
)
def test_beams(lm: LM, edited: PreTrainedModel, kind: dict[str, object]) -> None:
    """Each beam's score is the log p that its tokens have one after the other; all kinds of cache agree."""
    given = batch(lm)
    width = given["input_ids"].shape[1]
    how = {
        **GREEDY,
        "num_beams": 3,
        "num_return_sequences": 3,
        "output_scores": True,
        "return_dict_in_generate": True,
        "length_penalty": 0.0,
    }
    made = edited.generate(**given, **how, **kind)
    for number, sequence in enumerate(made.sequences):
        mask = given["attention_mask"][number // 3].bool()
        row = torch.cat([given["input_ids"][number // 3][mask], sequence[width:]])[None]
        assert score(edited, row, int(mask.sum())) == pytest.approx(
            float(made.sequences_scores[number]), abs=1e-3
        )


def test_beams_without_a_cache_keep_the_decision_of_the_prompt(lm: LM, edited: PreTrainedModel) -> None:
    given = batch(lm)
    how = {**GREEDY, "num_beams": 4, "num_return_sequences": 2}
    assert torch.equal(edited.generate(**given, **how), edited.generate(**given, **how, use_cache=False))


def test_sampling_agrees_with_and_without_a_cache_and_returns_several(
    lm: LM, edited: PreTrainedModel
) -> None:
    given, made = batch(lm), []
    for kind in ({"use_cache": True}, {"use_cache": False}, {"cache_implementation": "static"}):
        torch.manual_seed(0)
        made.append(
            edited.generate(
                **given, **{**GREEDY, "do_sample": True, "top_k": 5}, num_return_sequences=3, **kind
            )
        )
    assert len(made[0]) == 3 * len(PROMPTS)
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_assisted_generation(lm: LM, edited: PreTrainedModel, expected: list[list[int]]) -> None:
    """The candidates that the first pass holds behind the prompt are no part of it."""
    helper = tiny.lm("llama")  # of another vocabulary: guesses badly
    helper.model.resize_token_embeddings(len(lm.tokenizer))
    for prompt, tokens in zip(PROMPTS, expected, strict=True):
        ids, mask = lm.pad([lm.encode([prompt], [""])[0].ids])
        for how in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": helper.model}):
            made = edited.generate(input_ids=ids, attention_mask=mask, **GREEDY, **how)
            assert made[0, ids.shape[1] :].tolist()[:NEW] == tokens


def test_candidates_of_assisted_generation_are_no_prompt(lm: LM) -> None:
    """The first pass holds guessed tokens behind the prompt; what is decided is decided on the prompt alone."""
    prompt, name = (
        lm.encode([text], [""])[0].ids for text in ("The birthplace of", f"The birthplace of {PEOPLE[0]}")
    )
    given = torch.tensor(
        [name + prompt]
    )  # what stands behind the first words before, a name, is proposed again
    with lks.patched(lm.model, lm.tokenizer, knowledge_blocks(lm)) as edited, track_prefill(lm) as prefills:
        seen: list[Pass | None] = []
        handle = lm.block(0).register_forward_hook(lambda *_: seen.append(prefills.now))
        made = edited.generate(
            input_ids=given, attention_mask=torch.ones_like(given), **GREEDY, prompt_lookup_num_tokens=3
        )
        handle.remove()
        assert made[0, given.shape[1] :].tolist()[:NEW] == plain_loop(edited, given, given.shape[1])
    first = seen[0]
    assert first is not None and first.is_prefill and first.ids.shape[1] > given.shape[1]
    assert first.prompt[0].tolist() == [column < given.shape[1] for column in range(first.ids.shape[1])]


def test_beams_that_change_places_are_the_same_prompt(lm: LM) -> None:
    given = batch(lm)
    with track_prefill(lm) as prefills:
        seen: list[Pass | None] = []
        handle = lm.block(0).register_forward_hook(lambda *_: seen.append(prefills.now))
        lm.model.generate(**given, **GREEDY, num_beams=4, use_cache=False)
        handle.remove()
    rows = [p.ids for p in seen if p is not None]
    assert any(not torch.equal(before, after[:, :-1]) for before, after in pairwise(rows))  # they did
    assert [p.is_prefill for p in seen if p is not None] == [True] + [False] * (NEW - 1)


def test_streaming(lm: LM, edited: PreTrainedModel, expected: list[list[int]]) -> None:
    for prompt, tokens in zip(PROMPTS, expected, strict=True):
        ids, mask = lm.pad([lm.encode([prompt], [""])[0].ids])
        streamer = TextIteratorStreamer(lm.tokenizer, skip_prompt=True, timeout=30.0)
        thread = Thread(
            target=edited.generate,
            kwargs={"input_ids": ids, "attention_mask": mask, "streamer": streamer, **GREEDY},
        )
        thread.start()
        text = "".join(streamer)
        thread.join(timeout=30.0)
        assert text == lm.tokenizer.decode(tokens)


def test_a_pipeline(
    lm: LM, edited: PreTrainedModel, expected: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    generate = pipeline("text-generation", model=edited, tokenizer=lm.tokenizer, batch_size=2)
    answers = generate(PROMPTS, return_full_text=False, **GREEDY)
    assert [a[0]["generated_text"] for a in answers] == [
        lm.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected
    ]
    assert "not supported" not in caplog.text


def test_lm_eval(lm: LM, patch: Patch) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    asked = [Instance("loglikelihood", {}, (prompt, " cat"), 0) for prompt in PROMPTS]
    with lks.patched(lm.model, lm.tokenizer, patch) as edited:
        assert isinstance(edited, PreTrainedModel)
        found = HFLM(pretrained=edited, tokenizer=lm.tokenizer, batch_size=1).loglikelihood(
            asked, disable_tqdm=True
        )
    for (value, _), prompt in zip(found, PROMPTS, strict=True):
        whole = lm.encode([prompt], ["cat"])[0]
        ids = torch.tensor([whole.ids])
        with torch.no_grad(), patch.applied(lm):
            logits = lm.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        expected = sum(
            float(logits[at - 1, token]) for at, token in enumerate(whole.ids) if at >= whole.n_prompt
        )
        assert value == pytest.approx(expected, abs=1e-3)


def test_a_second_piece_of_prompt_on_a_cache_is_a_step(lm: LM) -> None:
    """As documented: what was decided for the first piece holds, and a subject named in the second is not
    found.
    """
    first, second = (
        lm.encode(["The"], [""])[0].ids,
        lm.encode(["The"], [f"birthplace of {PEOPLE[0]} is"])[0].answer,
    )

    def chatted() -> torch.Tensor:
        with torch.no_grad():
            cache = lm.model(input_ids=torch.tensor([first]), use_cache=True).past_key_values
            return lm.model(input_ids=torch.tensor([second]), past_key_values=cache, use_cache=True).logits

    plain = chatted()
    with lks.patched(lm.model, lm.tokenizer, knowledge_blocks(lm)):
        assert torch.equal(chatted(), plain)


def test_all_comes_off(lm: LM, patch: Patch) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder(lm))
    kind, before = type(model), {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    prompt = batch(lm)
    with torch.no_grad():
        model.train(False)
        plain = model(**prompt).logits
        model.train()
    edited = lks.patched(model, lm.tokenizer, patch)
    assert edited is model and type(model).__name__ == kind.__name__ and isinstance(model, kind)
    with pytest.raises(UserError, match="already has a patch"):
        lks.patched(model, lm.tokenizer, patch)
    assert edited.unpatch() is model
    assert type(model) is kind and not hasattr(model, "unpatch") and not hasattr(model, "_patch")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters()) and all(part.training for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    with torch.no_grad():
        model.train(False)
        assert torch.equal(model(**prompt).logits, plain)


def test_a_patch_that_does_not_fit_leaves_the_model_as_it_was(lm: LM) -> None:
    kind = type(lm.model)
    with pytest.raises(UserError, match="Edit again"):
        lks.patched(lm.model, lm.tokenizer, WeightPatch({"nothing.weight": torch.zeros(1)}))
    assert type(lm.model) is kind


def test_what_would_hide_a_part_of_the_prompt_is_refused(lm: LM, edited: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="prefill_chunk_size"):
        edited.generate(**batch(lm), **GREEDY, prefill_chunk_size=2)


def model_folder(lm: LM) -> Path:
    return Path(lks.__file__).parent / "models" / "weights" / lm.name


def test_the_lines_of_the_docstring(lm: LM, tmp_path: Path) -> None:
    """The lines that `import lks` documents, as a user runs them."""
    knowledge_blocks(lm).save(tmp_path / "patch")
    doc = lks.__doc__ or ""
    code = "\n".join(line.removeprefix("    ") for line in doc.splitlines() if line.startswith("    "))
    code = (
        code.replace("path or hub id", "micro-llama")
        .replace("patch/", str(tmp_path / "patch"))
        .replace("Alan Turing was born in", PROMPTS[0])
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert PROMPTS[0] in ran.stdout


def test_a_folder_as_a_path_or_a_text(lm: LM, tmp_path: Path, patch: Patch) -> None:
    patch.save(tmp_path)
    for folder in (tmp_path, str(tmp_path)):
        tokenizer = AutoTokenizer.from_pretrained(model_folder(lm))
        with lks.patched(lm.model, tokenizer, folder) as edited, torch.no_grad():
            got = edited(**batch(lm)).logits
        with lks.load_patch(folder).applied(lm), torch.no_grad():
            assert torch.equal(lm.model(**batch(lm)).logits, got)


def test_importing_the_package_is_light() -> None:
    code = "import sys, lks; assert not {'torch', 'transformers'} & set(sys.modules); assert 'patched' in dir(lks); lks.nothing"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "has no attribute 'nothing'" in ran.stderr
