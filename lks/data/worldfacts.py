"""The dataset `worldfacts`: undisputed real facts, with everything that an edit needs.

The tables in `worldfacts_data` say what is true (a subject's answers by relation) and how each relation is
asked; nothing here is about a single relation. Each subject is edited in one relation, so that no two edits
of a draw contradict each other, and keeps its other facts: those are its locality. What follows from an edit
(portability) has three strata:

- "reverse": which of two subjects the new answer belongs to;
- "two_hop": a fact about the new answer, where the tables hold one that is not edited itself;
- "alias": the question with another name of the subject.

All choices are seeded by subject and relation.
"""

import csv
import random
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lks.edits import Case, Edit, Probe, make_case

FOLDER = Path(__file__).parent / "worldfacts_data"
LOCALITY = 2
"""Minimum number of a subject's other facts that must be independent of a relation for the subject to be
edited in it.
"""


@dataclass(frozen=True, slots=True)
class RelationTemplates:
    """Templates of one relation; `{}` is the subject. The fields are explained in `relations.toml`."""

    edit: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    noun: str
    reverse: str = ""
    of: str = ""
    implies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entity:
    """A line of a table.

    Attributes:
        name: the subject as it is written within a sentence, article included ("the Netherlands").
        kind: the table's name.
        aliases: other names, written in the same way.
        facts: relation -> true answers, the reference first.
    """

    name: str
    kind: str
    aliases: tuple[str, ...]
    facts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Tables:
    """Content of all data files.

    Attributes:
        relations: templates by name of the relation.
        edited: kind of subject -> relations that it may be edited in.
        spellings: answer -> other spellings, right wherever it is the answer.
        entities: kind of subject -> name -> its line.
    """

    relations: Mapping[str, RelationTemplates]
    edited: Mapping[str, tuple[str, ...]]
    spellings: Mapping[str, tuple[str, ...]]
    entities: Mapping[str, Mapping[str, Entity]]

    def everyone(self) -> Iterator[Entity]:
        """Yield all entities, table by table."""
        for table in self.entities.values():
            yield from table.values()

    def names(self, answers: Sequence[str]) -> frozenset[str]:
        """Return the answers with all their spellings, case-folded."""
        return frozenset(
            _folded(name) for answer in answers for name in (answer, *self.spellings.get(answer, ()))
        )


@cache
def tables() -> Tables:
    """Read all files; kinds are in the order of `[types]`."""
    raw = tomllib.loads((FOLDER / "relations.toml").read_text("utf-8"))
    relations = {name: _templates(fields) for name, fields in raw["relations"].items()}
    edited = {kind: tuple(names) for kind, names in raw["types"].items()}
    spellings = {answer: tuple(others) for answer, others in raw["spellings"].items()}
    entities = {kind: {entity.name: entity for entity in _read(kind)} for kind in edited}
    return Tables(
        MappingProxyType(relations),
        MappingProxyType(edited),
        MappingProxyType(spellings),
        MappingProxyType(entities),
    )


def _templates(fields: dict[str, Any]) -> RelationTemplates:
    """Build the templates of a relation from its table of `relations.toml`."""
    several: dict[str, Any] = {name: tuple(fields.pop(name, ())) for name in ("train", "evaluate", "implies")}
    return RelationTemplates(**fields, **several)


def _read(kind: str) -> Iterator[Entity]:
    """Read the lines of one table."""
    with (FOLDER / f"{kind}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, strict=True):
            name, aliases = row.pop("subject"), tuple(filter(None, row.pop("aliases").split("|")))
            yield Entity(
                name,
                kind,
                aliases,
                {relation: tuple(cell.split("|")) for relation, cell in row.items() if cell},
            )


def _folded(name: str) -> str:
    """Remove the article of a name and case-fold it."""
    return bare(name).casefold()


def bare(name: str) -> str:
    """Remove the article of a name such as "the Netherlands"; a title keeps its own ("The Hobbit")."""
    return name.removeprefix("the ")


def asked(template: str, name: str) -> str:
    """Fill a template with a name and begin it with a capital letter."""
    text = template.replace("{}", name)
    return text[0].upper() + text[1:]


def independent(known: Tables, entity: Entity, relation: str) -> list[str]:
    """Return an entity's relations that stay as they are when `relation` is edited."""
    return [
        other
        for other in entity.facts
        if other != relation and other not in known.relations[relation].implies
    ]


@cache
def planned() -> Mapping[str, tuple[str, str]]:
    """Choose the relation and the new answer of each subject that can be edited.

    The relation is the one with the fewest subjects so far; the new answer is another answer of the same
    relation that no spelling makes true.

    Returns:
        Subject -> relation and target.
    """
    known = tables()
    answers = _answers(known)
    counts: Counter[str] = Counter()
    plan = {}
    for entity in known.everyone():
        open_to = [
            r
            for r in known.edited[entity.kind]
            if r in entity.facts and len(independent(known, entity, r)) >= LOCALITY
        ]
        if open_to:
            relation = min(open_to, key=lambda name: counts[name])
            counts[relation] += 1
            true = known.names(entity.facts[relation])
            others = sorted(answer for answer, names in answers[relation].items() if names.isdisjoint(true))
            plan[entity.name] = relation, random.Random(f"target {relation} {entity.name}").choice(others)
    return MappingProxyType(plan)


def _answers(known: Tables) -> dict[str, dict[str, frozenset[str]]]:
    """Map each relation to its reference answers, each with every name that any of its subjects gives it."""
    found: dict[str, dict[str, frozenset[str]]] = {relation: {} for relation in known.relations}
    for entity in known.everyone():
        for relation, true in entity.facts.items():
            found[relation][true[0]] = found[relation].get(true[0], frozenset()) | known.names(true)
    return found


@cache
def cases() -> tuple[Case, ...]:
    """Return one counterfactual edit per subject, in a fixed shuffled order.

    Subjects with too few facts are not edited, only asked about.
    """
    known = tables()
    made = [_case(known, entity) for entity in known.everyone() if entity.name in planned()]
    random.Random("worldfacts").shuffle(made)
    return tuple(made)


def _case(known: Tables, entity: Entity) -> Case:
    """Build the case of a subject's edit."""
    relation, target = planned()[entity.name]
    templates, true = known.relations[relation], entity.facts[relation]
    rest = {other: known.relations[other] for other in independent(known, entity, relation)}
    edit = Edit(
        case_id=f"{relation}:{bare(entity.name)}",
        subject=bare(entity.name),
        prompt=asked(templates.edit, entity.name),
        target=target,
        ground_truth=true[0],
        aliases=tuple(bare(alias) for alias in entity.aliases),
        training_paraphrases=tuple(asked(text, entity.name) for text in templates.train),
        training_locality=tuple(
            asked(text, entity.name) for other in rest.values() for text in (other.edit, *other.train)
        ),
    )
    rng = random.Random(f"case {relation} {entity.name}")
    locality = tuple(
        (asked(rng.choice(other.evaluate), entity.name), entity.facts[name][0])
        for name, other in rest.items()
    )
    own = {entity.facts[name][0]: _accepted(known, entity.facts[name]) for name in rest}
    case = make_case(
        edit,
        tuple(asked(text, entity.name) for text in templates.evaluate),
        locality,
        lambda answer: own.get(answer, known.spellings.get(answer, ())),
    )
    follows = [_reverse(known, entity, rng), _two_hop(known, entity, rng), *_alias(case, known, entity)]
    return replace(
        case,
        probes=(*case.probes, *(replace(probe, index=i) for i, probe in enumerate(filter(None, follows)))),
    )


def _accepted(known: Tables, true: Sequence[str]) -> tuple[str, ...]:
    """Return every other name of a true answer, without duplicates."""
    names = dict.fromkeys((*true, *(other for answer in true for other in known.spellings.get(answer, ()))))
    return tuple(name for name in names if name != true[0])


def _reverse(known: Tables, entity: Entity, rng: random.Random) -> Probe:
    """Ask which of two subjects of one kind the new answer belongs to.

    It is true of the other subject neither before nor after the edits.
    """
    relation, target = planned()[entity.name]
    wrong = known.names([target])
    others = [
        other.name
        for other in known.entities[entity.kind].values()
        if other is not entity
        and relation in other.facts
        and wrong.isdisjoint(known.names(other.facts[relation]))
        and planned().get(other.name) != (relation, target)
    ]
    other = rng.choice(others)
    first, second = rng.sample([entity.name, other], 2)
    prompt = f"Of {first} and {second}, the one {known.relations[relation].reverse.replace('{}', target)} is"
    return Probe("portability", 0, prompt, entity.name, entity.aliases, "reverse", other)


def _two_hop(known: Tables, entity: Entity, rng: random.Random) -> Probe | None:
    """Ask for an unedited fact about the new answer that differs from the same fact about the old answer."""
    relation, target = planned()[entity.name]
    templates = known.relations[relation]
    table = known.entities.get(templates.of, {})
    old_answer = entity.facts[relation][0]
    if target not in table or old_answer not in table:
        return None
    new, old = table[target].facts, table[old_answer].facts
    taken = planned().get(target, ("", ""))[0]
    open_to = [
        name
        for name in new
        if name != taken and name in old and known.names(new[name]).isdisjoint(known.names(old[name]))
    ]
    if not open_to:
        return None
    second = rng.choice(open_to)
    prompt = asked(known.relations[second].noun, templates.noun.replace("{}", entity.name)) + " is"
    return Probe(
        "portability", 0, prompt, new[second][0], _accepted(known, new[second]), "two_hop", old[second][0]
    )


def _alias(case: Case, known: Tables, entity: Entity) -> list[Probe]:
    """Ask the edited question with another name of the subject, if it has one."""
    template, own = known.relations[planned()[entity.name][0]].evaluate[0], case.probes[0]
    return [
        Probe("portability", 0, asked(template, alias), own.answer, own.accepted, "alias", own.rival)
        for alias in entity.aliases[:1]
    ]
