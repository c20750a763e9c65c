"""Checks for records that a model cannot be asked about or edited with, made before anything is edited."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lks.edits import Case, Probe
from lks.errors import BadRecord
from lks.evaluation.readouts import free_lengths
from lks.models.lm import LM
from lks.scope.naming import spelt, why_unnamed


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem of a model with a record.

    Attributes:
        case: the record.
        field: the affected field of the record.
        found: what is wrong there.
        advice: what to do about it.
    """

    case: Case
    field: str
    found: str
    advice: str


def check(lm: LM, dataset: str, sets: Sequence[Sequence[Case]]) -> None:
    """Check every record that a cell edits and asks about, as this model's tokenizer sees it.

    The check covers each record's edit and its probes.

    Args:
        lm: the model.
        dataset: name of the dataset, for the message.
        sets: the cell's draws.

    Raises:
        BadRecord: an answer or a prompt has no tokens, a prompt with its answer is longer than the model's
            window, or the edit prompt does not contain its subject.
    """
    for fault in faults(lm, [case for cases in sets for case in cases]):
        raise BadRecord(
            f"{dataset}, case {fault.case.case_id}, {fault.field}: {fault.found}. "
            f"{fault.advice}, or leave the record out."
        )


def faults(lm: LM, cases: Sequence[Case], training: bool = False) -> Iterator[Fault]:
    """Yield what a model cannot be asked or taught, faults of subjects first.

    Args:
        lm: the model.
        cases: records.
        training: whether to check the edits' training prompts too.
    """
    for case in cases:
        edit = case.edit
        if not spelt(edit.prompt, edit.subject):
            why = why_unnamed(edit.prompt, edit.subject, edit.aliases)
            found = (
                f"{edit.subject!r} is not in the prompt {_short(edit.prompt)}, "
                f"where methods look for it, {why}"
            )
            yield Fault(case, "subject", found, "Spell it as the prompt does")
    probes = [(case, p) for case in cases for p in case.probes]
    texts = [
        (case, p.kind if p.kind == "edit" else f"{p.kind} {p.index + 1}", p.prompt, p.answer)
        for case, p in probes
    ]
    yield from _too_long_or_empty(lm, texts, [p for _, p in probes])
    if training:
        edits = [(case, case.edit) for case in cases]
        taught = [
            (c, f"training paraphrase {i}", text, edit.target)
            for c, edit in edits
            for i, text in enumerate(edit.training_paraphrases, 1)
        ]
        held = [
            (c, f"training locality prompt {i}", text, None)
            for c, edit in edits
            for i, text in enumerate(edit.training_locality, 1)
        ]
        yield from _too_long_or_empty(lm, [*taught, *held])


def _too_long_or_empty(
    lm: LM, texts: Sequence[tuple[Case, str, str, str | None]], probes: Sequence[Probe] = ()
) -> Iterator[Fault]:
    """Yield the faults of (record, field, prompt, answer) tuples.

    Args:
        lm: the model.
        texts: the tuples; an answer that is None is whatever the model says.
        probes: the probes of the same tuples, if they will be asked.
    """
    window = int(lm.model.config.max_position_embeddings)
    prompts = [prompt for _, _, prompt, _ in texts]
    encoded = lm.encode(prompts, [answer or "" for _, _, _, answer in texts])
    # learned positions end with the window, so a free answer must fit into it too
    free = (
        free_lengths(lm, prompts, probes, encoded)
        if probes and lm.architecture.positions
        else [0] * len(texts)
    )
    for (case, field, prompt, answer), one, length in zip(texts, encoded, free, strict=True):
        needed = max(len(one.ids), one.n_prompt + length)
        if not prompt.strip() or not one.n_prompt:
            yield Fault(case, f"{field}, prompt", f"{_short(prompt)} has no tokens", "Give it a text")
        elif answer is not None and (not answer.strip() or not one.answer):
            yield Fault(case, f"{field}, answer", f"{_short(answer)} has no tokens", "Give it a text")
        elif needed > window:
            found = (
                f"prompt and answer need {needed:,} tokens, "
                f"the window of {lm.name or 'the model'} has {window:,}"
            )
            yield Fault(case, field, found, "Shorten it, or use a model with a longer window")


def _short(text: str) -> str:
    """Return a text as it is shown in a message."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
