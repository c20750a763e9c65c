"""User facts: a file of JSON lines, CSV or triples becomes a `Dataset`; all faults are reported at once."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from lks.data import contradictions
from lks.data.answer_aliases import Spellings
from lks.data.fact_parsing import FIELDS, PAIRS, FactRow, rows_of
from lks.data.fact_validation import Bad, UserFact, check_each, check_together
from lks.data.relation_templates import Templates, spelt_out
from lks.data.training_prompts import SOURCE, with_training_prompts
from lks.edits import Case, Dataset, Edit, Probe, make_case
from lks.errors import DataError
from lks.io.atomic import write_whole
from lks.io.lines import json_line

SHOWN = 20
"""Maximum number of bad lines shown; the rest are only counted."""


@dataclass(frozen=True, slots=True)
class BadLines:
    """How to treat bad lines.

    Attributes:
        skip_bad: whether to leave them out instead of refusing the file.
        shown: maximum number of faults named in a message.
    """

    skip_bad: bool = False
    shown: int = SHOWN


STRICT = BadLines()


@dataclass(frozen=True, slots=True)
class Facts:
    """Checked facts.

    Attributes:
        name: file name without its ending.
        facts: in file order.
        notes: what is unusual but not wrong, as messages for the user.
        skipped: what was wrong with lines that were left out, one line each.
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
        """Return the facts as a dataset for editors and evaluation.

        Missing training prompts are made, and other spellings of answers are looked up.
        """
        spellings = Spellings.load()
        edits = with_training_prompts([(_edit(fact), fact.paraphrases, fact.locality) for fact in self.facts])
        return Dataset(
            self.name,
            tuple(_case(fact, edit, spellings) for fact, edit in zip(self.facts, edits, strict=True)),
            self.revision,
        )

    def cases_as_given(self) -> tuple[Case, ...]:
        """Return the facts as cases, with no training prompts except their own."""
        return tuple(_case(fact, _edit(fact), Spellings()) for fact in self.facts)

    def joined(self, later: "Facts") -> "Facts":
        """Merge these facts with later ones; a later fact replaces an earlier one with the same key.

        Raises:
            DataError: an id or an evaluation prompt conflicts with another fact.
        """
        newer = {fact.key: fact for fact in later.facts}
        kept = [newer.pop(fact.key, fact) for fact in self.facts]
        merged = tuple(replace(fact, line=0) for fact in (*kept, *newer.values()))
        refuse("the facts together", _faults(merged), len(merged), "fact")
        return replace(later, name=self.name, facts=merged)

    def without(self, subjects: Iterable[str]) -> "Facts":
        """Return these facts without those on some subjects."""
        gone = set(subjects)
        return replace(self, facts=tuple(fact for fact in self.facts if fact.subject not in gone))

    def leaving_out(self, found: Sequence[tuple[UserFact, Bad]]) -> "Facts":
        """Return these facts without bad ones, recording what is wrong with them."""
        gone = {id(fact) for fact, _ in found}
        skipped = (*self.skipped, *(_line(bad) for _, bad in found))
        return replace(
            self, facts=tuple(fact for fact in self.facts if id(fact) not in gone), skipped=skipped
        )


def read_facts(path: Path, templates: Path | None = None, reading: BadLines = STRICT) -> Facts:
    """Read and check the facts of a file.

    Args:
        path: `.jsonl` or `.csv` with at least subject, prompt and target, or with subject, relation and
            object; `.txt` or `.triples` with lines "subject | relation | object".
        templates: JSON or TOML file that says how a relation is asked: `birthplace = "The birthplace of {}
            is"`.
        reading: how to treat bad lines.

    Raises:
        DataError: the file cannot be read, or some lines are bad; if bad lines are left out, only if all are
            bad.
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
    """Find all faults of facts."""
    return [*check_each(facts), *_faults_together(facts)]


def _faults_together(facts: Sequence[UserFact]) -> list[Bad]:
    """Find faults that facts have because of other facts."""
    return [*check_together(facts), *contradictions.check(facts)]


def _sound(facts: Sequence[UserFact]) -> tuple[list[UserFact], list[Bad]]:
    """Return the faultless facts and the faults of the others; of two conflicting facts, keep the first."""
    bad: list[Bad] = []
    for look in (check_each, _faults_together):
        found = look(facts)
        lines = {one.line for one in found}
        bad, facts = [*bad, *found], [fact for fact in facts if fact.line not in lines]
    return list(facts), bad


def write_facts(path: Path, facts: Facts) -> None:
    """Write a normalised copy, which `read_facts` reads back as equal except for line numbers."""
    write_whole(path, "".join(f"{line_of(fact)}\n" for fact in facts.facts).encode())


def line_of(fact: UserFact) -> str:
    """Format a fact as one line of JSON, leaving out empty fields."""
    pairs = {
        name: [{"prompt": prompt, "answer": answer} for prompt, answer in getattr(fact, name)]
        for name in PAIRS
    }
    texts = {
        name: getattr(fact, name) for name in UserFact.__slots__ if name not in ("line", "relation", *pairs)
    }
    return json_line({name: value for name, value in (texts | pairs).items() if value})


def _fact(row: FactRow, wording: Templates) -> tuple[UserFact | None, list[Bad]]:
    """Convert a row to a fact, or return what is wrong with it."""
    fields, wrong = spelt_out(row, wording)
    missing = [name for name in ("subject", "prompt", "target") if not getattr(fields, name).strip()]
    wrong = wrong or [Bad(row.line, f"{name} is missing or empty") for name in missing]
    if wrong:
        return None, wrong
    given = {name: getattr(fields, name) for name in FIELDS if name != "object"}
    given |= {name: tuple((one.prompt, one.answer) for one in given[name]) for name in PAIRS}
    return UserFact(row.line, **given), []


def _named(fact: UserFact) -> UserFact:
    """Add an id that depends on subject and prompt only, not on the target, to a fact that has none."""
    made = hashlib.sha256("\0".join(fact.key).encode()).hexdigest()[:12]
    return fact if fact.id else replace(fact, id=f"fact-{made}")


def _edit(fact: UserFact) -> Edit:
    """Return the fact as an edit."""
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
    """Build the case of a fact."""
    made = make_case(edit, fact.paraphrases, fact.locality, spellings.of)
    further = [
        Probe("portability", i, prompt, answer, spellings.of(answer))
        for i, (prompt, answer) in enumerate(fact.portability)
    ]
    return Case(made.edit, (*made.probes, *further))


def refuse(where: str, bad: Sequence[Bad], count: int, unit: str, shown: int = SHOWN) -> None:
    """Raise an error if anything is wrong with facts.

    Args:
        where: path or name of what was read.
        bad: the faults.
        count: how many lines or facts were checked.
        unit: "line" or "fact".
        shown: maximum number of faults named.

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
    number = (
        f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong in {count} "
        f"{unit}{'' if count == 1 else 's'}"
    )
    advice = "Fix them and start again" + (
        ", or leave bad lines out with `lks edit --skip-bad`." if any(one.line for one in bad) else "."
    )
    raise DataError("\n".join([f"{where}: {number}; nothing was done. {advice}", *lines, *rest]))


def _line(bad: Bad) -> str:
    """Format a fault as one line."""
    return f"line {bad.line}: {bad.what}" if bad.line else bad.what
