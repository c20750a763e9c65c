"""Parquet files from untrusted sources: nothing is unpacked before its size is known.

A small file can declare any number of rows, and store one long text once for a million of them. So the footer
is checked first, and texts are read as indices into a list of the distinct ones, which is expanded only if
that stays within bounds.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lks.errors import DataError, NewerError
from lks.io.untrusted import check_plain, one_line

LARGEST_FILE = 1 << 30
LARGEST_TABLE = 1 << 30
"""Bytes of a shard on disk and in memory; 10,000 edits with twenty probes each take about a tenth of it."""
MOST_VALUES = 1 << 26
"""Largest number of values in a column; entries of lists count one by one."""
THRIFT = 1 << 24
"""Largest number of bytes of a text, and of entries of a list, in the footer."""

Known = Mapping[str, tuple[pa.Schema, int]]


def read(path: Path, known: Known) -> pa.Table:
    """Read a table of one of the known kinds, checking page checksums, texts and lists.

    Args:
        path: the file.
        known: kind -> its columns and newest version.

    Raises:
        DataError: the file is missing, truncated, damaged, too large, or not of a known kind and version.
    """
    try:
        check_plain(path, LARGEST_FILE)
        with pq.ParquetFile(
            path,
            thrift_string_size_limit=THRIFT,
            thrift_container_size_limit=THRIFT,
            arrow_extensions_enabled=False,
        ) as file:
            schema = _schema(path, file.schema_arrow, known)
            texts = _check_footer(path, file.metadata)
        with pq.ParquetFile(
            path,
            read_dictionary=texts,
            page_checksum_verification=True,
            thrift_string_size_limit=THRIFT,
            thrift_container_size_limit=THRIFT,
            arrow_extensions_enabled=False,
        ) as file:
            packed = file.read(use_threads=False)
        packed.validate(full=True)
        _check_unpacked(path, packed)
        table = packed.cast(schema)
        table.validate(full=True)
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Run its cell again.") from None
    except (OSError, LookupError, ValueError, MemoryError, OverflowError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is truncated or not Parquet ({_reason(error)}). Run its cell again."
        ) from None
    _check_entries(path, table)
    return table


def named(schema: pa.Schema) -> tuple[str, int]:
    """Return the kind and version that a schema states; the version is 0 where it states none.

    Raises:
        UnicodeDecodeError: the kind is not valid UTF-8.
    """
    metadata = schema.metadata or {}
    version = metadata.get(b"schema_version", b"")
    return metadata.get(b"schema", b"").decode(), int(version) if version.isdigit() and len(
        version
    ) < 10 else 0


def kind_in(path: Path) -> str:
    """Return the kind that a file declares; "" for one that cannot be read."""
    try:
        check_plain(path, LARGEST_FILE)
        with pq.ParquetFile(
            path,
            thrift_string_size_limit=THRIFT,
            thrift_container_size_limit=THRIFT,
            arrow_extensions_enabled=False,
        ) as file:
            return named(file.schema_arrow)[0]
    except (DataError, OSError, ValueError, pa.ArrowException):
        return ""


def _schema(path: Path, found: pa.Schema, known: Known) -> pa.Schema:
    """Return the schema of the file's kind, which its columns must equal."""
    kind, version = named(found)
    if kind not in known or not version:
        raise DataError(
            f"{path} is Parquet, but not a shard of answers or decisions. Move it out of the results folder."
        )
    schema, newest = known[kind]
    if version > newest:
        raise NewerError(
            f"{path} has {kind} of version {version}; this program reads up to {newest}. Update the program."
        )
    if not found.equals(schema):
        raise DataError(
            f"{path} does not have the columns of {kind} of version {version}. Run its cell again."
        )
    return schema


def _check_footer(path: Path, footer: pq.FileMetaData) -> list[str]:
    """Refuse a file that declares too much; return its text columns, lists of texts included."""
    size, most, texts = 0, footer.num_rows, dict[str, None]()
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            size, most = (
                size + max(0, column.total_uncompressed_size),
                max(most, column.num_values, group.num_rows),
            )
            if column.physical_type == "BYTE_ARRAY":
                texts[column.path_in_schema] = None
    if size > LARGEST_TABLE or most > MOST_VALUES:
        raise DataError(
            f"{path} declares {size:,} bytes and up to {most:,} values in a column, more than is read. Run "
            "its cell again."
        )
    return list(texts)


def _check_unpacked(path: Path, packed: pa.Table) -> None:
    """Refuse a table whose expanded texts would take too much memory."""
    size = packed.nbytes
    for column in packed.columns:
        for chunk in column.chunks:
            values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            if pa.types.is_dictionary(values.type):
                size += (
                    pc.sum(pc.binary_length(values.dictionary).take(values.indices).cast(pa.int64())).as_py()
                    or 0
                )
    if size > LARGEST_TABLE:
        raise DataError(
            f"{path} holds {size:,} bytes once unpacked, more than {LARGEST_TABLE:,} are not read. Run its "
            "cell again."
        )


def _check_entries(path: Path, table: pa.Table) -> None:
    """Refuse nulls inside lists; whether a column may hold nulls is up to its schema."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_list(column.type) and any(chunk.flatten().null_count for chunk in column.chunks):
            raise DataError(f"{path}, column {name!r}: a list holds a null. Run its cell again.")


def _reason(error: BaseException) -> str:
    """Return an exception as one line, without the file's name, which the message already states."""
    return (
        os.strerror(error.errno)
        if isinstance(error, OSError) and error.errno
        else one_line(error) or type(error).__name__
    )
