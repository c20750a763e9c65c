"""Data types for edits and evaluation questions: `Edit`, `Probe`, `Case`, `Dataset`.

An editor sees an `Edit` and nothing else; evaluation sees the whole `Case`. Evaluation prompts therefore
cannot leak into an editor by accident: they are not part of the type it receives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lks.scope.naming import names_subject, only_in_longer_name

ProbeKind = Literal["edit", "paraphrase", "locality", "portability", "neighbour"]
"""What a probe measures. "neighbour": whether facts about unedited subjects stay as they were
(`lks.data.neighborhood`).
"""

Context = Literal["bare", "qa", "chat", "given"]
"""How a prompt is presented (`lks.evaluation.prompt_formats`).

bare: the prompt as it is. qa: "Q: ...", then "A:". chat: the tokenizer's chat template. given: preceded by
the edited fact, which shows whether the unedited model knows everything else that a portability question
needs.
"""


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
        training_locality: prompts about other facts of the same subject whose answers must be preserved;
            never an evaluation prompt.
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
    """One evaluation question.

    Attributes:
        kind: what it measures.
        index: its number among the case's probes of this kind.
        prompt: the text shown to the model.
        answer: reference answer without leading space: the target (edit, paraphrase) or the true answer
            (locality).
        accepted: other spellings of the answer, counted as right in free generation.
        stratum: which kind of locality, portability or neighbour it is ("same_subject", "reasoning",
            "near_name"); "" where there is only one kind.
        rival: the answer that must be less likely than `answer` (ROME's ES, PS, NS): the old answer, or for
            neighbours the case's target; "" where there is none.
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
        edit: what the editor receives.
        probes: the edit prompt itself first, then paraphrases, locality and portability.
    """

    edit: Edit
    probes: tuple[Probe, ...]

    @property
    def case_id(self) -> str:
        """Identifier within the dataset."""
        return self.edit.case_id


def make_case(
    edit: Edit,
    paraphrases: tuple[str, ...],
    locality: tuple[tuple[str, str], ...],
    spellings: Callable[[str], tuple[str, ...]] = lambda answer: (),
) -> Case:
    """Build a case from an edit, its evaluation paraphrases and its (locality prompt, true answer) pairs.

    The rival of the edit prompt and its paraphrases is the old answer if it differs from the target; the old
    answer is never an accepted spelling of the target. Locality questions have the stratum "same_subject" if
    they name the subject, else "other".

    Args:
        edit: the edit.
        paraphrases: prompts of the same meaning.
        locality: questions with their true answers.
        spellings: returns other spellings of an answer that count as right in free generation; by default
            none.
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
    """Strip and case-fold an answer."""
    return answer.strip().casefold()


def spellings_of(edits: Sequence[Edit]) -> dict[str, list[str]]:
    """Map each subject, in order of first appearance, to its name and all its aliases, without duplicates."""
    found: dict[str, dict[str, None]] = {}
    for edit in edits:
        found.setdefault(edit.subject, {edit.subject: None}).update(dict.fromkeys(edit.aliases))
    return {subject: list(spellings) for subject, spellings in found.items()}


def loose_subjects(edits: Sequence[Edit]) -> list[int]:
    """Return the indices of subjects that one of their own prompts has only as part of a longer name.

    The scope must find them there. Their own prompts are the edit prompts and training paraphrases. Subjects
    are numbered in order of first appearance, as in `spellings_of`.
    """
    numbers: dict[str, int] = {}
    found: set[int] = set()
    for edit in edits:
        number = numbers.setdefault(edit.subject, len(numbers))
        for text in (edit.prompt, *edit.training_paraphrases):
            if only_in_longer_name(text, edit.subject, *edit.aliases):
                found.add(number)
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cases together with the identity of their dataset.

    Attributes:
        name: the registry name ("world", "zsre", "knowedit-recent").
        cases: in file order.
        revision: hash of the content (and of how training prompts are derived).
        notes: irregularities found on loading, name -> count ("duplicate prompt", "subject not in locality
            prompt").
    """

    name: str
    cases: tuple[Case, ...]
    revision: str
    notes: dict[str, int] = field(default_factory=dict)
