"""Checks of facts against a model's tokenizer: whatever does not fit into its window is found before
training.
"""

from collections.abc import Sequence
from dataclasses import replace

from lks.data.fact_validation import Bad, UserFact
from lks.data.user_facts import STRICT, BadLines, Facts, refuse
from lks.edits import Case
from lks.evaluation import record_checks
from lks.models.lm import LM


def fitting(lm: LM, facts: Facts, reading: BadLines = STRICT) -> Facts:
    """Check everything that a model is to be taught and asked.

    Args:
        lm: the model.
        facts: facts to edit.
        reading: what to do about facts that do not fit.

    Returns:
        The facts that fit.

    Raises:
        DataError: a prompt with its answer is longer than the model's window, or a text has no tokens; the
            message names the lines.
    """
    for find in (
        _faults_as_given,
        _faults_of_made_prompts,
    ):  # a prompt that is too long would be used in other facts' training prompts
        found = find(lm, facts)
        left = facts.leaving_out(found) if reading.skip_bad else facts
        if not reading.skip_bad or not left.facts:
            refuse(facts.name, [bad for _, bad in found], len(facts.facts), "fact", reading.shown)
        facts = left
    return facts


def _faults_as_given(lm: LM, facts: Facts) -> list[tuple[UserFact, Bad]]:
    """Return the faults of the user's own texts."""
    return _told(lm, facts, facts.cases_as_given())


def _faults_of_made_prompts(lm: LM, facts: Facts) -> list[tuple[UserFact, Bad]]:
    """Return the faults of the prompts that are made for training."""
    return _told(lm, facts, [replace(case, probes=()) for case in facts.dataset().cases])


def _told(lm: LM, facts: Facts, cases: Sequence[Case]) -> list[tuple[UserFact, Bad]]:
    """Return faults with their facts; the cases must be in the order of the facts."""
    owners = {id(case): fact for case, fact in zip(cases, facts.facts, strict=True)}
    found = []
    for fault in record_checks.faults(lm, cases, training=True):
        fact = owners[id(fault.case)]
        where = fault.field if fact.line else f"{fact.place}, {fault.field}"
        found.append((fact, Bad(fact.line, f"{where}: {fault.found}. {fault.advice}")))
    return found
