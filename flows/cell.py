"""Flow `lks-cell`: one cell by its coordinates. Names in, file paths out; the next `lks grid` or `lks report` records it."""

import contextlib
import platform
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, cast

from prefect import flow, get_run_logger, runtime
from prefect.states import Failed
from pydantic import Field

from flows.running.base import NEEDS_USER
from flows.running.cell_runner import CellRunner, heartbeat
from flows.running.planning import cells_of, folder_of, share_in_use
from flows.running.process_cache import PROCESS_CACHE
from flows.running.progress import LineProgress
from lks.errors import UserError
from lks.results.cells import Cell, Measure, Measurements, Split
from lks.runs.grid import EVERY, Grid

Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
CellId = Annotated[str, Field(pattern="^([0-9a-f]{16})?$")]


def _name() -> str:
    """Of the flow run: "lks | llama-2-7b | zsre | T=1000"."""
    given = runtime.flow_run.parameters
    variant = tuple(sorted((given.get("variant") or {}).items()))
    place = (
        given["model"],
        given["dataset"],
        given["method"],
        given["n_edits"],
        given.get("seed", 0),
        given.get("draws", 1),
    )
    return Cell(
        *place, variant, split=given.get("split", "evaluation"), measure=given.get("measure", "answers")
    ).label


@flow(name="lks-cell", flow_run_name=_name, persist_result=False)
def cell(
    model: str,
    dataset: str,
    method: str,
    n_edits: Count,
    seed: int = 0,
    draws: Count = 1,
    variant: dict[str, str] | None = None,
    records: Number = 0,
    split: Split = "evaluation",
    measure: Measure = "answers",
    contexts: list[Literal["qa", "chat"]] | None = None,
    fluency: bool = False,
    gates: bool = False,
    ability: list[str] | None = None,
    documents: Number = 0,
    overhead: bool = False,
    retry_failed: bool = False,
    results: Path | None = None,
    cell_id: CellId = "",
    share: str = "",
) -> list[str]:
    """Run one cell; what is stored of it already is not run again.

    Args:
        model: Name of the model (`lks list models`).
        dataset: Name of the dataset (`lks list datasets`).
        method: Name of the method (`lks list methods`), or of the study if a study is measured.
        n_edits: T, the number of edits per draw.
        seed: Of the order of cases and of all training.
        draws: Number of disjoint edit sets; each is edited and scored alone.
        variant: Parameters of the method that differ from its preset: name and value as text.
        records: Only the first so many cases of the dataset are used; 0 means all.
        split: Which part of the cases is edited; settings are chosen on "development".
        measure: What is stored: answers of the edited model, what the method's edit scope indicator decides, or what a study finds.
        contexts: In which the probes are put too, beside the bare prompt.
        fluency: Whether free texts are written.
        gates: Whether gated methods are asked which prompts they act on.
        ability: Names of lm-eval tasks that the edited model is tested on.
        documents: Of each task; 0 means all.
        overhead: Whether it is measured how much longer a prefill takes with the edits in force.
        retry_failed: Whether stages that failed for good are measured again.
        results: Folder of all results, the same for all machines unless there is a share. Default: `LKS_RESULTS`, else `results`.
        cell_id: Identity that the cell is expected to have. A worker with another version, other data or another model has another, and refuses.
        share: URL by which cells come and go where machines have no common folder. Default: `LKS_SHARE`.

    Returns:
        Parquet shards, one per stage.

    Raises:
        UserError: an unknown name, missing data, or another identity than expected.
    """
    asked: dict[str, str | int | float | bool] = {"method": method, **(variant or {})}
    how = {
        "contexts": contexts or [],
        "fluency": fluency,
        "gates": gates,
        "ability": ability or [],
        "documents": documents,
        "overhead": overhead,
    }
    where = {
        "models": [model],
        "datasets": [dataset],
        "seeds": [seed],
        "draws": {n_edits: draws},
        "records": records,
    }
    coordinates = Grid.model_validate(
        {
            "name": "cell",
            "methods": [asked],
            "n_edits": [n_edits],
            "split": split,
            "measure": measure,
            **where,
            **how,
        }
    )
    if method == EVERY:
        raise UserError(f"A cell has one method; {EVERY!r} is for grids. See: lks list methods")
    return _outcome(
        coordinates,
        replace(coordinates.extras, retry_failed=retry_failed),
        cell_id,
        folder_of(results),
        share,
    )


def _outcome(coordinates: Grid, extras: Measurements, cell_id: str, folder: Path, url: str) -> list[str]:
    """Shards of the one cell of a grid. What else it came to is the state of the flow run, which a grid on a work pool goes by."""
    try:
        share = share_in_use(url)
        with (
            heartbeat(folder, cell_id, share) if cell_id else contextlib.nullcontext()
        ):  # making a cell of it reads data and a model's weights
            wanted = _wanted(coordinates, cell_id)
        outcome = CellRunner(folder, LineProgress(get_run_logger().info), extras, share).run(wanted)
    except UserError as error:
        return cast(list[str], Failed(name=NEEDS_USER, message=str(error), data=error))
    if outcome.status != "ok":
        failure = UserError(f"{wanted.label}: {outcome.status} ({outcome.reason})")
        return cast(list[str], Failed(name=outcome.status.capitalize(), message=outcome.reason, data=failure))
    return [str(folder / shard) for shard in outcome.shards]


def _wanted(coordinates: Grid, cell_id: str) -> Cell:
    """The cell, not the unedited model's that comes with it.

    Raises:
        UserError: unknown names, missing data, or another identity than expected.
    """
    kept = PROCESS_CACHE.get()
    if kept and not cell_id:  # nothing would say that data have changed since
        kept.forget()
    wanted = _planned(coordinates)
    if kept and cell_id and wanted.id != cell_id:
        kept.forget()
        wanted = _planned(coordinates)
    if cell_id and wanted.id != cell_id:
        here = f"model {wanted.model_revision}, data {wanted.data_revision}, parameters {wanted.parameters}"
        raise UserError(
            f"{wanted.label} is cell {wanted.id} on {platform.node()}, but {cell_id} was asked for: the program, the data or the model is another "
            f"one there ({here}). Bring all machines to the same version."
        )
    return wanted


def _planned(coordinates: Grid) -> Cell:
    method, variant = coordinates.entries()[-1]
    return next(cell for cell in cells_of(coordinates) if (cell.method, cell.variant) == (method, variant))
