"""The made world: deterministic, sized as said, and nothing of the evaluation in the training text."""

import re

import pytest

from lks.data.synthetic_world import (
    NEAR_NAMES,
    RELATIONS,
    TASKS,
    ability_items,
    cases,
    sentences,
    world,
)
from lks.errors import UserError


def test_a_seed_determines_the_world():
    assert world.__wrapped__(3, 60) == world.__wrapped__(3, 60)
    assert world(3, 60) != world(4, 60)


def test_sizes():
    made = world()
    assert len(made.people) == 1000
    assert len(RELATIONS) >= 7
    for relation in RELATIONS:
        assert 20 <= len(set(relation.values)) == len(relation.values) <= 40
        assert any(" " in value for value in relation.values)
        assert len(set(relation.trained)) >= 6
        assert len(set(relation.held_out)) >= 2
        assert not set(relation.trained) & set(relation.held_out)
        assert all(text.count("{}") == 1 for text in relation.trained + relation.held_out)


def test_names_and_aliases_are_unique():
    everything = [name for person in world().people for name in (person.name, *person.aliases)]
    assert len(everything) == len(set(everything))
    assert sum(bool(person.aliases) for person in world().people) > 100
    assert {name for pair in NEAR_NAMES for name in pair} <= set(everything)


def test_every_value_is_dealt_about_equally_often():
    for relation in RELATIONS:
        held = [person.values[relation.name] for person in world().people]
        counts = [held.count(value) for value in relation.values]
        assert max(counts) - min(counts) <= 15


def test_phrasings_of_a_person_are_unambiguous():
    asked = [text for relation in RELATIONS for text in relation.trained + relation.held_out]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("seed", [0, 1])
def test_cases_are_complete(seed):
    made = cases(seed)
    assert len(made) >= 1000
    assert len({case.case_id for case in made}) == len(made)
    assert len({case.edit.subject for case in made[:1000]}) == 1000
    for case in made:
        edit = case.edit
        assert edit.target != edit.ground_truth
        kinds = [probe.kind for probe in case.probes]
        assert kinds == ["edit", "paraphrase", "paraphrase", "locality", "locality"]
        for prompt in (
            edit.prompt,
            *edit.training_paraphrases,
            *edit.training_locality,
            *(probe.prompt for probe in case.probes),
        ):
            assert edit.subject in prompt
            assert prompt == prompt.strip()


def test_cases_differ_with_the_seed():
    assert cases(0) != cases(1)
    assert cases.__wrapped__(0) == cases(0)


def test_no_evaluation_prompt_is_trained_on():
    made = cases()
    evaluated = {probe.prompt for case in made for probe in case.probes if probe.kind != "edit"}
    for case in made:
        assert not evaluated & {
            case.edit.prompt,
            *case.edit.training_paraphrases,
            *case.edit.training_locality,
        }
    names = [person.name for person in world().people]
    trained = {phrasing.format(name) for name in names for one in RELATIONS for phrasing in one.trained}
    held_out = {phrasing.format(name) for name in names for one in RELATIONS for phrasing in one.held_out}
    assert not evaluated & trained and evaluated <= held_out


def test_the_truth_of_a_case_is_the_world():
    values = {person.name: person.values for person in world().people}
    options = {relation.name: relation.values for relation in RELATIONS}
    for case in cases()[:200]:
        facts = values[case.edit.subject]
        relation = next(name for name, value in facts.items() if value == case.edit.ground_truth)
        assert case.edit.target in options[relation]
        assert all(probe.answer in facts.values() for probe in case.probes if probe.kind == "locality")


@pytest.mark.parametrize("task", TASKS)
def test_held_out_ability_items_are_disjoint(task):
    train, test = ability_items(task, "train"), ability_items(task, "test")
    assert len(test) >= 100
    assert not {item.prompt for item in train} & {item.prompt for item in test}
    for item in (*train[:300], *test):
        assert item.answer in item.choices
        assert " " not in item.answer
    most = max(sum(item.answer == choice for item in test) for choice in test[0].choices)
    assert most < 0.65 * len(test)


def test_ability_answers_are_right():
    for item in ability_items("arithmetic", "test"):
        first, second = (int(number) for number in re.findall(r"\d+", item.prompt))
        assert int(item.answer) == (first + second if "finds" in item.prompt else first - second)


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="arithmetic"):
        ability_items("arithmetics", "test")  # type: ignore[arg-type]


def test_sentences_are_about_nobody():
    text = " ".join(sentences(200))
    assert sentences(5) == sentences(5)
    assert sentences(5, seed=1) != sentences(5)
    assert not any(person.name in text for person in world().people)


def test_impossible_worlds_are_refused():
    with pytest.raises(UserError, match="people"):
        world(0, 0)
