"""Two catalogues attached read-only to one connection, and the matching of their cells."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import duckdb

from lks.errors import StoreError
from lks.io.retry import Retries
from lks.results.cells import PROTOCOL, Cell, Outcome
from lks.results.shards import parse_outcome
from lks.results.store import Store
from reports.compare.model import SettingChange, label

NAME = "lks.duckdb"
NOT_COMPARED = ("finished", "title")
"""Provenance that differs between any two runs, or is only a name."""
DEFINITIONS = (
    (
        "SELECT table_name, column_name, data_type, column_default FROM duckdb_columns() WHERE "
        "database_name = ? AND NOT internal ORDER BY ALL"
    ),
    "SELECT view_name, sql FROM duckdb_views() WHERE database_name = ? AND NOT internal ORDER BY ALL",
    (
        "SELECT function_name, parameters, macro_definition FROM duckdb_functions() WHERE database_name = "
        "? AND NOT internal ORDER BY ALL"
    ),
)
"""Queries for what a catalogue consists of. The table `catalogue`, in which it describes itself, could be
written by anybody."""


@contextmanager
def side_by_side(
    a: Path, b: Path, lock_wait: float = 10.0
) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, str], list[str]]]:
    """Open both catalogues in one connection.

    Args:
        a: a results folder or its catalogue. A folder's catalogue is first synchronised with its cells.
        b: the other one.
        lock_wait: seconds to wait for another process to release a catalogue.

    Yields:
        The connection; side ("a", "b") -> name of its catalogue there; warnings of damaged cells.

    Raises:
        StoreError: a path is missing, is no catalogue, is in use by another process, or has another protocol
            or was made by another version of the program.
    """
    files, warnings = {}, []
    for side, path in (("a", a), ("b", b)):
        files[side], more = _catalogue(path, lock_wait)
        warnings += more
    connection = duckdb.connect()
    try:
        _attach(connection, files["a"], "catalogue_a", lock_wait)
        names = {"a": "catalogue_a", "b": "catalogue_a"}
        if not files["a"].samefile(files["b"]):  # DuckDB attaches a file only once
            _attach(connection, files["b"], "catalogue_b", lock_wait)
            names["b"] = "catalogue_b"
        _lock(connection)
        yield connection, names, list(dict.fromkeys(warnings))
    finally:
        connection.close()


def _catalogue(path: Path, lock_wait: float) -> tuple[Path, list[str]]:
    """Return the catalogue file to open, and warnings of damaged cells."""
    if not path.exists():
        raise StoreError(f"{path} does not exist. Name a results folder or its {NAME}.")
    folder = path if path.is_dir() else path.parent
    file = folder / NAME if path.is_dir() else path
    _check_protocol(folder / "protocol.json")
    has_cells = file.name == NAME and (folder / "cells").is_dir() and (folder / "protocol.json").exists()
    writable = os.access(folder, os.W_OK)
    if has_cells and writable and (path.is_dir() or not _is_current(file, lock_wait)):
        warnings = Store(folder, lock_wait).sync()
        if not _is_current(file, lock_wait):
            raise StoreError(
                f"{file} has other tables, views or macros than this program makes. Delete it: it is rebuilt "
                "from cells/."
            )
        return file, warnings
    if not file.exists():
        raise StoreError(
            f"{path} holds no results: neither cells nor a {NAME}. Name a results folder or its {NAME}."
        )
    if not _is_current(file, lock_wait):
        raise StoreError(
            f"{file} was made by another version of this program, whose tables differ, and there are no "
            "cells next to it to rebuild it from. Get the whole results folder, or compare with the version "
            "that made it."
        )
    return file, []


def _check_protocol(path: Path) -> None:
    """Check the protocol that a folder declares; without a declaration, its cells are checked later."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if found != PROTOCOL:
        raise StoreError(
            f"{path.parent} holds results of evaluation protocol {found}; this program compares protocol "
            f"{PROTOCOL}. Use the version that made it."
        )


def _is_current(file: Path, lock_wait: float) -> bool:
    """Return whether a catalogue has exactly this program's tables, views and macros, and no others."""
    with duckdb.connect() as connection:
        _attach(connection, file, "found", lock_wait)
        _lock(connection)
        try:
            said = connection.execute("SELECT schema FROM found.catalogue").fetchall()
            return (
                said,
                *(connection.execute(sql, ["found"]).fetchall() for sql in DEFINITIONS),
            ) == _definitions()
        except duckdb.CatalogException:
            raise StoreError(
                f"{file} is a DuckDB file, but no catalogue of results. Name a results folder or its {NAME}."
            ) from None


@cache
def _definitions() -> tuple[list[tuple[object, ...]], ...]:
    """Return the definitions of this program's own catalogues."""
    with tempfile.TemporaryDirectory() as empty:
        held = Store(Path(empty) / "results")
        return held.query("SELECT schema FROM catalogue"), *(held.query(sql, ["lks"]) for sql in DEFINITIONS)


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Lock a connection, since a catalogue's views may come from a stranger.

    From now on no query can open another file or the network, and no statement can change that.
    """
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _attach(connection: duckdb.DuckDBPyConnection, file: Path, name: str, lock_wait: float) -> None:
    """Attach a catalogue for reading."""
    quoted = str(file).replace("'", "''")
    retries = Retries(lock_wait, first_s=0.1)
    while True:
        try:
            connection.execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY, TYPE duckdb)")
            return
        except duckdb.Error as error:
            if "Could not set lock" not in str(error):
                raise StoreError(
                    f"{file} is not a catalogue that can be read: {str(error).splitlines()[0][:160]}"
                ) from None
            if not retries.pause():
                raise StoreError(
                    f"{file} is in use by another process for {lock_wait:g} s. Wait for it, or compare a "
                    "copy."
                ) from None


def outcomes(connection: duckdb.DuckDBPyConnection, catalogue: str, path: Path) -> list[Outcome]:
    """Return all cells of a catalogue, sorted.

    Raises:
        StoreError: a cell is of another protocol or another version of the program.
    """
    found = []
    for cell_id, document in connection.execute(f"SELECT cell_id, outcome FROM {catalogue}.cells").fetchall():
        try:
            outcome = parse_outcome(str(document))
        except ValueError as error:
            raise StoreError(
                f"{path}: cell {cell_id} is of another version of this program ({error}). Update the program."
            ) from None
        if outcome.cell.id != cell_id:
            raise StoreError(
                f"{path}: cell {cell_id} is not of this program's evaluation protocol (it would be "
                f"{outcome.cell.id}). Numbers of two protocols cannot be compared; use the version that made "
                "it, or run the cells again."
            )
        found.append(outcome)
    return sorted(found, key=lambda outcome: outcome.cell)


def matched(
    a: Sequence[Outcome], b: Sequence[Outcome]
) -> tuple[list[tuple[Outcome, Outcome]], list[Outcome], list[Outcome]]:
    """Return the pairs of cells with the same coordinates, and the cells that only one side has.

    If a side has several cells at the same coordinates (other parameters, revisions or draws), equal cells
    are paired first, then those with as many draws, then the newest.
    """
    pairs: list[tuple[Outcome, Outcome]] = []
    rest_a, rest_b = (
        {o.cell.id: o for o in sorted(side, key=lambda o: o.provenance.get("finished", ""), reverse=True)}
        for side in (a, b)
    )
    keys = (lambda c: c.id, lambda c: (*coordinates(c), c.draws), coordinates)
    for key in keys:
        for outcome in list(rest_a.values()):
            other = next((o for o in rest_b.values() if key(o.cell) == key(outcome.cell)), None)
            if other is not None:
                pairs.append((rest_a.pop(outcome.cell.id), rest_b.pop(other.cell.id)))
    pairs.sort(key=lambda pair: pair[0].cell)
    return pairs, *(sorted(rest.values(), key=lambda o: o.cell) for rest in (rest_a, rest_b))  # type: ignore[return-value]


def coordinates(cell: Cell) -> tuple[object, ...]:
    """Return what makes two cells the same question, whatever code and presets they were run with."""
    return (
        cell.model,
        cell.dataset,
        cell.records,
        cell.split,
        cell.measure,
        cell.method,
        cell.variant,
        cell.n_edits,
        cell.seed,
    )


def changes(a: Outcome, b: Outcome) -> tuple[SettingChange, ...]:
    """Return the differences of two matched cells other than their answers."""
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(a.cell, name), getattr(b.cell, name)) for name in ("draws",)
    ]
    pairs += [
        (name.replace("_", " "), getattr(a.cell, name), getattr(b.cell, name))
        for name in ("model_revision", "data_revision")
    ]
    pairs += _each("", json.loads(a.cell.parameters), json.loads(b.cell.parameters))
    pairs += _each(
        "",
        *(
            {key: value for key, value in side.provenance.items() if key not in NOT_COMPARED}
            for side in (a, b)
        ),
    )
    pairs += _each("failed ", a.failed, b.failed)
    if a.status == b.status:
        pairs.append(("stages", " ".join(sorted(a.stages)), " ".join(sorted(b.stages))))
    return tuple(SettingChange(what, _text(one), _text(other)) for what, one, other in pairs if one != other)


def _each(prefix: str, a: dict[str, str], b: dict[str, str]) -> list[tuple[str, object, object]]:
    """Return (name, value of a, value of b) for every key."""
    return [(prefix + key, a.get(key), b.get(key)) for key in sorted({*a, *b})]


def _text(value: object) -> str:
    """Return a value as text; None is empty."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def holdings(path: Path, found: Sequence[Outcome]) -> str:
    """Describe what a side holds, in half a line."""
    names = [label(outcome.cell) for outcome in found]
    shown = "; ".join(names[:3]) + ("; ..." if len(names) > 3 else "")
    return f"{path} holds {len(names)} cell{'s' * (len(names) != 1)}" + (f" ({shown})" if names else "")
