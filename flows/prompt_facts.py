"""Facts that prompts are written for: records of a published file, or a user's own facts.

A user's facts are written back together with their prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lks.data.datasets import DATASETS, Published, find, parse
from lks.data.download import content_of
from lks.data.template_prompts import Record
from lks.errors import DataError, UserError, unknown
from lks.prompts.filters import PromptFact
from lks.prompts.pipeline import SPLITS, WritingOutcome

if TYPE_CHECKING:
    from lks.data.user_facts import Facts

PUBLISHED = tuple(name for name, kind in DATASETS.items() if isinstance(kind, Published))


@dataclass(frozen=True, slots=True)
class PromptMaterial:
    """Facts and their source.

    Attributes:
        facts: facts to write prompts for.
        records: records that templates are taken from.
        own: the user's facts; None for a published file.
    """

    facts: tuple[PromptFact, ...]
    records: tuple[Record, ...]
    own: "Facts | None" = None


def material_of(dataset: str, limit: int | None, offline: bool) -> PromptMaterial:
    """Return the first facts of a dataset or a file, with the records that templates are taken from.

    Raises:
        UserError: it is neither a dataset nor a file, or the file is malformed.
    """
    kind = DATASETS.get(dataset)
    if isinstance(kind, Published):
        file = find(kind)
        records = parse(content_of(file), file)
        facts = tuple(
            PromptFact(r.case_id, r.subject, r.prompt, r.target, r.ground_truth, (r.generality, r.locality))
            for r in records
        )
        return PromptMaterial(facts[:limit], records)
    if not Path(dataset).is_file():
        error = unknown("dataset", dataset, PUBLISHED)
        raise UserError(f"{error} Or give the path of a file of facts; {dataset} is not a file.")
    from lks.data.user_facts import read_facts

    own = read_facts(Path(dataset))
    own = replace(own, facts=own.facts[:limit])
    facts = tuple(
        PromptFact(
            one.id,
            one.subject,
            one.prompt,
            one.target,
            one.ground_truth,
            (*one.paraphrases, *(prompt for prompt, _ in one.locality)),
        )
        for one in own.facts
    )
    return PromptMaterial(facts, _pool(facts) if offline else (), own)


def _pool(facts: Sequence[PromptFact]) -> tuple[Record, ...]:
    """Return records whose templates serve a user's facts: the facts themselves and the published ones found
    here.
    """
    found = [
        Record(fact.case_id, fact.subject, fact.prompt, fact.target, fact.ground_truth, "", "", "")
        for fact in facts
    ]
    for name in PUBLISHED:
        kind = DATASETS[name]
        if isinstance(kind, Published):
            try:
                file = find(kind)
                found += parse(content_of(file), file)
            except DataError:  # prompts can be made without them
                continue
    return tuple(found)


def keep_facts(path: Path, material: PromptMaterial, outcome: WritingOutcome) -> None:
    """Write the user's facts together with their new prompts, in the form that `lks edit --facts` reads."""
    from lks.data.user_facts import write_facts

    if material.own is None:
        return
    filled = []
    for one in material.own.facts:
        evaluation, training = (outcome.written.get((split, one.id)) for split in SPLITS)
        if evaluation is not None:
            paraphrases = (*one.paraphrases, *(prompt.text for prompt in evaluation.paraphrases))
            one = replace(
                one,
                paraphrases=paraphrases,
                locality=(*one.locality, *((prompt.text, prompt.answer) for prompt in evaluation.locality)),
            )
        if training is not None:
            trained = (*one.training_paraphrases, *(prompt.text for prompt in training.paraphrases))
            held = (*one.training_locality, *(prompt.text for prompt in training.locality))
            one = replace(one, training_paraphrases=trained, training_locality=held)
        filled.append(one)
    write_facts(path, replace(material.own, facts=tuple(filled)))
