"""Available ability tests, and the sources of their documents.

- `gsm8k`, `sst2`, `rte` (together `paper`): as the installed lm-eval defines them. If the data folder holds
  their files, only the source of the documents differs; otherwise they come from the Hugging Face hub, as in
  lm-eval.
- `made_arithmetic`, `made_sentiment`, `made_entailment` (together `made`): the held-out items of
  `lks.data.synthetic_text` for the micro models, scored by the likelihood of the choices, without examples in
  the prompt.
- any other task, group or tag of lm-eval, by its name there.
"""

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.tasks
import numpy as np
import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]
from lm_eval.tasks import TaskManager
from rapidfuzz import fuzz, process

from lks.data.download import BESIDE, content_of, named_folder
from lks.data.synthetic_text import TASKS, ability_items
from lks.data.synthetic_text import Task as Made
from lks.errors import DataError, UserError, unknown
from lks.io import hub
from lks.io.lines import split_lines

SEED = 1234
"""lm-eval's default seed for choosing examples in prompts (`fewshot_random_seed`) and for sampling."""
GROUPS: dict[str, tuple[str, ...]] = {
    "made": tuple(f"made_{task}" for task in TASKS),
    "paper": ("gsm8k", "sst2", "rte"),
}
_MADE_VERSION = 1  # of how the synthetic items are asked; their text is part of a battery's identity anyway
_NO_SCORE = {
    "f1",
    "mcc",
    "brier_score",
    "likelihood",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
}  # metrics of a whole task, without a score per document

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Local:
    """An lm-eval task that may be read from local files.

    Attributes:
        folder: folder of lm-eval's YAML, below its tasks.
        files: split -> file in the data folder, and the number of published documents.
        labels: label as spelt in the file -> lm-eval's number; empty for a JSON-lines file, whose lines are
            the documents.
        columns: columns that a document must have.
        changes: changes to lm-eval's definition, in addition to the source of the documents.
    """

    folder: str
    files: Mapping[str, tuple[str, int]]
    columns: tuple[str, ...]
    labels: Mapping[str, int] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)


_NO_TRAINING = {
    "training_split": None
}  # skips 67,349 documents that no prompt would use: these tasks show no examples
LOCAL: dict[str, Local] = {
    "gsm8k": Local(
        "gsm8k",
        {"train": ("gsm8k/train.jsonl", 7473), "test": ("gsm8k/test.jsonl", 1319)},
        ("question", "answer"),
    ),
    "sst2": Local(
        "glue/sst2",
        {"validation": ("sst2/dev.tsv", 872)},
        ("sentence", "label"),
        {"0": 0, "1": 1},
        _NO_TRAINING,
    ),
    "rte": Local(
        "glue/rte",
        {"validation": ("rte/dev.tsv", 277)},
        ("sentence1", "sentence2", "label"),
        {"entailment": 0, "not_entailment": 1},
        _NO_TRAINING,
    ),
}


@contextmanager
def calm() -> Iterator[None]:
    """Silence progress bars and notices of lm-eval and its dependencies, and seed its random numbers.

    Everything is restored on exit.
    """
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = [
        (datasets.are_progress_bars_disabled(), datasets.enable_progress_bars),
        (are_progress_bars_disabled(), enable_progress_bars),
    ]
    tqdm = lm_eval.api.task.tqdm
    chance, numpy_chance = random.getstate(), np.random.get_state()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        disable_progress_bars()
        lm_eval.api.task.tqdm = partial(tqdm, disable=True)  # building prompts has no option to hide its bar
        random.seed(SEED)
        np.random.seed(SEED)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(SEED)
            yield
    finally:
        lm_eval.api.task.tqdm = tqdm
        random.setstate(chance)
        np.random.set_state(numpy_chance)
        for off, enable in bars:
            if not off:
                enable()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load(names: Sequence[str]) -> dict[str, Any]:
    """Load lm-eval's task objects by name, with documents in memory.

    Groups and tags are replaced by their tasks.

    Raises:
        UserError: a task does not exist, or cannot be run here.
        DataError: documents are missing or damaged.
    """
    wanted = dict.fromkeys(task for name in names for task in GROUPS.get(name, (name,)))
    if not wanted:
        raise UserError(
            f"No test of ability was named. Known: {', '.join(known())}, and the tasks of lm-eval."
        )
    everything = None
    tasks: dict[str, Any] = {}
    for name in wanted:
        manager = _manager(name) or everything
        if manager is None:
            manager = everything = TaskManager()  # reads every YAML of lm-eval: half a minute on a slow core
        if name not in GROUPS["made"] and name not in manager.all_tasks:
            raise _unknown(name, manager.all_tasks)
        tasks |= _load(manager, name)
    for name, task in tasks.items():
        _check(name, task)
    return tasks


def _unknown(name: str, upstream: Sequence[str]) -> UserError:
    """Build the error for an unknown name, without listing lm-eval's own names, which are too many."""
    near = [match for match, _, _ in process.extract(name, upstream, scorer=fuzz.ratio, limit=2)]
    return UserError(
        f"{str(unknown('test of ability', name, {*near, *known()})).removesuffix('.')}, "
        "and all other tasks of lm-eval."
    )


def known() -> list[str]:
    """Return the names that are known without reading lm-eval's own."""
    return [*GROUPS, *GROUPS["made"], *LOCAL]


def _manager(name: str) -> Any:
    """Return a task index that is quick to build and holds this task, or None if all tasks must be read."""
    upstream = Path(lm_eval.tasks.__file__).parent
    if name in GROUPS["made"]:
        return TaskManager(include_defaults=False)
    if name in LOCAL:
        return TaskManager(include_path=str(upstream / LOCAL[name].folder), include_defaults=False)
    if name.isidentifier() and (upstream / name).is_dir():
        manager = TaskManager(include_path=str(upstream / name), include_defaults=False)
        return manager if name in manager.all_subtasks else None  # a group or tag may have members elsewhere
    return None


def _load(manager: Any, name: str) -> dict[str, Any]:
    spec: str | Row = name
    hint = "Connect to the Hugging Face hub."
    if name in GROUPS["made"]:
        spec = _made(name)
    elif name in LOCAL:
        documents, hint = _documents(LOCAL[name])
        if documents:
            spec = {
                **manager.task_index[name].cfg,
                **LOCAL[name].changes,
                "custom_dataset": _source(documents),
            }
    if isinstance(spec, str) and (no_hub := hub.why_not()):
        hint = f"{no_hub} {hint}"
    try:
        return dict(manager.load(spec)["tasks"])
    except ImportError as error:
        raise UserError(
            f"Task {name!r} of lm-eval needs a package that is not installed: {error}. "
            "Install it, or leave the task out."
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = (
            f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        )
        raise DataError(f"The documents of task {name!r} cannot be read ({reason}). {hint}") from error


def _check(name: str, task: Any) -> None:
    """Reject a task that would fail, or yield no scores, only after the model has run.

    Raises:
        UserError: the task runs code, is not text-only, or has no score per document.
    """
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            f"Task {name!r} runs code that the model writes, which is not supported. Leave it out."
        )
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"Task {name!r} has images or sound, but the models here read text. Leave it out.")
    if task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood_rolling") and _NO_SCORE.issuperset(
        task.aggregation()
    ):
        raise UserError(
            f"Task {name!r} has no score per document, "
            f"only {', '.join(task.aggregation())} of the whole task. Leave it out."
        )


def _source(documents: Mapping[str, list[Row]]) -> Callable[..., Any]:
    """Return the function that lm-eval calls for a task's documents (`custom_dataset`).

    It returns split -> rows, from memory.
    """

    def source(**_metadata: object) -> Any:
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split, rows in documents.items()}
        )

    return source


def _made(name: str) -> Row:
    """Return lm-eval's definition of a synthetic task."""
    task: Made = next(task for task in TASKS if name == f"made_{task}")
    items = ability_items(task, "test")
    rows = [
        {"prompt": item.prompt, "choices": list(item.choices), "label": item.choices.index(item.answer)}
        for item in items
    ]
    return {
        "task": name,
        "output_type": "multiple_choice",
        "custom_dataset": _source({"test": rows}),
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": _MADE_VERSION},
    }


def _documents(local: Local) -> tuple[dict[str, list[Row]], str]:
    """Return documents by split, empty if the data folder lacks a file, and a hint for the error message."""
    folder = named_folder() or BESIDE
    missing = [file for file, _ in local.files.values() if not (folder / file).is_file()]
    if missing:
        return (
            {},
            f"Connect to the Hugging Face hub, or put {' and '.join(missing)} into {folder} "
            "(LKS_DATA names another folder).",
        )
    return {
        split: _read(local, folder / file, count) for split, (file, count) in local.files.items()
    }, "Check the files in the data folder."


def _read(local: Local, file: Path, count: int) -> list[Row]:
    """Read the documents of one file in the form of lm-eval's source on the hub."""
    try:
        lines = split_lines(content_of(file).decode())
        rows = _table(lines, local.labels) if local.labels else [json.loads(line) for line in lines]
        rows = [{column: row[column] for column in local.columns} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} differs from the published file ({type(error).__name__}: {error}). "
            "Put the published file there."
        ) from error
    if len(rows) != count:
        raise DataError(
            f"{file} holds {len(rows)} documents, {count} were published. Put the published file there."
        )
    return rows


def _table(lines: Sequence[str], labels: Mapping[str, int]) -> list[Row]:
    """Parse a tab-separated file with a header.

    Quotes are ordinary characters, and trailing spaces belong to the text.
    """
    header, *rest = (line.split("\t") for line in lines)
    return [
        {**row, "label": labels[row["label"]]}
        for row in (dict(zip(header, cells, strict=True)) for cells in rest)
    ]
