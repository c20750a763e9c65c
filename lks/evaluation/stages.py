"""Measurements of an edited model, stage by stage, whichever method edited it.

Each stage turns an edited model into rows of one kind; `lks.runs.cell` writes them as the cell's shard of
that stage. The unedited model's stored rows are available: where a gate says that the edits do not act, its
answers are reused instead of being recomputed.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from lks.editing.patch import Patch
from lks.edits import Case, Context
from lks.errors import Collapsed, DataError
from lks.evaluation import fluency, gate_decisions, perplexity
from lks.evaluation.ability import TaskSuite
from lks.evaluation.ability_requests import ReusableReplies as KnownResults
from lks.evaluation.kl_drift import with_drift
from lks.evaluation.profiling import overheads
from lks.evaluation.prompt_formats import available
from lks.evaluation.readouts import (
    KEEPING,
    Asking,
    Key,
    ReusableAnswers,
    ReuseError,
    acts_of,
    ask_draws,
    key_of,
)
from lks.evaluation.scope_decisions import PROBES
from lks.evaluation.side_by_side import SideBySide
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.ability_rows import AbilityRow
from lks.results.answers import Answer
from lks.results.cells import ANSWERS
from lks.results.decisions import Decision
from lks.results.rows import Generation, Passage, Timing
from lks.results.shards import read_answers, read_rows
from lks.results.stages import stages

logger = logging.getLogger(__name__)

PASSAGE_DRAWS = 3
"""Plain texts are read under the patches of the first `PASSAGE_DRAWS` draws, ability tests are run under
the first draw's alone."""


class UneditedAnswers:
    """The unedited model's stored rows for a cell's questions, as far as there are any.

    Args:
        folder: `cells/<id>` of its cell; None while the unedited model itself is asked.

    Attributes:
        is_asked: whether the unedited model itself is asked.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.is_asked = folder is None
        self._answers: dict[str, dict[Key, Answer]] = {}

    def answers(self, stage: str) -> Mapping[Key, Answer]:
        """Return its answers of one stage by question; empty if it was not asked."""
        if stage not in self._answers:
            self._answers[stage] = {}
            with contextlib.suppress(DataError):
                if self._folder is not None:
                    self._answers[stage] = {
                        key_of(answer): answer for answer in read_answers(self._folder / f"{stage}.parquet")
                    }
        return self._answers[stage]

    def ability(self, stage: str) -> list[AbilityRow]:
        """Return its results of one ability test."""
        with contextlib.suppress(DataError):
            if self._folder is not None:
                return read_rows(self._folder / f"{stage}.parquet", AbilityRow)
        return []


@dataclass(frozen=True)
class EditedDraw:
    """A model with one draw's edits, and what is asked of it.

    Attributes:
        lm: the unedited model.
        patch: the edits.
        cases: cases of the draw, with their neighbours.
        spare: cases that are not edited.
        draw, draws: number of the draw, and how many draws there are.
        seed: random seed of the cell.
        unedited: stored rows of the unedited model; none while that model itself is asked.
        battery: ability tests, if they are asked for.
        notes: what was noticed during the work, for the outcome's provenance.
    """

    lm: LM
    patch: Patch
    cases: Sequence[Case]
    spare: Sequence[Case]
    draw: int
    draws: int
    seed: int
    unedited: UneditedAnswers
    battery: TaskSuite | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @cached_property
    def grows(self) -> int:
        """Tokens that a prompt may grow by."""
        return self.patch.context_tokens(self.lm)


def measure(stage: str, edited: EditedDraw, progress: Progress) -> Sequence[object]:
    """Return the rows of one stage other than answers (`answers_of_draws`).

    Raises:
        Collapsed: the edited model has collapsed, so an ability test is not worth its time.
    """
    kind = stage.partition("-")[0]
    if kind not in stages():
        raise ValueError(f"no stage {stage!r}")
    return stages()[kind].measure(edited, stage, progress)


def answers(edited: EditedDraw, progress: Progress, context: Context = "bare") -> list[Answer]:
    """Answer all probes in one context; for the bare prompt with the drift of what should not change."""
    with edited.patch.applied(edited.lm):
        made = _asked([edited], progress, context)
    return _with_drift(edited, made, progress) if context == "bare" else made


def answers_of_draws(
    edited: Sequence[EditedDraw], progress: Progress, context: Context = "bare"
) -> list[Answer]:
    """Answer all probes of several draws, asked together where their patches can act side by side.

    The answers come draw by draw, as from `answers`.
    """
    together = (
        SideBySide.of(edited[0].lm, {one.draw: one.patch for one in edited}) if len(edited) > 1 else None
    )
    if together is None:
        return [
            answer
            for n, one in enumerate(edited)
            for answer in answers(one, partial(_part, progress, n, len(edited)), context)
        ]
    with together.applied():
        made = _asked(edited, progress, context)
    if context == "bare":
        made = [
            answer
            for one in edited
            for answer in _with_drift(one, [a for a in made if a.draw == one.draw], no_progress)
        ]
    progress(1.0)
    return made


def _part(progress: Progress, number: int, of: int, done: float) -> None:
    progress((number + done) / of)


def _asked(edited: Sequence[EditedDraw], progress: Progress, context: Context) -> list[Answer]:
    """Ask edited models whose patches are in force."""
    lm = edited[0].lm
    if not available(context, lm):
        return []
    stage = ANSWERS if context == "bare" else f"{ANSWERS}-{context}"
    known = {
        one.draw: ReusableAnswers(stored, acts_of(one.patch, lm))
        for one in edited
        if (stored := one.unedited.answers(stage))
    }
    share = 0.8 if context == "bare" and known else 1.0
    draws = {one.draw: one.cases for one in edited}
    how = Asking(context=context, grows=max(one.grows for one in edited))
    try:
        return ask_draws(lm, draws, how, known, lambda done: progress(share * done))
    except ReuseError as error:
        logger.warning("Answers of the unedited model were not reused: %s.", error)
        edited[0].notes["not taken over"] = str(error)
        return ask_draws(lm, draws, how, progress=lambda done: progress(share * done))


def _with_drift(edited: EditedDraw, made: list[Answer], progress: Progress) -> list[Answer]:
    """Return a draw's answers with the drift of those that should not change."""
    stored = edited.unedited.answers(ANSWERS)
    keeping = [i for i, answer in enumerate(made) if answer.kind in KEEPING and key_of(answer) in stored]
    before = [stored[key_of(made[i])] for i in keeping]
    kept = [made[i] for i in keeping]
    after = with_drift(
        edited.lm, edited.patch, kept, before, edited.grows, progress=lambda done: progress(0.8 + 0.2 * done)
    )
    completed = dict(zip(keeping, after, strict=True))
    return [completed.get(i, answer) for i, answer in enumerate(made)]


def generations(edited: EditedDraw, _stage: str, progress: Progress) -> list[Generation]:
    """Let the edited model write free texts."""
    asked = fluency.prompts(edited.cases, edited.draw, edited.draws)
    with edited.patch.applied(edited.lm):
        return fluency.write(edited.lm, asked, edited.draw, edited.grows, progress)


def gate_decisions_of(edited: EditedDraw, _stage: str, _progress: Progress) -> list[Decision]:
    """Ask a gated method which prompts its edits act on."""
    probes = -(-PROBES // edited.draws)
    return gate_decisions.decide(
        edited.lm, edited.patch, edited.cases, edited.spare, edited.draw, probes, edited.seed
    )


def passages(edited: EditedDraw, _stage: str, progress: Progress) -> list[Passage]:
    """Measure how likely plain texts are under the first draws' patches."""
    if edited.draw >= PASSAGE_DRAWS:
        return []
    with edited.patch.applied(edited.lm):
        return perplexity.measure_passages(
            edited.lm, draw=edited.draw, context=edited.grows, progress=progress
        )


def abilities(edited: EditedDraw, stage: str, progress: Progress) -> list[AbilityRow]:
    """Run the ability tests, after the collapse alarm."""
    if edited.draw > 0 or edited.battery is None:
        return []
    lm, patch = edited.lm, edited.patch
    before = perplexity.median_perplexity(perplexity.measure_passages(lm))
    with patch.applied(lm):
        ratio = perplexity.median_perplexity(perplexity.measure_passages(lm, context=edited.grows)) / before
        if perplexity.collapse_verdict(ratio) == "collapsed":
            raise Collapsed(f"perplexity of plain text is {ratio:.3g} times the unedited model's")
        stored = edited.unedited.ability(stage)
        return edited.battery.run(
            lm,
            edited.draw,
            KnownResults.of(stored, acts_of(patch, lm)) if stored else None,
            progress,
            edited.grows,
        )


def timings(edited: EditedDraw, _stage: str, progress: Progress) -> list[Timing]:
    """Time pairs of prefills under the first draw's patch.

    There are none for the unedited model, whose overhead is 0 by definition.
    """
    if edited.draw > 0 or edited.unedited.is_asked:
        return []
    return overheads(
        edited.lm,
        edited.patch,
        [probe.prompt for case in edited.cases for probe in case.probes],
        edited.draw,
        progress=progress,
    )
