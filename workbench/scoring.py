"""Scoring of a finished patch, measured and reported by the same code as a grid's cells."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import baselines
from lks.data.user_facts import Facts
from lks.editing.editor import Editor, NoParams, always
from lks.editing.patch import Patch
from lks.edits import Dataset
from lks.errors import UserError
from lks.evaluation.endings import Says, judged
from lks.evaluation.prompt_formats import Form
from lks.io.atomic import write_whole
from lks.models.lm import LM
from lks.models.precision import revision_in
from lks.progress import Progress, no_progress
from lks.results.cells import ANSWERS, IMMEDIATE, UNEDITED, Cell, Measurements, Outcome
from lks.results.shards import read_answers, write_shard
from lks.results.store import Store
from lks.runs.cell import LoadedResources, Method, run
from workbench.forms import dataset_in, settled
from workbench.patch_folder import ModelIdentity, SavedEdits
from workbench.presets import BY_RULE

logger = logging.getLogger(__name__)

Report = Callable[[str, str, float], None]
"""Called with the model being asked ("unedited", "edited"), the stage, and the fraction of it that is
done.
"""
READOUTS, METRICS = (
    ("tf_token", "ar_exact", "wild"),
    ("reliability", "generality", "locality", "edit_performance"),
)


class FixedPatchEditor(Editor[NoParams]):
    """Editor that takes the place of the method which made a finished patch."""

    source: ClassVar = "a finished patch"
    changes: ClassVar = "weights"
    regime: ClassVar = "simultaneous"
    title: ClassVar = "patch"
    params_type: ClassVar = NoParams
    presets: ClassVar = {"default": always(NoParams())}
    ruled: ClassVar[bool] = False
    """Whether the patch was made with the parameters of its method's rule."""

    @classmethod
    def by_rule(cls, model: str) -> bool:
        """Return whether the patch's record says that its parameters come from the rule."""
        return cls.ruled

    def edit(
        self, lm: LM, edits: object, seed: int = 0, progress: Progress = no_progress, after: object = None
    ) -> Patch:
        """Fail; this is never called while the patch is intact.

        Raises:
            UserError: the patch can no longer be read.
        """
        raise UserError(
            "The copy of the patch in the results folder is damaged. Delete that folder and evaluate again."
        )


class _Here(LoadedResources):
    """Resources with a model and facts that are loaded already."""

    def __init__(self, lm: LM, dataset: Dataset) -> None:
        super().__init__()
        self._own, self._facts = lm, dataset

    def lm(self, name: str) -> LM:
        """Return the loaded model."""
        return self._own

    def dataset(self, name: str) -> Dataset:
        """Return the loaded facts."""
        return self._facts


@dataclass(frozen=True, slots=True)
class Scored:
    """Result of an evaluation.

    Attributes:
        unedited, edited: the two cells.
        foreign: number of facts that are not in the patch.
        what: name of the facts, and the form of their prompts unless it is bare.
        asked: number of facts.
        answered: number of facts that the unedited and the edited model answer, with the answer ending there
            (`lks.evaluation.endings.judged`).
        begins: number of the edited model's answers that only begin with the wanted one.
    """

    unedited: Outcome
    edited: Outcome
    foreign: int
    what: str
    asked: int
    answered: tuple[int, int]
    begins: int


def score(
    lm: LM,
    edited: SavedEdits,
    facts: Facts,
    results: Path,
    report: Report = no_progress,
    form: Form | None = None,
    extras: Measurements | None = None,
) -> Scored:
    """Ask both models everything and store it; `reports.render(results)` makes tables and the page.

    Args:
        lm: the unedited model.
        edited: the edits.
        facts: facts to ask, usually the edited ones.
        results: folder of results, created or added to.
        report: called with the progress.
        form: form in which prompts are presented; None for that of the patch.
        extras: what is measured in addition to the answers; None for nothing.

    Raises:
        UserError: the folder cannot be used, or one of the two models could not be measured; the message
            gives the reason.
    """
    dataset = dataset_in(settled(form or edited.form, lm), lm, facts.dataset())
    store = Store(results)
    cell = _cell(lm, edited, dataset)
    _put(results, cell, edited)
    bench = _Here(lm, dataset)

    def measure(who: str, one: Cell, method: Method) -> Outcome:
        made = run(one, method, results, partial(report, who), bench, extras)
        store.record(made)
        return made

    unedited = measure("unedited", cell.unedited, baselines.methods()[UNEDITED])
    outcome = measure("edited", cell, _given(edited))
    for one, who in ((unedited, "unedited"), (outcome, "edited")):
        if one.status != "ok":
            raise UserError(
                f"The {who} model could not be measured: {one.reason or one.status}. "
                f"Finished results are kept in {results}."
            )
    own = {fact.key for fact in edited.facts.facts} if edited.facts else {fact.key for fact in facts.facts}
    for stage, why in outcome.failed.items():
        logger.warning("%s could not be measured: %s.", stage, why)
    before, after = (_said(results, one) for one in (unedited, outcome))
    foreign = sum(fact.key not in own for fact in facts.facts)
    return Scored(
        unedited,
        outcome,
        foreign,
        dataset.name,
        len(after),
        (before.count("answered"), after.count("answered")),
        after.count("begins"),
    )


def _given(edited: SavedEdits) -> Method:
    """Return the class of an editor that stands for the edits, with their method's title."""
    title, ruled = (
        (edited.origin.title, edited.origin.tuned == BY_RULE) if edited.origin else ("patch", False)
    )
    return type("Given", (FixedPatchEditor,), {"title": title, "regime": _regime(edited), "ruled": ruled})


def _said(results: Path, outcome: Outcome) -> list[Says]:
    """Return the verdicts on a cell's answers to the edit prompts."""
    stored = next(shard for shard in outcome.shards if Path(shard).stem == ANSWERS)
    return judged([answer for answer in read_answers(results / stored) if answer.kind == "edit"])


def _cell(lm: LM, edited: SavedEdits, dataset: Dataset) -> Cell:
    """Return the edited model's cell; the content of the patch is part of its identity."""
    base, origin = ModelIdentity.of(lm), edited.origin
    parameters = json.dumps(
        {**(origin.parameters if origin else {}), "patch": content_of(edited.patch)}, sort_keys=True
    )
    return Cell(
        model=base.name.replace("/", "--"),
        dataset=dataset.name,
        method=origin.method if origin else "patch",
        n_edits=len(dataset.cases),
        seed=0,
        draws=1,
        parameters=parameters,
        model_revision=revision_in(base.revision, lm.model.dtype, lm.device),
        data_revision=dataset.revision,
    )


def _put(results: Path, cell: Cell, edited: SavedEdits) -> None:
    """Save the patch where a cell looks for the work of an earlier run."""
    folder = results / "runs" / cell.id / "patch" / "0"
    if (folder / "cost.json").exists():
        return
    edited.patch.save(folder)
    write_shard(folder / f"{IMMEDIATE}.parquet", cell.id, [])  # nothing was asked between the edits
    seconds = edited.origin.seconds if edited.origin else 0.0
    write_whole(
        folder / "cost.json", json.dumps({"seconds": seconds, "asked_s": 0.0, "peak_bytes": 0}).encode()
    )


def _regime(edited: SavedEdits) -> str:
    method = baselines.methods().get(edited.origin.method) if edited.origin else None
    return method.regime if method else FixedPatchEditor.regime


def content_of(patch: Patch) -> str:
    """Return a hash of the patch's content."""
    digest = hashlib.sha256(json.dumps([patch.kind, patch.settings()], sort_keys=True).encode())
    for name, tensor in sorted(patch.tensors().items()):
        digest.update(
            f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
            + tensor.detach().cpu().float().contiguous().numpy().tobytes()
        )
    return digest.hexdigest()[:16]
