"""`lks testbed`: train and check the small models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

testbed = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train and check small models that know the made world or real records.",
)

Model = Annotated[
    str | None,
    typer.Argument(
        help="micro-llama, micro-mistral or mini-DATASET-RECORDS; both micro models if nothing is given."
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder of the datasets. Default: $LKS_DATA, else downloaded.", metavar="DIR"
    ),
]


@testbed.command("build")
def build_models(
    name: Model = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Build a mini model that knows this dataset: zsre or counterfact."),
    ] = None,
    records: Annotated[
        int,
        typer.Option("--records", min=50, max=10_000, help="How many of its records the mini model knows."),
    ] = 10_000,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the model. Default: where grids look for it.", metavar="DIR"),
    ] = None,
    data: DataFolder = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and batches.")] = 0,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Train about so long instead of the recipe's steps.")
    ] = None,
) -> None:
    """Train a small model from scratch, on a GPU if there is one; a stopped build goes on where it was.

    [bold]Examples[/]

      lks testbed build                               both micro models

      lks testbed build --dataset zsre --records 1000  a mini model
    """
    from lks.testbed.build import build

    for wanted in [name] if name else _asked_models(dataset):
        folder = build(
            wanted,
            out,
            dataset=dataset or "world",
            records=records,
            data_dir=data,
            seed=seed,
            minutes=minutes,
        )
        Console().print(f"{wanted}: {folder}", highlight=False, soft_wrap=True)


@testbed.command("check")
def check_models(name: Model = None, data: DataFolder = None) -> None:
    """Ask a built model what an editor relies on: recall, where facts sit (swap table), abilities. Exit 1 if it fails.

    [bold]Example[/]

      lks testbed check mini-zsre-1000
    """
    from lks.testbed.build import check

    console = Console()
    passed = True
    for wanted in [name] if name else _asked_models(None):
        report = check(wanted, data_dir=data)
        console.print(*report.table(), sep="\n")
        passed = passed and report.passed
    if not passed:
        raise typer.Exit(1)


def _asked_models(dataset: str | None) -> list[str]:
    """Without a name: a mini model of the dataset, or all models that are shipped."""
    from lks.models.testbed_models import NAMES

    return ["mini"] if dataset else [name for name in NAMES if name.startswith("micro-")]
