"""A grid whose cells only wait, count themselves and write an outcome: for the flow, the command line and the kill test.

As a script it is the `lks` command over such cells: `python tests/fakes.py grid --results DIR`.
"""

import os
import sys
import time
import types
from pathlib import Path

from lks.grid import Cell, Costs, Extras, Outcome
from lks.shards import write_outcome, write_stage

GRIDS = """
[tiny]
description = "Fake cells"
models = ["micro-fake"]
datasets = ["world"]
methods = ["none", "ft"]
n_edits = [1, 2, 3]
"""


class Cells:
    """Stands in for `lks.cell.run`."""

    def __init__(self, fail: str = "", raises: BaseException | None = None, wait: float = 0.0) -> None:
        self.fail, self.raises, self.wait = fail, raises, wait
        self.ran: list[str] = []

    def __call__(self, cell: Cell, method: type, results: Path, report, bench=None, extras=None) -> Outcome:
        self._log(results, "start", cell)
        report("edit", 0.5)
        time.sleep(self.wait)
        if self.raises and self.fail in cell.label:
            raise self.raises
        self.ran.append(cell.label)
        failed = bool(self.fail) and self.fail in cell.label
        shards = () if failed else tuple(write_stage(results, cell.id, stage, []) for stage in Extras().stages())
        outcome = Outcome(
            cell, "oom" if failed else "ok", "out of memory at block 3" if failed else "", shards, Costs(1.0, 2.0, 3.0), {"time": "2026-01-01"}
        )
        write_outcome(results, outcome)
        self._log(results, "finish", cell)
        return outcome

    @staticmethod
    def _log(results: Path, what: str, cell: Cell) -> None:
        results.mkdir(parents=True, exist_ok=True)
        with (results / "calls.log").open("a") as log:
            log.write(f"{what} {cell.id}\n")


def calls(results: Path, what: str) -> list[str]:
    """Ids of the cells that were started or finished, in order."""
    log = results / "calls.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.startswith(f"{what} ")]


def install(cells: Cells, put=setattr) -> None:
    """Replace what needs a model, data or a report."""
    import flows.planning
    import lks.cell

    put(lks.cell, "run", cells)
    put(flows.planning, "revision_of_model", lambda name: "0" * 16)
    put(flows.planning, "dataset_of", lambda name: ("1" * 16, 1000))


def fake_reports() -> types.ModuleType:
    reports = types.ModuleType("reports")

    def render(results: Path, tell=None) -> types.SimpleNamespace:
        page = results / "report" / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<p>")
        return types.SimpleNamespace(page=page, warnings=(), terminal="the result table")

    reports.render = render
    return reports


if __name__ == "__main__":
    sys.modules["reports"] = fake_reports()
    install(Cells(wait=float(os.environ.get("FAKE_WAIT", "0.5"))))
    from flows.cli import app

    app()
