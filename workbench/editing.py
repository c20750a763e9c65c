"""Editing of a model with a user's facts: all at once, or with more facts added later."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from lks.data.datasets import load as load_dataset
from lks.data.user_facts import Facts
from lks.editing.editor import Editor
from lks.editing.patch import NoPatch, Patch, check_finite
from lks.editing.preset_files import ORIGIN
from lks.edits import Case, Dataset, Edit
from lks.errors import NothingToLearnFrom, UserError
from lks.evaluation.endings import Says, judged, says
from lks.evaluation.prompt_formats import Form
from lks.evaluation.readouts import Asking, ask
from lks.models.lm import LM
from lks.progress import Progress, StageProgress, no_progress
from lks.results.answers import Answer
from lks.results.provenance import provenance
from workbench.fitting import fitting
from workbench.forms import dataset_in, edits_in, named, settled
from workbench.patch_folder import FORMAT, EditRecord, ModelIdentity, SavedEdits
from workbench.plural import many
from workbench.presets import TRAINING_HINT, editor_for, method_named

SAMPLE = 200
"""Maximum number of facts asked after editing; of more facts, this many are sampled."""


@dataclass(frozen=True, slots=True)
class EditRequest:
    """Options of an edit.

    Attributes:
        method: registry name.
        changes: parameters set by the user.
        seed: random seed for editing and training.
        training: name of a dataset to train on, for methods that need one; "" for none.
        form: form in which prompts are presented for training and asked afterwards.
        params: all parameters, in place of the preset and `changes`; None to look them up.
    """

    method: str = "lks"
    changes: Mapping[str, str] | None = None
    seed: int = 0
    training: str = ""
    form: Form = "auto"
    params: object | None = None


@dataclass(frozen=True, slots=True)
class RecallAnswer:
    """The edited model's answer to one fact's prompt.

    Attributes:
        prompt: the prompt as the user gives it.
        wanted: the wanted answer.
        tokens: number of tokens of the wanted answer.
        text: text generated greedily to a natural stop.
        says: whether that is the answer (`lks.evaluation.endings.judged`).
        acts: whether the edits act on the prompt; None for a patch without a gate.
        asked: the prompt as it was presented to the model.
    """

    prompt: str
    wanted: str
    tokens: int
    text: str
    says: Says
    acts: bool | None
    asked: str = ""


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """Result of asking the edited facts of both models.

    Attributes:
        asked: number of facts asked.
        of: number of all facts.
        before: how many of those asked the unedited model answers.
        said: the edited model's answer to each.
        asked_in: description of the forms in which the prompts were presented, for display.
    """

    asked: int
    of: int
    before: int
    said: tuple[RecallAnswer, ...]
    asked_in: str = ""

    @property
    def after(self) -> int:
        """Number of facts that the edited model answers with the answer ending where it should."""
        return len(self.those("answered"))

    def those(self, says: Says) -> list[RecallAnswer]:
        """Return the answers with one verdict: right, only beginning with the answer, or different."""
        return [one for one in self.said if one.says == says]


@runtime_checkable
class SupportsUpdate(Protocol):
    """An editor that can continue from what it has learnt."""

    learnt: dict[str, Tensor]

    def warnings(self, lm: LM, edits: Sequence[Edit]) -> list[str]:
        """Return warnings about the edits, as `Editor.warnings` does."""
        ...

    def update(
        self,
        lm: LM,
        edits: Sequence[Edit],
        learnt: Mapping[str, Tensor],
        seed: int = 0,
        progress: Progress = ...,
    ) -> Patch:
        """Return a patch of the new and changed subjects only."""
        ...


Warn = Callable[[str], None]
"""Called with each of the method's warnings about the edits, before anything is trained."""


def no_warning(line: str) -> None:
    """Ignore a warning; the default `Warn`."""


def edit_model(
    lm: LM,
    facts: Facts,
    wish: EditRequest | None = None,
    report: StageProgress = no_progress,
    warn: Warn = no_warning,
) -> SavedEdits:
    """Edit facts in a model. The model is unchanged on return; inside `.patch.applied(lm)` it is the edited
    one.

    Args:
        lm: the unedited model.
        facts: facts to edit.
        wish: method and parameters; None for LKS with its preset.
        report: called with the progress of each stage.
        warn: called with the method's warnings about the facts.

    Raises:
        UserError: the method or a parameter does not exist, the method has to train and has nothing to train
            on, or there is no chat template for the form.
        DataError: a fact is too long for the model, or a text of it has no tokens.
        FloatingPointError: the edits hold NaN or infinity.
    """
    wish = wish or EditRequest()
    method = method_named(wish.method)
    form = settled(wish.form, lm)
    changes = dict(wish.changes or {})
    editor, tuned = (
        editor_for(method, lm.name, (len(lm.blocks), lm.dim), (len(facts.facts), wish.training), changes)
        if wish.params is None
        else (method(wish.params), "")
    )
    fitting(lm, facts)
    edits = _put(form, lm, method, [case.edit for case in facts.dataset().cases])
    for line in editor.warnings(lm, edits):
        warn(line)
    began = time.perf_counter()
    _prepare(lm, editor, edits, wish.training, report)
    prepared = time.perf_counter()
    patch = editor.edit(lm, edits, wish.seed, lambda done: report("edit", done))
    check_finite(patch)
    learnt = dict(editor.learnt) if isinstance(editor, SupportsUpdate) else {}
    origin = EditRecord(
        format=FORMAT,
        method=wish.method,
        title=method.title,
        parameters=_plain(editor.params),
        changed=changes,
        tuned=tuned,
        base=ModelIdentity.of(lm),
        seed=wish.seed,
        training=wish.training,
        seconds=time.perf_counter() - prepared,
        prepare_s=prepared - began,
        made={**provenance(), **lm.provenance, **editor.notes},
        history=(f"edited with {many(len(edits), 'fact')}",),
        form=form,
    )
    return SavedEdits(patch, origin, facts, learnt)


def update_model(
    lm: LM,
    earlier: SavedEdits,
    facts: Facts,
    report: StageProgress = no_progress,
    drop: Sequence[str] = (),
    warn: Warn = no_warning,
) -> tuple[SavedEdits, str]:
    """Add and change facts; a new fact replaces an earlier one on the same subject and prompt.

    A method that keeps subjects apart and can continue from what it has learnt trains on the new and changed
    subjects only; all others keep their part of the patch bit for bit. Any other method edits again with all
    facts.

    Args:
        lm: the model that the earlier edits were made for.
        earlier: the earlier edits.
        facts: new facts.
        report: called with the progress of each stage.
        drop: subjects whose facts are removed.
        warn: called with the method's warnings about the facts that are edited.

    Returns:
        The edits, and a sentence on how they were made.

    Raises:
        UserError: the folder lacks what an update needs, or the facts contradict each other.
    """
    if earlier.origin is None or earlier.facts is None:
        raise UserError(
            "The patch has no edit.json or no facts.jsonl, so it is unknown what to add to. "
            "Edit again with all facts."
        )
    known = {fact.subject for fact in earlier.facts.facts}
    for subject in drop:
        if subject not in known:
            raise UserError(
                f"No fact of the patch is about {subject!r}. `lks patch info` lists its subjects."
            )
    fitting(lm, facts)
    together = earlier.facts.without(drop).joined(facts)
    if not together.facts:
        raise UserError("No fact would be left. Delete the folder instead.")
    before = {replace(fact, line=0) for fact in earlier.facts.facts}
    touched = {fact.subject for fact in facts.facts if replace(fact, line=0) not in before}
    origin = earlier.origin
    editor = method_named(origin.method)(_restored(origin))
    if isinstance(editor, SupportsUpdate) and earlier.learnt and earlier.patch.extensible:
        edits = [case.edit for case in together.dataset().cases if case.edit.subject in touched]
        for line in editor.warnings(lm, edits):
            warn(line)
        return _continued(lm, replace(earlier, facts=together), edits, drop, editor, report)
    from_file = origin.tuned.startswith(ORIGIN)  # the file may be gone or changed: its values are kept
    wish = EditRequest(origin.method, origin.changed, origin.seed, origin.training, origin.form)
    if from_file:
        wish = replace(wish, params=_restored(origin))
    made = edit_model(lm, together, wish, report, warn)
    history = (*origin.history, f"edited again with all {len(together.facts)} facts")
    record = replace(cast(EditRecord, made.origin), history=history)
    if from_file:
        record = replace(record, tuned=origin.tuned)
    again = replace(made, origin=record)
    return again, f"{origin.title} cannot continue from this patch: edited again with all facts."


def _continued(
    lm: LM,
    earlier: SavedEdits,
    edits: Sequence[Edit],
    drop: Sequence[str],
    editor: SupportsUpdate,
    report: StageProgress,
) -> tuple[SavedEdits, str]:
    """Train on the subjects of some edits only; the others keep their knowledge blocks.

    Args:
        lm: the unedited model.
        earlier: the earlier patch, with the facts that are wanted now.
        edits: all edits of subjects that are new or changed.
        drop: subjects to remove.
        editor: the method.
        report: called with the progress.
    """
    origin = cast(EditRecord, earlier.origin)
    began = time.perf_counter()
    touched = sorted({edit.subject for edit in edits})
    kept = cast(Patch, earlier.patch.without([*touched, *drop]))
    learnt = earlier.learnt
    edits = _put(origin.form, lm, method_named(origin.method), edits)
    if edits:
        made = editor.update(
            lm, edits, learnt, origin.seed + len(origin.history), lambda done: report("edit", done)
        )
        check_finite(made)
        kept, learnt = kept.merged_with(made), dict(editor.learnt)
    done = f"{many(len(touched), 'subject')} added or changed" + (f", {len(drop)} removed" if drop else "")
    seconds = origin.seconds + time.perf_counter() - began
    new = replace(
        origin, seconds=seconds, made={**provenance(), **lm.provenance}, history=(*origin.history, done)
    )
    same = len(kept.subjects) - len(touched)
    said = (
        f"{done}; {many(same, 'subject')} {'keeps its' if same == 1 else 'keep their'} "
        "knowledge blocks bit for bit."
    )
    return replace(earlier, patch=kept, origin=new, learnt=learnt), said


def answers(
    lm: LM, patch: Patch, dataset: Dataset, report: StageProgress = no_progress, form: Form = "bare"
) -> RecallCheck:
    """Ask the facts of the unedited and of the edited model.

    Args:
        lm: the unedited model.
        patch: the edits.
        dataset: the facts, with prompts as the user gives them.
        report: called with the progress.
        form: form in which the prompts are presented: that of the patch (`SavedEdits.form`).
    """
    given = list(dataset.cases)
    if len(given) > SAMPLE:
        chosen = torch.randperm(len(given), generator=torch.Generator().manual_seed(0))[:SAMPLE]
        given = [given[i] for i in sorted(chosen.tolist())]
    prompts = [case.edit.prompt for case in given]
    cases = dataset_in(form, lm, replace(dataset, cases=tuple(given))).cases
    before = _said(lm, NoPatch(), _near(lm, cases, report), report, 0.25)
    after = _said(lm, patch, cases, report, 0.5)
    told = tuple(
        RecallAnswer(
            prompt,
            one.answer,
            len(one.answer_ids),
            (one.wild_text or "").strip(),
            verdict,
            one.fired,
            one.prompt,
        )
        for prompt, one, verdict in zip(prompts, after, judged(after), strict=True)
    )
    return RecallCheck(
        len(cases), len(dataset.cases), judged(before).count("answered"), told, named(form, lm, prompts)
    )


def _put(form: Form, lm: LM, method: type[Editor[object]], edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the form in which they will be asked; a method that puts them into the context keeps
    them bare.
    """
    return list(edits) if method.changes == "context" else edits_in(form, lm, edits)


def _near(lm: LM, cases: Sequence[Case], report: StageProgress) -> list[Case]:
    """Return the cases where the unedited model's first tokens are or resemble the answer.

    They are usually few, and only they need to be asked with longer generation.
    """
    first = _said(lm, NoPatch(), cases, report, 0.0, wild=False)
    spelt = [[says(one.ar_text, name) for name in (one.answer, *one.accepted)] for one in first]
    return [
        case
        for case, one, each in zip(cases, first, spelt, strict=True)
        if one.ar_ids == one.answer_ids or set(each) != {"no"}
    ]


def _said(
    lm: LM, patch: Patch, cases: Sequence[Case], report: StageProgress, begin: float, wild: bool = True
) -> list[Answer]:
    how = Asking(kinds=("edit",), wild=wild, grows=patch.context_tokens(lm))
    with patch.applied(lm):
        return ask(lm, cases, how, lambda done: report("ask", begin + done / 2))


def _prepare(
    lm: LM, editor: Editor[object], edits: Sequence[Edit], training: str, report: StageProgress
) -> None:
    """Prepare what is independent of the edits, with held-out edits of a dataset if one is named.

    Raises:
        UserError: the method has to train and no dataset is named.
    """
    subjects = {edit.subject for edit in edits}
    held_out = (
        [case.edit for case in load_dataset(training).cases if case.edit.subject not in subjects]
        if training
        else []
    )
    try:
        editor.prepare(lm, held_out, lambda done: report("prepare", done))
    except NothingToLearnFrom as error:
        if training:
            raise
        raise UserError(
            f"{type(editor).title} learns from other texts or edits before it edits. {error} {TRAINING_HINT}"
        ) from None


def _restored(origin: EditRecord) -> object:
    """Return the parameters that an edit was made with, from `edit.json`.

    Raises:
        UserError: they do not match the method's parameters in this version.
    """
    from lks.editing.patch import checked

    try:
        return checked(method_named(origin.method).params_type, origin.parameters)
    except ValueError as error:
        raise UserError(
            f"The parameters in edit.json do not match {origin.method} in this version ({error}). "
            "Edit again with all facts."
        ) from None


def _plain(params: object) -> dict[str, object]:
    """Return parameters in the form that JSON has, so that they are equal to what is read back."""
    return (
        cast(dict[str, object], json.loads(json.dumps(asdict(params))))
        if is_dataclass(params) and not isinstance(params, type)
        else {}
    )
