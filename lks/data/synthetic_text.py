"""Synthetic text about nobody: plain sentences, and three ability tasks with answers of one token.

The tasks replace GSM8K (small word problems), SST-2 (sentiment) and RTE (entailment). A hash of an item's
text decides which split it belongs to, so the splits are disjoint for every seed.
"""

import itertools
import random
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, get_args

from lks.errors import unknown

Task = Literal["arithmetic", "sentiment", "entailment"]
Split = Literal["train", "test"]
TASKS: tuple[Task, ...] = get_args(Task)
_TEST_SHARE = 0.15  # fraction of the items of a task

_NAMES = ("Sam", "Kim", "Alex", "Robin", "Jo", "Chris")
_THINGS = ("apples", "coins", "stamps", "shells", "cards", "pencils")
_PRAISE = ("wonderful", "brilliant", "charming", "delightful", "superb", "lovely", "funny", "moving")
_BLAME = ("awful", "boring", "clumsy", "dreadful", "tedious", "weak", "silly", "painful")
_PARTS = ("film", "plot", "cast", "music", "ending", "script")
_HEDGES = ("was", "seemed", "felt", "was truly", "was simply")
_BEINGS = {
    "dog": "animal", "cat": "animal", "horse": "animal", "goose": "animal",
    "man": "person", "woman": "person", "child": "person", "singer": "person",
}  # fmt: skip
_PLACES = {
    "in the garden": "outside", "in the forest": "outside", "on the beach": "outside",
    "on the hill": "outside",
    "in the kitchen": "inside", "in the cellar": "inside", "in the library": "inside",
    "in the hall": "inside",
}  # fmt: skip
_DEEDS = ("sleeps", "waits", "rests", "plays", "sits", "hides", "sings", "walks")


@dataclass(frozen=True, slots=True)
class AbilityItem:
    """One question of an ability task.

    Attributes:
        task: the task it belongs to.
        prompt: the text shown to the model.
        answer: the right answer, without leading space.
        choices: all answers that occur in the task, for scoring by likelihood.
    """

    task: Task
    prompt: str
    answer: str
    choices: tuple[str, ...]


def _arithmetic() -> list[AbilityItem]:
    """Generate all word problems."""
    choices = tuple(str(n) for n in range(19))
    items = []
    for who, what, first, second in itertools.product(_NAMES, _THINGS, range(1, 10), range(1, 10)):
        prompt = f"{who} has {first} {what} and finds {second} more. How many {what} now? Answer:"
        items.append(AbilityItem("arithmetic", prompt, str(first + second), choices))
        if second <= first:
            prompt = f"{who} has {first} {what} and loses {second} of them. How many {what} now? Answer:"
            items.append(AbilityItem("arithmetic", prompt, str(first - second), choices))
    return items


def _sentiment() -> list[AbilityItem]:
    """Generate all reviews."""
    items = []
    for words, answer in ((_PRAISE, "positive"), (_BLAME, "negative")):
        for (one, two), (good, better), hedge in itertools.product(
            itertools.permutations(_PARTS, 2), itertools.permutations(words, 2), _HEDGES
        ):
            prompt = f"Review: the {one} {hedge} {good} and the {two} was {better}. Sentiment:"
            items.append(AbilityItem("sentiment", prompt, answer, ("negative", "positive")))
    return items


def _entailment() -> list[AbilityItem]:
    """Generate for each premise the claim that follows and one of the three that do not.

    Both answers are therefore equally frequent.
    """
    items = []
    premises = itertools.product(_BEINGS, _DEEDS, _PLACES)
    for number, (being, deed, place) in enumerate(premises):
        truth = (_BEINGS[being], _PLACES[place])
        claims = list(itertools.product(("animal", "person"), ("inside", "outside")))
        wrong = [claim for claim in claims if claim != truth][number % 3]
        for (kind, where), answer in ((truth, "yes"), (wrong, "no")):
            claim = f"{'An animal' if kind == 'animal' else 'A person'} is {where}."
            prompt = f"Premise: the {being} {deed} {place}. Claim: {claim} Follows:"
            items.append(AbilityItem("entailment", prompt, answer, ("no", "yes")))
    return items


def _split_of(item: AbilityItem) -> Split:
    """Return an item's split, decided by a hash of its prompt."""
    digest = sha256(item.prompt.encode()).digest()
    return "test" if digest[0] < 256 * _TEST_SHARE else "train"


def ability_items(task: Task, split: Split, seed: int = 0) -> tuple[AbilityItem, ...]:
    """Return all items of one split of a task, shuffled.

    Raises:
        UserError: there is no such task.
    """
    makers = {"arithmetic": _arithmetic, "sentiment": _sentiment, "entailment": _entailment}
    if task not in makers:
        raise unknown("ability task", task, makers)
    items = [item for item in makers[task]() if _split_of(item) == split]
    random.Random(f"{task} {seed}").shuffle(items)
    return tuple(items)


def sentences(count: int, seed: int = 0) -> tuple[str, ...]:
    """Generate plain sentences about nobody in particular.

    They are used for fluency, covariances and texts outside every scope.
    """
    rng = random.Random(f"sentences {seed}")
    openings = (
        "In the morning",
        "Last winter",
        "After the storm",
        "Near the old bridge",
        "At noon",
        "Every spring",
    )
    adjectives = ("old", "quiet", "small", "heavy", "bright", "narrow", "cold", "green")
    nouns = ("river", "road", "market", "tower", "field", "window", "boat", "lamp", "wall", "train")
    verbs = ("passes", "faces", "follows", "touches", "covers", "crosses", "leaves")
    ends = (
        "before the rain comes.",
        "and nobody minds.",
        "as it always has.",
        "for a long while.",
        "without a sound.",
        "until the evening.",
    )

    def thing() -> str:
        return f"the {rng.choice(adjectives)} {rng.choice(nouns)}"

    def sentence() -> str:
        if rng.random() < 0.5:
            return f"{rng.choice(openings)} {thing()} {rng.choice(verbs)} {thing()} {rng.choice(ends)}"
        return f"{thing().capitalize()} {rng.choice(verbs)} {thing()} {rng.choice(ends)}"

    return tuple(sentence() for _ in range(count))
