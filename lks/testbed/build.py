"""Small models that know their facts: where they are, how they are built and checked.

`micro-llama` and `micro-mistral` know the synthetic world and are shipped; `mini-DATASET[-RECORDS]` knows
real records and is built on the user's machine, because the records may not be redistributed.
`docs/testbed.md` says how and why they are trained.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import cast

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lks.data.datasets import DATASETS, find, parse
from lks.data.synthetic_world import world
from lks.data.template_prompts import Record
from lks.errors import UserError, unknown
from lks.io.atomic import replaced_folder
from lks.io.checkpoint import Checkpoint
from lks.models.recipe import Recipe
from lks.models.testbed_models import (
    NAMES,
    VERSIONS,
    TestbedModel,
    default_folder,
    is_built,
    job_of,
    model_folder,
)
from lks.testbed.acceptance import CheckReport, Exam, examine
from lks.testbed.corpus import TextSource
from lks.testbed.interchange import TestbedTraining, measured_steps, new_model
from lks.testbed.mini import made_questions, mini_exam, mini_source, mini_tokenizer, questions
from lks.testbed.world_corpus import world_exam, world_source, world_tokenizer

__all__ = ["NAMES", "CheckReport", "build", "check", "model_folder"]


@dataclass(frozen=True)
class TestbedText:
    """Tokenizer, training text and exam that a job needs in addition to its recipe."""

    tokenizer: PreTrainedTokenizerFast
    source: TextSource
    exam: Exam
    heads: tuple[int, int]
    data_sha256: str


def _records(job: TestbedModel, data_dir: Path | None) -> tuple[tuple[Record, ...], str]:
    """Return the records of a mini model, and the hash of their file."""
    published = DATASETS[job.dataset]
    if published == "made":
        raise unknown("dataset of a mini model", job.dataset, DATASETS)
    file = find(published, data_dir)
    content = file.read_bytes()
    records = parse(content, file)[: job.records]
    if len(records) < job.records:
        raise UserError(f"{file} holds {len(records)} records, not {job.records}. Ask for fewer.")
    return records, sha256(content).hexdigest()


def _sha256(path: Path) -> str:
    """Hash a file, reading it in pieces."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _exam(job: TestbedModel, data_dir: Path | None) -> Exam:
    """Return the questions of a job's acceptance test."""
    if job.dataset == "world":
        return world_exam(world())
    return mini_exam(questions(_records(job, data_dir)[0]))


def _text(job: TestbedModel, data_dir: Path | None) -> TestbedText:
    """Return tokenizer, training text and exam of a job."""
    if job.dataset == "world":
        made = world()
        tokenizer = world_tokenizer(made)
        return TestbedText(tokenizer, world_source(made, tokenizer), world_exam(made), job.recipe.heads, "")
    records, digest = _records(job, data_dir)
    asked = questions(records)
    extra = made_questions(records, asked)
    tokenizer = mini_tokenizer(records, extra, size=min(8000, 2000 + 2 * job.records))
    source, heads = mini_source((*asked, *extra), tokenizer)
    return TestbedText(tokenizer, source, mini_exam(asked), heads, digest)


def build(
    name: str,
    out: Path | None = None,
    *,
    dataset: str = "world",
    records: int = 10_000,
    data_dir: Path | None = None,
    seed: int = 0,
    minutes: float | None = None,
    progress: bool = True,
) -> Path:
    """Train a model, or return at once if the folder already holds it.

    A stopped run resumes where it was: its state is kept next to the output folder until the model is
    finished.

    Args:
        name: "micro-llama", "micro-mistral", "mini" or mini-DATASET-RECORDS.
        out: folder of the model; by default `model_folder`.
        dataset: dataset of a mini model: "zsre" or "counterfact".
        records: number of records that a mini model knows.
        data_dir: folder of the records; see `lks.data.datasets.find`.
        seed: random seed for weights and batch order.
        minutes: train for about this long instead of the recipe's number of steps; such a run starts again
            from the beginning after it was stopped.
        progress: show a progress bar.

    Raises:
        UserError: no such model or data, or the folder cannot be written.
    """
    job = job_of(name, dataset, records, seed)
    folder = out or default_folder(job)
    if minutes is None and is_built(folder, job):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}. Choose another folder.") from error
    started = time.monotonic()
    text = _text(job, data_dir)
    if minutes is not None:
        steps = measured_steps(_training(replace(job.recipe, heads=text.heads), text), minutes)
        job = replace(job, recipe=replace(job.recipe, steps=steps))
    recipe = replace(job.recipe, heads=text.heads)
    kept = Checkpoint(folder.with_name(f".{folder.name}-{job.hash}.state"), job.hash)
    training = _training(recipe, text, kept)
    _run(training, job.label if progress else "")
    with replaced_folder(folder) as part:
        _write(part, job, training, text, time.monotonic() - started)
    kept.remove()
    return folder


def _training(recipe: Recipe, text: TestbedText, kept: Checkpoint | None = None) -> TestbedTraining:
    """Create a training run or resume a stopped one, on the GPU if there is one."""
    tokenizer = text.tokenizer
    special = (int(tokenizer.bos_token_id), int(tokenizer.eos_token_id), int(tokenizer.pad_token_id))
    model = new_model(recipe.shape, len(tokenizer), special, recipe.seed)
    if recipe.economical and not torch.cuda.is_available():
        model.set_attn_implementation(
            "eager"
        )  # on a CPU the backward pass of fused attention is slow in bfloat16
    if torch.cuda.is_available():
        model = cast(Callable[[str], PreTrainedModel], model.to)("cuda")
    return TestbedTraining(model, text.source, recipe, special[2], kept)


def _run(training: TestbedTraining, label: str) -> None:
    """Run all remaining steps; the state is saved on the way and at the end, including after an error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    steps, state = training.recipe.steps, training.state
    with Progress(*columns, disable=not label) as bar:
        task = bar.add_task(f"training {label}", total=steps, completed=state.step)
        try:
            while state.step < steps:
                loss = training.advance()
                bar.update(task, completed=state.step, description=f"training {label}, loss {loss:.2f}")
                state.save()
        finally:
            if training.whole:
                state.save(now=True)


def _write(
    part: Path, job: TestbedModel, training: TestbedTraining, text: TestbedText, seconds: float
) -> None:
    """Check the finished model and write it to a new folder."""
    half = cast(nn.Module, training.model).to("cpu", torch.float16)
    cast(PreTrainedModel, half).save_pretrained(part)
    text.tokenizer.save_pretrained(part)
    model, tokenizer = _load(part)
    report = examine(job.label, job.recipe.block, text.exam, (model, tokenizer))
    recipe = {
        "name": job.label, "hash": job.hash, "dataset": job.dataset, "records": job.records,
        "data_sha256": text.data_sha256,
        "version": VERSIONS[job.dataset], "recipe": asdict(training.recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round(seconds / 60, 1), "sha256": _sha256(part / "model.safetensors"),
        "acceptance": {**asdict(report), "passed": report.passed},
    }  # fmt: skip
    for file in part.iterdir():
        file.chmod(0o644)
    (part / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a model and its tokenizer."""
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"There is no model in {folder}. Build it: lks testbed build.")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return cast(PreTrainedModel, model), PreTrainedTokenizerFast.from_pretrained(folder)


def check(name: str | Path, *, data_dir: Path | None = None, sample: int = 400, seed: int = 0) -> CheckReport:
    """Run the acceptance test of a model; see `lks.testbed.acceptance`.

    Args:
        name: a name as for `model_folder`, or a folder that `build` made.
        data_dir: folder of the records of a mini model.
        sample: questions asked per measurement.
        seed: random seed for choosing them.

    Raises:
        UserError: no such model, or its folder is not one that `build` made.
    """
    folder = Path(name) if Path(name).is_dir() else model_folder(str(name))
    model, tokenizer = _load(folder)
    try:
        known = json.loads((folder / "recipe.json").read_text())
        job = job_of(
            "mini" if known["records"] else known["name"],
            known["dataset"],
            known["records"],
            known["recipe"]["seed"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no recipe.json of a testbed model ({error}).") from error
    exam = _exam(job, data_dir)
    return examine(
        known["name"], known["recipe"]["block"], exam, (model, tokenizer), sample=sample, seed=seed
    )
