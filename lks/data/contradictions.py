"""Detection of facts about one subject that may contradict each other.

Such facts ask the same question in other words and have different targets.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

from lks.data.fact_validation import Bad, UserFact
from lks.data.templates import asked, normalised, stems, template
from lks.io.untrusted import one_line

SHOWN = 5
"""Maximum number of contradictions shown; the rest are only counted."""
ADVICE = "Which target the edited model gives depends on the method (docs/edit-your-model.md, Contradictions)"


def check(facts: Sequence[UserFact]) -> list[Bad]:
    """Find facts on one subject that are trained on, or evaluated, with one question and different targets.

    Prompts that are equal character for character are left to `lks.data.fact_validation`.
    """
    found: list[Bad] = []
    trained: dict[tuple[str, str], UserFact] = {}
    evaluated: dict[tuple[str, str], UserFact] = {}
    for fact in facts:
        for seen, texts in (
            (trained, (fact.prompt, *fact.training_paraphrases)),
            (evaluated, fact.paraphrases),
        ):
            for text in texts:
                first = seen.setdefault((fact.subject, normalised(text)), fact)
                if _differ(first, fact) and first.prompt != fact.prompt:
                    said = (
                        f"{one_line(repr(text), 60)} is asked by {first.place} too, there with the "
                        f"target {one_line(repr(first.target), 60)}"
                    )
                    found.append(
                        Bad(
                            fact.line,
                            f"{said}, here it is {one_line(repr(fact.target), 60)}; keep one of them",
                        )
                    )
    return found


def contradicting(facts: Sequence[UserFact]) -> tuple[str, ...]:
    """Describe facts on one subject that have different targets and ask, or may ask, the same question."""
    wordings = _Wordings(facts)
    groups: dict[str, list[UserFact]] = defaultdict(list)
    for fact in facts:
        groups[normalised(fact.subject)].append(fact)
    sure: list[tuple[UserFact, UserFact]] = []
    unsure: list[tuple[UserFact, UserFact]] = []
    for group in groups.values():
        same = list(_asking_the_same(group, wordings))
        sure += same
        unsure += [] if same else _perhaps(group, wordings)
    alike = "seem to ask the same and have different targets"
    notes = [
        f"{_pair(*pair)} {alike}: {_targets(*pair)}. {ADVICE}; keep one of them." for pair in sure[:SHOWN]
    ]
    if len(sure) > SHOWN:
        notes.append(f"{len(sure) - SHOWN} more pairs of facts {alike}.")
    if unsure:
        count = f"{len(unsure)} subjects have" if len(unsure) > 1 else "One subject has"
        example = f"{_pair(*unsure[0])}, {_targets(*unsure[0])}"
        notes.append(
            f"{count} facts with different targets: {example}. That is fine unless two of them ask "
            f"the same in other words. {ADVICE}."
        )
    return tuple(notes)


class _Wordings:
    """Groups of templates that ask the same thing, according to the paraphrases of all facts."""

    def __init__(self, facts: Sequence[UserFact]) -> None:
        self._parents: dict[str, str] = {}
        for fact in facts:
            found = [
                one
                for text in (fact.prompt, *fact.paraphrases, *fact.training_paraphrases)
                if (one := template(text, fact.subject))
            ]
            for one in found:
                self._parents[self._root(one)] = self._root(found[0])
        self._sizes = Counter(map(self._root, tuple(self._parents)))

    def _root(self, one: str) -> str:
        """Return the representative of a template's group."""
        while self._parents.setdefault(one, one) != one:
            one = self._parents[one]
        return one

    def relation(self, fact: UserFact) -> Hashable:
        """Return what is known of a fact's relation.

        This is its name, or the group of templates that are paraphrases of each other; None if neither is
        known.
        """
        if fact.relation:
            return fact.relation
        own = template(fact.prompt, fact.subject)
        return (self._root(own),) if own and self._sizes[self._root(own)] > 1 else None


def _asking_the_same(group: Sequence[UserFact], wordings: _Wordings) -> Iterator[tuple[UserFact, UserFact]]:
    """Yield each fact that contradicts an earlier one, after the first such earlier fact.

    Facts contradict each other if their targets differ and their relations or their content words are the
    same.
    """
    seen: dict[Hashable, UserFact] = {}
    for fact in group:
        form = template(fact.prompt, fact.subject) or fact.prompt
        content = (asked(form), frozenset(re.findall(r"\d+", form))) if stems(form) else None
        firsts = [seen.setdefault(key, fact) for key in (wordings.relation(fact), content) if key is not None]
        against = next(
            (first for first in firsts if _differ(first, fact) and not _other_relation(first, fact)), None
        )
        if against is not None:
            yield against, fact


def _other_relation(one: UserFact, other: UserFact) -> bool:
    """Return whether both facts name their relation and the names differ."""
    return bool(one.relation and other.relation) and one.relation != other.relation


def _perhaps(group: Sequence[UserFact], wordings: _Wordings) -> list[tuple[UserFact, UserFact]]:
    """Return at most one pair with different targets in which the relation of one fact is unknown."""
    known = {id(fact): wordings.relation(fact) is not None for fact in group}
    for fact in (one for one in group if not known[id(one)]):
        other = next((one for one in group if _differ(one, fact)), None)
        if other is not None:
            return [(other, fact) if other.line <= fact.line else (fact, other)]
    return []


def _differ(one: UserFact, other: UserFact) -> bool:
    """Return whether two facts have different targets, ignoring case."""
    return one.target.casefold() != other.target.casefold()


def _pair(one: UserFact, other: UserFact) -> str:
    """Name two facts by their prompts and places, for a message."""
    return " and ".join(f"{one_line(repr(fact.prompt), 80)} ({fact.place})" for fact in (one, other))


def _targets(one: UserFact, other: UserFact) -> str:
    """Name the targets of two facts, for a message."""
    return f"{one_line(repr(one.target), 60)} and {one_line(repr(other.target), 60)}"
