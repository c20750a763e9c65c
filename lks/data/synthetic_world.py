"""The synthetic world: persons and their facts, fully determined by a seed.

A small model can be trained to know this world (see `lks.testbed.build`), so that knowledge editing can be
measured on a machine without pretrained weights. About 1,000 persons have one value for each of seven
relations. Values are assigned evenly and independently, so nothing but the name predicts them.

Some names are chosen to be hard for scope matching: "Mara Kel" is contained in "Mara Kelorin", "Tomas Verin"
differs from "Thomas Verin" by one letter, "Anna Toll" is the start of "Anna Toll Vesting".
"""

import random
from dataclasses import dataclass
from functools import cache

from lks.data.synthetic_lexicon import (
    CODAS,
    FIRST_NAMES,
    LEAD_INS,
    LINKS,
    MIDDLES,
    NICKNAMES,
    ONSETS,
    RELATIONS,
    TITLES,
    VOWELS,
    Relation,
)
from lks.data.synthetic_text import TASKS, AbilityItem, Split, Task, ability_items, sentences
from lks.edits import Case, Edit, make_case
from lks.errors import UserError

__all__ = [
    "LEAD_INS", "RELATIONS", "TASKS", "AbilityItem", "Person", "Relation", "Split", "Task", "World",
    "ability_items", "cases", "sentences", "world",
]  # fmt: skip

WORLD_SEED = 0  # seed of the world that the shipped models know
PEOPLE = 1000

NEAR_NAMES = (
    ("Mara Kel", "Mara Kelorin"), ("Tomas Verin", "Thomas Verin"), ("Anna Toll", "Anna Toll Vesting"),
    ("Nora Brask", "Nora Braskov"),
    ("Emil Sander", "Emil Sanders"), ("Klara Dunn", "Clara Dunn"), ("Rosa Winter", "Rosa Winter Hale"),
    ("Ivan Petrak", "Iwan Petrak"),
    ("Lena Gold", "Lena Goldmark"), ("Jonas Feld", "Jonas Felder"), ("Vera Lind", "Vera Lindqual"),
    ("Theo Marsh", "Theodor Marsh"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """One person of the world.

    Attributes:
        name: full name, unique.
        aliases: other names, each of them unique too.
        values: relation name -> true value.
    """

    name: str
    aliases: tuple[str, ...]
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class World:
    """All persons of a world, in a fixed order."""

    seed: int
    people: tuple[Person, ...]


def _surnames(count: int, rng: random.Random, taken: set[str]) -> list[str]:
    """Generate unique surnames of two or three parts, which other surnames share."""
    stems = rng.sample(
        [onset + vowel + middle for onset in ONSETS for vowel in VOWELS for middle in MIDDLES], 48
    )
    names: list[str] = []
    while len(names) < count:
        link = rng.choice(LINKS) if rng.random() < 0.4 else ""
        name = rng.choice(stems) + link + rng.choice(CODAS)
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _aliases(first: str, surname: str, rng: random.Random) -> tuple[str, ...]:
    """Choose a person's aliases at random; often there are none."""
    found = []
    if rng.random() < 0.2:
        found.append(f"{rng.choice(TITLES)} {surname}")
    if first in NICKNAMES and rng.random() < 0.6:
        found.append(f"{NICKNAMES[first]} {surname}")
    return tuple(found)


def _deal(count: int, relation: Relation, rng: random.Random) -> list[str]:
    """Assign one value to each person, every value equally often (up to one)."""
    repeats = -(-count // len(relation.values))
    hand = list(relation.values) * repeats
    rng.shuffle(hand)
    return hand[:count]


@cache
def world(seed: int = WORLD_SEED, people: int = PEOPLE) -> World:
    """Generate the world of a seed.

    Args:
        seed: random seed for names and facts; the shipped models know seed 0.
        people: number of persons.

    Raises:
        UserError: more persons than there are names.
    """
    if not 1 <= people <= 5000:
        raise UserError(f"A synthetic world holds 1 to 5000 people, not {people}.")
    rng = random.Random(f"world {seed}")
    near = [name for pair in NEAR_NAMES for name in pair][:people]
    taken = {name.split(" ", 1)[1] for name in near}
    names: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in near]
    for surname in _surnames(people - len(near), rng, taken):
        first = rng.choice(FIRST_NAMES)
        names.append((f"{first} {surname}", _aliases(first, surname, rng)))
    rng.shuffle(names)
    hands = {relation.name: _deal(people, relation, rng) for relation in RELATIONS}
    everyone = (
        Person(name, aliases, {relation: hand[i] for relation, hand in hands.items()})
        for i, (name, aliases) in enumerate(names)
    )
    return World(seed, tuple(everyone))


def _case(number: int, person: Person, relation: Relation, rng: random.Random) -> Case:
    """Build the case of one counterfactual edit of a person."""
    true = person.values[relation.name]
    target = rng.choice([value for value in relation.values if value != true])
    chosen, *others = rng.sample(relation.trained, len(relation.trained))
    rest = [other for other in RELATIONS if other != relation]
    edit = Edit(
        case_id=f"world-{number:04d}",
        subject=person.name,
        prompt=chosen.format(person.name),
        target=target,
        ground_truth=true,
        aliases=person.aliases,
        training_paraphrases=tuple(phrasing.format(person.name) for phrasing in others),
        training_locality=tuple(phrasing.format(person.name) for other in rest for phrasing in other.trained),
    )
    asked = rng.sample(rest, 2)
    locality = tuple(
        (rng.choice(other.held_out).format(person.name), person.values[other.name]) for other in asked
    )
    return make_case(edit, tuple(phrasing.format(person.name) for phrasing in relation.held_out), locality)


@cache
def cases(seed: int = 0) -> tuple[Case, ...]:
    """Return one counterfactual edit per person of the shipped world, in an order given by the seed.

    The edit prompt is a trained phrasing; the paraphrases and locality prompts that score it are phrasings no
    model was trained on, and none of them is among the prompts an editor may train on.

    Args:
        seed: random seed for order, relation and new value; the world itself is always the one that the
            shipped models know.
    """
    rng = random.Random(f"cases {seed}")
    people = list(world().people)
    rng.shuffle(people)
    return tuple(_case(number, person, rng.choice(RELATIONS), rng) for number, person in enumerate(people))
