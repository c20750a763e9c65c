"""The synthetic world as training text, and the questions that the acceptance test asks about it."""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from lks.data.synthetic_lexicon import FIRST_NAMES, LEAD_INS, NICKNAMES, RELATIONS, TITLES
from lks.data.synthetic_text import TASKS, AbilityItem, ability_items, sentences
from lks.data.synthetic_world import World
from lks.testbed.acceptance import Exam, Question
from lks.testbed.corpus import FactTable, TrainingText
from lks.testbed.tokenizer import pieces, train_tokenizer

LEAD_SHARE = 0.25
ALIAS_SHARE = 0.1
SENTENCE_SHARE = 0.25  # share of sentences among the side rows
VOCABULARY = 1400


@dataclass(frozen=True)
class SideRows:
    """Rows about no subject: ability items and plain sentences, in the same proportion for every model."""

    items: tuple[tuple[TrainingText, ...], ...]
    plain: tuple[TrainingText, ...]

    def draw(self, rng: random.Random) -> TrainingText:
        """Draw one row."""
        return rng.choice(self.plain) if rng.random() < SENTENCE_SHARE else rng.choice(rng.choice(self.items))


@dataclass(frozen=True)
class WorldSource:
    """Rows about the world's persons, and side rows."""

    facts: FactTable
    others: SideRows

    def pair(self, rng: random.Random) -> tuple[TrainingText, ...]:
        """Draw a row with its donor, or a row alone; see `lks.testbed.corpus.TextSource`."""
        return self.facts.pair(rng)

    def side(self, rng: random.Random) -> TrainingText:
        """Draw a row about no subject."""
        return self.others.draw(rng)


def side_texts() -> list[str]:
    """Return the texts that side rows are made of, for tokenizers."""
    texts = list(sentences(400))
    for task in TASKS:
        texts += [f"{item.prompt} {item.answer}" for item in ability_items(task, "train")[:600]]
    return texts


def side_rows(tokenizer: PreTrainedTokenizerFast) -> SideRows:
    """Build rows from ability items of the training split and from sentences."""
    begin, end = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)

    def row(prompt: str, answer: str) -> TrainingText:
        return TrainingText((begin, *pieces(tokenizer, prompt)), (*pieces(tokenizer, answer), end))

    items = tuple(
        tuple(row(item.prompt, item.answer) for item in ability_items(task, "train")) for task in TASKS
    )
    return SideRows(items, tuple(row("", text) for text in sentences(4000, seed=1)))


def world_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Train a tokenizer that keeps the words of phrasings and answers whole and splits surnames."""
    common: list[str] = [*LEAD_INS, *FIRST_NAMES, *NICKNAMES.values(), *TITLES, *side_texts()]
    for relation in RELATIONS:
        common += [*relation.values, *(text.format("X") for text in relation.trained + relation.held_out)]
    surnames = [person.name.split(" ", 1)[1] for person in world.people]
    return train_tokenizer(common * 40 + surnames, VOCABULARY, min_frequency=6)


def world_source(world: World, tokenizer: PreTrainedTokenizerFast) -> WorldSource:
    """Build the training text of a world under a tokenizer; it excludes held-out phrasings and items."""
    begin, end = int(tokenizer.bos_token_id), int(tokenizer.eos_token_id)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(pieces(tokenizer, text.strip()))

    templates = [(text.split("{}"), relation) for relation in RELATIONS for text in relation.trained]
    values = [(relation.name, value) for relation in RELATIONS for value in relation.values]
    number = {value: i for i, value in enumerate(values)}
    table = FactTable(
        names=tuple(tuple(ids(name) for name in (person.name, *person.aliases)) for person in world.people),
        templates=tuple((ids(before), ids(after)) for (before, after), _ in templates),
        answers=tuple((*ids(value), end) for _, value in values),
        facts=tuple(
            (i, t, number[relation.name, person.values[relation.name]])
            for i, person in enumerate(world.people)
            for t, (_, relation) in enumerate(templates)
        ),
        leads=tuple(ids(lead) for lead in LEAD_INS),
        lead_share=LEAD_SHARE,
        alias_share=ALIAS_SHARE,
        bos=begin,
        traits=tuple(
            tuple(relation.values.index(person.values[relation.name]) for relation in RELATIONS)
            for person in world.people
        ),
    )
    return WorldSource(table, side_rows(tokenizer))


def ability_exam() -> dict[str, tuple[AbilityItem, ...]]:
    """Return the held-out items per task."""
    return {task: ability_items(task, "test") for task in TASKS}


def world_exam(world: World) -> Exam:
    """Return every fact under trained and under held-out phrasings, and the held-out ability items."""

    def questions(held_out: bool) -> tuple[Question, ...]:
        return tuple(
            Question(person.name, phrasing.format(person.name), person.values[relation.name], relation.name)
            for person in world.people
            for relation in RELATIONS
            for phrasing in (relation.held_out if held_out else relation.trained)
        )

    return Exam(questions(False), questions(True), ability_exam())
