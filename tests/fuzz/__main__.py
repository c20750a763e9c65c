"""Every reader of files that may come from a stranger, on damaged ones: `python -m tests.fuzz --count 10000`.

Each input must bring a correct result or a `UserError`. Anything else is a finding: another exception, the
end of the process, more than `PATIENCE_S` seconds, more than a gigabyte. Readers run in a child process,
which tells before each input that it begins.
"""

import argparse
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.root import ROOT

PATIENCE_S = 60.0
STARTING_S = 120.0
MOST_BYTES = 1 << 30
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(slots=True)
class Tally:
    """What became of the inputs of a reader."""

    reader: str
    results: int = 0
    errors: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return self.results + self.errors + len(self.findings)


def fuzz(reader: str, count: int, seed: int = 0) -> Tally:
    """Try a reader on some inputs; a child that ends or hangs is started again behind the input that it
    stumbled over.
    """
    tally, start = Tally(reader), 0
    while start < count:
        start = _child(reader, range(start, count), seed, tally)
    return tally


def _child(reader: str, numbers: range, seed: int, tally: Tally) -> int:
    """Run one child; returns the number to go on with."""
    from tests.fuzz.readers import PATIENCE

    patience = PATIENCE.get(tally.reader, PATIENCE_S)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--child",
        reader,
        "--start",
        str(numbers.start),
        "--count",
        str(numbers.stop),
        "--seed",
        str(seed),
    ]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **ENVIRONMENT},
            cwd=ROOT,
        )
        assert child.stdout is not None
        begun, rest, wait = -1, b"", STARTING_S
        try:
            while True:
                if not select.select([child.stdout], [], [], wait)[0]:
                    tally.findings.append(f"input {max(begun, numbers.start)}: more than {wait:g} s")
                    return max(begun, numbers.start) + 1
                piece = os.read(child.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    begun, wait = _take(line.decode(), begun, tally), patience
        finally:
            child.kill()
            status = child.wait()
        if status == 0:
            return numbers.stop
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:] or [""]
        tally.findings.append(f"input {begun}: the process ended with {status}: {last[0][:200]}")
        return max(begun, numbers.start) + 1


def _take(line: str, begun: int, tally: Tally) -> int:
    """One line of the child: the number of the input that begins, or what became of it."""
    what, _, rest = line.partition(" ")
    if what == "begin":
        return int(rest)
    if what == "result":
        tally.results += 1
    elif what == "error":
        tally.errors += 1
    else:
        tally.findings.append(f"input {begun}: {rest}")
    return begun


def _try_all(name: str, numbers: range, seed: int) -> None:
    """The child: say what begins and what became of it."""
    from lks.errors import UserError
    from tests.fuzz import readers

    with tempfile.TemporaryDirectory(prefix="lks-fuzz-") as folder:
        reader = {**readers.READERS, **readers.STUMBLES}[name](Path(folder))
        room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 8 * MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        for number in numbers:
            _say(f"begin {number}")
            rng = random.Random(f"{name} {seed} {number}")
            before = _peak_bytes(anew=True)
            try:
                reader(rng)
                said = "result"
            except UserError as error:
                clear = str(error).strip() and all(line.isprintable() for line in str(error).split("\n"))
                said = "error" if clear else f"finding a message that is not clear: {str(error)!r:.200}"
            except BaseException as error:  # noqa: BLE001  what else may come is what is looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                said = f"finding {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {' '.join(str(error).split())[:200]}"
            if _peak_bytes() - before > MOST_BYTES:
                said = "finding more than a gigabyte"
            _say(said)


def _peak_bytes(anew: bool = False) -> int:
    """Peak memory of this process, from now on if anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def table(tallies: Sequence[Tally]) -> str:
    """What was tried and found, for people."""
    rows = [("reader", "inputs", "results", "clear errors", "findings")]
    rows += [
        (t.reader, f"{t.inputs:,}", f"{t.results:,}", f"{t.errors:,}", f"{len(t.findings):,}")
        for t in tallies
    ]
    return "\n".join("  ".join(f"{cell:<12}" for cell in row) for row in rows)


def main() -> int:
    """The command line; the exit status says whether anything was found."""
    parser = argparse.ArgumentParser(description="Damaged files for every reader.")
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers, comma between")
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _try_all(given.child, range(given.start, given.count), given.seed)
        os._exit(0)  # libraries take their time to leave
    from tests.fuzz.readers import FEWER, READERS

    chosen = given.only.split(",") if given.only else list(READERS)
    tallies = []
    for name in chosen:
        tallies.append(fuzz(name, max(1, given.count // FEWER.get(name, 1)), given.seed))
        _say(table(tallies[-1:]).splitlines()[1])
        for finding in tallies[-1].findings[:50]:
            _say(f"    {finding}")
    _say(table(tallies))
    return int(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
