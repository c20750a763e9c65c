"""General ability of an edited or unedited model, measured by lm-eval in this process, one row per document.

The caller applies the patch. Prompts are the same for every model: the examples in prompts are drawn with
lm-eval's default seed before each run, and a limit selects the same documents of a task for every model.
"""

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from lks.errors import UserError
from lks.evaluation.ability_requests import ReusableReplies, canonical_json, key
from lks.evaluation.readouts import ReuseError
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.ability_rows import AbilityRow

if TYPE_CHECKING:
    from lks.evaluation.lm_eval_model import PatchAwareHFLM

logger = logging.getLogger(__name__)

VERSION = 1
"""Version of how tasks are asked here; after a change, earlier results belong to a different battery."""


class TaskSuite:
    """Ability tests with their documents in memory, ready to be run on any number of models.

    Args:
        names: names of tasks or groups (`lks.evaluation.ability_tasks`).
        limit: documents per task, a seeded sample that depends on the task alone; a smaller limit selects a
            part of a larger one's. None for all.
        batch_tokens: padded tokens per batch, by default 4096 on a CPU and 8192 on a GPU; affects answers
            only by rounding.

    Attributes:
        tasks: lm-eval's task objects by name.
        identity: hash of everything that determines a model's answers: lm-eval's version, names and versions
            of the tasks, every prompt with its examples, and every right answer (hence the documents and the
            limit too).

    Raises:
        UserError: a task does not exist, or cannot be run here.
        DataError: documents are missing or damaged.
    """

    def __init__(
        self, names: Sequence[str], limit: int | None = None, batch_tokens: int | None = None
    ) -> None:
        from lks.evaluation.ability_tasks import calm, load

        if limit is not None and limit < 1:
            raise UserError(
                f"A test of ability needs at least one document per task, not {limit}. "
                "Raise the limit, or leave it out."
            )
        self.batch_tokens = batch_tokens
        digest = hashlib.sha256(f"{VERSION} {version('lm_eval')}".encode())
        with calm():
            self.tasks = load(names)
            self.samples = (
                None
                if limit is None
                else {name: _chosen(name, len(task.eval_docs), limit) for name, task in self.tasks.items()}
            )
            self.size = 0
            self._reseed()
            for name, task in sorted(self.tasks.items()):
                task.build_all_requests(samples=self.samples[name] if self.samples else None)
                self.size += len(task.instances)
                digest.update(json.dumps([name, str(task.VERSION)]).encode())
                for one in task.instances:
                    target = canonical_json(task.doc_to_target(one.doc))
                    digest.update(f"{key(one.request_type, one.args)} {target}\n".encode())
        self.identity = digest.hexdigest()[:16]

    def run(
        self,
        lm: LM,
        draw: int = 0,
        known: ReusableReplies | None = None,
        progress: Progress = no_progress,
        context: int = 0,
    ) -> list[AbilityRow]:
        """Run all tasks on the model in its current state.

        Answers in `known` are reused where `known.acts` says that the edits do not act and the whole prompt
        fits the window. A seeded sample of them, at least 8 and at least 2 %, is recomputed. In float32 all
        of the sample must agree (log p within 1e-4, texts equal); in lower precision up to a fifth may
        differ, because rounding depends on the batch there. Otherwise nothing is reused and everything is
        asked.

        Args:
            lm: the model, with or without a patch applied.
            draw: number of the draw, stored with each row.
            known: answers of the unedited model to this battery (the same `identity`, model and number
                format).
            progress: called with the fraction done.
            context: tokens that each prompt may grow by (`Patch.context_tokens`).

        Returns:
            Rows by task, document, filter and metric; one per document and metric that is a number for each
                document.
        """
        try:
            return self._run(lm, draw, known, progress, context)
        except ReuseError as found:
            logger.warning("%s differ from what the model says; everything is asked.", found)
            return self._run(lm, draw, None, progress, context)

    def _run(
        self, lm: LM, draw: int, known: ReusableReplies | None, progress: Progress, context: int
    ) -> list[AbilityRow]:
        from lm_eval import evaluator

        from lks.evaluation.ability_tasks import calm
        from lks.evaluation.lm_eval_model import PatchAwareHFLM

        with calm():
            self._reseed()
            asked = PatchAwareHFLM(
                lm, known, self.size, progress, context=context, batch_tokens=self.batch_tokens
            )
            found = evaluator.evaluate(
                lm=asked, task_dict={"tasks": self.tasks}, samples=self.samples, bootstrap_iters=0
            )
        _note_shortened(asked)
        return [
            row
            for name, task in self.tasks.items()
            for row in _rows(draw, name, task, found["samples"][name])
        ]

    def _reseed(self) -> None:
        """Reset the seed of the examples, without which lm-eval would draw different ones in each run."""
        from lks.evaluation.ability_tasks import SEED

        for task in self.tasks.values():
            task.set_fewshot_seed(SEED)


def _chosen(name: str, count: int, limit: int) -> list[int] | None:
    """Return the documents of a task that a limit selects, in lm-eval's ascending order; None for all."""
    if limit >= count:
        return None
    order = list(range(count))
    random.Random(f"ability {name}").shuffle(order)
    return sorted(order[:limit])


def _note_shortened(asked: "PatchAwareHFLM") -> None:
    if asked.shortened:
        logger.warning(
            "%d requests did not fit the model's window of %d tokens and were cut at the beginning.",
            asked.shortened,
            asked.max_length,
        )


def _rows(draw: int, name: str, task: Any, documents: Iterable[Mapping[str, Any]]) -> list[AbilityRow]:
    """Build the rows of one task from lm-eval's samples, one sample for each document and filter."""
    rows: list[AbilityRow] = []
    last = -1
    for one in sorted(documents, key=lambda one: int(one["doc_id"])):
        for metric in one["metrics"]:
            score = one[metric]
            if not isinstance(
                score, int | float | np.number | np.bool_
            ):  # a pair to be aggregated, as for F1
                continue
            full = metric if one["filter"] == "none" else f"{metric},{one['filter']}"
            requests = _requests(one) if one["doc_id"] != last else ""
            last = one["doc_id"]
            rows.append(
                AbilityRow(
                    draw,
                    name,
                    full,
                    int(last),
                    float(score),
                    _target(task, one),
                    _response(task, one),
                    requests,
                )
            )
    if not rows:
        logger.warning("Task %s has no score per document: nothing is stored for it.", name)
    return rows


def _requests(one: Mapping[str, Any]) -> str:
    """Return as JSON what was asked and answered; for repeated requests the first answer."""
    pairs = []
    for args, (answer, *_) in zip(one["arguments"], one["resps"], strict=True):
        kind = (
            "generate_until"
            if isinstance(answer, str)
            else "loglikelihood"
            if isinstance(answer, tuple | list)
            else "loglikelihood_rolling"
        )
        pairs.append([key(kind, args), answer])
    return json.dumps(pairs, ensure_ascii=False)


def _target(task: Any, one: Mapping[str, Any]) -> str:
    """Return the right answer as text."""
    target = one["target"]
    choices = task.doc_to_choice(one["doc"]) if task.OUTPUT_TYPE == "multiple_choice" else []
    if isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    return target if isinstance(target, str) else canonical_json(target)


def _response(task: Any, one: Mapping[str, Any]) -> str:
    """Return the model's answer as text.

    For a single likelihood this is the right answer if that is the greedy continuation, else "".
    """
    answers = [answer for answer, *_ in one["resps"]]
    if isinstance(answers[0], str):
        return answers[0]
    if isinstance(answers[0], float):
        return ""
    if len(answers) == 1:
        return _target(task, one) if answers[0][1] else ""
    choices = (
        task.doc_to_choice(one["doc"])
        if task.OUTPUT_TYPE == "multiple_choice"
        else [args[1].strip() for args in one["arguments"]]
    )
    return str(choices[int(np.argmax([answer[0] for answer in answers[: len(choices)]]))])
