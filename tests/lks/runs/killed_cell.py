"""One small real cell, each time in a process of its own that kills itself at a moment: `python -m
tests.lks.runs.killed_cell RESULTS MOMENT...`.

Moments are the reports of progress and both sides of every write; "" never comes. All that came are written
to RESULTS.moments, one a line. Prints how each process ended.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import torch

import lks.editing.patch
import lks.io.atomic
import lks.results.provenance
import lks.results.shards
import lks.runs.edit_draw
import lks.runs.journal
from baselines import methods
from lks.results.cells import Cell, Measurements
from lks.runs.cell import run

CELL = Cell("micro-llama", "world", "ft", 1, 0, 2)
EXTRAS = Measurements(contexts=("qa",))


def main(results: Path, moment: str) -> None:
    """Run the cell, up to the moment if it comes."""
    log = results.with_suffix(".moments").open("a")

    def reach(name: str) -> None:
        log.write(name + "\n")
        log.flush()
        if name == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    write, save = lks.io.atomic.write_whole, lks.editing.patch.Patch.save

    def write_whole(path: Path, content: bytes) -> None:
        name = path.relative_to(results).as_posix()
        reach(f"before {name}")
        write(path, content)
        reach(f"after {name}")

    def save_patch(self: lks.editing.patch.Patch, folder: Path) -> None:
        name = folder.relative_to(results).as_posix()
        reach(f"before {name}")
        save(self, folder)
        reach(f"after {name}")

    for module in (lks.results.shards, lks.runs.edit_draw, lks.runs.journal):
        module.write_whole = write_whole  # type: ignore[attr-defined]
    lks.editing.patch.Patch.save = save_patch  # type: ignore[method-assign]
    outcome = run(
        CELL, methods()["ft"], results, lambda stage, done: reach(f"{stage} {done:.3f}"), extras=EXTRAS
    )
    assert outcome.status == "ok", outcome.reason


def ended(results: Path, moment: str) -> int:
    """Exit code of a process that runs the cell; the number of the signal, negative, where one ended it."""
    child = os.fork()  # before anything is computed, so that no thread is lost; spares the imports
    if not child:
        torch.set_num_threads(1)
        try:
            main(results, moment)
        except BaseException:  # noqa: BLE001  a forked process must never return into its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.stdout.write(" ".join(str(ended(Path(sys.argv[1]), moment)) for moment in sys.argv[2:]))
