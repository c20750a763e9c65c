"""Raw answers and outcomes on disk: the source from which the catalogue and every number are derived.

A cell's folder is `cells/<id>/`: one Parquet shard of raw answers (or scope decisions) per stage and
`outcome.json`. Each file appears whole or not at all (temporary file, fsync, rename). `outcome.json` is
written last: the cell counts from that moment on.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from lks.errors import DataError
from lks.io.atomic import write_whole
from lks.io.parquet import kind_in, named, read
from lks.io.untrusted import check_inside, content_of, one_line
from lks.results.answers import SCHEMA, Answer
from lks.results.cells import ANSWERS, Outcome
from lks.results.stages import OWN, stages

_OUTCOME = TypeAdapter(Outcome)
_SHARD = re.compile(r"cells/[0-9a-f]{16}/[^./\\*?\[\]\x00-\x1f][^/\\*?\[\]\x00-\x1f]*\.parquet")
RowT = TypeVar("RowT")


def write_stage(results: Path, cell_id: str, stage: str, made: Sequence[object]) -> str:
    """Write a cell's shard for one stage, whose name determines the kind of its rows, or replace it.

    Returns:
        The shard's path relative to the results folder, as `Outcome.shards` wants it.

    Raises:
        DataError: the cell's folder is a link that leads out of the results folder.
        StoreError: there is no space, no permission, or another reason to fail.
    """
    relative = f"cells/{cell_id}/{stage}.parquet"
    check_inside(results, results / relative)
    write_shard(results / relative, cell_id, made, schema_of(stage))
    return relative


def schema_of(stage: str) -> pa.Schema:
    """Return the columns of a stage's shard."""
    return stages()[stage.partition("-")[0]].columns


def _known() -> dict[str, tuple[pa.Schema, int]]:
    """Return schema and newest version of each kind of shard."""
    return {
        name: (stage.columns, version)
        for stage in stages().values()
        for name, version in [named(stage.columns)]
    }


def kind_of(shard: Path) -> str:
    """Return the kind of rows in a shard, by the first part of its stage's name; answers if it is unknown."""
    first = shard.stem.partition("-")[0]
    return first if first in stages() else ANSWERS


def known_shards(results: Path, outcome: Outcome) -> list[str]:
    """Return the cell's shards without those of stages whose folder `LKS_STAGES` is not in use now."""
    return [shard for shard in outcome.shards if not _is_of_unknown_stage(results / shard)]


def _is_of_unknown_stage(path: Path) -> bool:
    """Return whether a shard is of a stage that is not registered here, and says so itself."""
    return path.stem.partition("-")[0] not in stages() and kind_in(path).startswith(OWN)


def write_shard(path: Path, cell_id: str, made: Sequence[object], schema: pa.Schema = SCHEMA) -> None:
    """Write rows of a cell to any file, replacing an older one.

    The schema's columns are fields of the rows.

    Raises:
        StoreError: there is no space, no permission, or another reason to fail.
    """
    columns: dict[str, object] = {
        name: [getattr(row, name) for row in made] for name in schema.names if name != "cell_id"
    }
    table = pa.table({"cell_id": [cell_id] * len(made)} | columns, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_whole(path, sink.getvalue().to_pybytes())


def read_checked(path: Path, cell_id: str = "") -> pa.Table:
    """Read a shard from end to end, including page checksums.

    Raises:
        DataError: the file is missing, truncated, damaged, not a shard, of a newer version, or holds rows of
            another cell than the one named.
    """
    table = read(path, _known())
    if not table.schema.equals(stages()[kind_of(path)].columns):
        raise DataError(f"{path} holds rows of another kind than its name says. Run its cell again.")
    if cell_id and any(found != cell_id for found in table["cell_id"].unique().to_pylist()):
        raise DataError(f"{path} holds rows of another cell than {cell_id}. Run the cell again.")
    return table


def check_cell(results: Path, outcome: Outcome) -> None:
    """Read a cell's shards from end to end, as `read_checked` does, and check that no row occurs twice.

    Raises:
        DataError: as `read_checked`; or rows of a cell, in one shard or two, answer the same question.
    """
    keys: dict[str, list[pa.Table]] = {}
    for shard in known_shards(results, outcome):
        kind = kind_of(Path(shard))
        keys.setdefault(kind, []).append(
            read_checked(results / shard, outcome.cell.id).select(stages()[kind].key)
        )
    for kind, tables in keys.items():
        found = pa.concat_tables(tables)
        if found.group_by(found.column_names).aggregate([]).num_rows < found.num_rows:
            where = ", ".join(
                dict.fromkeys(
                    shard for shard in known_shards(results, outcome) if kind_of(Path(shard)) == kind
                )
            )
            raise DataError(
                f"{results}: rows occur twice in {where}: the same {', '.join(found.column_names)}. "
                "Run its cell again."
            )


def read_answers(path: Path) -> list[Answer]:
    """Return the answers of a shard, in the order they were written.

    Raises:
        DataError: as `read_checked`.
    """
    return read_rows(path, Answer)


def read_rows(path: Path, kind: type[RowT]) -> list[RowT]:
    """Return the rows of another stage's shard.

    Raises:
        DataError: as `read_checked`.
    """
    found: list[dict[str, object]] = read(path, _known()).drop_columns("cell_id").to_pylist()
    try:
        return [
            kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
            for row in found
        ]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} does not hold rows of {kind.__name__} ({one_line(error)}). Run its cell again."
        ) from None


def write_outcome(results: Path, outcome: Outcome) -> Path:
    """Write `cells/<id>/outcome.json`, the commit point of a cell: call it after all its shards.

    Raises:
        StoreError: there is no space, no permission, or another reason to fail.
    """
    path = results / "cells" / outcome.cell.id / "outcome.json"
    check_inside(results, path)
    write_whole(path, json.dumps(asdict(outcome), indent=1, sort_keys=True, ensure_ascii=False).encode())
    return path


def read_outcome(results: Path, cell_id: str) -> Outcome:
    """Read a cell's outcome.

    Raises:
        DataError: `outcome.json` is missing, damaged, or of another cell.
    """
    path = results / "cells" / cell_id / "outcome.json"
    try:
        check_inside(results, path)
        outcome = parse_outcome(content_of(path))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: the cell was not finished. Run it again.") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({one_line(error)}). Run its cell again.") from None
    if outcome.cell.id != cell_id:
        raise DataError(
            f"{path} is about cell {outcome.cell.id}, not {cell_id}: written by another version. "
            "Run its cell again."
        )
    for shard in outcome.shards:
        if not shard.startswith(f"cells/{cell_id}/"):
            raise DataError(f"{path} names {shard}, which is not in its own folder. Run its cell again.")
        check_inside(results, results / shard)
    return outcome


def stored_outcome(results: Path, cell_id: str) -> Outcome | None:
    """Read a cell's outcome like `read_outcome`; return None where it is missing or damaged."""
    with contextlib.suppress(DataError):
        return read_outcome(results, cell_id)
    return None


def parse_outcome(document: bytes | str) -> Outcome:
    """Parse an outcome from the JSON of `write_outcome`.

    Raises:
        ValueError: it is not an outcome, or names a shard that could be anywhere; one line, naming the field.
    """
    try:
        outcome = _OUTCOME.validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}") from None
    for number, shard in enumerate(outcome.shards):
        if not _SHARD.fullmatch(shard):
            raise ValueError(
                f"shards.{number}: {one_line(shard)!r} is not of the form cells/<id>/<stage>.parquet"
            )
    return outcome
