"""Whether two results folders hold the same: all rows of all tables, outcomes without times, and nothing left
over.
"""

import fcntl
from collections import Counter
from pathlib import Path

from lks.results.cells import Outcome
from lks.results.reader import Reader
from lks.results.shards import read_outcome
from lks.results.store import Store

VOLATILE = ("cells", "catalogue")
"""Tables that hold times and versions; cells are compared as outcomes."""


def differences(found: Path, wanted: Path) -> list[str]:
    """Lines that say what differs between the results of disturbed runs and of undisturbed ones; none if
    nothing does.
    """
    ours, theirs = Store(found), Store(wanted)
    lines = [*ours.sync(), *theirs.sync()]
    mine, other = ({outcome.cell.id: outcome for outcome in store.outcomes()} for store in (ours, theirs))
    lines += [
        f"{outcome.cell.label}: stored by one of the two alone"
        for key in mine.keys() ^ other.keys()
        for outcome in _either(mine, other, key)
    ]
    lines += [
        line for key in sorted(mine.keys() & other.keys()) for line in _of_outcome(mine[key], other[key])
    ]
    tables = _tables(ours)
    if tables != _tables(theirs):
        lines.append(f"tables {tables} against {_tables(theirs)}")
    for table in tables:
        lines += _of_table(table, ours, theirs)
    return lines + leftovers(found)


def _either(mine: dict[str, Outcome], other: dict[str, Outcome], key: str) -> list[Outcome]:
    return [side[key] for side in (mine, other) if key in side]


def _of_outcome(mine: Outcome, other: Outcome) -> list[str]:
    """What differs that is no time and no provenance: the bytes of patches are a result, seconds and peaks
    are not.
    """
    ours, theirs = _result(mine), _result(other)
    return [
        f"{mine.cell.label}, {name}: {ours[name]!r} against {theirs[name]!r}"
        for name in ours
        if ours[name] != theirs[name]
    ]


def _result(outcome: Outcome) -> dict[str, object]:
    same = {
        "status": outcome.status,
        "reason": outcome.reason,
        "shards": sorted(outcome.shards),
        "failed": outcome.failed,
    }
    return {**same, "patch_bytes": outcome.costs.patch_bytes}


def _tables(store: Reader) -> list[str]:
    return sorted(
        str(name) for (name,) in store.query("SELECT table_name FROM duckdb_tables()") if name not in VOLATILE
    )


def _of_table(table: str, ours: Reader, theirs: Reader) -> list[str]:
    """Rows that one of the two has more often than the other. Each is compared whole, as text with all its
    digits.
    """
    counts = [Counter(repr(row) for row in store.query(f"FROM {table}")) for store in (ours, theirs)]
    more, less = counts[0] - counts[1], counts[1] - counts[0]
    if not more and not less:
        return []
    example = next(iter(more or less))[:400]
    return [
        f"table {table}: {more.total()} rows too many or other, {less.total()} missing of {counts[1].total()}; for example {example}"
    ]


def leftovers(results: Path) -> list[str]:
    """What killed processes must not leave for ever: signs of life, held locks, parts of files, files that no
    outcome names.
    """
    lines = [
        f"left over: {path.relative_to(results)}"
        for path in sorted(results.rglob("*"))
        if path.name == "beat" or path.name.endswith(".part")
    ]
    locks = [results / ".lock", *results.glob("runs/*/lock")]
    lines += [f"locked still: {path.relative_to(results)}" for path in locks if path.exists() and _held(path)]
    for folder in sorted((results / "cells").iterdir()):
        outcome = read_outcome(results, folder.name)
        kept = {"outcome.json", *(Path(shard).name for shard in outcome.shards)}
        lines += [
            f"of no outcome: {path.relative_to(results)}"
            for path in folder.iterdir()
            if path.name not in kept
        ]
    return lines


def _held(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def count(results: Path) -> int:
    """Rows of raw data in a store."""
    store = Store(results)
    return sum(int(str(store.query(f"SELECT count(*) FROM {table}")[0][0])) for table in _tables(store))
