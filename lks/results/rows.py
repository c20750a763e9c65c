"""Rows of the shards other than answers and decisions, and the Parquet columns of a dataclass."""

from dataclasses import dataclass
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pyarrow as pa

_COLUMNS = {str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_()}


def columns(kind: type, name: str, version: int) -> pa.Schema:
    """Return the Parquet columns of a dataclass, after a column for the cell's id.

    Fields are texts, numbers, flags and tuples of them; `X | None` may be null.

    Args:
        kind: the dataclass.
        name: schema name that the file states.
        version: version of the schema.
    """
    fields = [pa.field("cell_id", pa.string(), nullable=False)]
    for field, hint in get_type_hints(kind).items():
        options = (
            [option for option in get_args(hint) if option is not type(None)]
            if get_origin(hint) is UnionType
            else [hint]
        )
        (plain,) = options
        column = (
            pa.list_(_COLUMNS[get_args(plain)[0]])
            if get_origin(plain) is tuple
            else _COLUMNS.get(plain, pa.string())
        )
        fields.append(pa.field(field, column, nullable=plain is not hint))
    return pa.schema(fields, metadata={"schema": name, "schema_version": str(version)})


@dataclass(frozen=True, slots=True)
class Generation:
    """A text that a model generated (`lks.evaluation.fluency`).

    Attributes:
        draw: which of the cell's edit sets was in force.
        prompt_set: "edit" or "plain".
        number: number of the prompt in its draw.
        subject: subject of the prompt; "" for plain sentences.
        prompt: the prompt, which is not part of `text`.
        text: the generated text.
        tokens: number of generated tokens, including the end of sequence.
    """

    draw: int
    prompt_set: str
    number: int
    subject: str
    prompt: str
    text: str
    tokens: int


GENERATIONS = columns(Generation, "lks-generations", 1)


@dataclass(frozen=True, slots=True)
class Passage:
    """Likelihood of a fixed plain text (`lks.evaluation.perplexity`).

    Attributes:
        draw: which of the cell's edit sets was in force.
        passage: number of the text.
        n_tokens: number of predicted tokens: all but the first.
        logprob: sum of their log p, nats; NaN where the model gives none.
    """

    draw: int
    passage: int
    n_tokens: int
    logprob: float


PASSAGES = columns(Passage, "lks-passages", 1)


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a prefill without and with the edits in force, one right after the other.

    They come from `lks.evaluation.profiling.overheads`.

    Attributes:
        draw: which of the cell's edit sets was in force.
        batch: number of prompts in the prefill.
        pair: number of the pair among those of its batch size.
        plain_s, patched_s: seconds without and with the edits.
    """

    draw: int
    batch: int
    pair: int
    plain_s: float
    patched_s: float


TIMINGS = columns(Timing, "lks-timings", 1)
