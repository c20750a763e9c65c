"""A results folder and its catalogue: which cells are done, and every number as a query.

The source of truth is `cells/`; `lks.duckdb` mirrors it and can be deleted at any time. DuckDB lets one
process at a time open the file, readers included, so it is open only inside a call.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from lks.errors import DataError, NewerError, StoreError
from lks.io.atomic import write_whole
from lks.io.untrusted import check_inside, one_line, parse_json
from lks.results.cells import FINAL, PROTOCOL, Outcome
from lks.results.connection import OF_THE_FILE, connect, failed, is_stop, prepare
from lks.results.reader import Copy, Reader
from lks.results.shards import check_cell, kind_of, known_shards, read_outcome, stored_outcome, write_outcome
from lks.results.stages import stages

logger = logging.getLogger(__name__)

TOGETHER = 500
"""Number of cells that one transaction ingests: reading free answers costs a third of a second before the
first of them."""

_DECLARATION = json.dumps({"protocol": PROTOCOL})
"""Content of `protocol.json`."""
_RESTORE = (
    f"If this version of the program made its cells, write {_DECLARATION} into it: they are kept, and those "
    "of another protocol are recognised by their ids and left out. Or use another folder with --results."
)
"""Advice where it is missing or damaged."""

READ_WAIT, RECORD_WAIT = 10.0, 60.0
"""Seconds to wait for another process to release the catalogue: where a caller waits for an answer, and
where a finished cell is recorded."""


class Store(Reader):
    """A results folder with its catalogue.

    Attributes:
        results: the folder.
        lock_wait: seconds to wait for another process to release the catalogue.
        record_wait: the same, when a finished cell is recorded.
    """

    def __init__(self, results: Path, lock_wait: float | None = None) -> None:
        """Create or check the folder.

        Args:
            results: the folder.
            lock_wait: seconds to wait in all calls; `READ_WAIT` and `RECORD_WAIT` if not given.

        Raises:
            StoreError: it is not writable, not a folder, or of another protocol version.
        """
        self.results = results
        self.lock_wait = READ_WAIT if lock_wait is None else lock_wait
        self.record_wait = RECORD_WAIT if lock_wait is None else lock_wait
        self._catalogue = results / "lks.duckdb"
        check_inside(results, self._catalogue)
        protocol = results / "protocol.json"
        if protocol.exists():
            _check_protocol(protocol)
        elif (results / "cells").exists():
            raise StoreError(f"{results} holds cells but no protocol.json. {_RESTORE}")
        else:
            write_whole(protocol, _DECLARATION.encode())
        _check_writable(results)

    def done(self) -> set[str]:
        """Return the ids of cells that need not be run.

        They are whole on disk, and ended in a way that running again would not change.
        """
        for warning in self.sync():
            logger.warning(warning)
        return {
            str(cell_id)
            for cell_id, status in self.query("SELECT cell_id, status FROM cells")
            if status in FINAL
        }

    def record(self, outcome: Outcome) -> None:
        """Add a finished or failed cell to the catalogue, and write its `outcome.json` if it is not on disk.

        Raises:
            DataError: one of its shards is missing or damaged; nothing is recorded then.
            StoreError: the folder cannot be written, or another process keeps the catalogue. In the second
                case the cell is on disk all the same, and the next call of `sync` ingests it.
        """
        check_cell(self.results, outcome)
        if stored_outcome(self.results, outcome.cell.id) != outcome:
            write_outcome(self.results, outcome)
        with self._open(self.record_wait) as connection:
            self._ingest(connection, {outcome.cell.id: (outcome, self._fingerprint(outcome))})

    def sync(self) -> list[str]:
        """Make the catalogue the mirror of `cells/`.

        What is new or changed is ingested, what is gone or damaged is removed.

        Returns:
            One line for each damaged cell; such a cell is not done and will be run again.

        Raises:
            StoreError: a shard is of a newer version, which running the cell again would destroy; or the
                catalogue cannot be used.
        """
        warnings: list[str] = []
        found = {path.parent.name for path in (self.results / "cells").glob("*/outcome.json")}
        with self._open() as connection:
            known = dict(connection.execute("SELECT cell_id, fingerprint FROM cells").fetchall())
            self._forget(connection, sorted(set(known) - found))
            new: dict[str, tuple[Outcome, str]] = {}
            for cell_id in sorted(found):
                try:
                    outcome = read_outcome(self.results, cell_id)
                    fingerprint = self._fingerprint(outcome)
                    if known.get(cell_id) != fingerprint:
                        check_cell(self.results, outcome)
                        new[cell_id] = outcome, fingerprint
                except NewerError as error:
                    raise StoreError(f"{error} Or use another folder with --results.") from None
                except DataError as error:
                    self._forget(connection, [cell_id])
                    warnings.append(str(error))
            for start in range(0, len(new), TOGETHER):
                warnings += self._taken_in(connection, dict(list(new.items())[start : start + TOGETHER]))
        return warnings

    def _taken_in(
        self, connection: duckdb.DuckDBPyConnection, new: Mapping[str, tuple[Outcome, str]]
    ) -> list[str]:
        """Ingest some cells together; where that fails, one half and then the other.

        Returns:
            One line for each cell that DuckDB rejects.
        """
        try:
            self._ingest(connection, new)
        except DataError as error:
            if len(new) == 1:
                self._forget(connection, list(new))
                return [str(error)]
            cells, half = list(new.items()), len(new) // 2
            return self._taken_in(connection, dict(cells[:half])) + self._taken_in(
                connection, dict(cells[half:])
            )
        return []

    @contextmanager
    def copy(self) -> Iterator[Copy]:
        """Copy the catalogue as it is now, for many queries.

        Heavy views are computed once, and no other process waits meanwhile.

        Raises:
            StoreError: another process keeps the catalogue.
        """
        deadline = time.monotonic() + self.lock_wait
        with tempfile.TemporaryDirectory(prefix="lks-") as folder:
            copy = Path(folder) / "copy.duckdb"
            while True:
                self.query("SELECT 1")  # replays what a killed process may have left next to the file
                before = self._catalogue.stat()
                shutil.copyfile(self._catalogue, copy)
                after = self._catalogue.stat()
                if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                    break
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"{self._catalogue} is being written all the time. Wait for that, and start again."
                    )
            with duckdb.connect(str(copy)) as connection:
                connection.execute("SET enable_external_access = false; SET lock_configuration = true")
                yield Copy(connection)

    @contextmanager
    def _open(self, wait: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = connect(self._catalogue, self.lock_wait if wait is None else wait)
        try:
            prepare(connection)
            yield connection
        except OF_THE_FILE as error:
            raise StoreError(failed(self._catalogue, error)) from None
        except (RuntimeError, duckdb.InterruptException) as error:
            if is_stop(error):
                raise KeyboardInterrupt from None
            raise
        finally:
            connection.close()

    def _fingerprint(self, outcome: Outcome) -> str:
        """Return a hash that changes with outcome.json and with the size of a shard.

        So a shard that is damaged later is noticed too.
        """
        digest = hashlib.sha256((self.results / "cells" / outcome.cell.id / "outcome.json").read_bytes())
        for shard in outcome.shards:
            path = self.results / shard
            digest.update(f"{shard} {path.stat().st_size if path.exists() else 'missing'}".encode())
        return digest.hexdigest()

    def _ingest(self, connection: duckdb.DuckDBPyConnection, new: Mapping[str, tuple[Outcome, str]]) -> None:
        """Replace the rows of some cells, each with its fingerprint, in one transaction.

        Their shards have been checked.

        Raises:
            DataError: DuckDB rejects what one of them holds, such as a number with too many digits or Parquet
                that only DuckDB finds invalid.
        """
        shards = [
            str(self.results / shard)
            for outcome, _ in new.values()
            for shard in known_shards(self.results, outcome)
        ]
        files = [self.results / "cells" / cell_id / "outcome.json" for cell_id in new]
        rows = [
            _row(outcome, mark, file.read_text(encoding="utf-8"))
            for file, (outcome, mark) in zip(files, new.values(), strict=True)
        ]
        connection.begin()
        try:
            self._forget(connection, list(new))
            places = ", ".join(f"({', '.join('?' * len(row))})" for row in rows)
            connection.execute(f"INSERT INTO cells VALUES {places}", [value for row in rows for value in row])
            tables = _tables(shards)
            for table, chosen in tables.items():
                connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet(?)", [chosen])
            if "answers" in tables:
                connection.execute(
                    "INSERT INTO free_answers FROM free_answers_read WHERE cell_id IN (SELECT unnest(?))",
                    [list(new)],
                )
            connection.commit()
        except BaseException as error:
            connection.rollback()
            if isinstance(error, duckdb.Error) and not isinstance(
                error, (*OF_THE_FILE, duckdb.InterruptException)
            ):
                where = self.results / "cells" / next(iter(new))
                raise DataError(
                    f"{where} is damaged: {one_line(str(error).partition('LINE 1:')[0])}. Run its cell again."
                ) from None
            raise

    def _forget(self, connection: duckdb.DuckDBPyConnection, cell_ids: Sequence[str]) -> None:
        """Delete the rows of some cells.

        Searching every table is expensive, and most cells to be deleted are new, so table `cells` is searched
        first.
        """
        chosen = "cell_id IN (SELECT unnest(?))"
        if connection.execute(f"SELECT 1 FROM cells WHERE {chosen} LIMIT 1", [list(cell_ids)]).fetchall():
            for table in ("free_answers", *(stage.table for stage in stages().values()), "cells"):
                connection.execute(f"DELETE FROM {table} WHERE {chosen}", [list(cell_ids)])


def _tables(shards: Sequence[str]) -> dict[str, list[str]]:
    """Group shards by the table for their rows."""
    tables: dict[str, list[str]] = {}
    for shard in shards:
        tables.setdefault(stages()[kind_of(Path(shard))].table, []).append(shard)
    return tables


def _row(outcome: Outcome, fingerprint: str, document: str) -> tuple[object, ...]:
    """Return a row of table `cells`, in the order of `schema.sql`."""
    cell, costs = outcome.cell, outcome.costs
    variant = " ".join(f"{key}={value}" for key, value in cell.variant)
    return (
        *(cell.id, fingerprint, cell.model, cell.dataset, cell.records, cell.split, cell.measure),
        *(cell.method, variant, cell.n_edits, cell.seed, cell.draws),
        *(cell.parameters, cell.model_revision, cell.data_revision, outcome.status, outcome.reason),
        *(costs.prepare_s, costs.edit_s, costs.ask_s, costs.peak_bytes, costs.patch_bytes),
        *(outcome.provenance.get("finished", ""), document),
    )


def _check_protocol(path: Path) -> None:
    try:
        found = parse_json(path.read_bytes())["protocol"]  # type: ignore[index]
    except OSError as error:
        raise StoreError(
            f"Cannot read {path}: {error.strerror}. Use another folder with --results."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{path} is damaged. {_RESTORE}") from None
    if found != PROTOCOL:
        raise StoreError(
            f"{path.parent} holds results of protocol {one_line(repr(found), 40)}; "
            f"this program uses {PROTOCOL}. Use another folder with --results."
        )


def _check_writable(results: Path) -> None:
    """Write a byte now rather than fail after an hour's work."""
    probe = results / f".writable.{os.getpid()}"
    write_whole(probe, b"1")
    probe.unlink(missing_ok=True)
