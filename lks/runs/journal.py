"""Journal of a cell on disk: its stages, what they cost and why some failed.

It is written after each stage and read by the next run.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from lks.errors import DataError
from lks.io.atomic import write_whole
from lks.results.cells import Cell, Costs, Measurements, Outcome, Status
from lks.results.provenance import provenance
from lks.results.shards import check_cell, read_outcome, write_outcome, write_stage
from lks.runs.failures import Failure

HALVED = "batches halved"
"""Provenance entry: stages for which memory sufficed only with half the batch."""


class CellJournal:
    """The record of one cell; that of an earlier run is resumed if its outcome and all its shards are whole.

    Args:
        cell: the cell.
        results: folder of all results.
        extras: says whether stages that failed for good count as open.

    Attributes:
        shards: stage -> its shard.
        costs: costs so far.
        failed: further stage -> why it failed.
        notes: what was noticed, for the provenance.
        halved: stages for which memory sufficed only with half the batch.
    """

    def __init__(self, cell: Cell, results: Path, extras: Measurements) -> None:
        self._cell, self._results = cell, results
        self.shards: dict[str, str] = {}
        self.costs, self.failed, self.notes = Costs(), dict[str, str](), dict[str, str]()
        self.halved: list[str] = []
        with contextlib.suppress(DataError):
            stored = read_outcome(results, cell.id)
            if stored.status == "ok":
                check_cell(results, stored)
                self.shards, self.costs, self.notes = (
                    {Path(shard).stem: shard for shard in stored.shards},
                    stored.costs,
                    stored.provenance,
                )
                self.halved += filter(None, stored.provenance.get(HALVED, "").split(", "))
                again = extras.stages(cell.measure) if extras.retry_failed else ()
                self.failed = {
                    stage: why
                    for stage, why in stored.failed.items()
                    if stage in stored.stages and stage not in again
                }

    def write(self, stage: str, rows: Sequence[object]) -> None:
        """Write a stage's shard; it counts from the next `commit` on."""
        self.shards[stage] = write_stage(self._results, self._cell.id, stage, rows)
        self._tell(f"failure-{stage}.txt", None)

    def fail(self, stage: str, failure: Failure) -> None:
        """Record that a further stage has failed."""
        self.failed[stage] = str(failure)
        self._tell(f"failure-{stage}.txt", failure)

    def commit(self, failure: Failure | None = None) -> Outcome:
        """Write the outcome as it is now: from here on the stages so far are kept.

        Args:
            failure: failure of the whole cell.
        """
        self._tell("failure.txt", failure)
        if self.halved:
            self.notes[HALVED] = ", ".join(self.halved)
        status: Status = "ok" if failure is None else failure.status
        shards = tuple(self.shards.values()) if failure is None else ()
        origin = {**self.notes, **provenance(self._results)}
        outcome = Outcome(
            self._cell,
            status,
            failure.reason if failure else "",
            shards,
            self.costs,
            origin,
            dict(self.failed),
        )
        write_outcome(self._results, outcome)
        return outcome

    def _tell(self, name: str, failure: Failure | None) -> None:
        """Store a failure's traceback next to the patches; without a failure, delete an earlier one."""
        path = self._results / "runs" / self._cell.id / name
        if failure is not None:
            write_whole(path, f"{self._cell.label}\n{failure}\n\n{failure.trace}".encode())
        else:
            path.unlink(missing_ok=True)
