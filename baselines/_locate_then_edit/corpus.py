"""Plain text for second moments: the model's training text or similar text."""

import itertools
import lzma
from collections.abc import Iterator
from pathlib import Path

from lks.data.datasets import load, names
from lks.data.synthetic_text import sentences
from lks.data.synthetic_world import world
from lks.errors import NothingToLearnFrom, UserError, unknown
from lks.io import hub

WIKITEXT = ("Salesforce/wikitext", "wikitext-103-raw-v1", "b08601e04326c79dfdd32d625aee71d232d685c3")
"""Hub repository, configuration and pinned revision."""
SHIPPED = "shipped"
"""Corpus of this package that replaces WikiText: public-domain English prose, about 330,000 tokens.

See `plain_text.NOTICE`.
"""


class NoHubError(Exception):
    """WikiText is not available; the message gives the reason."""


def texts(corpus: str) -> Iterator[str]:
    """Iterate over the texts of a corpus, always in the same order.

    Args:
        corpus: "wikitext" (downloaded), "shipped", "world" (the synthetic world's facts and sentences), a
            dataset's name (its unedited facts in the words of its edit and training prompts, and sentences),
            or the path of a text file with one text per line.

    Raises:
        NothingToLearnFrom: no corpus is named.
        UserError: the corpus is unknown, or a file is not UTF-8.
        NoHubError: WikiText cannot be downloaded.
    """
    if not corpus:
        raise NothingToLearnFrom("It has no corpus to take statistics of.")
    if corpus == "wikitext":
        return _wikitext()
    if corpus == SHIPPED:
        return _lines_of_shipped()
    if corpus == "world":
        return _mixed(_world())
    if corpus in names():
        return _mixed(_facts(corpus))
    if Path(corpus).is_file():
        return _lines(Path(corpus))
    raise unknown("corpus (a name or the path of a text file)", corpus, ["wikitext", SHIPPED, *names()])


def _lines(path: Path) -> Iterator[str]:
    """Iterate lazily over the non-empty lines of a file, since a corpus may be larger than memory."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line for line in map(str.rstrip, file) if line)
    except UnicodeDecodeError as error:
        raise UserError(
            f"Corpus {path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from None


def _lines_of_shipped() -> Iterator[str]:
    """Iterate over the lines of the shipped corpus."""
    with lzma.open(Path(__file__).with_name("plain_text.txt.xz"), "rt", encoding="utf-8") as file:
        yield from map(str.rstrip, file)


def _mixed(facts: Iterator[str]) -> Iterator[str]:
    """Insert a sentence about no edited subject after every second fact."""
    others = itertools.cycle(sentences(4000, seed=1))
    for number, fact in enumerate(facts):
        yield fact
        if number % 2:
            yield next(others)


def _world() -> Iterator[str]:
    """Iterate over all trained phrasings of all facts, so that the beginning covers every person."""
    from lks.data.synthetic_lexicon import RELATIONS

    people = world().people
    most = max(len(relation.trained) for relation in RELATIONS)
    for number, relation in itertools.product(range(most), RELATIONS):
        if number < len(relation.trained):
            for person in people:
                yield f"{relation.trained[number].format(person.name)} {person.values[relation.name]}."


def _facts(dataset: str) -> Iterator[str]:
    """Iterate over a dataset's known unedited facts, in the words that editors may see."""
    for edit in [case.edit for case in load(dataset).cases if case.edit.ground_truth]:
        for prompt in (edit.prompt, *edit.training_paraphrases):
            yield f"{prompt.rstrip()} {edit.ground_truth}."


def _wikitext() -> Iterator[str]:
    """Stream the texts of WikiText with more than 200 characters."""
    if no_hub := hub.why_not():
        raise NoHubError(no_hub)
    import datasets

    name, configuration, revision = WIKITEXT
    try:
        rows = iter(
            datasets.load_dataset(name, configuration, revision=revision, split="train", streaming=True)
        )
        first = next(rows)
    except (OSError, ValueError, RuntimeError, StopIteration) as error:
        raise NoHubError(f"{name} cannot be fetched ({type(error).__name__}).") from error
    return (row["text"] for row in itertools.chain((first,), rows) if len(row["text"]) > 200)
