"""Damaged Parquet: as bytes, or well-formed with other content than a shard's."""

import random

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers import mutations

TYPES = (
    pa.int64(),
    pa.int8(),
    pa.string(),
    pa.large_string(),
    pa.float32(),
    pa.bool_(),
    pa.binary(),
    pa.null(),
    pa.timestamp("us"),
)


def damaged(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """A shard, damaged; `other` is a second one, perhaps of another kind or cell."""
    what = rng.randrange(10)
    if what == 0:
        return other
    if what < 4:
        return mutations.bytes_of(rng, content, other)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError):
        return mutations.bytes_of(rng, content, other)
    made = _written(rng, _changed(rng, table) if what < 8 else table)
    return mutations.bytes_of(rng, made, other) if rng.random() < 0.5 else made


def _written(rng: random.Random, table: pa.Table) -> bytes:
    """As another program would write it: without checksums or compression, damage goes through to the values."""
    sink, packed = pa.BufferOutputStream(), any(pa.types.is_dictionary(field.type) for field in table.schema)
    writer = pq.ParquetWriter(
        sink,
        table.schema,
        compression=rng.choice(("none", "zstd", "snappy", "gzip", "brotli", "lz4")),
        use_dictionary=packed or rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.3,
        data_page_version=rng.choice(("1.0", "2.0")),
        store_schema=rng.random() < 0.5 and not packed,
        version=rng.choice(("1.0", "2.6")),
    )
    with writer:
        writer.write_table(table)
        writer.add_key_value_metadata(table.schema.metadata or {})
    return bytes(sink.getvalue().to_pybytes())


def _changed(rng: random.Random, table: pa.Table) -> pa.Table:
    number = rng.randrange(table.num_columns)
    field, what = table.schema.field(number), rng.randrange(8)
    if what == 0:
        return table.drop_columns([field.name])
    if what == 1:
        return table.set_column(
            number, pa.field(mutations.text_of(rng).replace("\0", ""), field.type), table.column(number)
        )
    if what == 2:
        return table.set_column(
            number, pa.field(field.name, kind := rng.choice(TYPES)), pa.nulls(len(table), kind)
        )
    if what == 3:
        return table.replace_schema_metadata(
            {
                b"schema": rng.choice((b"lks-answers", b"\xff", b"")),
                b"schema_version": rng.choice((b"9" * 5000, b"1", b"\xff", b"-1")),
            }
        )
    if what == 4:
        return _many(rng, table)
    return table.set_column(number, field, _values(rng, field.type, len(table)))


def _many(rng: random.Random, table: pa.Table) -> pa.Table:
    """Few bytes that mean many: a long text said often, or a long list of the same."""
    rows = (
        table.slice(0, 1).take(pa.array([0] * rng.choice((100, 20_000)), pa.int32())) if len(table) else table
    )
    for number, field in enumerate(rows.schema):
        if pa.types.is_string(field.type) and rng.random() < 0.3:
            long = pa.DictionaryArray.from_arrays(
                pa.array([0] * len(rows), pa.int32()), pa.array(["x" * rng.choice((10, 100_000))])
            )
            return rows.set_column(number, field.with_type(long.type), long)
    return rows


def _values(rng: random.Random, kind: pa.DataType, count: int) -> pa.Array:
    """A column of odd values of the right type, texts that are none included."""
    if pa.types.is_string(kind):
        odd = [
            rng.choice((b"\xff\xfe", b"", b"\0", mutations.text_of(rng).encode("utf-8", "ignore")))
            for _ in range(count)
        ]
        return pa.Array.from_buffers(pa.string(), count, pa.array(odd, pa.binary()).buffers())
    if pa.types.is_list(kind):
        inner = (
            [[*_values(rng, kind.value_type, rng.choice((0, 1, 5)))] for _ in range(count)]
            if not pa.types.is_string(kind.value_type)
            else []
        )
        return pa.array(inner or [[None, "x"]] * count, kind) if count else pa.array([], kind)
    choices = {
        "int32": (0, -1, 2**31 - 1, -(2**31)),
        "double": (float("nan"), float("inf"), 1e308),
        "bool": (True, False),
    }[str(kind)]
    return pa.array([rng.choice(choices) for _ in range(count)], kind)
