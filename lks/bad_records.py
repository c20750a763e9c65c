"""Records that a model cannot be asked about, found before anything is edited."""

from collections.abc import Sequence

from lks.edits import Case
from lks.failures import BadRecord
from lks.lm import LM
from lks.readout import LONGEST


def check(lm: LM, dataset: str, sets: Sequence[Sequence[Case]]) -> None:
    """Look at every record that a cell edits and asks about: its edit and its probes, as this model's tokenizer has them.

    Args:
        lm: the model.
        dataset: name, for the message.
        sets: the cell's draws.

    Raises:
        BadRecord: an answer or a prompt has no tokens, a prompt with its answer is longer than the model's window, or the edit prompt
            does not contain its subject.
    """
    for case in (case for cases in sets for case in cases):
        edit = case.edit
        if not edit.subject.strip() or edit.subject not in edit.prompt:
            found = f"{edit.subject!r} is not in the prompt {_short(edit.prompt)}, where methods look for it"
            raise BadRecord(_message(dataset, case, "subject", found, "Spell it as the prompt does"))
    asked = [(case, probe) for cases in sets for case in cases for probe in case.probes]
    window = int(lm.model.config.max_position_embeddings)
    free = LONGEST if lm.architecture.positions else 0  # learnt positions end with the window, so a free answer must fit into it too
    for (case, probe), encoded in zip(asked, lm.encode([p.prompt for _, p in asked], [p.answer for _, p in asked]), strict=True):
        field = f"{probe.kind} probe {probe.index}"
        if not probe.prompt.strip() or not encoded.n_prompt:
            raise BadRecord(_message(dataset, case, f"{field}, prompt", f"{_short(probe.prompt)} has no tokens", "Give it a text"))
        if not probe.answer.strip() or not encoded.answer:
            raise BadRecord(_message(dataset, case, f"{field}, answer", f"{_short(probe.answer)} has no tokens", "Give it a text"))
        needed = max(len(encoded.ids), encoded.n_prompt + free)
        if needed > window:
            found = f"prompt and answer need {needed:,} tokens, the window of {lm.name or 'the model'} has {window:,}"
            raise BadRecord(_message(dataset, case, field, found, "Shorten it, or use a model with a longer window"))


def _message(dataset: str, case: Case, field: str, found: str, advice: str) -> str:
    return f"{dataset}, case {case.case_id}, {field}: {found}. {advice}, or leave the record out."


def _short(text: str) -> str:
    """A text as it may stand in a line."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
