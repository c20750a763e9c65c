"""Knowledge extraction (Sec. 3.2): sentences about an entity, updated with an edit, as gap-filling prompts.

It takes three rounds with any chat model: sentences about the entity; a sentence that states the edited fact,
if none of them does; and for each other sentence the few words that can be left out. What can be checked is
not left to the model: the edited sentence is made by replacing the old answer with the new one, and a gap
counts only if putting its answer back restores the sentence.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz import fuzz

from lks.data.templates import normalised
from lks.io.lines import split_lines
from lks.llm.client import ChatReply, Request, spoken
from lks.prompts.filters import LONGEST_ANSWER, PromptFact, says
from lks.scope.naming import put, spelt

VERSION = "extraction-1"
"""Part of a reply's cache key; must be raised with every change of what is asked here."""
GAP = "___"
SENTENCES = 8
"""Number of sentences requested about each entity."""
FEWEST_WORDS, MOST_WORDS = 4, 40
"""Minimum and maximum number of words of a sentence."""
SAME_STATEMENT = 55.0
"""Minimum rapidfuzz token_set_ratio, without the subject, of a sentence and the edit prompt with its old
answer from which the sentence counts as stating that fact.
"""

Unusable = Literal[
    "length",
    "subject missing",
    "duplicate",
    "says the old answer",
    "new answer missing",
    "no gap",
    "answer too long",
    "not the sentence",
]
Speak = Callable[[Sequence[Request]], list[ChatReply]]
"""Asks a model: `lks.llm.reply_cache.Correspondence.ask`, which stores the replies, or anything else that
answers in order.
"""

ABOUT = """You write down what is known about an entity. Write {count} short sentences, one per line, \
nothing else. Each states one fact that you know for certain, in which the name of the entity stands exactly \
as it is given, never a pronoun."""
STATE = """You are given the name of an entity, a question or the beginning of a sentence about it, and the \
answer. Take the answer as given, even if you know better. State it in one sentence in which name and answer \
stand exactly as given. Reply with the sentence alone."""
LEAVE_OUT = """You turn a sentence into a gap-filling prompt. Choose at most three words in a row, best at \
its end, that hold its fact and are not part of the entity's name, and put ___ in their place. Change \
nothing else. Reply with two lines: "GapPrompt:" and the sentence with the gap, "GapAnswer:" and the words \
left out.

Entity: France
Sentence: The capital of France is Paris.
GapPrompt: The capital of France is ___.
GapAnswer: Paris"""

_BULLET = re.compile(r"^\s*(?:[-*•]+|\d+[.)])\s*")
_GAP = re.compile(
    r"^\W*gap ?prompt\W*?:\W*?\s*(?P<prompt>\S.*)\n+\W*gap ?answer\W*?:\W*?\s*(?P<answer>\S.*?)\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap-filling prompt.

    Attributes:
        prompt: a sentence with `GAP` in place of its answer.
        answer: the text that fills the gap.
        edited: whether it asks for the edited fact, with the new answer; otherwise for another fact of the
            entity.
    """

    prompt: str
    answer: str
    edited: bool

    @property
    def opening(self) -> str:
        """The sentence up to the gap, to be continued."""
        return self.prompt.partition(GAP)[0].rstrip()


@dataclass(frozen=True, slots=True)
class Extracted:
    """Sentences and gap-filling prompts extracted for an edit.

    Attributes:
        case_id: id of the edit's case.
        sentences: sentences about the entity, updated with the edit.
        gaps: gap-filling prompts, the edited fact's first.
        rejects: replies that were not used, with the reason.
    """

    case_id: str
    sentences: tuple[str, ...]
    gaps: tuple[Gap, ...]
    rejects: tuple[tuple[str, Unusable], ...]


def extract(facts: Sequence[PromptFact], speak: Speak) -> list[Extracted]:
    """Extract sentences and gap-filling prompts for each edit, in the order of the facts.

    Raises:
        UserError: the model cannot be asked.
    """
    drafts = [_Draft(fact) for fact in facts]
    about = [
        _request(ABOUT.format(count=SENTENCES), f"Entity: {fact.subject}", 64 * SENTENCES) for fact in facts
    ]
    for draft, reply in zip(drafts, speak(about), strict=True):
        draft.hear(reply.text)
    without = [draft for draft in drafts if draft.edited is None]
    state = [
        _request(STATE, f"Entity: {d.fact.subject}\nPrompt: {d.fact.prompt}\nAnswer: {d.fact.target}", 96)
        for d in without
    ]
    for draft, reply in zip(without, speak(state) if state else [], strict=True):
        draft.hear_statement(reply.text)
    others = [(draft, sentence) for draft in drafts for sentence in draft.others]
    leave = [
        _request(LEAVE_OUT, f"Entity: {draft.fact.subject}\nSentence: {sentence}", 160)
        for draft, sentence in others
    ]
    for (draft, sentence), reply in zip(others, speak(leave) if leave else [], strict=True):
        draft.hear_gap(sentence, reply.text)
    return [draft.finished() for draft in drafts]


def updated(sentence: str, fact: PromptFact) -> str | None:
    """Return the sentence with the old answer replaced by the new one.

    Returns None unless the sentence contains the old answer literally, exactly once.
    """
    if not fact.ground_truth:
        return None
    named = spelt(sentence, fact.subject)
    start, end = (named[0].start, named[0].end) if named else (len(sentence), len(sentence))
    head, subject, tail = (
        sentence[:start],
        sentence[start:end],
        sentence[end:],
    )  # an old answer that is part of the name stays
    pattern = re.compile(rf"(?<!\w){re.escape(fact.ground_truth)}(?!\w)", re.IGNORECASE)
    new = [pattern.subn(lambda _: fact.target, part) for part in (head, tail)]
    return f"{new[0][0]}{subject}{new[1][0]}" if new[0][1] + new[1][1] == 1 else None


def gap_in(sentence: str, answer: str, subject: str) -> str | None:
    """Return the sentence with `GAP` for the answer's last occurrence outside the subject, if any."""
    names = spelt(sentence, subject)[:1]
    found = [one.span() for one in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", sentence)]
    outside = [
        (begin, end) for begin, end in found if all(end <= name.start or begin >= name.end for name in names)
    ]
    return f"{sentence[: outside[-1][0]]}{GAP}{sentence[outside[-1][1] :]}" if outside else None


class _Draft:
    """Sentences, gaps and rejects collected so far for one edit's entity."""

    def __init__(self, fact: PromptFact) -> None:
        self.fact = fact
        self.edited: str | None = None
        self.others: list[str] = []
        self._gaps: list[Gap] = []
        self._rejects: list[tuple[str, Unusable]] = []

    def hear(self, reply: str) -> None:
        """Read sentences about the entity.

        The one that states the old fact is updated; others that contain the old answer are dropped.
        """
        sentences: list[str] = []
        for line in split_lines(spoken(reply)):
            sentence = " ".join(_BULLET.sub("", line).split())
            if sentence and (reason := self._unusable(sentence, sentences)):
                self._rejects.append((sentence, reason))
            elif sentence:
                sentences.append(sentence)
        stating = max(sentences, key=self._likeness, default=None)
        if stating is not None and self._likeness(stating) >= SAME_STATEMENT:
            self.edited = updated(stating, self.fact)
            sentences.remove(stating)
        for sentence in sentences:
            if says(put(sentence, self.fact.subject, " "), self.fact.ground_truth):
                self._rejects.append((sentence, "says the old answer"))
            else:
                self.others.append(sentence)

    def hear_statement(self, reply: str) -> None:
        """Read a sentence made for the edited fact."""
        sentence = " ".join(spoken(reply).split())
        reason = self._unusable(sentence, self.others)
        if reason is None and gap_in(sentence, self.fact.target, self.fact.subject) is None:
            reason = "new answer missing"
        if reason is None:
            self.edited = sentence
        else:
            self._rejects.append((sentence, reason))

    def hear_gap(self, sentence: str, reply: str) -> None:
        """Read a gap in a sentence; it counts if putting its answer back restores the sentence."""
        found = _GAP.match(spoken(reply).strip())
        prompt, answer = (found["prompt"].strip(), found["answer"].strip(" *`\"'.")) if found else ("", "")
        reason: Unusable | None = None
        if prompt.count(GAP) != 1 or not answer:
            reason = "no gap"
        elif normalised(prompt.replace(GAP, answer)) != normalised(sentence):
            reason = "not the sentence"
        elif len(answer.split()) > LONGEST_ANSWER:
            reason = "answer too long"
        elif not spelt(prompt, self.fact.subject):
            reason = "subject missing"
        if reason is None:
            self._gaps.append(Gap(prompt, answer, edited=False))
        else:
            self._rejects.append((spoken(reply).strip(), reason))

    def finished(self) -> Extracted:
        """Return everything extracted, the edited fact first."""
        gap = None if self.edited is None else gap_in(self.edited, self.fact.target, self.fact.subject)
        gaps = ([] if gap is None else [Gap(gap, self.fact.target, edited=True)]) + self._gaps
        sentences = ([] if self.edited is None else [self.edited]) + self.others
        return Extracted(self.fact.case_id, tuple(sentences), tuple(gaps), tuple(self._rejects))

    def _likeness(self, sentence: str) -> float:
        """Return how closely a sentence states the old fact, 0 to 100."""
        if updated(sentence, self.fact) is None:
            return 0.0
        old = f"{self.fact.prompt} {self.fact.ground_truth}"
        return fuzz.token_set_ratio(
            *(normalised(put(text, self.fact.subject, " ")) for text in (sentence, old))
        )

    def _unusable(self, sentence: str, others: Sequence[str]) -> Unusable | None:
        """Return why a sentence is unusable; None if it is usable."""
        if not spelt(sentence, self.fact.subject):
            return "subject missing"
        if not FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS:
            return "length"
        return "duplicate" if normalised(sentence) in {normalised(other) for other in others} else None


def _request(task: str, text: str, longest: int) -> Request:
    """Build a chat request with temperature 0."""
    return Request((("system", task), ("user", text)), 0.0, longest)
