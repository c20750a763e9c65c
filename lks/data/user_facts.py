"""Facts of one's own: a file of JSON lines, CSV or triples becomes a `Dataset`; all bad lines are told at once."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from lks.data import contradictions
from lks.data.answer_aliases import Spellings
from lks.data.fact_parsing import FactRow, rows_of
from lks.data.fact_validation import Bad, check_each, check_together
from lks.data.relation_templates import Templates, spelt_out
from lks.data.training_prompts import SOURCE, with_training_prompts
from lks.edits import Case, Dataset, Edit, make_case
from lks.errors import DataError
from lks.io.atomic import write_whole
from lks.io.lines import json_line
from lks.io.untrusted import one_line

SHOWN = 20
"""So many bad lines are shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class BadLines:
    """What to do about bad lines.

    Attributes:
        skip_bad: whether to leave them out instead of refusing the file.
        shown: so many things are named in a message.
    """

    skip_bad: bool = False
    shown: int = SHOWN


STRICT = BadLines()


@dataclass(frozen=True, slots=True)
class UserFact:
    """A fact to plant, as the user gives it.

    Attributes:
        line: of the file it is from; 0 where it is from none.
        subject, prompt, target: required; the subject occurs in the prompt, the target is the new answer.
        id: unique; made from the content where it is not given.
        ground_truth: the old answer, "" where it is not given.
        aliases: other names of the subject.
        paraphrases, locality, portability: evaluated, never trained on; locality and portability are (prompt, answer).
        training_paraphrases, training_locality: trained on, never evaluated.
        relation: as the file names it, "" where it does not; not kept with a patch.
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
        """Where to look for it, in a message."""
        return f"line {self.line}" if self.line else f"the fact {one_line(repr(self.id or self.prompt), 60)}"

    @property
    def key(self) -> tuple[str, str]:
        """What a later fact replaces: the same subject and prompt."""
        return self.subject, self.prompt


@dataclass(frozen=True, slots=True)
class Facts:
    """Checked facts.

    Attributes:
        name: of the file, without its ending.
        facts: in the order of the file.
        notes: what is odd without being wrong, for people.
        skipped: what was wrong with lines that were left out, as one line each.
    """

    name: str
    facts: tuple[UserFact, ...]
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def revision(self) -> str:
        """Hash of the content and of the way training prompts are made."""
        return hashlib.sha256(
            "\n".join([SOURCE, *(line_of(fact) for fact in self.facts)]).encode()
        ).hexdigest()[:16]

    def dataset(self) -> Dataset:
        """As editors and evaluation take them: missing training prompts are made, other spellings of answers are looked up."""
        spellings = Spellings.load()
        edits = with_training_prompts([(_edit(fact), fact.paraphrases, fact.locality) for fact in self.facts])
        return Dataset(
            self.name,
            tuple(_case(fact, edit, spellings) for fact, edit in zip(self.facts, edits, strict=True)),
            self.revision,
        )

    def cases_as_given(self) -> tuple[Case, ...]:
        """The facts without training prompts but their own."""
        return tuple(_case(fact, _edit(fact), Spellings()) for fact in self.facts)

    def joined(self, later: "Facts") -> "Facts":
        """These facts and later ones; a later fact on the same subject and prompt takes an earlier one's place.

        Raises:
            DataError: an id or an evaluation prompt is in the other's way.
        """
        newer = {fact.key: fact for fact in later.facts}
        kept = [newer.pop(fact.key, fact) for fact in self.facts]
        merged = tuple(replace(fact, line=0) for fact in (*kept, *newer.values()))
        refuse("the facts together", _faults(merged), len(merged), "fact")
        return replace(later, name=self.name, facts=merged)

    def without(self, subjects: Iterable[str]) -> "Facts":
        """These facts but for some subjects."""
        gone = set(subjects)
        return replace(self, facts=tuple(fact for fact in self.facts if fact.subject not in gone))

    def leaving_out(self, found: Sequence[tuple[UserFact, Bad]]) -> "Facts":
        """These facts but for bad ones, of which is noted what is wrong with them."""
        gone = {id(fact) for fact, _ in found}
        skipped = (*self.skipped, *(_line(bad) for _, bad in found))
        return replace(
            self, facts=tuple(fact for fact in self.facts if id(fact) not in gone), skipped=skipped
        )


def read_facts(path: Path, templates: Path | None = None, reading: BadLines = STRICT) -> Facts:
    """The facts of a file, all checked.

    Args:
        path: `.jsonl` or `.csv` with at least subject, prompt and target, or with subject, relation and object; `.txt` or
            `.triples` with lines "subject | relation | object".
        templates: JSON or TOML file that says how a relation is asked: `birthplace = "The birthplace of {} is"`.
        reading: what to do about bad lines.

    Raises:
        DataError: the file cannot be read, or lines of it are bad; where bad lines are left out: all are.
    """
    rows, bad = rows_of(path)
    wording = Templates.read(templates)
    facts: list[UserFact] = []
    for row in rows:
        found, wrong = _fact(row, wording)
        facts += [] if found is None else [found]
        bad += wrong
    if templates is not None and not wording.used:
        bad.append(Bad(0, f"{templates.name} was not needed: no line has a relation"))
    skipped: list[Bad] = []
    if reading.skip_bad:
        skipped, bad = [one for one in bad if one.line], [one for one in bad if not one.line]
        facts, found_bad = _sound(facts)
        skipped += found_bad
    else:
        bad += _faults(facts)
    if not facts and not bad:
        bad = skipped or [Bad(0, "there is no fact in it")]
    refuse(
        str(path),
        bad,
        len({row.line for row in rows} | {one.line for one in (*bad, *skipped) if one.line}),
        "line",
        reading.shown,
    )
    left_out = tuple(map(_line, sorted(skipped, key=astuple)))
    return Facts(
        re.sub(r"[^\w.-]+", "-", path.stem) or "facts",
        tuple(_named(fact) for fact in facts),
        wording.notes,
        left_out,
    )


def _faults(facts: Sequence[UserFact]) -> list[Bad]:
    return [*check_each(facts), *_faults_together(facts)]


def _faults_together(facts: Sequence[UserFact]) -> list[Bad]:
    return [*check_together(facts), *contradictions.check(facts)]


def _sound(facts: Sequence[UserFact]) -> tuple[list[UserFact], list[Bad]]:
    """The facts that nothing is wrong with, and what is wrong with the others; of two that cannot be together the first stays."""
    bad: list[Bad] = []
    for look in (check_each, _faults_together):
        found = look(facts)
        lines = {one.line for one in found}
        bad, facts = [*bad, *found], [fact for fact in facts if fact.line not in lines]
    return list(facts), bad


def write_facts(path: Path, facts: Facts) -> None:
    """A normalised copy, which `read_facts` reads back equal but for line numbers."""
    write_whole(path, "".join(f"{line_of(fact)}\n" for fact in facts.facts).encode())


def line_of(fact: UserFact) -> str:
    """A fact as one line of JSON; what is empty is left out."""
    pairs = {
        name: [{"prompt": prompt, "answer": answer} for prompt, answer in getattr(fact, name)]
        for name in ("locality", "portability")
    }
    texts = {
        name: getattr(fact, name) for name in UserFact.__slots__ if name not in ("line", "relation", *pairs)
    }
    return json_line({name: value for name, value in (texts | pairs).items() if value})


def _fact(row: FactRow, wording: Templates) -> tuple[UserFact | None, list[Bad]]:
    """A row as a fact, or what is wrong with it."""
    fields, wrong = spelt_out(row, wording)
    missing = [name for name in ("subject", "prompt", "target") if not fields.text(name).strip()]
    wrong = wrong or [Bad(row.line, f"{name} is missing or empty") for name in missing]
    if wrong:
        return None, wrong
    lists = {
        name: fields.texts(name)
        for name in ("aliases", "paraphrases", "training_paraphrases", "training_locality")
    }
    texts = {
        name: fields.text(name) for name in ("subject", "prompt", "target", "id", "ground_truth", "relation")
    }
    pairs = {name: fields.pairs(name) for name in ("locality", "portability")}
    return UserFact(row.line, **texts, **lists, **pairs), []  # type: ignore[arg-type]


def _named(fact: UserFact) -> UserFact:
    """With an id that depends on subject and prompt alone, so that a fact keeps it when its target changes."""
    made = hashlib.sha256("\0".join(fact.key).encode()).hexdigest()[:12]
    return fact if fact.id else replace(fact, id=f"fact-{made}")


def _edit(fact: UserFact) -> Edit:
    return Edit(
        case_id=fact.id,
        subject=fact.subject,
        prompt=fact.prompt,
        target=fact.target,
        ground_truth=fact.ground_truth,
        aliases=fact.aliases,
        training_paraphrases=fact.training_paraphrases,
        training_locality=fact.training_locality,
    )


def _case(fact: UserFact, edit: Edit, spellings: Spellings) -> Case:
    from lks.edits import Probe

    made = make_case(edit, fact.paraphrases, fact.locality, spellings.of)
    further = [
        Probe("portability", i, prompt, answer, spellings.of(answer))
        for i, (prompt, answer) in enumerate(fact.portability)
    ]
    return Case(made.edit, (*made.probes, *further))


def refuse(where: str, bad: Sequence[Bad], count: int, unit: str, shown: int = SHOWN) -> None:
    """Refuse facts, if anything is wrong with them.

    Args:
        where: the file.
        bad: what is wrong.
        count: how many lines or facts were looked at.
        unit: "line" or "fact".
        shown: so many things are named.

    Raises:
        DataError: something is wrong.
    """
    if not bad:
        return
    wrong = sorted(bad, key=astuple)
    lines = [f"  {_line(one)}" for one in wrong[:shown]]
    rest = (
        [f"  and {len(wrong) - shown} more; `lks edit --all-errors` shows all"] if len(wrong) > shown else []
    )
    number = f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong in {count} {unit}{'' if count == 1 else 's'}"
    advice = "Fix them and start again" + (
        ", or leave bad lines out with `lks edit --skip-bad`." if any(one.line for one in bad) else "."
    )
    raise DataError("\n".join([f"{where}: {number}; nothing was done. {advice}", *lines, *rest]))


def _line(bad: Bad) -> str:
    return f"line {bad.line}: {bad.what}" if bad.line else bad.what
