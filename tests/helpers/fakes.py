"""A grid whose cells only wait, count themselves and write an outcome: for the flow, the command line and the
kill test.

As a script it is the `lks` command over such cells: `python tests/helpers/fakes.py grid --results DIR`, or a
slot of it: `python tests/helpers/fakes.py slot ...`. What its cells do beside waiting is in the environment:
FAKE_WAIT, the seconds that each takes; FAKE_KILL=NUMBER:LABEL, the process kills itself in the first so many
cells with that in their label; FAKE_HANG=LABEL; FAKE_FAIL=LABEL, such cells of a work pool are out of memory.
"""

import os
import signal
import sys
import time
import types
from pathlib import Path

from lks.results.cells import Cell, Costs, Measurements, Outcome, Status
from lks.results.shards import write_outcome, write_stage

GRIDS = """
[tiny]
description = "Fake cells"
models = ["micro-fake"]
datasets = ["world"]
methods = ["none", "ft"]
n_edits = [1, 2, 3]
"""


class Cells:
    """Stands in for `lks.runs.cell.run`."""

    def __init__(
        self, fail: str = "", raises: BaseException | None = None, wait: float = 0.0, status: Status = "oom"
    ) -> None:
        self.fail, self.raises, self.wait, self.status = fail, raises, wait, status
        self.ran: list[str] = []

    def __call__(self, cell: Cell, method: type, results: Path, report, bench=None, extras=None) -> Outcome:
        self._log(results, "start", cell)
        report("edit", 0.5)
        time.sleep(self.wait)
        self._misbehave(results, cell)
        if self.raises and self.fail in cell.label:
            raise self.raises
        self.ran.append(cell.label)
        failed = bool(self.fail) and self.fail in cell.label
        shards = (
            ()
            if failed
            else tuple(write_stage(results, cell.id, stage, []) for stage in Measurements().stages())
        )
        outcome = Outcome(
            cell,
            self.status if failed else "ok",
            "out of memory at block 3" if failed else "",
            shards,
            Costs(1.0, 2.0, 3.0),
            {"time": "2026-01-01"},
        )
        write_outcome(results, outcome)
        self._log(results, "finish", cell)
        return outcome

    @staticmethod
    def _misbehave(results: Path, cell: Cell) -> None:
        number, _, label = os.environ.get("FAKE_KILL", "0:").partition(":")
        if label in cell.label and calls(results, "start").count(cell.id) <= int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("FAKE_HANG", "no such label") in cell.label:
            time.sleep(600)

    @staticmethod
    def _log(results: Path, what: str, cell: Cell) -> None:
        results.mkdir(parents=True, exist_ok=True)
        with (results / "calls.log").open("a") as log:
            log.write(f"{what} {cell.id} {os.getpid()} {cell.label}\n")


def calls(results: Path, what: str) -> list[str]:
    """Ids of the cells that were started or finished, in order."""
    return [cell_id for cell_id, _, _ in noted(results, what)]


def noted(results: Path, what: str) -> list[tuple[str, int, str]]:
    """(id, process, label) of the cells that were started or finished, in order."""
    log = results / "calls.log"
    lines = [line.split(maxsplit=3) for line in (log.read_text().splitlines() if log.exists() else [])]
    return [(cell_id, int(process), label) for event, cell_id, process, label in lines if event == what]


def install(cells: Cells, put=setattr) -> None:
    """Replace what needs a model, data or a report."""
    import cli.readying
    import flows.running.planning
    import lks.runs.cell

    put(lks.runs.cell, "run", cells)
    put(flows.running.planning, "revision_of_model", lambda name: "0" * 16)
    put(cli.readying, "make_ready", lambda console, names, device=None: {})
    put(flows.running.planning, "dataset_of", lambda name: ("1" * 16, 1000))


def fake_reports() -> types.ModuleType:
    reports = types.ModuleType("reports")

    def render(results: Path, tell=None) -> types.SimpleNamespace:
        page = results / "report" / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<p>")
        return types.SimpleNamespace(page=page, warnings=(), terminal="the result table")

    reports.render = render
    return reports


def __getattr__(name: str) -> object:
    """`flow_cell`: the flow `lks-cell` over such cells, for workers: its deployment's entry point is
    `tests.helpers.fakes.flow_cell`.
    """
    if name != "flow_cell":
        raise AttributeError(name)
    import flows.cell

    install(Cells(os.environ.get("FAKE_FAIL", ""), wait=float(os.environ.get("FAKE_WAIT", "0.5"))))
    return flows.cell.cell


if __name__ == "__main__":
    install(Cells(wait=float(os.environ.get("FAKE_WAIT", "0.5"))))
    if sys.argv[1] == "slot":
        from flows.running.slot_child import main

        main(sys.argv[2:])
    else:
        sys.modules["reports"] = fake_reports()
        import flows.running.slots
        from cli.app import app

        flows.running.slots.COMMAND = (sys.executable, __file__, "slot")
        app()
