"""Plain text for second moments: what the model was trained on, or something like it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from lks.datasets import load, names
from lks.errors import UserError, unknown
from lks.exercises import sentences
from lks.world import world

WIKITEXT = ("Salesforce/wikitext", "wikitext-103-raw-v1", "b08601e04326c79dfdd32d625aee71d232d685c3")
"""Hub repository, configuration and pinned revision."""


def texts(corpus: str) -> Iterator[str]:
    """Texts of a corpus, one after the other, always in the same order.

    Args:
        corpus: "wikitext" (fetched), "world" (the made world's facts and sentences), a dataset's name (its unedited facts in the
            words of its edit and training prompts, and sentences), or the path of a text file, a text per line.

    Raises:
        UserError: no such corpus, or it cannot be fetched.
    """
    if corpus == "wikitext":
        return _wikitext()
    if corpus == "world":
        return _mixed(_world())
    if corpus in names():
        return _mixed(_facts(corpus))
    path = Path(corpus)
    if path.is_file():
        return (line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    raise unknown("corpus (a name or the path of a text file)", corpus, ["wikitext", *names()])


def _mixed(facts: Iterator[str]) -> Iterator[str]:
    """Facts with a sentence about nobody after every second."""
    others = itertools.cycle(sentences(4000, seed=1))
    for number, fact in enumerate(facts):
        yield fact
        if number % 2:
            yield next(others)


def _world() -> Iterator[str]:
    """Every trained phrasing of every fact, phrasing by phrasing, so that the beginning is about everybody."""
    from lks.lexicon import RELATIONS

    people = world().people
    most = max(len(relation.trained) for relation in RELATIONS)
    for number, relation in itertools.product(range(most), RELATIONS):
        if number < len(relation.trained):
            for person in people:
                yield f"{relation.trained[number].format(person.name)} {person.values[relation.name]}."


def _facts(dataset: str) -> Iterator[str]:
    """The unedited facts of a dataset in the words that editors may see; an edit whose old answer is not known has none."""
    for edit in [case.edit for case in load(dataset).cases if case.edit.ground_truth]:
        for prompt in (edit.prompt, *edit.training_paraphrases):
            yield f"{prompt.rstrip()} {edit.ground_truth}."


def _wikitext() -> Iterator[str]:
    import datasets

    name, configuration, revision = WIKITEXT
    try:
        rows = datasets.load_dataset(name, configuration, revision=revision, split="train", streaming=True)
    except (OSError, ValueError, ConnectionError) as error:
        raise UserError(f"WikiText cannot be fetched from {name}: {error}. Name a text file instead: corpus=/path/to/text.") from None
    return (row["text"] for row in rows if len(row["text"]) > 200)
