"""Queries over a catalogue: the original, or a copy that a report reads."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TypeVar

import duckdb

from lks.results.cells import Outcome
from lks.results.shards import parse_outcome

RowT = TypeVar("RowT")

HEAVY = ("wild_scores", "all_probe_scores", "probe_scores", "subject_sums", "metrics", "known_facts")
"""Views that many others read, in the order in which they depend on each other; a copy computes each of
them once."""


class Reader(ABC):
    """Base class for what answers queries over the tables and views of `schema.sql`."""

    @abstractmethod
    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection for one query."""
        yield duckdb.connect()  # pragma: no cover

    def outcomes(self) -> list[Outcome]:
        """Return all recorded outcomes, in the order of their cells."""
        documents = self.query("SELECT outcome FROM cells ORDER BY cell_id")
        return sorted(
            (parse_outcome(str(document)) for (document,) in documents), key=lambda outcome: outcome.cell
        )

    def query(self, sql: str, params: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        with self._open() as connection:
            return list(connection.execute(sql, list(params)).fetchall())

    def table(self, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
        """Return the column names of a query, and its rows."""
        with self._open() as connection:
            cursor = connection.execute(sql)
            return [str(column[0]) for column in cursor.description or ()], list(cursor.fetchall())

    def rows(self, kind: type[RowT], sql: str, params: Sequence[object] = ()) -> list[RowT]:
        """Return the rows of a query as dataclasses whose fields are the query's columns, by name."""
        wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        with self._open() as connection:
            cursor = connection.execute(sql, list(params))
            names = [column[0] for column in cursor.description or ()]
            if set(names) != wanted:
                raise ValueError(
                    f"{kind.__name__} has fields {sorted(wanted)}, the query gives {sorted(names)}"
                )
            return [kind(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


class Copy(Reader):
    """A copy of a catalogue that blocks no other process and in which every heavy view is computed once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        for view in HEAVY:
            connection.execute(f"CREATE TABLE kept AS FROM {view}")
            connection.execute(f"DROP VIEW {view}")
            connection.execute(f"ALTER TABLE kept RENAME TO {view}")

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        yield self._connection
