"""ICE and IKE: retrieval, the text put in front, and that the model really reads the longer sequence."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lks.editing.patch
from baselines._in_context.retrieval_patch import ANSWER_ROOM, FactsInFront, FactText, Lookup
from baselines._in_context.retrievers import BM25, Dense, Tfidf, retriever
from baselines.ice import ICE, INSTRUCTION, ICEParams
from baselines.ike import FORMS, IKE, IKEParams, demonstration
from lks.editing.context_patch import with_context
from lks.edits import make_case
from lks.errors import UserError
from lks.evaluation.readouts import ask
from tests.helpers import tiny

TEXTS = ["the cat sat", "the dog ran far", "a bird"]
EDITS = tiny.edits(4)
LOOKUP = Lookup("tfidf", "", 1, 0.0, "")


@pytest.mark.parametrize("kind", [Tfidf, BM25])
def test_the_nearest_text_comes_first_and_equals_keep_their_order(kind):
    made = kind()
    made.fit(TEXTS)
    indices, scores = made.search(["A BIRD?", "the dog", "nothing of it"], 2)
    assert indices.tolist() == [[2, 0], [1, 0], [0, 1]]
    assert scores.shape == (3, 2) and (np.diff(scores, axis=1) <= 0).all()
    assert scores[2].tolist() == [0.0, 0.0]
    assert made.search(["the dog"], 10)[0].shape == (1, 3)


def test_tfidf_by_hand():
    made = Tfidf()
    made.fit(["cat sat", "cat ran"])
    rare, common = math.log(3 / 2) + 1, math.log(3 / 3) + 1  # smoothed inverse document frequency
    _, scores = made.search(["cat sat", "sat"], 2)
    norm = math.hypot(rare, common)
    assert scores[0] == pytest.approx([1.0, common**2 / norm**2])
    assert scores[1] == pytest.approx([rare / norm, 0.0])


def test_bm25_by_hand():
    made = BM25(k1=1.5, b=0.75)
    made.fit(["sat sat cat", "cat"])
    _, scores = made.search(["sat sat"], 2)  # a word asked twice counts once
    expected = math.log(1 + 1.5 / 1.5) * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2))
    assert scores[0] == pytest.approx([expected, 0.0])


def test_queries_are_scored_in_pieces():
    made = Tfidf()
    made.fit([f"word{i}" for i in range(700)])
    indices, _ = made.search([f"word{i}" for i in range(700)], 1)
    assert indices[:, 0].tolist() == list(range(700))


def test_the_dense_retriever_asks_for_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        retriever("dense", "any")


def test_the_dense_retriever_ranks_by_cosine(monkeypatch: pytest.MonkeyPatch):
    class Module:
        class SentenceTransformer:
            def __init__(self, name: str, trust_remote_code: bool, model_kwargs: dict[str, bool]) -> None:
                assert name == "mine" and not trust_remote_code and model_kwargs == {"use_safetensors": True}

            def encode(self, texts, batch_size: int, normalize_embeddings: bool):
                assert normalize_embeddings
                angles = np.array([float(t) for t in texts])
                return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", Module)
    made = Dense("mine")
    made.fit(["0.0", "1.0", "2.0"])
    indices, scores = made.search(["1.2"], 2)
    assert indices.tolist() == [[1, 2]]
    assert scores[0] == pytest.approx([math.cos(0.2), math.cos(0.8)], abs=1e-6)


def test_ices_context_of_a_hand_made_example():
    lm = tiny.lm("gpt2")
    patch = ICE(ICEParams(instruction=INSTRUCTION)).edit(lm, EDITS)
    (got,) = patch.contexts(lm, ["Surely Tomas Verin was born in"])
    assert got == INSTRUCTION + "New Fact: The birthplace of Tomas Verin is Oslo\nPrompt: "


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_context_and_prompt_are_one_space_apart(family: str):
    """A SentencePiece prompt brings its own space; one of bytes does not."""
    lm = tiny.lm(family)
    (context,) = ICE(ICEParams()).edit(lm, EDITS[:1]).contexts(lm, [EDITS[0].prompt])
    (prompt,) = lm.encode([EDITS[0].prompt], [""])
    ids = with_context(lm, prompt.ids, context)
    assert str(lm.tokenizer.decode(ids)).endswith(f"\nPrompt: {EDITS[0].prompt}")
    assert ids[: lm.head(ids)] == prompt.ids[: lm.head(prompt.ids)] and len(lm.opening) == (family == "llama")


def test_several_facts_stand_with_the_nearest_last():
    lm = tiny.lm("gpt2")
    (got,) = ICE(ICEParams(facts=2)).edit(lm, EDITS).contexts(lm, ["Zoë Quist or else Ada, Mara"])
    assert (
        got
        == "New Fact: The birthplace of Mara Kelorin is Lisbon\nNew Fact: The birthplace of Zoë Quist is New Port\nPrompt: "
    )


def test_a_threshold_leaves_far_prompts_alone_and_none_does_not():
    lm = tiny.lm("llama")
    prompts = [EDITS[1].prompt, "Nobody lives here"]
    near, far = ICE(ICEParams(threshold=0.5)).edit(lm, EDITS).contexts(lm, prompts)
    assert "Tomas Verin is Oslo" in near and far == ""
    assert all(ICE(ICEParams()).edit(lm, EDITS).contexts(lm, prompts))


def test_demonstrations_of_a_hand_made_example():
    training = tiny.training(3)
    fact = "New Fact: The birthplace of Ira Velik is Lisbon\nPrompt: "
    assert demonstration(training, 0, "copy") == fact + "The birthplace of Ira Velik is Lisbon\n\n"
    assert demonstration(training, 0, "update") == fact + "Ira Velik was born in Lisbon\n\n"
    assert demonstration(training, 0, "retain") == fact + "The birthplace of Ira Brandt is Quito\n\n"
    again = [training[0], replace(training[1], subject="Ira Velik"), training[2]]
    assert demonstration(again, 0, "retain").endswith("Prompt: The birthplace of Oto Velik is Cairo\n\n")
    assert demonstration([replace(training[0], training_paraphrases=())], 0, "update") == demonstration(
        training, 0, "copy"
    )


def test_an_old_answer_that_is_not_known_is_not_demonstrated():
    first, second, third = tiny.training(3)
    retained = demonstration([first, replace(second, ground_truth=""), third], 0, "retain")
    assert retained.endswith(f"Prompt: {third.prompt} {third.ground_truth}\n\n")
    unknown = [replace(edit, ground_truth="") for edit in (first, second, third)]
    assert demonstration(unknown, 0, "retain") == demonstration(unknown, 0, "copy")


def test_forms_are_in_the_papers_proportions():
    assert [FORMS.count(form) for form in ("copy", "update", "retain")] == [1, 3, 4]


def ike(k: int) -> IKE:
    made = IKE(IKEParams(demonstrations=k))
    made.prepare(tiny.lm("gpt2"), tiny.training())
    return made


def test_ikes_demonstrations_are_those_nearest_to_the_fact_the_nearest_last():
    lm = tiny.lm("llama")
    lm.model.config.max_position_embeddings = 512
    first, second, third, *_ = tiny.training()
    training = [
        replace(
            first, subject="Lena Moss", prompt="Lena Moss works for", target="Cairo", ground_truth="Rome"
        ),
        replace(
            second,
            subject="Ada Quist",
            prompt="The birthplace of Ada Quist is",
            target="Oslo",
            training_paraphrases=("Born:",),
        ),
        replace(
            third,
            subject="Tomas Verin",
            prompt="The birthplace of Tomas Verin is",
            target="Quito",
            ground_truth="Lisbon",
        ),
    ]
    made = IKE(IKEParams(demonstrations=2))
    made.prepare(lm, training)
    (context,) = made.edit(lm, EDITS[1:2]).contexts(
        lm, [EDITS[1].prompt]
    )  # that Tomas Verin was born in Oslo
    assert context == (
        "New Fact: The birthplace of Ada Quist is Oslo\nPrompt: Born: Oslo\n\n"  # second nearest: update
        # nearest: retain
        "New Fact: The birthplace of Tomas Verin is Quito\nPrompt: Lena Moss works for Rome\n\n"
        "New Fact: The birthplace of Tomas Verin is Oslo\nPrompt: "
    )


def test_ike_without_training_edits_says_so():
    with pytest.raises(UserError, match="prepare"):
        IKE(IKEParams()).edit(tiny.lm("llama"), EDITS)
    with pytest.raises(UserError, match="larger dataset"):
        IKE(IKEParams()).prepare(tiny.lm("llama"), tiny.training(1))


def test_the_models_window_is_kept_and_the_nearest_demonstrations_with_it():
    lm = tiny.lm("llama")
    lm.model.config.max_position_embeddings = 250
    prompt = EDITS[0].prompt
    (context,) = ike(8).edit(lm, EDITS).contexts(lm, [prompt])
    (one,) = ike(1).edit(lm, EDITS).contexts(lm, [prompt])
    length = len(lm.tokenizer.encode(context + prompt, add_special_tokens=False))
    assert 250 - ANSWER_ROOM - 100 < length <= 250 - ANSWER_ROOM
    assert context.endswith(one) and context.count("New Fact") > one.count("New Fact") == 2


@pytest.mark.parametrize("family", tiny.MODELS)
def test_the_likelihood_of_a_target_is_that_of_the_longer_sequence(family: str):
    """What `ask` reports under the patch is what the plain model says when the whole text is fed to it."""
    lm = tiny.lm(family)
    cases = [make_case(e, (), ()) for e in EDITS]
    patch = ICE(ICEParams()).edit(lm, EDITS)
    with patch.applied(lm):
        got = [a.answer_logprob for a in ask(lm, cases)]
    assert got != pytest.approx([a.answer_logprob for a in ask(lm, cases)], abs=0.1)
    for edit, encoded, logprob in zip(
        EDITS, lm.encode([e.prompt for e in EDITS], [e.target for e in EDITS]), got, strict=True
    ):
        end = "Prompt:" if family in ("llama", "mistral") else "Prompt: "
        context = lm.tokenizer.encode(
            f"New Fact: {edit.prompt} {edit.target}\n{end}", add_special_tokens=False
        )
        head = 1 if encoded.ids[0] == lm.tokenizer.bos_token_id else 0
        ids = encoded.ids[:head] + context + encoded.ids[head:]
        with torch.no_grad():
            scores = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(context) + encoded.n_prompt
        assert logprob == pytest.approx(
            sum(float(scores[first - 1 + t, token]) for t, token in enumerate(encoded.answer)), abs=1e-2
        )


def test_a_patch_keeps_all_it_needs(tmp_path: Path):
    lm = tiny.lm("llama")
    patch = ike(4).edit(lm, EDITS)
    assert isinstance(patch, FactsInFront)
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert isinstance(again, FactsInFront) and again.settings() == patch.settings()
    prompts = [e.prompt for e in EDITS]
    assert again.contexts(lm, prompts) == patch.contexts(lm, prompts)
    assert (
        patch.nbytes
        == sum(len(t.encode()) for t in [*(f.text for f in patch.facts), *patch.demonstrations])
        > 0
    )


def test_an_empty_memory_has_nothing_to_say():
    assert FactsInFront([], [], LOOKUP).contexts(tiny.lm("llama"), ["a", "b"]) == ["", ""]
    assert FactText("p", "y").text == "New Fact: p y\n"


def test_the_growth_of_a_prompt_is_bounded_for_those_who_size_batches() -> None:
    lm = tiny.lm("llama")
    made = IKE(IKEParams(demonstrations=4))
    made.prepare(lm, tiny.training())
    patch = made.edit(lm, tiny.edits(2))
    longest = max(
        len(lm.tokenizer.encode(c, add_special_tokens=False))
        for c in patch.contexts(lm, [e.prompt for e in tiny.edits(2)])
    )
    assert 0 < longest <= patch.context_tokens(lm) + 8  # "Prompt:" is not counted
