"""Training prompts for facts that come without them.

Paraphrases and locality prompts of facts that share a wording are reused with the other subject's name
(`lks.data.template_prompts`). If that yields no locality prompts, questions of other relations and generic
sentence openings are used: a method that learns a subject's new answer without anything to preserve gives
that answer to every question about the subject.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from lks.data.template_prompts import N_LOCALITY, Record, TemplateSource
from lks.data.templates import normalised, stems, template
from lks.edits import Edit

SOURCE = f"{TemplateSource.version}+openings-1"
"""Version of the way prompts are made; part of the facts' revision."""
OPENINGS = (
    "{} is", "{} was", "{} has", "In the morning, {}", "The name {}", "Everybody knows that {}",
    "A friend of {} said", "When asked about {},",
)  # fmt: skip
"""Sentence openings about anybody or anything, used as locality prompts."""

Given = tuple[Edit, tuple[str, ...], tuple[tuple[str, str], ...]]
"""An edit with its evaluation paraphrases and locality questions."""


def with_training_prompts(given: Sequence[Given]) -> list[Edit]:
    """Add training paraphrases and training locality to edits that have none.

    No added prompt equals an edit prompt or an evaluation prompt of any of the facts.
    """
    if all(edit.training_paraphrases and edit.training_locality for edit, _, _ in given):
        return [edit for edit, _, _ in given]
    records = {index: list(_records(index, *one)) for index, one in enumerate(given)}
    source = TemplateSource(list(chain.from_iterable(records.values())))
    taken = {
        normalised(text)
        for edit, paraphrases, locality in given
        for text in (edit.prompt, *paraphrases, *(prompt for prompt, _ in locality))
    }
    others = list(
        dict.fromkeys(
            found for edit, _, _ in given if (found := template(edit.prompt, edit.subject)) is not None
        )
    )
    made = []
    for index, (edit, _, _) in enumerate(given):
        derived = source.prompts(records[index][0])
        paraphrases = edit.training_paraphrases or derived.paraphrases
        locality = edit.training_locality or _filled(edit, derived.locality, others, taken)
        made.append(replace(edit, training_paraphrases=paraphrases, training_locality=locality))
    return made


def _records(
    index: int, edit: Edit, paraphrases: tuple[str, ...], locality: tuple[tuple[str, str], ...]
) -> Iterator[Record]:
    """Yield a fact as records that have one paraphrase and one locality question each."""
    for number in range(max(1, len(paraphrases), len(locality))):
        paraphrase = paraphrases[number] if number < len(paraphrases) else ""
        question, answer = locality[number] if number < len(locality) else ("", "")
        yield Record(
            str(index),
            edit.subject,
            edit.prompt,
            edit.target,
            edit.ground_truth,
            paraphrase,
            question,
            answer,
        )


def _filled(edit: Edit, found: Sequence[str], others: Sequence[str], taken: set[str]) -> tuple[str, ...]:
    """Return locality prompts: from the data, from other facts' questions, and from generic openings."""
    own = template(edit.prompt, edit.subject)
    apart = [
        one for one in others if own is not None and one != own and not stems(one) & stems(own)
    ]  # not the same relation in other words
    start = sum(map(ord, edit.subject)) % max(1, len(apart))  # not the same few for every subject
    spread = [one.replace("{}", edit.subject) for one in (*apart[start:], *apart[:start])][:N_LOCALITY]
    openings = [one.replace("{}", edit.subject) for one in OPENINGS]
    prompts = dict.fromkeys(
        prompt for prompt in (*found, *spread, *openings) if normalised(prompt) not in taken
    )
    return tuple(prompts)
