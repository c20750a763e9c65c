"""Training prompts without a language model: taken from the templates of other records.

The published data holds evaluation prompts only; paraphrases and locality prompts to *train* on must be made.
The paper asks a large model for them. Here they come from the dataset itself: a record's template is its
prompt with the subject replaced by `{}`, and records that share an edit template ask for the same relation.
The rephrasings of the other records, filled with this record's subject, are paraphrases; their locality
questions are other facts about a subject of the same type.

Invariant: no training prompt equals, up to case, spacing, punctuation and articles, any evaluation prompt of
the dataset.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import sqrt
from typing import Protocol

from lks.data.templates import fits, normalised, question, stems, template

N_PARAPHRASES, N_LOCALITY = 4, 6  # at most
FLOOR = 2  # below this, lead-ins (paraphrases) or common questions (locality) fill up
SAME_RELATION = 0.2  # cosine of two edit templates' rephrasings
KIND_BONUS = 4.0  # weight of a template used with answers of the same kind

_QUESTION_FRAMES = ("Question: {} Answer:", "Please answer this question: {}", "Q: {} A:", "Tell me: {}")
_STATEMENT_FRAMES = ("Complete the sentence: {}", "Fact: {}", "It is said that: {}", "Fill in the blank: {}")
_CUT_OFF = re.compile(r"\{\}[+#]")
"""Matches where a template's subject was the beginning of a longer name ("{}+" of "Emacs+"): with another
subject that symbol distinguishes nothing.
"""
Weights = dict[str, float]


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a published evaluation file; texts are stripped and not empty."""

    case_id: str
    subject: str
    prompt: str
    target: str
    ground_truth: str
    generality: str
    locality: str
    locality_answer: str


@dataclass(frozen=True, slots=True)
class TrainingPrompts:
    """Prompts an editor may train on in addition to the edit prompt.

    Attributes:
        paraphrases: same meaning as the edit prompt, best first.
        locality: other facts about the same subject.
        from_data: how many of the paraphrases come from other records (the rest are the edit prompt after a
            lead-in).
    """

    paraphrases: tuple[str, ...]
    locality: tuple[str, ...]
    from_data: int


class PromptSource(Protocol):
    """Source of training prompts: templates of other records, or earlier replies of a language model."""

    @property
    def version(self) -> str:
        """Version that is part of the dataset's revision: another version may give other prompts."""
        ...

    def prompts(self, record: Record) -> TrainingPrompts:
        """Return a record's prompts, always the same regardless of earlier calls."""
        ...


class _Uses:
    """Counts of how often a template was used with an edit template, and with answers of one kind."""

    def __init__(self) -> None:
        self.by_edit: dict[str, Counter[str]] = defaultdict(Counter)
        self.by_kind: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.total: Counter[str] = Counter()

    def add(self, edit: str, kind: str, used: str | None) -> None:
        """Count one use of a template; None is ignored."""
        if used is not None:
            self.by_edit[edit][used] += 1
            self.by_kind[edit, kind][used] += 1
            self.total[used] += 1


class TemplateSource:
    """A deterministic `PromptSource` over the records of one dataset, using nothing but these records."""

    version = "templates-2"

    def __init__(self, records: Sequence[Record]) -> None:
        self._evaluation = {
            normalised(text) for r in records for text in (r.prompt, r.generality, r.locality)
        }
        self._kinds = _answer_kinds(records)
        self._paraphrases, self._locality = _Uses(), _Uses()
        for record in records:
            edit = template(record.prompt, record.subject)
            if edit is not None:
                kind = self._kinds[edit, record.target]
                self._paraphrases.add(edit, kind, template(record.generality, record.subject))
                self._locality.add(edit, kind, template(record.locality, record.subject))
        self._siblings = _siblings(sorted({edit for edit, _ in self._kinds}), self._paraphrases.by_edit)
        self._pools: dict[str, tuple[Weights, Weights]] = {}

    def prompts(self, record: Record) -> TrainingPrompts:
        """Return prompts drawn by weight, with a generator seeded by the record alone."""
        rng = random.Random(f"{record.case_id} {record.prompt}")
        edit = template(record.prompt, record.subject)
        paraphrases: list[str] = []
        locality: list[str] = []
        if edit is not None:
            if edit not in self._pools:
                self._pools[edit] = (self._same(edit), self._other(edit))
            same, other = self._pools[edit]
            kind = edit, self._kinds.get((edit, record.target), "")
            paraphrases = self._fill(
                _draw(same, self._paraphrases.by_kind.get(kind), rng), record, N_PARAPHRASES
            )
            locality = self._fill(
                _draw(other, self._locality.by_kind.get(kind), rng), record, N_LOCALITY, varied=True
            )
        from_data = len(paraphrases)
        frames = _QUESTION_FRAMES if record.prompt.rstrip().endswith("?") else _STATEMENT_FRAMES
        framed = (frame.format(record.prompt) for frame in rng.sample(frames, len(frames)))
        paraphrases += self._fill(framed, record, max(0, FLOOR - from_data))
        return TrainingPrompts(tuple(paraphrases), tuple(locality), from_data)

    def _fill(
        self, templates: Iterable[str], record: Record, count: int, *, varied: bool = False
    ) -> list[str]:
        """Return the first `count` templates, filled with the subject, that are distinct and not evaluated.

        Args:
            templates: candidates, best first.
            record: the record whose subject is put in.
            count: maximum number of prompts.
            varied: require that they differ in content words, not only in form.
        """
        found: list[str] = []
        seen: set[str | frozenset[str]] = set()
        for candidate in templates if count else ():
            prompt = candidate.replace("{}", record.subject)
            key = normalised(_CUT_OFF.sub("{}", candidate).replace("{}", record.subject))
            content = stems(candidate) if varied else key
            if key not in self._evaluation and content not in seen:
                seen.add(content)
                found.append(prompt)
                if len(found) == count:
                    break
        return found

    def _meaning(self, edit: str) -> frozenset[str]:
        """Return the content words of a relation, from its edit templates and its usual rephrasings."""
        usual = (used for used, uses in self._paraphrases.by_edit[edit].items() if uses > 1)
        return frozenset().union(*(stems(text) for text in chain((edit,), usual, self._siblings[edit])))

    def _same(self, edit: str) -> Weights:
        """Return paraphrase templates: the usual ones, and rarer ones that add no new content word."""
        own, meaning = self._paraphrases.by_edit[edit], self._meaning(edit)
        weights: dict[str, float] = defaultdict(float, own)
        for sibling, likeness in self._siblings[edit].items():
            weights[sibling] += 2 * likeness
            for used, uses in self._paraphrases.by_edit[sibling].items():
                weights[used] += likeness * uses
        return {
            used: weight
            for used, weight in weights.items()
            if used != edit
            and fits(used, edit)
            and (own[used] > 1 or (stems(used) and stems(used) <= meaning))
        }

    def _tiers(self, edit: str) -> Iterator[Mapping[str, float]]:
        """Yield edit templates about subjects of the same type with their weights, nearest first."""
        yield {edit: 1.0}
        yield self._siblings[edit]
        yield _alike(edit, self._siblings)

    def _other(self, edit: str) -> Weights:
        """Return locality templates: of this edit template, its siblings and similarly worded questions."""
        total, meaning = self._locality.total, self._meaning(edit)
        same = {edit, *self._siblings[edit]}
        same |= {used for near in tuple(same) for used in self._paraphrases.by_edit[near]}
        weights: dict[str, float] = defaultdict(float)
        for tier in self._tiers(edit):
            for near, likeness in tier.items():
                for used, uses in self._locality.by_edit[near].items():
                    usual = total[used] > 2 or (near == edit and uses > 1)
                    if (
                        usual
                        and used not in same
                        and stems(used)
                        and not stems(used) & meaning
                        and fits(used, edit)
                    ):
                        weights[used] += likeness * uses
            if len(weights) > N_LOCALITY:
                return dict(weights)
        if len(weights) < FLOOR:
            common = (
                used
                for used, _ in total.most_common()
                if used not in same and not stems(used) & meaning and fits(used, edit)
            )
            weights.update((used, 0.001) for used in islice(common, N_LOCALITY))
        return dict(weights)


def _draw(weights: Weights, kind: Mapping[str, int] | None, rng: random.Random) -> list[str]:
    """Return all templates in random order, heavy ones early.

    Those used with answers of this kind weigh more. The smallest of exponential variables with rates w_i is i
    with probability w_i / sum(w); squaring the weights favours usual templates over odd ones.
    """
    kind = kind or {}
    keys = {
        used: rng.expovariate((weight + KIND_BONUS * kind.get(used, 0)) ** 2)
        for used, weight in weights.items()
    }
    return sorted(keys, key=keys.__getitem__)


def _answer_kinds(records: Sequence[Record]) -> dict[tuple[str, str], str]:
    """Map each (edit template, answer) to a kind of answer.

    A record's old and new answer are of the same kind, and so on transitively from record to record. The kind
    resolves what an ambiguous template asks for: "{}, the" asks for the instrument of some subjects, for the
    position of others.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for record in records:
        edit = template(record.prompt, record.subject)
        if edit is not None:
            parent[root((edit, record.target))] = root((edit, record.ground_truth))
    return {node: root(node)[1] for node in tuple(parent)}


def _siblings(edits: Sequence[str], uses: Mapping[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Map each edit template to other edit templates of the same relation, with their similarity in (0, 1].

    Siblings are rephrased in the same words (cosine of the counts), or ask for the same thing.
    """
    users: dict[str, list[str]] = defaultdict(list)
    asking: dict[tuple[frozenset[str], frozenset[str]], list[str]] = defaultdict(list)
    norms = {}
    for edit in edits:
        norms[edit] = sqrt(sum(count * count for count in uses[edit].values()))
        for used in uses[edit]:
            users[used].append(edit)
        if "?" in edit and stems(edit):
            asking[question(edit)].append(edit)
    found: dict[str, dict[str, float]] = {}
    for edit in edits:
        dots: Counter[str] = Counter()
        for used, count in uses[edit].items():
            for other in users[used]:
                dots[other] += count * uses[other][used]
        likeness = {other: dot / norms[edit] / norms[other] for other, dot in dots.items()}
        likeness = {other: value for other, value in likeness.items() if value >= SAME_RELATION}
        likeness |= dict.fromkeys(asking.get(question(edit), ()), 1.0)
        likeness.pop(edit, None)
        found[edit] = likeness
    return found


def _alike(edit: str, edits: Iterable[str]) -> dict[str, float]:
    """Return edit templates that share at least half of the content words, with a small weight."""
    mine = stems(edit)
    near = (other for other in edits if other != edit and not mine.isdisjoint(stems(other)))
    shared = {other: len(mine & stems(other)) / len(mine | stems(other)) for other in near}
    return {other: share / 10 for other, share in shared.items() if share >= 0.5}
