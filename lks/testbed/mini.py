"""The mini tier: real records of zsRE and CounterFact as training text.

A record gives three facts about one subject: prompt and generality, answered by its ground truth, and the
locality prompt with its answer. Records that share a prompt template (the prompt without its subject) ask the
same thing, so one's answer is right for another's phrasing when its subject's state is put there; that is all
interchange training needs.

Many new answers (targets) are the true answer of no record, and a small model can only say what it was
trained to say. So every such target belongs to an *invented subject*, a person with a name from the lexicon
who is asked the same question. Nothing is said about the real subject.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerFast

from lks.data.synthetic_lexicon import CODAS, FIRST_NAMES, LINKS, MIDDLES, ONSETS, VOWELS
from lks.data.template_prompts import Record
from lks.scope.naming import frame, spelt
from lks.testbed.acceptance import Exam, Question
from lks.testbed.corpus import IGNORED, TrainingText
from lks.testbed.tokenizer import train_tokenizer
from lks.testbed.world_corpus import SideRows, ability_exam, side_rows, side_texts


def questions(records: Sequence[Record]) -> tuple[Question, ...]:
    """Return the facts of all records; of two that contradict each other the first counts.

    The relation of a prompt is its template, that of a generality prompt the template of the record's prompt.
    """
    found: dict[str, Question] = {}
    for record in records:
        relation = frame(record.prompt, record.subject)
        for prompt, answer, kind in (
            (record.prompt, record.ground_truth, relation),
            (record.generality, record.ground_truth, relation),
            (record.locality, record.locality_answer, frame(record.locality, record.subject)),
        ):
            subject = record.subject if spelt(prompt, record.subject) else ""
            found.setdefault(prompt, Question(subject, prompt, answer, kind if subject else ""))
    return tuple(found.values())


def made_questions(
    records: Sequence[Record], real: Sequence[Question], seed: int = 0
) -> tuple[Question, ...]:
    """Invent subjects whose facts bring targets into the model's repertoire.

    There is one subject per (relation, target) that no record answers.
    """
    rng = random.Random(f"made subjects {seed}")
    answered = {(question.relation, question.answer) for question in real}
    spellings = {record.subject for record in records}
    found = []
    for record in records:
        relation = frame(record.prompt, record.subject)
        if not relation or (relation, record.target) in answered:
            continue
        answered.add((relation, record.target))
        name = next(made for made in iter(lambda: _made_name(rng), "") if made not in spellings)
        spellings.add(name)
        asked = dict.fromkeys((relation, frame(record.generality, record.subject) or relation))
        found += [Question(name, prompt.replace("{}", name), record.target, relation) for prompt in asked]
    return tuple(found)


def _made_name(rng: random.Random) -> str:
    """Generate a random full name."""
    stem = rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(MIDDLES)
    return f"{rng.choice(FIRST_NAMES)} {stem}{rng.choice(('', *LINKS))}{rng.choice(CODAS)}"


def mini_tokenizer(records: Sequence[Record], made: Sequence[Question], size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the records' text, including new answers (targets) and invented subjects."""
    texts = [*side_texts(), *(question.subject for question in made)]
    for record in records:
        texts += [record.prompt, record.generality, record.locality]
        texts += [record.ground_truth, record.locality_answer, record.target] * 2
    return train_tokenizer(texts, size)


@dataclass(frozen=True)
class MiniSource:
    """Rows of real records.

    Attributes:
        rows: one row per question.
        subjects: the subject of each row.
        relations: relation of each row; "" if no state can be lent.
        answers: relation -> subject -> answer token ids.
        known: relation -> subjects whose answer is known.
        rows_of: subject -> indices of its rows.
        others: rows about no subject.
    """

    rows: tuple[TrainingText, ...]
    subjects: tuple[str, ...]
    relations: tuple[str, ...]
    answers: dict[str, dict[str, tuple[int, ...]]]
    known: dict[str, tuple[str, ...]]
    rows_of: dict[str, tuple[int, ...]]
    others: SideRows

    def pair(self, rng: random.Random) -> tuple[TrainingText, ...]:
        """Draw a row, with a donor where one exists, or alone; see `lks.testbed.corpus.TextSource`."""
        index = rng.randrange(len(self.rows))
        row, relation = self.rows[index], self.relations[index]
        lenders = self.known.get(relation, ())
        if len(lenders) < 2 or rng.random() < 0.3:
            return (row,)
        other = rng.choice(lenders)
        if other == self.subjects[index]:
            return (row,)
        donor = self.rows[rng.choice(self.rows_of[other])]
        return (replace(row, answer=self.answers[relation][other], donor=1), donor)

    def side(self, rng: random.Random) -> TrainingText:
        """Draw a row about no subject."""
        return self.others.draw(rng)


def mini_source(
    asked: Sequence[Question], tokenizer: PreTrainedTokenizerFast
) -> tuple[MiniSource, tuple[int, int]]:
    """Turn questions into a source of rows; also return the size of the auxiliary heads.

    The size is (facts per subject, number of answers).
    """
    end = int(tokenizer.eos_token_id)
    numbers: dict[str, int] = {}
    traits: dict[str, list[int]] = defaultdict(list)
    for question in asked:
        number = numbers.setdefault(question.answer, len(numbers))
        if question.subject and number not in traits[question.subject] and len(traits[question.subject]) < 3:
            traits[question.subject].append(number)
    ids = {answer: (*tokenizer.encode(answer, add_special_tokens=False), end) for answer in numbers}
    answers: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    rows, rows_of = [], defaultdict(list)
    for index, question in enumerate(asked):
        encoded = tokenizer(question.prompt)
        last = 0
        if question.subject:
            last = encoded.char_to_token(spelt(question.prompt, question.subject)[-1].end - 1) or 0
            answers[question.relation].setdefault(question.subject, ids[question.answer])
            rows_of[question.subject].append(index)
        held = traits[question.subject] if question.subject else []
        rows.append(
            TrainingText(
                tuple(encoded.input_ids),
                ids[question.answer],
                last,
                0,
                tuple(held + [IGNORED] * (3 - len(held))),
            )
        )
    source = MiniSource(
        rows=tuple(rows),
        subjects=tuple(question.subject for question in asked),
        relations=tuple(question.relation for question in asked),
        answers=dict(answers),
        known={relation: tuple(table) for relation, table in answers.items()},
        rows_of={subject: tuple(indices) for subject, indices in rows_of.items()},
        others=side_rows(tokenizer),
    )
    return source, (3, len(numbers))


def mini_exam(asked: Sequence[Question]) -> Exam:
    """Return all facts and the held-out ability items; every phrasing is trained, so none is held out."""
    return Exam(tuple(question for question in asked if question.relation), (), ability_exam())
