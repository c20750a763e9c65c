"""Filters for written prompts: how a reply is read, and each reason to reject it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rapidfuzz import fuzz

from lks.data.templates import asked, normalised, stems, template
from lks.io.lines import split_lines
from lks.llm.client import spoken
from lks.scope.naming import put, spelt

Split = Literal["evaluation", "training"]
Kind = Literal["paraphrase", "locality"]
Reason = Literal[
    "refused by the server",
    "empty",
    "more than one line",
    "wrong format",
    "subject missing",
    "copy of the edit prompt",
    "length",
    "question or statement",
    "answer in the prompt",
    "answer too long",
    "asks the same fact",
    "duplicate in the record",
    "duplicate in the dataset",
    "in the other split",
    "an edit prompt",
]

LONGEST_ANSWER = 3
"""Maximum number of words of a locality prompt's answer. The model is asked for fewer than three; one more,
usually an article, does no harm.
"""
SHORTEST, LONGEST, SLACK = 0.5, 2.0, 3
"""A paraphrase of a prompt of n words has SHORTEST * n - SLACK to LONGEST * n + SLACK words."""
MOST_WORDS = 40
"""Maximum number of words of a locality prompt."""
SAME_WORDS = 92.0
"""Minimum rapidfuzz token_sort_ratio of two normalised prompts without their subject from which they ask the
same.
"""

_LABEL = re.compile(
    r"^(?:new prompt|newprompt|paraphrase|rephrased? prompt|rewritten prompt|rewrite|prompt)\s*:\s*",
    re.IGNORECASE,
)
_EVAL = re.compile(r"^eval[ _-]?(prompt|answer)\s*:\s*(.*)$", re.IGNORECASE)
_EDGE = "*_`\"“”' \t"


@dataclass(frozen=True, slots=True)
class WrittenPrompt:
    """A written prompt.

    Attributes:
        text: the prompt, on one line.
        answer: the answer of a locality prompt; "" if none is known.
    """

    text: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class PromptFact:
    """A fact that prompts are written for.

    Attributes:
        case_id: unique among the facts.
        subject: as it is spelt in `prompt`.
        prompt: the edit prompt.
        target: the new answer.
        ground_truth: the old answer; "" if it is not known.
        published: existing evaluation prompts, never to be trained on.
    """

    case_id: str
    subject: str
    prompt: str
    target: str
    ground_truth: str = ""
    published: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """Prompts of a record that were accepted so far."""

    paraphrases: tuple[WrittenPrompt, ...] = ()
    locality: tuple[WrittenPrompt, ...] = ()


@dataclass(slots=True)
class Seen:
    """Normalised prompts of the dataset.

    Attributes:
        edits: the edit prompts.
        published: evaluation prompts that came with the facts.
        written: written prompts by split.
    """

    edits: set[str] = field(default_factory=set)
    published: set[str] = field(default_factory=set)
    written: dict[Split, set[str]] = field(default_factory=lambda: {"evaluation": set(), "training": set()})

    @classmethod
    def of(cls, facts: Sequence[PromptFact]) -> "Seen":
        """Collect the prompts that exist before anything is written."""
        return cls(
            {normalised(fact.prompt) for fact in facts},
            {normalised(text) for fact in facts for text in fact.published},
        )


def read(kind: Kind, reply: str) -> WrittenPrompt | Reason:
    """Parse a reply, tolerant of case, quotes and markdown, but strict about its content."""
    lines = [stripped for line in split_lines(spoken(reply)) if (stripped := _bare(line))]
    if not lines:
        return "empty"
    if kind == "paraphrase":
        lines = [text for line in lines if (text := _LABEL.sub("", line).strip(_EDGE))]
        if len(lines) != 1:
            return "more than one line" if lines else "empty"
        return WrittenPrompt(_plain(lines[0]))
    found = [_EVAL.match(line) for line in lines]
    while found and found[0] is None:  # a word of greeting
        found.pop(0)
    if [one and one[1].lower() for one in found] != ["prompt", "answer"]:
        return "wrong format"
    prompt, answer = (_plain(one[2].strip(_EDGE)) if one else "" for one in found)
    return WrittenPrompt(prompt, answer.removesuffix(".")) if prompt and answer else "empty"


def _bare(line: str) -> str:
    """Strip bullets, markdown and code fences from a line, also markdown between a label and its text."""
    line = line.strip()
    if line.startswith("```"):
        return ""
    line = re.sub(r"^(?:[-*>#]+|\d+[.)])\s+", "", line)
    return re.sub(
        r"^[*_`]+(eval[ _-]?(?:prompt|answer)|new prompt|paraphrase|prompt)\s*(?:[*_`]+\s*:|:\s*[*_`]+)\s*",
        r"\1: ",
        line,
        flags=re.IGNORECASE,
    )


def _plain(text: str) -> str:
    """Collapse white space."""
    return " ".join(text.split())


def fault(
    split: Split, kind: Kind, prompt: WrittenPrompt, fact: PromptFact, own: Written, seen: Seen
) -> Reason | None:
    """Return why a prompt is rejected; None if it is accepted.

    Args:
        split: the set it is for.
        kind: its intended kind.
        prompt: the prompt as read.
        fact: the fact it was written for.
        own: prompts accepted for this fact so far.
        seen: prompts of the dataset.
    """
    if not spelt(prompt.text, fact.subject):
        return "subject missing"
    key = normalised(prompt.text)
    if key == normalised(fact.prompt):
        return "copy of the edit prompt"
    alone = (
        _fault_of_paraphrase(prompt.text, fact)
        if kind == "paraphrase"
        else _fault_of_locality(prompt, fact, own)
    )
    if alone:
        return alone
    if key in {normalised(other.text) for other in (*own.paraphrases, *own.locality)}:
        return "duplicate in the record"
    if key in seen.edits:
        return "an edit prompt"
    if key in seen.written["training" if split == "evaluation" else "evaluation"] or (
        split == "training" and key in seen.published
    ):
        return "in the other split"
    return "duplicate in the dataset" if key in seen.written[split] else None


def _fault_of_paraphrase(text: str, fact: PromptFact) -> Reason | None:
    """Return why a paraphrase is rejected on its own; None if it is not."""
    count, length = len(fact.prompt.split()), len(text.split())
    if not SHORTEST * count - SLACK <= length <= LONGEST * count + SLACK:
        return "length"
    ends = text[-1]
    if (ends == "?") != fact.prompt.rstrip().endswith("?") or (
        ends in ".!_…" and not fact.prompt.rstrip().endswith(ends)
    ):
        return "question or statement"
    if any(
        says(text, answer) and not says(fact.prompt, answer)
        for answer in (fact.target, fact.ground_truth)
        if answer
    ):
        return "answer in the prompt"
    return None


def _fault_of_locality(prompt: WrittenPrompt, fact: PromptFact, own: Written) -> Reason | None:
    """Return why a locality prompt is rejected, given the record's other prompts; None if it is not."""
    if len(prompt.text.split()) > MOST_WORDS:
        return "length"
    if len(prompt.answer.split()) > LONGEST_ANSWER:
        return "answer too long"
    if prompt.answer and says(put(prompt.text, fact.subject, " "), prompt.answer):
        return "answer in the prompt"
    if prompt.answer and normalised(prompt.answer) in {
        normalised(fact.target),
        normalised(fact.ground_truth),
    } - {""}:
        return "asks the same fact"
    if any(
        same_fact(prompt.text, other, fact.subject)
        for other in (fact.prompt, *(one.text for one in own.paraphrases))
    ):
        return "asks the same fact"
    same = any(same_fact(prompt.text, other.text, fact.subject) for other in own.locality)
    return "duplicate in the record" if same else None


def says(text: str, answer: str) -> bool:
    """Return whether a text contains an answer as whole words."""
    return f" {normalised(answer)} " in f" {normalised(text)} " if normalised(answer) else False


def same_fact(text: str, other: str, subject: str) -> bool:
    """Return whether two prompts about a subject have the same content words, or nearly the same words.

    Words for places distinguish nothing ("was born in", "the birthplace of"); whether a time is asked for
    does ("was born in the year").
    """
    mine, others = (template(one, subject) or put(one, subject, "{}") for one in (text, other))
    if stems(mine) and asked(mine) == asked(others):
        return True
    return fuzz.token_sort_ratio(normalised(mine), normalised(others)) >= SAME_WORDS
