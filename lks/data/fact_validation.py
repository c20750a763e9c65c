"""A fact to edit in, and the checks that find unusable ones before any model is loaded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lks.data.fact_text import difference
from lks.data.templates import normalised
from lks.io.untrusted import one_line
from lks.scope.naming import names_subject, spelt, why_unnamed

ODD_ENDINGS = ("...", "…", "_", "{}", "[MASK]", "<mask>")


@dataclass(frozen=True, slots=True)
class UserFact:
    """A fact to edit in, as the user gives it.

    Attributes:
        line: its line in the file; 0 if it is not from a file.
        subject, prompt, target: required; the subject occurs in the prompt, the target is the new answer.
        id: unique; made from subject and prompt if it is not given.
        ground_truth: the old answer, "" if it is not given.
        aliases: other names of the subject.
        paraphrases, locality, portability: evaluated, never trained on; locality and portability are (prompt,
            answer).
        training_paraphrases, training_locality: trained on, never evaluated.
        relation: the relation's name in the file, "" if there is none; not stored with a patch.
    """

    line: int
    subject: str
    prompt: str
    target: str
    id: str = ""
    ground_truth: str = ""
    aliases: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    locality: tuple[tuple[str, str], ...] = ()
    portability: tuple[tuple[str, str], ...] = ()
    training_paraphrases: tuple[str, ...] = ()
    training_locality: tuple[str, ...] = ()
    relation: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """Where to find the fact, for messages."""
        return f"line {self.line}" if self.line else f"the fact {one_line(repr(self.id or self.prompt), 60)}"

    @property
    def key(self) -> tuple[str, str]:
        """Subject and prompt; a later fact with the same key replaces this one."""
        return self.subject, self.prompt


@dataclass(frozen=True, slots=True)
class Bad:
    """One fault of a file.

    Attributes:
        line: line number from 1; 0 for the file as a whole.
        what: what is wrong and what to do.
    """

    line: int
    what: str


def check_each(facts: Iterable[UserFact]) -> list[Bad]:
    """Find faults of single facts."""
    return [bad for fact in facts for bad in (*_alone(fact), *_look_alike(fact))]


def check_together(facts: Sequence[UserFact]) -> list[Bad]:
    """Find faults that facts have because of other facts."""
    return [*_together(facts), *_leaks(facts)]


def _alone(fact: UserFact) -> Iterator[Bad]:
    """Yield the faults of one fact."""
    texts = {
        "subject": fact.subject,
        "prompt": fact.prompt,
        "target": fact.target,
        "ground_truth": fact.ground_truth,
    }
    for name, text in texts.items():
        given = (
            text.rstrip("\n") if name == "prompt" else text
        )  # chat templates end with a newline, and the answer follows on the new line
        if given != text.strip():
            yield Bad(
                fact.line,
                f"{name} {_short(text)} begins or ends with white space; remove it, spaces are "
                "added where they belong",
            )
    if not spelt(fact.prompt, fact.subject):
        yield Bad(
            fact.line,
            f"the scope rules do not find subject {_short(fact.subject)} in prompt "
            f"{_short(fact.prompt)}, {_why(fact, fact.prompt)}",
        )
    ending = next((odd for odd in ODD_ENDINGS if fact.prompt.rstrip().endswith(odd)), "")
    if ending:
        yield Bad(
            fact.line, f"prompt {_short(fact.prompt)} ends in {ending!r}; end it where the answer follows"
        )
    elif fact.prompt.rstrip().endswith(f" {fact.target.strip()}"):
        yield Bad(
            fact.line,
            f"prompt {_short(fact.prompt)} ends with its own target; end it where the answer follows",
        )
    if fact.ground_truth and fact.ground_truth.strip().casefold() == fact.target.strip().casefold():
        yield Bad(
            fact.line,
            f"target {_short(fact.target)} is the old answer (ground_truth); there is nothing to edit",
        )
    for text in fact.training_paraphrases:
        if not names_subject(text, fact.subject, *fact.aliases):
            yield Bad(
                fact.line,
                f"training paraphrase {_short(text)} does not name the subject "
                f"{_short(fact.subject)}, {_why(fact, text)}",
            )


def _why(fact: UserFact, text: str) -> str:
    """Say why a text does not name the fact's subject."""
    return why_unnamed(text, fact.subject, fact.aliases)


def _look_alike(fact: UserFact) -> Iterator[Bad]:
    """Yield a fault if the prompt holds only a look-alike of the subject, which users cannot see."""
    if found := difference(fact.subject, fact.prompt):
        yield Bad(fact.line, f"subject {_short(fact.subject)} only looks like what is in the prompt: {found}")


def _together(facts: Sequence[UserFact]) -> Iterator[Bad]:
    """Yield a fault for each duplicate prompt and each duplicate id."""
    prompts: dict[str, UserFact] = {}
    names: dict[str, UserFact] = {}
    for fact in facts:
        first = prompts.setdefault(fact.prompt.strip(), fact)
        if first is not fact:
            same = first.target == fact.target
            what = (
                "asks the same"
                if same
                else (
                    f"has the same prompt with the target {_short(first.target)}, here it is "
                    f"{_short(fact.target)}"
                )
            )
            yield Bad(fact.line, f"{first.place} {what}; keep one of them")
        if fact.id:
            first = names.setdefault(fact.id, fact)
            if first is not fact:
                yield Bad(fact.line, f"id {_short(fact.id)} is also that of {first.place}")


def _leaks(facts: Sequence[UserFact]) -> Iterator[Bad]:
    """Yield a fault for each evaluation prompt that is also trained on, since it would measure nothing."""
    trained: dict[str, tuple[UserFact, str]] = {}
    for fact in facts:
        for text, what in (
            _labelled(fact.training_paraphrases, "training paraphrase"),
            _labelled(fact.training_locality, "training locality prompt"),
        ):
            trained |= {normalised(one): (fact, what) for one in text if normalised(one) not in trained}
    for fact in facts:
        trained.setdefault(normalised(fact.prompt), (fact, "prompt"))
    for fact in facts:
        for name, texts in (
            ("paraphrase", fact.paraphrases),
            ("locality prompt", [prompt for prompt, _ in fact.locality]),
        ):
            for text in texts:
                found = trained.get(normalised(text))
                if found is not None:
                    owner, what = found
                    whose = "the" if owner is fact else f"{owner.place}'s"
                    yield Bad(
                        fact.line,
                        f"{name} {_short(text)} is {whose} {what}, which is trained on; evaluate "
                        "with another prompt",
                    )


def _labelled(texts: Iterable[str], what: str) -> tuple[Iterable[str], str]:
    """Pair texts with their label."""
    return texts, what


def _short(text: str) -> str:
    """Return a text as it may appear within one line, with its white space visible."""
    return repr(text) if len(text) <= 60 and text.isprintable() else repr(one_line(text, 60))
