"""Connection to the catalogue's file, which one process at a time can open, with `schema.sql`'s tables."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

from lks.errors import StoreError
from lks.io.retry import Retries
from lks.results.stages import stages

OF_THE_FILE = (
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.OutOfMemoryException,
)
"""Errors that concern the catalogue or the machine, not the data that is written."""


def connect(catalogue: Path, wait: float) -> duckdb.DuckDBPyConnection:
    """Open the file as soon as no other process has it open.

    Args:
        catalogue: the file; created if it is missing.
        wait: maximum number of seconds to wait.

    Raises:
        StoreError: another process keeps it open, it is not a catalogue, or it cannot be written.
    """
    retries = Retries(wait, first_s=0.02, longest_s=1.0, factor=1.5)
    while True:
        try:
            return _locked(duckdb.connect(str(catalogue)), catalogue.parent / "cells")
        except (duckdb.IOException, duckdb.SerializationException, duckdb.InternalException) as error:
            if "Could not set lock" not in str(error):
                raise StoreError(failed(catalogue, error)) from None
            if not retries.pause():
                who = f"in use by {_holder(error)} for {wait:g} s"
                raise StoreError(
                    f"{catalogue} is {who}. End that process or wait for it, and start again: "
                    "finished cells are kept."
                ) from None


def _locked(connection: duckdb.DuckDBPyConnection, cells: Path) -> duckdb.DuckDBPyConnection:
    """Restrict a connection to the cells' shards.

    The catalogue and its views may come from a stranger: queries read the cells' shards and nothing else, and
    no statement changes that.
    """
    quoted = str(cells.absolute()).replace("'", "''")
    connection.execute(
        f"SET allowed_directories = ['{quoted}']; SET enable_external_access = false; "
        "SET lock_configuration = true"
    )
    return connection


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Create tables and views, unless the catalogue has exactly these already."""
    schema = "\n".join(_definitions())
    digest = hashlib.sha256(schema.encode()).hexdigest()
    has = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'catalogue'"
    ).fetchall()[0][0]
    if has and connection.execute("SELECT schema FROM catalogue").fetchall() == [(digest,)]:
        return
    connection.begin()
    for statement in duckdb.extract_statements(schema):
        connection.execute(statement)
    connection.execute("CREATE OR REPLACE TABLE catalogue AS SELECT ? AS schema", [digest])
    connection.commit()


def _definitions() -> Iterator[str]:
    """Iterate over the SQL of the catalogue: macros, tables of the stages, views, views of further stages."""
    folder = Path(__file__).parent
    yield (folder / "wild.sql").read_text(encoding="utf-8")
    yield from (stage.definition for stage in stages().values())
    yield (folder / "schema.sql").read_text(encoding="utf-8")
    yield from (stage.sql.read_text(encoding="utf-8") for stage in stages().values() if stage.sql)


def is_stop(error: Exception) -> bool:
    """Return whether an error is Ctrl-C, as DuckDB reports one that came while it was at work."""
    return isinstance(error, duckdb.InterruptException) or (
        type(error) is RuntimeError and "Query interrupted" in str(error)
    )


def failed(catalogue: Path, error: duckdb.Error) -> str:
    """Return a message that says why the file cannot be used, and what to do."""
    text = str(error)
    line = text.splitlines()[0][:160] if text else type(error).__name__
    if "No space left" in text or "not enough disk space" in text:
        return (
            f"{catalogue} cannot be written: no space left. "
            "Free some and start again: finished cells are kept."
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return (
            f"{catalogue} needs more memory than there is ({line}). "
            "Free some and start again: finished cells are kept."
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return (
            f"{catalogue} cannot be written: no permission. "
            "Make it writable, or use another folder with --results."
        )
    return f"{catalogue} cannot be used: {line}. Delete it: it is rebuilt from cells/."


def _holder(error: duckdb.Error) -> str:
    """Return the process that has the file open, as far as DuckDB reports it.

    DuckDB's message is "Conflicting lock is held in /usr/bin/python (PID 123)".
    """
    told = re.search(r"lock is held in (.+?) \(PID (\d+)\)", str(error))
    return f"process {told[2]} ({Path(told[1]).name})" if told else "another process"
