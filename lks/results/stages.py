"""Registry of stages: everything that a cell can store, each kind of row declared once.

From a `Stage` follow the columns of its shards, the table of the catalogue, the key that tells rows apart,
and how it is measured. A new measurement is one module that defines a `STAGE` (docs/add-a-measurement.md),
in the folder that `LKS_STAGES` names.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from lks.errors import UserError, unknown
from lks.io.parquet import named
from lks.progress import Progress
from lks.results import ability_rows, answers, decisions, judge_rows, rows, study_rows
from lks.results.cells import (
    ABILITY,
    ANSWERS,
    DECISIONS,
    GENERATIONS,
    IMMEDIATE,
    JUDGED,
    OVERHEAD,
    PASSAGES,
    STUDY,
)

Run = Callable[[Any, str, Progress], Sequence[object]]
"""Measure a stage on one draw: (`lks.evaluation.stages.EditedDraw`, stage name, progress) -> its rows."""

_TYPES = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of rows that cells store.

    Attributes:
        name: of the stage, or its first part ("answers" of "answers-qa"); rows are in `NAME.parquet`.
        columns: columns of its shards: the cell's id, then the fields of a row (`lks.results.rows.columns`).
        key: columns that tell the rows of one cell apart: each combination is there once.
        table: of the catalogue, which takes the rows.
        run: function that measures it on the edited model, or "module:function", imported when it is called;
            "" for rows that come from elsewhere (answers, judgements, studies).
        sql: file with views over the table, run after all tables and views of the catalogue; None without.
    """

    name: str
    columns: pa.Schema
    key: tuple[str, ...]
    table: str
    run: Run | str = ""
    sql: Path | None = None

    @property
    def definition(self) -> str:
        """The SQL statement that makes the table."""
        columns = ", ".join(f"{field.name} {_sql_type(field.type)}" for field in self.columns)
        return f"CREATE OR REPLACE TABLE {self.table} ({columns});"

    def measure(self, edited: object, stage: str, progress: Progress) -> Sequence[object]:
        """Return the rows of one draw.

        Raises:
            ValueError: nothing measures this stage.
        """
        run = self.run
        if isinstance(run, str):
            module, _, function = run.partition(":")
            if not function:
                raise ValueError(f"no stage {stage!r}")
            run = cast(Run, getattr(importlib.import_module(module), function))
        return run(edited, stage, progress)


def _sql_type(kind: pa.DataType) -> str:
    return f"{_TYPES[kind.value_type]}[]" if pa.types.is_list(kind) else _TYPES[kind]


_QUESTION = ("draw", "case_id", "kind", "probe_index", "context")
_MEASURED = "lks.evaluation.stages"

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(ANSWERS, answers.SCHEMA, _QUESTION, "answers"),
        Stage(IMMEDIATE, answers.SCHEMA, _QUESTION, "immediate_answers"),
        Stage(
            DECISIONS,
            decisions.SCHEMA,
            ("draw", "probe_set", "probe"),
            "decisions",
            f"{_MEASURED}:gate_decisions_of",
        ),
        Stage(PASSAGES, rows.PASSAGES, ("draw", "passage"), "passages", f"{_MEASURED}:passages"),
        Stage(
            GENERATIONS,
            rows.GENERATIONS,
            ("draw", "prompt_set", "number"),
            "generations",
            f"{_MEASURED}:generations",
        ),
        Stage(
            ABILITY,
            ability_rows.SCHEMA,
            ("draw", "task", "metric", "doc_id"),
            "ability",
            f"{_MEASURED}:abilities",
        ),
        Stage(OVERHEAD, rows.TIMINGS, ("draw", "batch", "pair"), "timings", f"{_MEASURED}:timings"),
        Stage(JUDGED, judge_rows.SCHEMA, ("judge", *_QUESTION), "judgements"),
        Stage(STUDY, study_rows.SCHEMA, ("draw", "case_id", "block", "site", "quantity"), "study_rows"),
    )
}
"""The stages known so far; `stages` adds those of `LKS_STAGES`."""

_BUILT_IN = frozenset(STAGES)
_ASKED_FOR: list[str] = []
"""The folder `LKS_STAGES`, once it has been read."""

OWN = "own-"
"""Prefix of the kinds of shards of further stages, so that they are recognised."""


def stages() -> Mapping[str, Stage]:
    """Return every stage by the first part of its name; the first call reads the folder of `LKS_STAGES`.

    Raises:
        UserError: that folder does not exist, or a module of it is no measurement.
    """
    if (own := os.environ.get("LKS_STAGES")) and own not in _ASKED_FOR:
        _ASKED_FOR.append(own)  # first, since its modules import what calls this
        load_folder(Path(own))
    return STAGES


def further() -> list[str]:
    """Return the stages that a grid can ask for with `also`: those that are not built in."""
    return [name for name in stages() if name not in _BUILT_IN]


def check_further(names: Sequence[str]) -> None:
    """Check that stages asked for with `also` exist.

    Raises:
        UserError: one does not.
    """
    for name in names:
        if name not in further():
            raise unknown("stage", name, further())


def register(stage: Stage) -> None:
    """Add a stage.

    Raises:
        UserError: its name or table is taken, or its name cannot be that of a file.
    """
    if not stage.name.isidentifier() or not stage.table.isidentifier():
        raise UserError(
            f"Stage {stage.name!r}: name and table are to be words of letters, digits and underscores."
        )
    tables = {known.table for known in STAGES.values()} | {"cells", "catalogue", "free_answers"}
    if stage.name in STAGES or stage.table in tables:
        raise UserError(
            f"Stage {stage.name!r}: there is a stage or table of that name already. Choose another."
        )
    if not named(stage.columns)[0].startswith(OWN):
        raise UserError(
            f"Stage {stage.name!r}: the kind of its shards is to begin with {OWN!r}: "
            f'columns(Row, "{OWN}{stage.name}", 1).'
        )
    if missing := set(stage.key) - set(stage.columns.names):
        raise UserError(
            f"Stage {stage.name!r}: its key names columns that it lacks: {', '.join(sorted(missing))}."
        )
    STAGES[stage.name] = stage


def load_folder(folder: Path) -> list[str]:
    """Register the `STAGE` of each module of a folder; files that begin with an underscore are helpers.

    Returns:
        Names of the stages, in the order of the files.

    Raises:
        UserError: there is no such folder, or a module defines no `STAGE`.
    """
    if not folder.is_dir():
        raise UserError(f"LKS_STAGES: {folder} is no folder. Name the folder that holds your stages.")
    found = []
    for file in sorted(folder.glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(f"lks_stages_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        stage = getattr(module, "STAGE", None)
        if not isinstance(stage, Stage):
            raise UserError(f"{file} defines no STAGE. See docs/add-a-measurement.md.")
        register(stage)
        found.append(stage.name)
    return found
