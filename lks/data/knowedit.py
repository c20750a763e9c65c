"""The KnowEdit datasets (survey: Zhang et al. 2024, arXiv 2401.01286) as cases of this benchmark.

- `knowedit-zsre`, `knowedit-recent` (WikiData_recent), `knowedit-counterfact` (WikiData_counterfact): a fact,
  its locality (strata "relation_specificity": other facts of the subject; "forgetfulness": other answers of
  the edited relation) and its portability (strata "alias", "reasoning", "logical").
- `knowedit-wikibio`: a passage is continued by one sentence, the target; success is measured with teacher
  forcing, since hardly any sentence of that length is generated word for word.
- `knowedit-convsent`: an opinion on a topic. In the survey a sentiment classifier judges what the model says.
  Here the target is a response of the wanted sentiment and its rival one of the opposite sentiment, so that
  "target more likely than rival" (ES) tells which sentiment the model leans to; no second model decides the
  score.
- `knowedit-sanitation`: a question whose answer is to be forgotten. Target: a refusal; rival: the secret;
  scored in the same way.

If several answers are right, the first is the reference and the others are accepted. A prompt that ends in ",
which is not X, is" excludes X; the published answers contain it all the same, and it is removed from them.

Training prompts come from the records' templates (`lks.data.template_prompts`). Evaluation prompts of any
kind are never trained on.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from types import MappingProxyType

from lks.data.answer_aliases import tellable
from lks.data.knowedit_format import Fields, KnowEditQuestion
from lks.data.template_prompts import PromptSource, Record
from lks.edits import Case, Edit, Probe, make_case
from lks.scope.naming import mentions, spelt

REFUSAL = "I don't know."

Spell = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class KnowEditRecord:
    """A record of any of the files.

    Attributes:
        case_id: its number in the file.
        subject: as the record names it, later as the prompt spells it.
        prompt: the edit prompt.
        target: the new answer.
        old: old answers, possibly none.
        accepted: other responses that are as good as the target.
        paraphrases: evaluation prompts of the same meaning.
        items: locality questions, then portability questions.
        opening: the part of a long prompt that names its subject; "" if the prompt has no such part.
    """

    case_id: str
    subject: str
    prompt: str
    target: str
    old: tuple[str, ...]
    accepted: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    items: tuple[KnowEditQuestion, ...] = ()
    opening: str = ""


def _fact(fields: Fields, number: int) -> KnowEditRecord:
    """Read a record of zsRE, WikiData_recent or WikiData_counterfact."""
    return KnowEditRecord(
        case_id=str(number),
        subject=fields.text("subject"),
        prompt=fields.text("prompt"),
        target=fields.text("target_new"),
        old=tuple(group[0] for group in fields.answers("ground_truth")),
        paraphrases=fields.texts("rephrase_prompt"),
        items=(*fields.items("locality"), *fields.items("portability")),
    )


def _biography(fields: Fields, number: int) -> KnowEditRecord:
    """Read a record of WikiBio."""
    subject, text = fields.text("concept"), fields.text("text")
    opening = next(
        (text[: found.end()] for found in re.finditer(re.escape(subject) + r"\.", text, re.IGNORECASE)), ""
    )
    return KnowEditRecord(
        str(number), subject, text, fields.text("labels"), (), items=fields.items("locality"), opening=opening
    )


def _opinion(fields: Fields, number: int) -> KnowEditRecord:
    """Read a record of ConvSent.

    The sentiment to edit in is the record's; if it names none, even records become positive and odd ones
    negative.
    """
    positive = (
        fields.one_of("sentiment", ("pos", "neg")) == "pos" if "sentiment" in fields else number % 2 == 0
    )
    wanted, opposite = ("pos", "neg") if positive else ("neg", "pos")
    target, *others = fields.some(wanted)
    topic, prompts = fields.text("topic"), fields.some("prompts")
    prompt = next((prompt for prompt in prompts if _spelt(topic, prompt)), prompts[0])
    rest = tuple(other for other in prompts if other != prompt)
    return KnowEditRecord(
        str(number),
        topic,
        prompt,
        target,
        fields.some(opposite),
        tuple(others),
        rest,
        fields.items("locality"),
    )


def _secret(fields: Fields, number: int) -> KnowEditRecord:
    """Read a record of Sanitation.

    Without a subject, the question without its question mark is the subject.
    """
    prompt, named = fields.text("question", "prompt"), "subject" in fields
    fields.notes["no subject, the question stands for it"] += not named
    return KnowEditRecord(
        case_id=str(number),
        subject=fields.text("subject") if named else prompt.rstrip(" ?"),
        prompt=prompt,
        target=fields.text("target_new") if "target_new" in fields else REFUSAL,
        old=fields.some("ground_truth"),
        paraphrases=fields.texts("rephrase_prompt"),
        items=fields.items("locality"),
    )


_READERS: Mapping[str, Callable[[Fields, int], KnowEditRecord]] = MappingProxyType(
    {"knowedit-wikibio": _biography, "knowedit-convsent": _opinion, "knowedit-sanitation": _secret}
)


def read(
    name: str,
    raw: Sequence[object],
    file: Path,
    make_source: Callable[[Sequence[Record]], PromptSource],
    spellings: Spell,
) -> tuple[tuple[Case, ...], dict[str, int]]:
    """Read the cases of a file and count its irregularities.

    Args:
        name: name of the dataset.
        raw: the file's records.
        file: path of the file, for error messages.
        make_source: makes the source of training prompts.
        spellings: returns other spellings of an answer.

    Raises:
        DataError: a bad record; names file, record and field.
    """
    notes: Counter[str] = Counter()
    facts = []
    for number, one in enumerate(raw):
        fact = _READERS.get(name, _fact)(Fields(one, f"{file}, record {number}", notes), number)
        if _spelt(fact.subject, fact.prompt):
            facts.append(_cleared(fact, notes))
        else:
            notes["subject not in prompt, left out"] += 1
    lent = [_lent(fact) for fact in facts]
    source = make_source([*chain(*lent), *chain(*map(_barred, facts))])
    cases = tuple(_case(fact, own[0], source, spellings) for fact, own in zip(facts, lent, strict=True))
    _count(facts, notes)
    return cases, {note: count for note, count in sorted(notes.items()) if count}


def _spelt(subject: str, prompt: str) -> str:
    """Return the subject as the prompt spells it, ignoring case if necessary; "" if it is not there."""
    found = spelt(prompt, subject) or mentions(prompt, subject)
    return prompt[found[0].start : found[0].end] if found else ""


def _cleared(fact: KnowEditRecord, notes: Counter[str]) -> KnowEditRecord:
    """Return the fact with its subject as the prompt spells it, without answers that a question excludes."""
    subject = _spelt(fact.subject, fact.prompt)
    notes["subject in other case in prompt"] += subject != fact.subject
    items = []
    for item in fact.items:
        left = tuple(
            group
            for group in item.answers
            if not any(f"which is not {name}," in item.prompt for name in group)
        )
        notes["answer that its own question bars, left out"] += len(item.answers) - len(left)
        notes[f"{item.kind} question that bars its only answer, left out"] += not left
        if left:
            items.append(KnowEditQuestion(item.kind, item.stratum, item.prompt, left))
    return replace(fact, subject=subject, items=tuple(items))


def _lent(fact: KnowEditRecord) -> list[Record]:
    """Return the fact as records that lend their templates to other facts.

    Each paraphrase and each question about the subject is used once. The first record is the one for which
    training prompts are requested; fields may be empty here. Questions that name an answer ("forgetfulness")
    are of no use to other facts.
    """
    asked = [item for item in fact.items if item.kind == "locality" and item.stratum != "forgetfulness"]
    old, prompt = fact.old[0] if fact.old else "", fact.opening or fact.prompt
    pairs = list(zip_longest(fact.paraphrases, asked)) or [(None, None)]
    return [
        Record(
            fact.case_id,
            fact.subject,
            prompt,
            fact.target,
            old,
            again or "",
            *((_put(item, fact), item.answers[0][0]) if item else ("", "")),
        )
        for again, item in pairs
    ]


def _put(item: KnowEditQuestion, fact: KnowEditRecord) -> str:
    """Return a locality question in the form of the edit prompt.

    If the edit prompt is a question, "The colour of it is" becomes "What is the colour of it?".
    """
    stated = (
        re.fullmatch(rf"The (.+) of {re.escape(fact.subject)} is", item.prompt)
        if fact.prompt.endswith("?")
        else None
    )
    return f"What is the {stated[1]} of {fact.subject}?" if stated else item.prompt


def _barred(fact: KnowEditRecord) -> list[Record]:
    """Return each question about the fact as a record without a subject.

    Such a record lends no template, but keeps its prompt from being trained on.
    """
    return [Record(fact.case_id, "", item.prompt, "", "", "", "", "") for item in fact.items]


def _case(fact: KnowEditRecord, record: Record, source: PromptSource, spellings: Spell) -> Case:
    """Build the case of a fact."""
    training = source.prompts(record)
    edit = Edit(
        case_id=fact.case_id,
        subject=fact.subject,
        prompt=fact.prompt,
        target=fact.target,
        ground_truth=fact.old[0] if fact.old else "",
        training_paraphrases=tuple(text.replace(record.prompt, fact.prompt) for text in training.paraphrases),
        training_locality=training.locality,
    )
    case = make_case(
        edit, fact.paraphrases, (), lambda answer: _others(answer, (*fact.accepted, *spellings(answer)))
    )
    numbers: Counter[str] = Counter()
    probes = list(case.probes)
    for item in fact.items:
        answer, *others = chain(*item.answers)
        probes.append(
            Probe(
                item.kind,
                numbers[item.kind],
                item.prompt,
                answer,
                _others(answer, (*others, *spellings(answer))),
                item.stratum,
            )
        )
        numbers[item.kind] += 1
    return Case(edit, tuple(probes))


def _others(answer: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names accepted in addition to the answer, without duplicates."""
    return tuple(dict.fromkeys(name for name in names if name != answer and tellable(name)))


def _count(facts: Sequence[KnowEditRecord], notes: Counter[str]) -> None:
    """Count irregularities that are kept, named as in the other datasets."""
    for fact in facts:
        notes["no ground truth"] += not fact.old
        notes["several old answers, the first is the rival"] += len(fact.old) > 1
        notes["target equals ground truth"] += fact.target.casefold() in [old.casefold() for old in fact.old]
        notes["subject not in paraphrase prompt"] += any(
            fact.subject not in prompt for prompt in fact.paraphrases
        )
        notes["subject not in locality prompt"] += any(
            fact.subject not in item.prompt for item in fact.items if item.kind == "locality"
        )
        notes["edit prompt asked again as a question"] += any(
            item.prompt == fact.prompt for item in fact.items
        )
    notes["duplicate prompt"] = len(facts) - len({fact.prompt for fact in facts})
    notes["duplicate subject"] = len(facts) - len({fact.subject for fact in facts})
