"""What is edited and what is asked: `Edit`, `Probe`, `Case`, `Dataset`.

An editor sees an `Edit` and nothing else; evaluation sees the whole `Case`. Evaluation prompts therefore cannot leak
into an editor by accident: they are not part of the type it is given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lks.scope.naming import names_subject

ProbeKind = Literal["edit", "paraphrase", "locality", "portability", "neighbour"]
"""What a probe measures; "neighbour": whether facts of subjects that are not edited stay as they were (`lks.data.neighborhood`)."""

Context = Literal["bare", "qa", "chat", "given"]
"""How a prompt is put (`lks.evaluation.prompt_formats`). bare: as it stands. qa: "Q: ...", then "A:". chat: the tokenizer's chat template. given: the
edited fact stands in front, which shows whether the unedited model knows everything else that a portability question needs."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to change, as an editor sees it.

    Attributes:
        case_id: unique within its dataset.
        subject: the entity as it is spelt in `prompt`.
        prompt: the edit prompt x_i; it names `subject` by this name, not by an alias (`lks.scope.naming`).
        target: the new answer y_i, without leading space.
        ground_truth: the old answer o_i, without leading space.
        aliases: other names of the subject.
        training_paraphrases: prompts of the same meaning to train on; never an evaluation prompt.
        training_locality: prompts about other facts of the same subject to hold in place; never an evaluation prompt.
    """

    case_id: str
    subject: str
    prompt: str
    target: str
    ground_truth: str
    aliases: tuple[str, ...] = ()
    training_paraphrases: tuple[str, ...] = ()
    training_locality: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of the evaluation.

    Attributes:
        kind: what it measures.
        index: its number among the case's probes of this kind.
        prompt: the text shown to the model.
        answer: reference answer without leading space: the target (edit, paraphrase) or the true answer (locality).
        accepted: other spellings of the answer, right in free generation.
        stratum: which kind of locality, portability or neighbour it is ("same_subject", "reasoning", "near_name"); "" where there is one kind.
        rival: the answer that must be less likely than `answer` (ROME's ES, PS, NS): the old answer, or for neighbours the case's target;
            "" where there is none.
    """

    kind: ProbeKind
    index: int
    prompt: str
    answer: str
    accepted: tuple[str, ...] = ()
    stratum: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """An edit with the probes that score it.

    Attributes:
        edit: what the editor is given.
        probes: the edit prompt itself first, then paraphrases, locality and portability.
    """

    edit: Edit
    probes: tuple[Probe, ...]

    @property
    def case_id(self) -> str:
        """Identity within the dataset."""
        return self.edit.case_id


def make_case(
    edit: Edit,
    paraphrases: tuple[str, ...],
    locality: tuple[tuple[str, str], ...],
    spellings: Callable[[str], tuple[str, ...]] = lambda answer: (),
) -> Case:
    """A case from an edit, its evaluation paraphrases and its (locality prompt, true answer) pairs.

    The rival of the edit prompt and its paraphrases is the old answer, if the target is another one; the old answer is never an
    accepted spelling of the target. Locality questions are of stratum "same_subject" where they name the subject, else "other".

    Args:
        edit: what is edited.
        paraphrases: prompts of the same meaning.
        locality: questions with their true answers.
        spellings: other spellings of an answer, right in free generation; by default there are none.
    """
    old = _folded(edit.ground_truth)
    rival = edit.ground_truth if old != _folded(edit.target) else ""
    accepted = tuple(name for name in spellings(edit.target) if not rival or _folded(name) != old)
    probes = [Probe("edit", 0, edit.prompt, edit.target, accepted, rival=rival)]
    probes += [
        Probe("paraphrase", i, prompt, edit.target, accepted, rival=rival)
        for i, prompt in enumerate(paraphrases)
    ]
    for i, (prompt, answer) in enumerate(locality):
        stratum = "same_subject" if names_subject(prompt, edit.subject, *edit.aliases) else "other"
        probes.append(Probe("locality", i, prompt, answer, spellings(answer), stratum))
    return Case(edit, tuple(probes))


def _folded(answer: str) -> str:
    return answer.strip().casefold()


def spellings_of(edits: Sequence[Edit]) -> dict[str, list[str]]:
    """Each distinct subject's name, then its aliases in all its edits, each once; in order of first appearance."""
    found: dict[str, dict[str, None]] = {}
    for edit in edits:
        found.setdefault(edit.subject, {edit.subject: None}).update(dict.fromkeys(edit.aliases))
    return {subject: list(spellings) for subject, spellings in found.items()}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cases with their identity.

    Attributes:
        name: the registry name ("world", "zsre", "knowedit-recent").
        cases: in file order.
        revision: hash of the content (and of the derivation of training prompts).
        notes: irregularities found on loading, name -> count ("duplicate prompt", "subject not in locality prompt").
    """

    name: str
    cases: tuple[Case, ...]
    revision: str
    notes: dict[str, int] = field(default_factory=dict)
