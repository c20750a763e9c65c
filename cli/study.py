"""Commands `lks study`: where in a model facts are, and at which block to edit it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from lks.errors import UserError
from lks.progress import no_progress
from lks.results.cells import Cell
from lks.runs.grid import Grid

if TYPE_CHECKING:
    from lks.results.store import Store

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Study a model: where its facts are, and at which block to edit it.",
)


@dataclass(frozen=True, slots=True)
class BlockPoint:
    """A block's value of a curve, with its 95 % interval."""

    quantity: str
    block: int
    value: float
    low: float | None
    high: float | None


Curves = dict[str, dict[int, BlockPoint]]
"""Points by quantity and block."""


@study.callback()
def _group() -> None:
    """Make this a command group even while it has a single command."""


Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Model to study: a name from [bold]lks list models[/], or a folder.",
        metavar="NAME",
    ),
]
DatasetName = Annotated[
    str, typer.Option("--dataset", help="Dataset whose facts are used; the model should know them.")
]
Entities = Annotated[int, typer.Option("--entities", min=2, help="Number of entities to study.")]
Source = Annotated[
    str,
    typer.Option("--source", help="Source of new blocks: donor (another entity's) or edited (made by LKS)."),
]
Records = Annotated[
    int, typer.Option("--records", min=0, help="Number of facts to use, from the start; 0 means all.")
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed for the choice of entities and donors.")]
Results = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of all results. Default: $LKS_RESULTS or results.", metavar="DIR"),
]


@study.command("layers")
def layers(
    model: Model,
    dataset: DatasetName = "world",
    entities: Entities = 200,
    source: Source = "donor",
    records: Records = 0,
    seed: Seed = 0,
    results: Results = None,
) -> None:
    """Recommend a block to edit: the one where a new state tells the model most, in bits (LKS, Eq. 9).

    Runs the studies gain, swap and probe as cells of the results folder, unless they are stored.
    [bold]lks report[/] shows them, too.

    [bold]Examples[/]

      lks study layers --model micro-llama

      lks study layers --model mini-zsre-1000 --dataset zsre --records 1000

      lks study layers --model ./my-llama --dataset counterfact --entities 1000
    """
    from flows.running.planning import folder_of

    if source not in ("donor", "edited"):
        raise UserError(
            f"--source {source!r}: use donor (another entity's state) "
            "or edited (blocks that LKS makes; one training per block)."
        )
    gain: str | dict[str, str | int | float | bool] = (
        "gain" if source == "donor" else {"method": "gain", "blocks_from": source}
    )
    methods = [gain, "swap", "probe"]
    asked = Grid(
        name="study",
        models=[model],
        datasets=[dataset],
        methods=methods,
        n_edits=[entities],
        seeds=[seed],
        records=records,
        measure="study",
    )
    console = Console()
    cells, store = run_missing(console, asked, folder_of(results))
    curves = _curves(store, cells)
    if not curves.get("bits"):
        raise UserError(
            f"No entity of {dataset!r} has a donor that is asked the same. "
            "Use more --entities or another --dataset."
        )
    shown = table(curves, f"{model}, {entities} entities of {dataset}")
    Console(width=max(console.width, Console(width=1000).measure(shown).maximum)).print(shown)
    console.print(advice(curves), highlight=False, soft_wrap=True)


def run_missing(console: Console, grid: Grid, folder: Path) -> "tuple[list[Cell], Store]":
    """Run and record the cells of a small grid that the folder lacks, in this process.

    Raises:
        UserError: a name is unknown, data are missing, or a cell failed.
    """
    from flows.running.planning import cells_of, compare, only_writer
    from flows.settings import calm_transformers
    from lks.results.store import Store
    from lks.runs.cell import LoadedResources, run
    from lks.studies.registry import STUDIES

    cells = cells_of(grid)
    calm_transformers()
    bench = LoadedResources()
    with only_writer(folder):
        store = Store(folder)
        for cell in compare(grid, cells, store, retry_failed=True).todo:
            with console.status(cell.label):
                outcome = run(cell, STUDIES[cell.method], folder, no_progress, bench)
            store.record(outcome)
            if outcome.status != "ok":
                raise UserError(f"{cell.label}: {outcome.status} ({outcome.reason})")
    return cells, store


def _curves(store: "Store", cells: Sequence[Cell]) -> Curves:
    """Read the curves of some cells."""
    found: Curves = {}
    for cell in cells:
        for point in store.rows(
            BlockPoint,
            "SELECT quantity, block, value, low, high FROM study_curves WHERE cell_id = ? AND block >= 0",
            [cell.id],
        ):
            found.setdefault(point.quantity, {})[point.block] = point
    return found


def table(curves: Curves, title: str) -> Table:
    """Return a table of all blocks with the recommended one marked."""
    made = Table(box=None, header_style="bold", title=title, title_justify="left")
    for heading in (
        "block",
        "gain, bits",
        "95 %",
        "donor's answer rises",
        "becomes first",
        "old stays first",
        "probe right",
    ):
        made.add_column(heading, justify="right")
    best = best_block(curves["bits"])
    for block in sorted({block for curve in curves.values() for block in curve}):
        gain = curves["bits"].get(block)
        spread = (
            f"{gain.low:.2f} to {gain.high:.2f}"
            if gain and gain.low is not None and gain.high is not None
            else ""
        )
        shares = [
            _percent(curves.get(quantity, {}).get(block))
            for quantity in ("rises", "first", "old_first", "accuracy")
        ]
        made.add_row(
            f"{block} *" if block == best else str(block),
            f"{gain.value:.2f}" if gain else "",
            spread,
            *shares,
        )
    return made


def _percent(point: BlockPoint | None) -> str:
    return f"{100 * point.value:.0f} %" if point else ""


def best_block(gain: dict[int, BlockPoint]) -> int:
    """Return the block of the largest gain; among equal ones the lowest."""
    return max(sorted(gain), key=lambda block: gain[block].value)


def lowest_tied(gain: dict[int, BlockPoint]) -> int:
    """Return the lowest block whose interval overlaps that of the best block."""
    best = gain[best_block(gain)]
    return next(
        block
        for block in sorted(gain)
        if block == best.block
        or (best.low is not None and (gain[block].high or gain[block].value) >= best.low)
    )


def advice(curves: Curves) -> str:
    """Return the recommended block, the reason, and how to use it."""
    gain = curves["bits"]
    best, lowest = best_block(gain), lowest_tied(gain)
    point = gain[best]
    if point.value <= 0 or (point.low is not None and point.low <= 0):
        return (
            f"No block can be recommended: the largest gain, {point.value:.2f} bits at block {best}, "
            "is not distinguishable from 0."
        )
    text = (
        f"Block {best}: a new state at the subject's last token makes its answer {point.value:.1f} bits "
        "less surprising, the most of all blocks."
    )
    if lowest != best:
        text += (
            f"\nBlock {lowest} is the lowest whose 95 % interval overlaps that of block {best}; "
            "from there more blocks can use the change."
        )
    return (
        f'{text}\nTo use it: {{method = "lks", block = {best}}} among the methods of a grid, '
        "or `block` of a preset in lks/method/lks.py."
    )
