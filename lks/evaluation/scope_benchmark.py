"""Benchmark of scope indicators: how well they find edited subjects, how rarely they misfire, and their cost.

Times are CPU times: nothing here waits or uses a second thread, so on an idle machine they equal wall-clock
times.
"""

import gc
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lks.evaluation.scope_prompts import EditSet, Outside, ScopePrompt, is_genuine
from lks.scope.exact import Mention, Scope
from lks.scope.indicator import ScopeKind, make_scope
from lks.scope.misspellings import FORMS, Form, written

SLOW: frozenset[ScopeKind] = frozenset({"official"})
SLOW_CASES = 500
"""Number of cases of each sort that is enough for a scope that compares every prompt with every name."""

FALSE_MAX, EXACT_MIN, FORM_MIN, TYPO_MIN = 0.1, 99.9, 99.0, 90.0  # percent
PROMPT_MAX: Mapping[ScopeKind, float] = {"exact": 5.0, "fuzzy": 200.0}  # microseconds
BUILD_MAX = 10.0  # seconds per million names
BYTES_MAX = 300.0  # MB per million names
ENOUGH = 100_000
"""With fewer names, build time and memory per name are not meaningful."""
TIMED = 100
"""With fewer prompts, the time per prompt is that of the first ones, whose code is not yet in the
processor's cache."""


@dataclass(frozen=True, slots=True)
class ScopeBenchmarkRow:
    """One measured number.

    Attributes:
        kind: the scope indicator.
        what: what was measured.
        cases: number of prompts, mentions or names that it was measured on.
        value: the number, in `unit`.
        target: what the value should be at most (`most`) or at least; None if there is no target.
        why: a few of the failed cases.
    """

    kind: str
    what: str
    cases: int
    value: float
    unit: str = "%"
    target: float | None = None
    most: bool = False
    why: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.most else self.value >= self.target


@dataclass(frozen=True, slots=True)
class MentionCase:
    """A subject mentioned in a prompt: which one, and where."""

    text: str
    subject: int
    start: int
    end: int


def check(
    kind: ScopeKind,
    edits: EditSet,
    outside: Sequence[Outside],
    aliases: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> list[ScopeBenchmarkRow]:
    """Measure everything about one kind of scope indicator.

    Args:
        kind: kind of scope indicator.
        edits: edited subjects; those with a carrier are asked for in every form.
        outside: prompts about something else.
        aliases: further names of subjects, for asking by alias; that uses a separate scope, which knows them.
        seed: random seed of carriers and typos.
    """
    limit = SLOW_CASES if kind in SLOW else None
    before = resident()
    start = time.process_time()
    scope = make_scope(kind, edits.names)
    seconds = time.process_time() - start
    gc.collect()
    held = resident() - before
    rows = []
    for form in FORMS:
        if form != "no diacritics" or kind == "fuzzy":
            rows += _found(scope, kind, form, cases(edits, form, seed)[:limit])
    rows += _aliases(kind, edits, aliases, seed, limit)
    for probes in outside:
        rows += _outside(scope, kind, edits, probes.name, probes.prompts[:limit])
    count = len(edits.names)
    if count >= ENOUGH:
        rows.append(
            ScopeBenchmarkRow(
                kind, "build, per million names", count, seconds / count * 1e6, "s", BUILD_MAX, True
            )
        )
    if held and count >= ENOUGH:
        rows.append(
            ScopeBenchmarkRow(kind, "memory, per million names", count, held / count, "MB", BYTES_MAX, True)
        )
    return rows


def cases(edits: EditSet, form: Form, seed: int) -> list[MentionCase]:
    """Return every subject once in a form, in one of its carriers, in a seeded order.

    Subjects that share a name are left out.
    """
    rng = Random(f"{seed} {form}")
    times = Counter(names[0].casefold() for names in edits.names if names)
    order = [
        i
        for i, carriers in enumerate(edits.carriers)
        if carriers and times[edits.names[i][0].casefold()] == 1
    ]
    rng.shuffle(order)
    made: list[MentionCase] = []
    for subject in order:
        mention = written(form, edits.names[subject][0], rng)
        if mention is not None:
            made.append(_embedded(rng.choice(edits.carriers[subject]), mention, subject))
    return made


def _embedded(carrier: str, mention: str, subject: int) -> MentionCase:
    """Insert a mention in place of the "{}" of a carrier."""
    start = carrier.index("{}")
    return MentionCase(carrier.replace("{}", mention, 1), subject, start, start + len(mention))


def _found(scope: Scope, kind: ScopeKind, what: str, asked: Sequence[MentionCase]) -> list[ScopeBenchmarkRow]:
    """Measure how many mentions are found with the right subject, and the time per prompt."""
    if not asked:
        return []
    start = time.process_time()
    answers = [scope.find(case.text) for case in asked]
    seconds = time.process_time() - start
    missed = [
        case for case, found in zip(asked, answers, strict=True) if not any(_is_right(case, m) for m in found)
    ]
    target: float | None = {
        "exact": EXACT_MIN,
        "one typo": TYPO_MIN if kind == "fuzzy" else None,
        "no diacritics": None,
    }.get(what, FORM_MIN)
    right = 100 * (1 - len(missed) / len(asked))
    rows = [
        ScopeBenchmarkRow(
            kind,
            f"right subject: {what}",
            len(asked),
            right,
            "%",
            target,
            why=tuple(c.text for c in missed[:20]),
        )
    ]
    if what == "exact" and len(asked) >= TIMED:
        rows.append(
            ScopeBenchmarkRow(
                kind,
                "a prompt that mentions a name",
                len(asked),
                seconds / len(asked) * 1e6,
                "us",
                PROMPT_MAX.get(kind),
                True,
            )
        )
    return rows


def _is_right(case: MentionCase, mention: Mention) -> bool:
    return mention.subject_index == case.subject and mention.start < case.end and case.start < mention.end


def _aliases(
    kind: ScopeKind, edits: EditSet, aliases: Mapping[str, Sequence[str]], seed: int, limit: int | None
) -> list[ScopeBenchmarkRow]:
    """Measure subjects that are asked for by an alias that no other subject has."""
    known = [(*names, *aliases.get(names[0], ())) for names in edits.names]
    times = Counter(spelling for names in known for spelling in {name.casefold() for name in names})
    rng = Random(f"{seed} alias")
    asked = []
    for subject, names in enumerate(known):
        own = [alias for alias in names[1:] if times[alias.casefold()] == 1]
        if own and edits.carriers[subject]:
            asked.append(_embedded(rng.choice(edits.carriers[subject]), rng.choice(own), subject))
    if not asked:
        return []
    return _found(make_scope(kind, known), kind, "alias", asked[:limit])


def _outside(
    scope: Scope, kind: ScopeKind, edits: EditSet, name: str, prompts: Sequence[ScopePrompt]
) -> list[ScopeBenchmarkRow]:
    """Measure how often prompts about something else are matched, and how often wrongly."""
    if not prompts:
        return []
    start = time.process_time()
    answers = [scope.find(prompt.text) for prompt in prompts]
    seconds = time.process_time() - start
    fired = sum(map(bool, answers))
    wrong = [
        f"{prompt.text[m.start : m.end]} is not {edits.names[m.subject_index][0]}: {prompt.text[:120]}"
        for prompt, found in zip(prompts, answers, strict=True)
        for m in [m for m in found if not is_genuine(prompt, m, edits.names[m.subject_index])][:1]
    ]
    count = len(prompts)
    timed = ScopeBenchmarkRow(
        kind, f"a prompt of {name}", count, seconds / count * 1e6, "us", PROMPT_MAX.get(kind), True
    )
    matched = ScopeBenchmarkRow(kind, f"matched: {name}", count, 100 * fired / count)
    return [
        matched,
        ScopeBenchmarkRow(
            kind,
            f"matched wrongly: {name}",
            count,
            100 * len(wrong) / count,
            "%",
            FALSE_MAX,
            True,
            tuple(wrong),
        ),
        timed,
    ]


def resident() -> float:
    """Return the bytes of the process in memory; 0 where the system does not report them."""
    with suppress(OSError, ValueError, IndexError):
        return float(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return 0.0
