"""Cells, their costs and their outcomes."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lks.edits import Context

PROTOCOL = 3
"""Version of the evaluation protocol; part of every `Cell.id` and of the results folder."""

UNEDITED = "none"
"""The method that edits nothing. Locality is a join with its answers, so every plan includes its cells."""

PARAMETERS, RULE = "parameters", "rule"
"""Entry in an outcome's provenance if the method has no preset for the model: its parameters are those of
its rule for untuned models."""
RULE_NOTE = (
    "Rule: the method has no preset for the model; "
    "its parameters are those of its rule for models that it was not tuned for."
)
"""Explanation of that entry below tables."""

TUNING_S = "tuning seconds"
"""Entry in an outcome's provenance if the cell is a trial of `lks tune`: the seconds that it took."""
PREPARATION, CACHED = "preparation", "from the cache, wholly or in part"
"""Entry in an outcome's provenance if its preparation took less time than its cost says: the cost is that of
the original computation."""

Split = Literal["evaluation", "development"]
"""Part of the seeded order of cases that a cell edits. Settings are chosen on "development"; only
"evaluation" makes results."""

Measure = Literal["answers", "scope", "study"]
"""What a cell stores. "answers": answers of the edited model; "scope": decisions of the method's edit
scope indicator, without any edit; "study": what a study of the model (`lks.studies.registry`), named in
place of the method, finds about T entities."""

Status = Literal["ok", "oom", "collapsed", "diverged", "timeout", "lost", "error"]
"""How a cell ended. "timeout": it took longer than allowed; "lost": its process died without a report,
more than once; "error": anything else."""

FINAL: frozenset[Status] = frozenset({"ok", "oom", "collapsed", "diverged", "timeout"})
"""Statuses that are not run again. Cells with "error" or "lost" are: the cause may have been fixed."""

Overrides = tuple[tuple[str, str], ...]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One point of a grid: a method makes T edits on a model, in each of `draws` disjoint sets.

    Each set is edited and scored alone.

    Attributes:
        model, dataset, method: registry names; the method of a study cell is the study.
        n_edits: T, edits per draw; entities of a study.
        seed: random seed of the order of cases and of all training.
        draws: number of disjoint edit sets; their answers are pooled.
        variant: overridden parameters as ((name, text), ...), sorted; empty for the preset.
        parameters: the resolved parameters as canonical JSON (`lks.editing.editor.canonical`).
        model_revision, data_revision: content hashes.
        records: number of the dataset's first cases that are used; 0 means all.
        split: the part of their seeded order that is edited (`lks.runs.cell.draws`).
        measure: what the cell stores.
    """

    model: str
    dataset: str
    method: str
    n_edits: Count
    seed: int = 0
    draws: Count = 1
    variant: Overrides = ()
    parameters: str = "{}"
    model_revision: str = ""
    data_revision: str = ""
    records: Annotated[int, Field(ge=0)] = 0
    split: Split = "evaluation"
    measure: Measure = "answers"

    def available(self, size: int) -> int:
        """Return how many of a dataset's cases the cell may edit.

        These are its records; for development, the last third of their seeded order.
        """
        pool = min(self.records, size) if self.records else size
        return pool if self.split == "evaluation" else pool // 3

    @property
    def id(self) -> str:
        """Sixteen hex digits of a hash of all that decides the result, including the protocol version."""
        fields = [PROTOCOL, self.model, self.dataset, self.method, self.n_edits, self.seed, self.draws]
        fields += [self.parameters, self.model_revision, self.data_revision, self.records]
        fields += [] if self.split == "evaluation" else [self.split]
        fields += [] if self.measure == "answers" else [{"measure": self.measure}]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

    @property
    def is_planned(self) -> bool:
        """Whether its identity is complete: parameters and the revisions of model and data are filled in."""
        return bool(self.model_revision or self.data_revision)

    @property
    def unedited(self) -> "Cell":
        """The unedited model's cell on the same cases in the same draws."""
        return replace(self, method=UNEDITED, variant=(), parameters="{}")

    @property
    def label(self) -> str:
        """Readable form: "lks | micro-llama | world | T=100"."""
        variant = "".join(f" {k}={v}" for k, v in self.variant)
        split = "" if self.split == "evaluation" else f" | {self.split}"
        measure = "" if self.measure == "answers" else f" | {self.measure}"
        return f"{self.method}{variant} | {self.model} | {self.dataset} | T={self.n_edits}{split}{measure}"


PREPARE, EDIT, ASK = "prepare", "edit", "ask"
"""Parts of a cell's time; each further stage is a part under its own name."""

_BEYOND_S, _BEYOND_BYTES = 1e12, 1 << 60


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a cell.

    Attributes:
        prepare_s: seconds of one-off preparation (covariance, meta-training), those of its computation also
            where it came from the cache (`CACHED`).
        edit_s: seconds of all edits of all draws.
        ask_s: seconds of the read-outs.
        peak_bytes: peak memory: allocated on the GPU, else resident set of the process.
        patch_bytes: size of the tensors of one draw's patch (mean).
        stage_s: seconds of each further stage ("answers-qa", "generations", "ability-made").
    """

    prepare_s: float = 0.0
    edit_s: float = 0.0
    ask_s: float = 0.0
    peak_bytes: int = 0
    patch_bytes: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that these are costs: files may hold anything, and estimates of time add them up.

        Raises:
            ValueError: a value is negative, not finite or implausibly large.
        """
        spent = {"prepare_s": self.prepare_s, "edit_s": self.edit_s, "ask_s": self.ask_s, **self.stage_s}
        for name, seconds in spent.items():
            if not 0 <= seconds < _BEYOND_S:
                raise ValueError(f"{name} is {seconds:g} s")
        for name, size in (("peak_bytes", self.peak_bytes), ("patch_bytes", self.patch_bytes)):
            if not 0 <= size < _BEYOND_BYTES:
                raise ValueError(f"{name} is not a number of bytes")

    @property
    def parts(self) -> dict[str, float]:
        """Seconds part by part: preparing, editing, asking, and each further stage."""
        return {PREPARE: self.prepare_s, EDIT: self.edit_s, ASK: self.ask_s, **self.stage_s}

    @property
    def seconds(self) -> float:
        """Seconds of all parts together."""
        return sum(self.parts.values())


ANSWERS, IMMEDIATE, PASSAGES, GENERATIONS, DECISIONS, ABILITY, OVERHEAD, JUDGED, STUDY = (
    *("answers", "immediate", "passages", "generations"),
    *("decisions", "ability", "overhead", "judged", "study"),
)
"""Stages of a cell, and the first part of their shards' names: the edited model's answers to all probes; a
sequential method's answers right after each edit; likelihoods of plain texts; free texts; decisions of
gates; ability tests; times of prefills without and with the edits; an LLM judge's verdicts on the answers;
findings of a study."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """What is measured in addition to the answers.

    It is not part of a cell's identity: what a stored cell lacks is measured later, on the patches that it
    has left.

    Attributes:
        contexts: contexts that the probes are put in, in addition to the bare prompt.
        fluency: whether free texts are written.
        gates: whether gated methods are asked which prompts they act on.
        ability: names of lm-eval tasks.
        documents: number of documents of each task; 0 means all.
        retry_failed: whether stages that failed for good (out of memory, collapsed, diverged) are measured
            again.
        overhead: whether the extra time of a prefill with the edits in force is measured; takes seconds.
        also: names of further stages (`lks.results.stages.further`).
    """

    contexts: tuple[Context, ...] = ()
    fluency: bool = False
    gates: bool = False
    ability: tuple[str, ...] = ()
    documents: Annotated[int, Field(ge=0)] = 0
    retry_failed: bool = False
    overhead: bool = False
    also: tuple[str, ...] = ()

    def stages(self, measure: "Measure" = "answers") -> tuple[str, ...]:
        """Return the stages that a finished cell has."""
        if measure == "scope":
            return (DECISIONS,)
        if measure == "study":
            return (STUDY,)
        contexts = tuple(f"{ANSWERS}-{context}" for context in self.contexts)
        texts = (GENERATIONS,) if self.fluency else ()
        decisions = (DECISIONS,) if self.gates else ()
        limit = f"-{self.documents}" if self.documents else ""
        tasks = (f"{ABILITY}-{'+'.join(sorted(self.ability))}{limit}",) if self.ability else ()
        overhead = (OVERHEAD,) if self.overhead else ()
        return (ANSWERS, PASSAGES, *contexts, *texts, *decisions, *tasks, *overhead, *self.also)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of running a cell.

    Attributes:
        cell: the cell.
        status: "ok", or how it failed.
        reason: one readable line; empty when ok.
        shards: Parquet files of raw answers and the like, relative to the results folder, one per stage.
        costs: seconds and bytes.
        provenance: code and package versions, device, host kind, time (ISO 8601): text -> text.
        failed: further stage -> status and reason of its failure ("collapsed: ..."); the cell's own status is
            that of editing and answering.
    """

    cell: Cell
    status: Status
    reason: str
    shards: tuple[str, ...]
    costs: Costs
    provenance: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def stages(self) -> frozenset[str]:
        """Stages that need not be run again.

        These are the stages with a shard, and those that failed in a way that running again would not change.
        """
        lasting = {stage for stage, why in self.failed.items() if not why.startswith("error")}
        return self.written | lasting

    @property
    def written(self) -> frozenset[str]:
        """Stages that have a shard."""
        return frozenset(Path(shard).stem for shard in self.shards)
