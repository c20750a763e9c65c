"""Queries over a catalogue: its own, or a copy that a report reads."""

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
"""Views that many others read, in the order in which they depend on each other; a copy computes each once."""


class Reader(ABC):
    """Something that answers queries over `schema.sql`'s tables and views."""

    @abstractmethod
    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one query."""
        yield duckdb.connect()  # pragma: no cover

    def outcomes(self) -> list[Outcome]:
        """All recorded outcomes, in the order of their cells."""
        documents = self.query("SELECT outcome FROM cells ORDER BY cell_id")
        return sorted(
            (parse_outcome(str(document)) for (document,) in documents), key=lambda outcome: outcome.cell
        )

    def query(self, sql: str, params: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Rows of a query."""
        with self._open() as connection:
            return list(connection.execute(sql, list(params)).fetchall())

    def table(self, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
        """Names of the columns of a query, and its rows."""
        with self._open() as connection:
            cursor = connection.execute(sql)
            return [str(column[0]) for column in cursor.description or ()], list(cursor.fetchall())

    def rows(self, kind: type[RowT], sql: str, params: Sequence[object] = ()) -> list[RowT]:
        """Rows of a query as dataclasses whose fields are the query's columns, by name."""
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
    """A copy of a catalogue, which nobody else waits for and in which every heavy view is computed once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        for view in HEAVY:
            connection.execute(f"CREATE TABLE kept AS FROM {view}")
            connection.execute(f"DROP VIEW {view}")
            connection.execute(f"ALTER TABLE kept RENAME TO {view}")

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        yield self._connection
