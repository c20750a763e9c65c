"""Flow `lks-cell`: one cell by its coordinates. Names in, file paths out; the next `lks grid` or `lks report` records it."""

from pathlib import Path
from typing import Annotated, Literal

from prefect import flow, get_run_logger
from pydantic import Field

from flows.grid import Bench
from flows.planning import cells_of, folder_of
from flows.progress import Lines
from lks.errors import UserError
from lks.grid import Grid, Measure, Split

Count = Annotated[int, Field(ge=1)]


@flow(name="lks-cell", flow_run_name="{method}-{model}-{dataset}-T{n_edits}", persist_result=False)
def cell(
    model: str,
    dataset: str,
    method: str,
    n_edits: Count,
    seed: int = 0,
    draws: Count = 1,
    variant: dict[str, str] | None = None,
    records: int = 0,
    split: Split = "evaluation",
    measure: Measure = "answers",
    contexts: list[Literal["qa", "chat"]] | None = None,
    fluency: bool = False,
    gates: bool = False,
    ability: list[str] | None = None,
    documents: int = 0,
    results: Path | None = None,
) -> list[str]:
    """Run one cell, whether or not it is in the store.

    Args:
        model: name.
        dataset: name.
        method: name.
        n_edits: T, edits per draw.
        seed: of the order of cases and of training.
        draws: number of disjoint edit sets.
        variant: overridden parameters.
        records: only the first so many cases; 0 means all.
        split: which part of the cases is edited.
        measure: what is stored.
        contexts: further ones in which the probes are put (`lks.grid.Extras`).
        fluency: whether free texts are written.
        gates: whether gated methods are asked which prompts they act on.
        ability: names of lm-eval tasks.
        documents: of each task; 0 means all.
        results: folder of all results.

    Returns:
        Parquet shards, one per stage.

    Raises:
        UserError: an unknown name or missing data.
    """
    asked: dict[str, str | int | float | bool] = {"method": method, **(variant or {})}
    coordinates = Grid(
        name="cell",
        models=[model],
        datasets=[dataset],
        methods=[asked],
        n_edits=[n_edits],
        draws={n_edits: draws},
        seeds=[seed],
        records=records,
        split=split,
        measure=measure,
        contexts=contexts or [],
        fluency=fluency,
        gates=gates,
        ability=ability or [],
        documents=documents,
    )
    folder = folder_of(results)
    wanted = next(c for c in cells_of(coordinates) if c.method == method and dict(c.variant) == (variant or {}))
    outcome = Bench(folder, Lines(get_run_logger().info), coordinates.extras).run(wanted)
    if outcome.status != "ok":
        raise UserError(f"{wanted.label}: {outcome.status} ({outcome.reason})")
    return [str(folder / shard) for shard in outcome.shards]
