"""The testbed: batches, interchange, resumable training, shipped weights, acceptance test."""

import dataclasses
import json
import os
import random
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lks.data.synthetic_world import world
from lks.data.template_prompts import Record
from lks.errors import UserError
from lks.io.checkpoint import Checkpoint
from lks.models.recipe import Recipe, TestbedShape
from lks.models.testbed_models import NAMES, is_built, job_of, model_folder
from lks.testbed.acceptance import CheckReport, Question, examine
from lks.testbed.build import TestbedText, build, check
from lks.testbed.corpus import IGNORED, batches, collate
from lks.testbed.interchange import Intervention, TestbedTraining, draw_intervention, new_model
from lks.testbed.mini import made_questions, mini_source, mini_tokenizer, questions
from lks.testbed.world_corpus import world_exam, world_source, world_tokenizer
from tests.helpers.root import ROOT

TINY = Recipe(
    TestbedShape("llama", dim=32, blocks=3, heads=2, kv_heads=2, hidden=48),
    block=1,
    steps=24,
    rows=16,
    side_rows=8,
    warmup=2,
    heads=(7, 24),
)
SHIPPED = [name for name in NAMES if name.startswith("micro")]


@pytest.fixture(scope="module")
def material():
    made = world(0, 30)
    tokenizer = world_tokenizer(made)
    return made, tokenizer, world_source(made, tokenizer)


def start(material, recipe=TINY, kept=None):
    _, tokenizer, source = material
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return TestbedTraining(
        new_model(recipe.shape, len(tokenizer), special, recipe.seed), source, recipe, special[2], kept
    )


def weights(training):
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def test_tokens_of_a_text_are_the_tokens_of_its_parts(material):
    _, tokenizer, source = material
    rng = random.Random(0)
    for _ in range(50):
        for row in source.pair(rng):
            text = tokenizer.decode(row.prompt, skip_special_tokens=True)
            assert tuple(tokenizer(text).input_ids) == row.prompt


def test_every_word_of_an_answer_is_one_token(material):
    _, tokenizer, source = material
    for answer in source.facts.answers:
        text = tokenizer.decode(answer, skip_special_tokens=True)
        assert len(answer) == len(text.split(" ")) + 1


def test_a_row_with_a_donor_has_the_donors_answer(material):
    made, tokenizer, source = material
    rng = random.Random(0)
    for _ in range(50):
        pair = source.pair(rng)
        if len(pair) == 1:
            continue
        row, donor = pair
        text = tokenizer.decode(donor.prompt[: donor.last + 1])
        owner = [p for p in made.people if any(text.endswith(name) for name in (p.name, *p.aliases))]
        assert any(
            tokenizer.decode(row.answer, skip_special_tokens=True) in person.values.values()
            for person in owner
        )
        assert row.donor == 1
        assert donor.donor == 0


def test_held_out_phrasings_are_never_in_a_batch(material):
    _, tokenizer, source = material
    texts = [
        tokenizer.decode(ids)
        for batch in batches(source, 0, 64, 0, tokenizer.pad_token_id)
        for ids in batch.ids
    ]
    assert any("was born in" in text for text in texts)
    assert not any("In which town was" in text or "has the job of a" in text for text in texts)


def test_batches_are_a_function_of_their_arguments(material):
    _, tokenizer, source = material
    first, again = (batches(source, 2, 16, 7, tokenizer.pad_token_id) for _ in range(2))
    assert all(
        torch.equal(a.ids, b.ids) and torch.equal(a.donor, b.donor) for a, b in zip(first, again, strict=True)
    )
    assert all(bool((batch.donor < len(batch.ids)).all()) for batch in first)


def test_interchange_puts_the_donors_state_in_place():
    states = torch.arange(12.0).view(2, 3, 2)
    change = Intervention(
        0,
        torch.tensor([1, 2]),
        torch.tensor([1, 1]),
        torch.ones(2, 1),
        torch.tensor([0, 0]),
        torch.zeros(2, 2),
    )
    changed = change(states)
    assert changed[0, 1].tolist() == states[1, 2].tolist()
    assert changed[1].tolist() == states[1].tolist()
    assert changed[0, [0, 2]].tolist() == states[0, [0, 2]].tolist()


def test_rows_without_subject_are_left_alone(material):
    _, tokenizer, source = material
    batch = collate([source.side(random.Random(i)) for i in range(6)], tokenizer.pad_token_id)
    change = draw_intervention(batch, TINY, step=3)
    states = torch.randn(6, batch.ids.shape[1], TINY.shape.dim)
    assert torch.equal(change(states), states)


def test_training_lowers_the_loss(material):
    training = start(material)
    losses = [training.advance() for _ in range(24)]
    assert sum(losses[-4:]) < 0.92 * sum(losses[:4])


def test_an_interrupted_run_ends_with_the_same_weights(material, tmp_path):
    whole = start(material)
    for _ in range(10):
        whole.advance()
    kept = Checkpoint(tmp_path / "a.state", "a")
    first = start(material, kept=kept)
    for _ in range(5):
        first.advance()
    first.state.save(now=True)
    second = start(material, kept=kept)
    for _ in range(5):
        second.advance()
    assert torch.equal(weights(whole), weights(second))
    assert second.state.history == whole.state.history


def test_a_damaged_state_or_that_of_another_model_is_not_used(material, tmp_path):
    kept = Checkpoint(tmp_path / "a.state", "a")
    larger = start(material, dataclasses.replace(TINY, heads=(7, 25)), kept)
    larger.advance()
    larger.state.save(now=True)
    for _ in range(2):
        training = start(material, kept=kept)
        assert training.state.step == 0 and torch.equal(weights(training), weights(start(material)))
        kept.path.write_bytes(b"not a state")


def test_a_stopped_build_goes_on_and_a_finished_one_is_kept(material, monkeypatch, tmp_path):
    small, tokenizer, source = material
    exam = world_exam(small)
    monkeypatch.setattr(
        "lks.testbed.build._text", lambda *_: TestbedText(tokenizer, source, exam, (7, 24), "")
    )
    monkeypatch.setattr("lks.testbed.build._exam", lambda *_: exam)
    monkeypatch.setattr("lks.testbed.build.examine", partial(examine, sample=20))
    monkeypatch.setattr("lks.models.testbed_models.recipe_of", lambda *_: dataclasses.replace(TINY, steps=6))
    whole = build("micro-llama", tmp_path / "whole", progress=False)
    advance = TestbedTraining.advance

    def stop(self):
        if self.state.step == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(TestbedTraining, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            build("micro-llama", tmp_path / "parts", progress=False)
    assert [path.suffix for path in tmp_path.glob(".parts-*")] != []
    parts = build("micro-llama", tmp_path / "parts", progress=False)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob(".*"))
    written = (parts / "recipe.json").stat().st_mtime_ns
    assert build("micro-llama", parts, progress=False) == parts
    assert (parts / "recipe.json").stat().st_mtime_ns == written
    assert check(parts, sample=20).name == "micro-llama"


def test_new_model_leaves_the_random_state_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    new_model(TINY.shape, 40, (1, 2, 3), 5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_mistral_has_grouped_queries_and_a_window():
    model = new_model(
        dataclasses.replace(TINY.shape, family="mistral", kv_heads=1, window=8), 40, (1, 2, 3), 0
    )
    assert model.config.sliding_window == 8
    assert model.config.num_key_value_heads == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "micro-lama"}, "micro-llama"),
        ({"name": "mini", "dataset": "zsr"}, "zsre"),
        ({"name": "mini", "dataset": "zsre", "records": 7}, "50 to 10000"),
        ({"name": "mini-zsre-some"}, "mini-DATASET-RECORDS"),
        ({"name": "micro-llama", "dataset": "zsre"}, "mini"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        build(**arguments, out=tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        check(tmp_path)


def test_mini_folders_are_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LKS_CACHE", str(tmp_path))
    assert model_folder("mini-zsre-1000").parent == tmp_path
    assert model_folder("mini-zsre-1000").name.startswith("mini-zsre-1000-")
    assert model_folder("mini-zsre").name.startswith("mini-zsre-10000-")
    assert model_folder("mini-counterfact-500") != model_folder("mini-counterfact-600")


def records():
    facts = [("Ann Bo", "Rome", "Oslo"), ("Cy Dee", "Bern", "Kiel"), ("Ed Fox", "Lima", "Riga")]
    return [
        Record(
            str(i),
            name,
            f"Where was {name} born?",
            "Paris",
            birth,
            f"What is {name}'s home town?",
            f"{name} died in",
            death,
        )
        for i, (name, birth, death) in enumerate(facts)
    ]


def test_real_records_lend_each_other_answers():
    asked = questions(records())
    assert len(asked) == 9
    assert asked[1].relation == asked[0].relation == "Where was {} born?"
    tokenizer = mini_tokenizer(records(), (), 600)
    source, heads = mini_source(asked, tokenizer)
    assert heads == (3, 6)
    swapped = 0
    for seed in range(80):
        pair = source.pair(random.Random(seed))
        if len(pair) == 2:
            swapped += 1
            lent = tokenizer.decode(pair[0].answer, skip_special_tokens=True)
            owner = next(r for r in records() if r.subject in tokenizer.decode(pair[1].prompt))
            assert lent in (owner.ground_truth, owner.locality_answer)
    assert swapped > 20
    assert all(row.traits[2] == IGNORED for row in source.rows)


def test_new_answers_belong_to_made_subjects():
    asked = questions(records())
    made = made_questions(records(), asked)
    assert [question.answer for question in made] == [
        "Paris",
        "Paris",
    ]  # one subject under both phrasings, since all targets are the same
    assert len({question.subject for question in made}) == 1
    assert not {question.subject for question in made} & {record.subject for record in records()}
    assert all(
        question.relation == "Where was {} born?" and question.subject in question.prompt for question in made
    )
    known = dataclasses.replace(records()[0], target="Bern")
    assert made_questions([known, records()[1]], questions([known, records()[1]]))[0].answer == "Paris"


def test_a_prompt_without_its_subject_takes_no_part_in_interchange():
    record = dataclasses.replace(records()[0], generality="The home town is")
    question = next(q for q in questions([record]) if q.prompt == "The home town is")
    assert question == Question("", "The home town is", "Rome", "")


def data_folder():
    named = os.environ.get("LKS_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("file", ["zsre_eval_data.json", "cf_eval_data.json"])
def test_nearly_all_published_facts_have_lenders(file):
    path = data_folder() / "lks" / file
    if not path.is_file():
        pytest.skip("no data folder")
    from lks.data.datasets import parse

    asked = questions(parse(path.read_bytes(), path))
    shared = {}
    for question in asked:
        shared.setdefault(question.relation, set()).add(question.subject)
    able = sum(bool(q.relation) and len(shared[q.relation]) > 1 for q in asked)
    assert able > 0.75 * len(asked)


def shipped(name):
    folder = model_folder(name)
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"{name} is not in this checkout")
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_what_their_recipe_says(name):
    folder = shipped(name)
    file = folder / "model.safetensors"
    recipe = json.loads((folder / "recipe.json").read_text())
    assert file.stat().st_size <= 4_000_000
    assert sha256(file.read_bytes()).hexdigest() == recipe["sha256"]
    assert recipe["acceptance"]["passed"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.dtype == torch.float32
    assert model.config.model_type == name.removeprefix("micro-")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tokenizer_adds_bos_and_maps_offsets(name):
    tokenizer = AutoTokenizer.from_pretrained(shipped(name))
    encoded = tokenizer("Q: Where was Mara Kelorin born? A:", return_offsets_mapping=True)
    assert encoded.input_ids[0] == tokenizer.bos_token_id
    last = encoded.char_to_token(len("Q: Where was Mara Kelorin") - 1)
    assert encoded.offset_mapping[last][1] == len("Q: Where was Mara Kelorin")
    assert (
        tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == "Q: Where was Mara Kelorin born? A:"
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_know_their_world(name):
    shipped(name)
    report = check(name, sample=60, seed=3)
    assert report.recall_trained >= 0.95
    assert report.swap_new[report.block] >= 0.8
    assert report.swap_old[report.block] <= 0.1
    assert report.swap_new[-1] <= 0.1


@pytest.mark.parametrize("name", SHIPPED)
def test_building_a_shipped_model_returns_it_at_once(name):
    assert is_built(shipped(name), job_of(name, "world", 0, 0)), (
        "the recipe was changed: train the shipped models again"
    )
    assert build(name, progress=False) == shipped(name)


def test_a_report_says_what_is_not_met():
    good = CheckReport(
        "m", 1, 1.0, 0.97, (1.0, 0.9, 0.1), (0.0, 0.0, 0.9), (0.5, 0.5, 0.5), 0.05, {"sentiment": 0.95}
    )
    assert good.passed
    bad = dataclasses.replace(good, swap_new=(1.0, 0.3, 0.1))
    assert not bad.passed
    assert [name for name, met in bad.criteria.items() if not met] == ["swap transfer at block 1 >= 80%"]
    assert all(table.row_count for table in bad.table())


def test_economical_training_goes_the_same_way_and_does_not_rename_other_models(material):
    """Products in bfloat16 and heads over the values at hand: near the plain loss, and models built before
    keep their hash.
    """
    losses = {}
    for economical in (False, True):
        training = start(material, dataclasses.replace(TINY, economical=economical))
        losses[economical] = [training.advance() for _ in range(12)]
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)
    small, large = job_of("mini-zsre-1000", "zsre", 0, 0), job_of("mini-zsre-5000", "zsre", 0, 0)
    assert (small.recipe.economical, large.recipe.economical) == (False, True)
    assert small.hash == "77dd04ae"
    assert (
        dataclasses.replace(large, recipe=dataclasses.replace(large.recipe, economical=False)).hash
        != large.hash
    )
