"""What each scope indicator decides on prompts about subjects that are not edited, prompt by prompt, against the number of edits.

The decisions are stored as Parquet in the results folder; rates are a query over them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lks.edits import Edit
from lks.errors import DataError, TooManyEdits
from lks.scope import Scope, ScopeKind, make_scope
from lks.shards import write_whole

PLACE = Path("scope") / "decisions.parquet"

RATES = """
SELECT scope, dataset, n_edits, probe_set, count(*) AS probes,
    100 * avg(fired::INTEGER) AS fired,
    100 * avg((subject_expected <> '' AND subject_found = subject_expected)::INTEGER) FILTER (subject_expected <> '') AS right_subject,
    100 * avg((fired AND subject_found <> subject_expected)::INTEGER) AS another_subject
FROM read_parquet(?) GROUP BY ALL ORDER BY dataset, probe_set, n_edits, scope
"""
"""One row per scope, dataset, T and probe set, in percent. `another_subject` counts every match on a prompt that expects none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one scope indicator said about one prompt.

    Attributes:
        scope: its kind.
        dataset: whose subjects are edited.
        n_edits: T.
        draw: number of the edit set of this T.
        probe_set: "edited" or "others".
        probe: number of the prompt in its set.
        fired: whether anything was found.
        subject_found: the first subject found, or "".
        subject_expected: the edited subject that the prompt is about, or "".
    """

    scope: str
    dataset: str
    n_edits: int
    draw: int
    probe_set: str
    probe: int
    fired: bool
    subject_found: str
    subject_expected: str


def decisions(kind: ScopeKind, dataset: str, edits: Sequence[Edit], n_edits: int, draws: int = 1, probes: int = 500) -> Iterator[Decision]:
    """Decisions on prompts about other subjects and on the edit prompts, so many of each at most.

    The prompts about others are the first `probes` of one seeded order; edit sets are drawn from the subjects of the rest.

    Raises:
        TooManyEdits: fewer subjects are left.
    """
    order = list(edits)
    Random(0).shuffle(order)
    others = order[:probes]
    asked = {edit.subject.casefold() for edit in others}
    left = list({edit.subject: edit for edit in order[probes:] if edit.subject.casefold() not in asked}.values())
    if n_edits > len(left):
        raise TooManyEdits(f"{dataset} has {len(left)} subjects beside those of the {probes} prompts, {n_edits} were asked for. Lower T.")
    for draw in range(draws):
        chosen = Random(draw).sample(left, n_edits)
        scope = make_scope(kind, [[edit.subject] for edit in chosen])
        for name, asked_edits in (("others", others), ("edited", chosen[:probes])):
            for number, edit in enumerate(asked_edits):
                found = _found(scope, chosen, edit.prompt)
                yield Decision(kind, dataset, n_edits, draw, name, number, found is not None, found or "", edit.subject if name == "edited" else "")


def _found(scope: Scope, chosen: Sequence[Edit], prompt: str) -> str | None:
    """The first subject found."""
    return next((chosen[mention.subject_index].subject for mention in scope.find(prompt)), None)


def write(results: Path, rows: Sequence[Decision]) -> Path:
    """Store decisions in a results folder, in the place of what was there.

    Raises:
        StoreError: the folder cannot be written.
    """
    table = pa.table({field.name: [getattr(row, field.name) for row in rows] for field in fields(Decision)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_whole(results / PLACE, sink.getvalue().to_pybytes())
    return results / PLACE


@dataclass(frozen=True, slots=True)
class Rates:
    """A row of `RATES`; percent."""

    scope: str
    dataset: str
    n_edits: int
    probe_set: str
    probes: int
    fired: float
    right_subject: float | None
    another_subject: float


def rates(results: Path) -> list[Rates]:
    """All rates of what is stored.

    Raises:
        DataError: nothing is stored, or the file is damaged.
    """
    file = results / PLACE
    if not file.is_file():
        raise DataError(f"{file} does not exist. Run lks scope study first.")
    try:
        with duckdb.connect() as connection:
            return [Rates(*row) for row in connection.execute(RATES, [str(file)]).fetchall()]
    except duckdb.Error as error:
        raise DataError(f"{file} is damaged ({str(error).splitlines()[0]}). Run lks scope study again.") from None
