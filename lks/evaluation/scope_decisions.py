"""Work of a scope cell: names of the edits -> scope indicator, with any gate -> a decision on each prompt.

No edit is made and no model is asked. A model is needed only for the states that a gate looks at, and stays
unchanged.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Protocol, runtime_checkable

import torch

from lks.editing.editor import ADDED
from lks.edits import Case, Edit, spellings_of
from lks.errors import UserError
from lks.evaluation.profiling import measured
from lks.evaluation.scope_prompts import abilities
from lks.method.gates import Gate, fit_gate
from lks.method.params import GateKind
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.cells import Cell, Costs
from lks.results.decisions import Decision
from lks.scope.indicator import ScopeKind, make_scope

PROBES = 500
"""Maximum number of prompts of each set and draw: a share is then known to 4.4 points at worst, and the
slowest rules, which compare a prompt with every name, take seconds for a set rather than minutes."""


@runtime_checkable
class _Scoped(Protocol):
    """Parameters of a method that has an edit scope indicator."""

    scope: ScopeKind
    gate: GateKind
    block: int
    gate_questions: int


@dataclass(frozen=True, slots=True)
class ScopeParams:
    """The part of a method's parameters that decides which prompts its edits apply to.

    Attributes:
        scope: kind of the scope indicator.
        gate: kind of the gate after it.
        block: the block whose output the gate looks at; -1 without a gate.
        probes: maximum number of prompts of each set and draw.
        gate_questions: number of common questions that the contrast gate is fitted to; 0 without a gate.
    """

    scope: ScopeKind
    gate: GateKind
    block: int
    probes: int = PROBES
    gate_questions: int = field(default=0, metadata=ADDED)


def scope_params(method: str, params: object) -> ScopeParams:
    """Return the part of a method's parameters that a scope cell depends on.

    Raises:
        UserError: the method has no edit scope indicator.
    """
    if not isinstance(params, _Scoped):
        raise UserError(
            f'Method {method!r} has no edit scope indicator (no parameter "scope"). '
            'A grid with measure = "scope" cannot use it.'
        )
    if params.gate == "none":
        return ScopeParams(params.scope, params.gate, -1)
    return ScopeParams(params.scope, params.gate, params.block, gate_questions=params.gate_questions)


class Indicator:
    """A scope indicator with its gate: which edited subjects a prompt is taken to be about.

    Args:
        edits: what would be edited; at least one.
        params: kind of scope and gate.
        lm: the unedited model, if there is a gate.
        seed: random seed of the gate's fit.

    Raises:
        UserError: the model has no such block.
    """

    def __init__(
        self, edits: Sequence[Edit], params: ScopeParams, lm: LM | None = None, seed: int = 0
    ) -> None:
        names = spellings_of(edits)
        self.subjects = list(names)
        self._scope = make_scope(params.scope, list(names.values()))
        self._lm, self._block = lm, params.block
        self._gate: Gate | None = None
        if params.gate != "none":
            if lm is None:
                raise ValueError("a gate needs a model")
            lm.block(params.block)
            numbers = {subject: i for i, subject in enumerate(names)}
            self._gate = fit_gate(params.gate, lm, params.block, edits, numbers, seed, params.gate_questions)

    def find(self, prompts: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the subjects of each prompt, each once."""
        found = [
            list(dict.fromkeys(mention.subject_index for mention in self._scope.find(prompt)))
            for prompt in prompts
        ]
        if self._gate is not None:
            found = self._let_through(self._gate, prompts, found)
        return [tuple(self.subjects[subject] for subject in subjects) for subjects in found]

    def _let_through(self, gate: Gate, prompts: Sequence[str], found: list[list[int]]) -> list[list[int]]:
        """Return the subjects that pass the gate.

        The gate looks at each prompt that mentions a subject.
        """
        pairs = [(number, subject) for number, subjects in enumerate(found) for subject in subjects]
        if not pairs or self._lm is None:
            return found
        rows = {number: row for row, number in enumerate(dict(pairs))}
        states = gate.read(self._lm, self._block, [prompts[number] for number in rows])
        row, mentioned = torch.tensor(
            [(rows[number], subject) for number, subject in pairs], device=states.device
        ).T
        left: list[list[int]] = [[] for _ in prompts]
        for (number, subject), is_open in zip(
            pairs, gate.opens(states[row], mentioned).tolist(), strict=True
        ):
            if is_open:
                left[number].append(subject)
        return left


@dataclass(frozen=True, slots=True)
class ScopeQuery:
    """A prompt to decide on; the other fields are those of its `Decision`."""

    probe_set: str
    probe: int
    case_id: str
    prompt: str
    subject_expected: str = ""


def asked(edited: Sequence[Case], spare: Iterable[Case], probes: int) -> list[ScopeQuery]:
    """Return all prompts for one draw, set by set, at most `probes` of each.

    Ability tests are left out where their data is missing.

    Args:
        edited: the cases of the draw.
        spare: cases that are not edited; those about an edited subject are skipped.
        probes: maximum number of prompts of each set.
    """
    subjects = {name.casefold() for case in edited for name in (case.edit.subject, *case.edit.aliases)}
    found: list[ScopeQuery] = []
    for kind in ("edit", "paraphrase", "locality"):
        own = ((case, probe.prompt) for case in edited for probe in case.probes if probe.kind == kind)
        found += [
            ScopeQuery(kind, i, case.case_id, text, case.edit.subject)
            for i, (case, text) in enumerate(islice(own, probes))
        ]
    others = (case for case in spare if case.edit.subject.casefold() not in subjects)
    found += [
        ScopeQuery("others", i, case.case_id, case.edit.prompt)
        for i, case in enumerate(islice(others, probes))
    ]
    for ability in abilities():
        name = ability.name.lower().replace("-", "")
        found += [ScopeQuery(name, i, "", prompt.text) for i, prompt in enumerate(ability.prompts[:probes])]
    return found


def decide(
    indicator: Indicator, draw: int, prompts: Sequence[ScopeQuery], progress: Progress = no_progress
) -> list[Decision]:
    """Decide on each prompt; `progress` is called after each set."""
    made: list[Decision] = []
    for _, group in groupby(prompts, lambda one: one.probe_set):
        one_set = list(group)
        for one, found in zip(one_set, indicator.find([one.prompt for one in one_set]), strict=True):
            made.append(Decision(draw, one.probe_set, one.probe, one.case_id, found, one.subject_expected))
        progress(len(made) / len(prompts))
    return made


def decisions_of(
    cell: Cell,
    params: object,
    sets: Sequence[Sequence[Case]],
    spare: Sequence[Case],
    load: Callable[[], LM],
    progress: Callable[[str, int], Progress],
) -> tuple[list[Decision], Costs]:
    """Return what a scope cell stores and what it cost.

    Args:
        cell: the cell.
        params: parameters of its method.
        sets: its draws.
        spare: cases that are in none of them.
        load: returns the model; called only if there is a gate.
        progress: returns the progress callback of a stage and draw.

    Raises:
        UserError: the method has no edit scope indicator.
    """
    scope = scope_params(cell.method, params)
    lm = None if scope.gate == "none" else load()
    made: list[Decision] = []
    costs = Costs()
    for number, cases in enumerate(sets):
        with measured() as making:
            indicator = Indicator([case.edit for case in cases], scope, lm, cell.seed + number)
        with measured() as asking:
            made += decide(indicator, number, asked(cases, spare, scope.probes), progress("scope", number))
        peak = max(costs.peak_bytes, making.peak_bytes, asking.peak_bytes)
        costs = Costs(
            prepare_s=costs.prepare_s + making.seconds, ask_s=costs.ask_s + asking.seconds, peak_bytes=peak
        )
    return made, costs
