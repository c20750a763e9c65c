"""Time per prompt, build time and memory of scope indicators by number of names.

Each combination runs in a separate process. The names are made up; the prompts are the edit prompts of
CounterFact and zsRE, which mention none of them, and the same prompts with a made-up name in place of the
subject. Times are CPU times, which equal wall-clock times on an idle machine; for building, both are shown.

Run: `python -m benchmarks.scope_speed [KIND COUNT]`
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import get_args

from rich.console import Console
from rich.table import Table

from lks.data.datasets import load
from lks.evaluation.scope_benchmark import resident
from lks.evaluation.scope_prompts import carrier
from lks.scope.exact import Scope
from lks.scope.indicator import ScopeKind, make_scope
from lks.scope.misspellings import made_names

PLAN: tuple[tuple[ScopeKind, int], ...] = (
    *(("exact", count) for count in (10_000, 100_000, 1_000_000)),
    *(("fuzzy", count) for count in (10_000, 100_000, 1_000_000)),
    ("official", 10_000),
)
PROMPTS, REPEATS = 4000, 3
SLOW_PROMPTS = 100


@dataclass(frozen=True, slots=True)
class ScopeSpeed:
    """One line of the table, in microseconds, seconds and bytes."""

    kind: str
    count: int
    outside_us: float
    inside_us: float
    build_s: float
    build_cpu_s: float
    memory: float


def per_prompt(scope: Scope, prompts: Sequence[str]) -> float:
    """Measure microseconds per prompt as the best of a few passes."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        for prompt in prompts:
            scope.find(prompt)
        best = min(best, time.process_time() - start)
    return best / len(prompts) * 1e6


def measure(kind: ScopeKind, count: int) -> ScopeSpeed:
    """Measure building and querying one scope indicator."""
    names = [[name] for name in made_names(count)]
    rng = Random(0)
    cases = [case.edit for dataset in ("counterfact", "zsre") for case in load(dataset).cases]
    cases = rng.sample(cases, SLOW_PROMPTS if kind == "official" else PROMPTS)
    frames = [frame for frame in (carrier(edit.prompt, edit.subject) for edit in cases) if frame]
    inside = [frame.replace("{}", rng.choice(names)[0]) for frame in frames]
    make_scope(kind, names[:10]).find(inside[0])  # trigger one-time loading
    gc.collect()
    before, start, cpu = resident(), time.perf_counter(), time.process_time()
    scope = make_scope(kind, names)
    build, build_cpu = time.perf_counter() - start, time.process_time() - cpu
    gc.collect()
    memory = resident() - before
    return ScopeSpeed(
        kind,
        count,
        per_prompt(scope, [edit.prompt for edit in cases]),
        per_prompt(scope, inside),
        build,
        build_cpu,
        memory,
    )


def main() -> None:
    """Measure all combinations and print the table."""
    table = Table(
        "scope",
        "names",
        "µs per prompt",
        "µs with a name",
        "build s",
        "CPU s",
        "MB",
        box=None,
        header_style="bold",
    )
    for kind, count in PLAN:
        command = [sys.executable, "-m", "benchmarks.scope_speed", kind, str(count)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        m = ScopeSpeed(**json.loads(answer.stdout))
        numbers = (
            f"{m.outside_us:,.1f}",
            f"{m.inside_us:,.1f}",
            f"{m.build_s:.2f}",
            f"{m.build_cpu_s:.2f}",
            f"{m.memory / 1e6:.0f}",
        )
        table.add_row(m.kind, f"{m.count:,}", *numbers)
    Console().print(table)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asked = next(kind for kind in get_args(ScopeKind) if kind == sys.argv[1])
        sys.stdout.write(json.dumps(asdict(measure(asked, int(sys.argv[2])))))
    else:
        main()
