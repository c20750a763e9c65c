"""What is edited and what is asked: `Edit`, `Probe`, `Case`, `Dataset`.

An editor sees an `Edit` and nothing else; evaluation sees the whole `Case`. Evaluation prompts therefore cannot leak
into an editor by accident: they are not part of the type it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

ProbeKind = Literal["edit", "paraphrase", "locality", "portability"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to change, as an editor sees it.

    Attributes:
        case_id: unique within its dataset.
        subject: the entity as it is spelt in `prompt`.
        prompt: the edit prompt x_i; it contains `subject`.
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
    """

    kind: ProbeKind
    index: int
    prompt: str
    answer: str


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


def make_case(edit: Edit, paraphrases: tuple[str, ...], locality: tuple[tuple[str, str], ...]) -> Case:
    """A case from an edit, its evaluation paraphrases and its (locality prompt, true answer) pairs."""
    probes = [Probe("edit", 0, edit.prompt, edit.target)]
    probes += [Probe("paraphrase", i, prompt, edit.target) for i, prompt in enumerate(paraphrases)]
    probes += [Probe("locality", i, prompt, answer) for i, (prompt, answer) in enumerate(locality)]
    return Case(edit, tuple(probes))


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
        name: the registry name ("world", "zsre", "counterfact").
        cases: in file order.
        revision: hash of the content (and of the derivation of training prompts).
        notes: irregularities found on loading, name -> count ("duplicate prompt", "subject not in locality prompt").
    """

    name: str
    cases: tuple[Case, ...]
    revision: str
    notes: dict[str, int] = field(default_factory=dict)
