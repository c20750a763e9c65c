"""A grid on a work pool whose processes are killed at random: `python -m tests.torture --kills 200 --seed 1`.

`lks up --workers 2` starts a server and workers of its own; rounds of cells are started by the deployment
`lks-grid/lks-grid`, as a user does it. A seeded killer ends cells, grid flows, workers and the server with
signal 9. What an operator or a service manager would do is done: `lks up` again when a service has died, the
grid again when its run is over. After the last kill everything is left in peace, and the results must equal
those of the same cells run one after the other in this process, row for row.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.torture.mender import PATIENCE_S, Operator

ROUND = """
[{name}]
models = ["micro-llama"]
datasets = ["world"]
methods = ["none", "ft", "lks"]
n_edits = [1, 2]
seeds = {seeds}
contexts = ["qa"]
fluency = true
gates = true
ability = ["made"]
documents = 4
"""
PEACE = "peace"
"""All rounds once more, when nothing is killed any more: what was lost is made good."""
HURRIED = {
    "LKS_BEAT_S": "15",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of all processes: deaths are noticed soon, and sums are added in the same order everywhere."""
LOOK_EVERY_S = 0.2


@dataclass(slots=True)
class Tally:
    """What was done and found.

    Attributes:
        kills: by kind of process.
        ups: calls of `lks up` after the first.
        grids: grid runs started.
        rounds: grids that were run to their end.
        seconds: until all was done.
        findings: differences to undisturbed results.
    """

    kills: Counter[str] = field(default_factory=Counter)
    ups: int = 0
    grids: int = 0
    rounds: list[str] = field(default_factory=list)
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)


def torture(folder: Path, kills: int, seed: int, every_s: float) -> Tally:
    """Kill processes of grids until there were so many kills, let the last grid end in peace, and compare.

    Args:
        folder: empty; of everything.
        kills: how many at least.
        seed: of the killer.
        every_s: mean seconds between two kills.
    """
    tally, began = Tally(), time.monotonic()
    operator = Operator(folder)
    operator.up()
    try:
        _disturb(folder, operator, tally, (kills, seed, every_s))
    finally:
        operator.down()
    tally.ups, tally.grids = operator.ups, operator.grids
    tally.findings += _compare(folder)
    tally.seconds = time.monotonic() - began
    return tally


def _disturb(folder: Path, operator: Operator, tally: Tally, how: tuple[int, int, float]) -> None:
    from tests.torture.victims import Census, Killer

    kills, seed, every_s = how
    census, killer = Census(operator.state), Killer(seed)
    written = _add_round(folder, [0])
    next_kill = moved = time.monotonic()
    while True:
        living = census.look()
        operator.mend(living)
        now = time.monotonic()
        more = tally.kills.total() < kills
        if more and operator.grids and now >= next_kill and (kind := killer.kill(living)):
            tally.kills[kind] += 1
            next_kill, moved = now + killer.pause(every_s), now
            _tell(f"{tally.kills.total()} kills: {kind}")
        if operator.drive(written):
            moved = now
            _tell(f"{written} is complete")
            if written == PEACE:
                return
            tally.rounds.append(written)
            rounds = len(tally.rounds)
            written = _add_round(folder, [rounds]) if more else _add_round(folder, range(rounds), PEACE)
        if now - moved > PATIENCE_S:
            raise TimeoutError(
                f"Nothing got done for {PATIENCE_S:.0f} s: {tally}; {operator.state} and {folder / 'commands.log'} say more"
            )
        time.sleep(LOOK_EVERY_S)


def _tell(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%T')} {what}\n")


def _add_round(folder: Path, seeds: Sequence[int], name: str = "") -> str:
    name = name or f"round-{seeds[0]}"
    with (folder / "grids.toml").open("a") as grids:
        grids.write(ROUND.format(name=name, seeds=list(seeds)))
    return name


def _compare(folder: Path) -> list[str]:
    """Run the cells of all rounds undisturbed in this process, and say what is different."""
    import torch

    from flows.running.cell_runner import CellRunner
    from flows.running.planning import cells_of, named_grid
    from lks.results.store import Store
    from tests.torture.same_results import differences

    torch.set_num_threads(1)
    store = Store(folder / "undisturbed")
    grid = named_grid(PEACE, folder / "grids.toml")
    bench = CellRunner(store.results, _Silent(), grid.extras)
    for cell in cells_of(grid):
        store.record(bench.run(cell))
    return differences(folder / "results", store.results)


class _Silent:
    def stage(self, cell: object, name: str, fraction: float) -> None:
        pass


def _show(console: Console, tally: Tally, rows: int) -> None:
    table = Table("killed", "times", box=None)
    for kind, number in sorted(tally.kills.items()):
        table.add_row(kind, str(number))
    console.print(table)
    total, rounds = tally.kills.total(), len(tally.rounds)
    console.print(
        f"{total} kills in {tally.seconds:.0f} s; lks up {tally.ups} times again; {tally.grids} runs of {rounds} grids"
    )
    console.print(f"{rows} rows compared with an undisturbed run: {len(tally.findings)} findings")
    for finding in tally.findings:
        console.print(f"  {finding}", markup=False)


def main(words: Sequence[str]) -> int:
    """The command line; exit code 1 where there is a finding."""
    from flows.settings import calm_prefect
    from tests.torture.same_results import count

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=3.0, help="mean seconds between two kills")
    parser.add_argument(
        "--folder", type=Path, help="an empty folder for everything, kept; default: a temporary one"
    )
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="lks-torture-") as temporary:
        folder = (asked.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        calm_prefect(quiet=True)
        os.environ.pop("PREFECT_API_URL", None)
        os.environ |= HURRIED | {
            "PREFECT_HOME": str(folder / "home"),
            "LKS_GRIDS": str(folder / "grids.toml"),
            "LKS_CACHE": str(folder / "cache"),
        }
        tally = torture(folder, asked.kills, asked.seed, asked.every)
        rows = count(folder / "results")
    _show(Console(soft_wrap=True), tally, rows)
    return 1 if tally.findings or tally.kills.total() < asked.kills else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
