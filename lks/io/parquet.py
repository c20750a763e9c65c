"""Parquet files that may come from a stranger: nothing is unpacked before its size is known.

A small file can declare any number of rows, and say one long text once and mean it a million times. So the footer is looked at first, and
texts are read as numbers into a list of the distinct ones, which is written out only if that stays in bounds.
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
"""Values of a column at most; entries of lists count one by one."""
THRIFT = 1 << 24
"""Bytes of a text and entries of a list in the footer at most."""

Known = Mapping[str, tuple[pa.Schema, int]]


def read(path: Path, known: Known) -> pa.Table:
    """A table of one of the known kinds, page checksums, texts and lists checked.

    Args:
        path: of the file.
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
    """Kind and version that a schema states; 0 where it states none.

    Raises:
        UnicodeDecodeError: it states something that is no text.
    """
    metadata = schema.metadata or {}
    version = metadata.get(b"schema_version", b"")
    return metadata.get(b"schema", b"").decode(), int(version) if version.isdigit() and len(
        version
    ) < 10 else 0


def _schema(path: Path, found: pa.Schema, known: Known) -> pa.Schema:
    """The columns that a file must have and has."""
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
    """Refuse what declares too much; returns the columns of texts, lists of them included."""
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
            f"{path} declares {size:,} bytes and up to {most:,} values in a column, more than is read. Run its cell again."
        )
    return list(texts)


def _check_unpacked(path: Path, packed: pa.Table) -> None:
    """Refuse a table whose texts, written out, would take too much."""
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
            f"{path} holds {size:,} bytes once unpacked, more than {LARGEST_TABLE:,} are not read. Run its cell again."
        )


def _check_entries(path: Path, table: pa.Table) -> None:
    """A list may hold no gaps: a column's own are for its schema to allow."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_list(column.type) and any(chunk.flatten().null_count for chunk in column.chunks):
            raise DataError(f"{path}, column {name!r}: a list holds a null. Run its cell again.")


def _reason(error: BaseException) -> str:
    """An exception as one line, without the file's name, which is said already."""
    return (
        os.strerror(error.errno)
        if isinstance(error, OSError) and error.errno
        else one_line(error) or type(error).__name__
    )
