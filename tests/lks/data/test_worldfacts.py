"""The shipped dataset of real facts: its size, its truth by its own tables, and that no case contradicts
itself or leaks.
"""

import re
from collections import Counter

import pytest

from lks.data.datasets import load
from lks.data.templates import normalised
from lks.data.worldfacts import LOCALITY, Entity, asked, bare, cases, independent, planned, tables
from lks.edits import Case
from lks.results.cells import Cell
from lks.runs.draws import draws

KNOWN = tables()
CASES = cases()
BY_SUBJECT = {case.edit.subject: case for case in CASES}
EVERYONE = list(KNOWN.everyone())
ENTITIES = {bare(entity.name): entity for entity in EVERYONE}
EDITED: dict[str, list[Case]] = {}
for _case in CASES:
    EDITED.setdefault(planned()[ENTITIES[_case.edit.subject].name][0], []).append(_case)


def named(text: str, name: str) -> bool:
    """Whether a text has a name in it as whole words."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def kind(case: Case, kind: str, stratum: str = "") -> list[str]:
    return [probe.prompt for probe in case.probes if probe.kind == kind and stratum in ("", probe.stratum)]


def test_it_is_a_dataset_of_hundreds_of_facts_in_many_relations() -> None:
    dataset = load("worldfacts")
    assert dataset.cases == CASES and dataset.notes == {} and dataset.revision == load("worldfacts").revision
    edited = {relation: len(own) for relation, own in EDITED.items()}
    assert sum(edited.values()) == len(CASES) >= 500
    assert len(edited) >= 15 and len(CASES) / len(edited) >= 25 and min(edited.values()) >= 10
    stated = Counter(relation for entity in EVERYONE for relation in entity.facts)
    assert (
        set(stated) == set(KNOWN.relations)
        and min(stated.values()) >= 20
        and sum(stated.values()) / len(stated) >= 50
    )


def test_every_subject_is_one_line_and_is_edited_once() -> None:
    names = [entity.name for entity in EVERYONE]
    assert len(set(map(normalised, names))) == len(names)
    assert (
        len(BY_SUBJECT)
        == len(CASES)
        == len({case.case_id for case in CASES})
        == len({case.edit.prompt for case in CASES})
    )
    aliases = [normalised(alias) for entity in EVERYONE for alias in entity.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not {alias.casefold() for entity in EVERYONE for alias in entity.aliases} & {
        name.casefold() for name in names
    }


@pytest.mark.parametrize("column", ["subject", "answers"])
def test_the_cells_of_the_tables_are_clean(column: str) -> None:
    for entity in EVERYONE:
        texts = (
            [entity.name, *entity.aliases]
            if column == "subject"
            else [name for true in entity.facts.values() for name in true]
        )
        for text in texts:
            assert text == " ".join(text.split()) and text and "|" not in text and "{" not in text, (
                entity.name,
                text,
            )
        for true in entity.facts.values() if column == "answers" else ():
            assert len({name.casefold() for name in true}) == len(true), (entity.name, true)


def test_the_same_answer_is_spelt_the_same_everywhere() -> None:
    """An answer that is a subject elsewhere is written as that subject; two answers of a relation never
    differ by case or article alone.
    """
    for name, relation in KNOWN.relations.items():
        answers = {entity.facts[name][0] for entity in EVERYONE if name in entity.facts}
        assert len({normalised(answer) for answer in answers}) == len(answers), name
        if relation.of:
            table = {normalised(subject): subject for subject in KNOWN.entities[relation.of]}
            assert all(table.get(normalised(answer), answer) == answer for answer in answers), name
    assert set(KNOWN.spellings) <= {
        name for entity in EVERYONE for true in entity.facts.values() for name in true
    }, "a spelling of nothing"


def test_templates_are_well_formed_and_in_distinct_words() -> None:
    every = []
    for name, relation in KNOWN.relations.items():
        prompts = (relation.edit, *relation.train, *relation.evaluate)
        assert all(
            prompt.count("{}") == 1 and prompt == " ".join(prompt.split())
            for prompt in (*prompts, relation.noun)
        ), name
        assert len(relation.train) >= 3 and len(relation.evaluate) >= 3, name
        assert any("?" in prompt for prompt in relation.evaluate) and any(
            "?" not in prompt for prompt in relation.evaluate
        ), name
        assert (name in EDITED) <= (relation.reverse.count("{}") == 1), name
        assert set(relation.implies) <= set(KNOWN.relations) and relation.of in ("", *KNOWN.entities)
        every += prompts
    assert len({normalised(prompt) for prompt in every}) == len(every)


def test_no_evaluation_prompt_is_trained_on() -> None:
    trained = {
        normalised(prompt)
        for case in CASES
        for prompt in (*case.edit.training_paraphrases, *case.edit.training_locality)
    }
    asked_about = {normalised(probe.prompt) for case in CASES for probe in case.probes}
    assert not trained & asked_about


@pytest.mark.parametrize("relation", EDITED)
def test_a_case_is_whole(relation: str) -> None:
    for case in EDITED[relation]:
        _check_whole(case)


def _check_whole(case: Case) -> None:
    edit, entity = case.edit, ENTITIES[case.edit.subject]
    relation, target = planned()[entity.name]
    assert (
        named(edit.prompt, edit.subject)
        and edit.target == target
        and edit.ground_truth == entity.facts[relation][0]
    )
    prompts = [
        *edit.training_paraphrases,
        *edit.training_locality,
        *kind(case, "paraphrase"),
        *kind(case, "locality"),
    ]
    assert all(named(prompt, edit.subject) and not prompt[0].islower() for prompt in prompts), prompts
    assert (
        len(kind(case, "paraphrase")) >= 3
        and len(edit.training_paraphrases) >= 3
        and len(kind(case, "locality")) >= LOCALITY
    )
    assert len(edit.training_locality) >= 3 * LOCALITY
    true = KNOWN.names(entity.facts[relation])
    accepted = {name for probe in case.probes if probe.answer == target for name in (target, *probe.accepted)}
    assert not {bare(name).casefold() for name in accepted} & true, "the target is true already"
    assert {probe.index for probe in case.probes if probe.kind == "portability"} == set(
        range(len(kind(case, "portability")))
    )
    assert all(
        not probe.prompt.endswith(" ") and bare(probe.answer) not in ("", probe.rival)
        for probe in case.probes
    )


@pytest.mark.parametrize("relation", EDITED)
def test_locality_asks_true_facts_that_the_edit_leaves_alone(relation: str) -> None:
    for case in EDITED[relation]:
        _check_locality(case)


def _check_locality(case: Case) -> None:
    entity = ENTITIES[case.edit.subject]
    relation = planned()[entity.name][0]
    stay = {other: entity.facts[other] for other in independent(KNOWN, entity, relation)}
    assert relation not in stay and not set(KNOWN.relations[relation].implies) & set(stay)
    probes = [probe for probe in case.probes if probe.kind == "locality"]
    assert len(probes) == len(stay) and all(probe.stratum == "same_subject" for probe in probes)
    for probe in probes:
        (about,) = [
            other
            for other in stay
            if probe.prompt in {asked(text, entity.name) for text in KNOWN.relations[other].evaluate}
        ]
        assert probe.answer == stay[about][0] and set(stay[about][1:]) <= set(probe.accepted)


@pytest.mark.parametrize("relation", EDITED)
def test_a_reverse_question_has_one_right_answer(relation: str) -> None:
    for case in EDITED[relation]:
        _check_reverse(case)


def _check_reverse(case: Case) -> None:
    entity = ENTITIES[case.edit.subject]
    relation, target = planned()[entity.name]
    (probe,) = [probe for probe in case.probes if probe.stratum == "reverse"]
    other = KNOWN.entities[entity.kind][probe.rival]
    assert probe.answer == entity.name and target in probe.prompt
    assert named(probe.prompt, entity.name) and named(probe.prompt, other.name)
    assert not KNOWN.names([target]) & KNOWN.names(other.facts[relation]) and planned().get(other.name) != (
        relation,
        target,
    )


def hops() -> list[tuple[Case, Entity]]:
    return [(case, ENTITIES[case.edit.subject]) for case in CASES if kind(case, "portability", "two_hop")]


def test_a_two_hop_question_asks_a_fact_of_the_new_answer_that_no_draw_edits() -> None:
    assert len(hops()) >= 100 and len({planned()[entity.name][0] for _, entity in hops()}) >= 5
    for case, entity in hops():
        relation, target = planned()[entity.name]
        table = KNOWN.entities[KNOWN.relations[relation].of]
        (probe,) = [probe for probe in case.probes if probe.stratum == "two_hop"]
        first = KNOWN.relations[relation].noun.replace("{}", entity.name)
        (second,) = [
            name
            for name in table[target].facts
            if probe.prompt == asked(KNOWN.relations[name].noun, first) + " is"
        ]
        assert (
            probe.answer == table[target].facts[second][0]
            and probe.rival == table[case.edit.ground_truth].facts[second][0]
        )
        assert planned().get(target, ("",))[0] != second
        assert not KNOWN.names(table[target].facts[second]) & KNOWN.names(
            table[case.edit.ground_truth].facts[second]
        )


def test_known_facts_by_hand() -> None:
    """A sample that no table was looked at for."""
    said = {
        ("France", "capital"): "Paris",
        ("the Netherlands", "currency"): "euro",
        ("Suriname", "official_language"): "Dutch",
        ("Texas", "largest_city"): "Houston",
        ("Hamlet", "author"): "William Shakespeare",
        ("Guernica", "painter"): "Pablo Picasso",
        ("Aida", "premiere_city"): "Cairo",
        ("gold", "symbol"): "Au",
        ("Jaws", "release_year"): "1975",
        ("Jean Sibelius", "native_language"): "Swedish",
        ("Vega", "constellation"): "Lyra",
        ("Queen", "drummer"): "Roger Taylor",
        ("Thor", "mythology"): "Norse mythology",
        ("Hungarian", "language_family"): "Uralic",
        ("Nintendo", "headquarters"): "Kyoto",
        ("Miles Davis", "instrument"): "trumpet",
        ("Sachin Tendulkar", "native_language"): "Marathi",
        ("Albert Camus", "birth_country"): "Algeria",
        ("neon", "atomic_number"): "10",
    }
    found = {
        (entity.name, relation): true[0] for entity in EVERYONE for relation, true in entity.facts.items()
    }
    assert {key: found[key] for key in said} == said


def test_names_with_an_article_are_edited_without_it_and_written_with_it() -> None:
    edit = BY_SUBJECT["Netherlands"].edit
    assert "of the Netherlands" in edit.prompt or "in the Netherlands" in edit.prompt
    assert "Holland" in edit.aliases
    assert BY_SUBJECT["The Night Watch"].edit.subject == "The Night Watch" and "Mona Lisa" in BY_SUBJECT
    every = [
        text
        for case in CASES
        for text in (
            case.edit.prompt,
            *case.edit.training_paraphrases,
            *(probe.prompt for probe in case.probes),
        )
    ]
    bad = re.compile(r"\b(the the|a the|an the|a a|the a|the The)\b")
    assert [text for text in every if bad.search(text) and "the The" not in text] == []
    plural = re.compile(
        r"\bthe (Netherlands|United States|Philippines|United Arab Emirates) (is|has|was)\b", re.IGNORECASE
    )
    assert [
        text for text in every if plural.search(text) and "of the" not in text and "in the" not in text
    ] == []


def test_all_relations_are_spread_over_the_first_cases_and_the_draws_are_disjoint() -> None:
    assert len({case.case_id.split(":")[0] for case in CASES[:200]}) >= 20
    cell = Cell("micro-tiny", "worldfacts", "ft", 100, 0, 3)
    sets = draws(CASES, cell)
    subjects = [case.edit.subject for one in sets for case in one]
    assert len(set(subjects)) == len(subjects) == 300
    development = draws(CASES, Cell("micro-tiny", "worldfacts", "ft", 100, 0, 2, split="development"))
    assert not {case.edit.subject for one in development for case in one} & set(subjects)
