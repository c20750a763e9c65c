"""Flow `lks-cell`: one cell. A cell in, file paths out; the next `lks grid` or `lks report` records it."""

import contextlib
import platform
from pathlib import Path
from typing import cast

from prefect import flow, get_run_logger, runtime
from prefect.states import Failed
from pydantic import TypeAdapter

from flows.running.base import NEEDS_USER
from flows.running.cell_runner import CellRunner, heartbeat
from flows.running.planning import folder_of, planned_cell, share_in_use
from flows.running.process_cache import PROCESS_CACHE
from flows.running.progress import LineProgress
from lks.errors import UserError
from lks.results.cells import Cell, Measurements

_CELL = TypeAdapter(Cell)


def _name() -> str:
    """Name the flow run: "lks | llama-2-7b | zsre | T=1000"."""
    return _CELL.validate_python(runtime.flow_run.parameters["cell"]).label


@flow(name="lks-cell", flow_run_name=_name, persist_result=False)
def cell(
    cell: Cell, extras: Measurements | None = None, results: Path | None = None, share: str = ""
) -> list[str]:
    """Run one cell; stages that are already stored are not run again.

    Args:
        cell: The cell: at least model, dataset, method and n_edits. If it comes with revisions, its identity
            must be the same on this machine; a worker with another version of the program, other data or
            another model refuses it.
        extras: What is measured in addition to the answers. Default: nothing.
        results: Folder of all results, the same for all machines unless there is a share. Default:
            `LKS_RESULTS`, else `results`.
        share: URL by which cells come and go where machines have no common folder. Default: `LKS_SHARE`.

    Returns:
        Paths of Parquet shards, one per stage.

    Raises:
        UserError: a name is unknown, data are missing, or the identity is not the expected one.
    """
    folder = folder_of(results)
    try:
        remote = share_in_use(share)
        # planning reads data and a model's weights
        with heartbeat(folder, cell.id, remote) if cell.is_planned else contextlib.nullcontext():
            wanted = _as_here(cell)
        runner = CellRunner(folder, LineProgress(get_run_logger().info), extras or Measurements(), remote)
        outcome = runner.run(wanted)
    except UserError as error:
        return cast(list[str], Failed(name=NEEDS_USER, message=str(error), data=error))
    if outcome.status != "ok":  # a grid on a work pool goes by the state of the flow run
        failure = UserError(f"{wanted.label}: {outcome.status} ({outcome.reason})")
        return cast(list[str], Failed(name=outcome.status.capitalize(), message=outcome.reason, data=failure))
    return [str(folder / shard) for shard in outcome.shards]


def _as_here(asked: Cell) -> Cell:
    """Return the cell with its identity on this machine.

    Raises:
        UserError: a name is unknown, data are missing, or the identity is not the expected one.
    """
    kept = PROCESS_CACHE.get()
    if kept and not asked.is_planned:  # nothing would say that data have changed since
        kept.forget()
    wanted = planned_cell(asked)
    if kept and asked.is_planned and wanted.id != asked.id:
        kept.forget()
        wanted = planned_cell(asked)
    if asked.is_planned and wanted.id != asked.id:
        here = f"model {wanted.model_revision}, data {wanted.data_revision}, parameters {wanted.parameters}"
        raise UserError(
            f"{wanted.label} is cell {wanted.id} on {platform.node()}, but {asked.id} was asked for: "
            f"the program, the data or the model is another one there ({here}). "
            "Bring all machines to the same version."
        )
    return wanted
