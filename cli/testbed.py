"""Commands `lks testbed`: train and check the small models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

testbed = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train and check small models that know the synthetic world or real records.",
)

Model = Annotated[
    str | None,
    typer.Argument(
        help="Model: micro-llama, micro-mistral or mini-DATASET-RECORDS. Default: both micro models."
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
        typer.Option(
            "--records",
            min=50,
            max=10_000,
            help="Number of the dataset's records that the mini model learns.",
        ),
    ] = 10_000,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for the built model. Default: where grids look for it.", metavar="DIR"
        ),
    ] = None,
    data: DataFolder = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed for weights and batch order.")] = 0,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="Train for about this many minutes instead of the recipe's steps."),
    ] = None,
) -> None:
    """Train a small model from scratch, on a GPU if there is one; a stopped build resumes where it was.

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
    """Check what an editor relies on in a built model: recall, where facts are stored (swap table),
    abilities.

    Exit code 1 if the check fails.

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
    """Return the models to use if none is named: a mini model of the dataset, or all that are shipped."""
    from lks.models.testbed_models import NAMES

    return ["mini"] if dataset else [name for name in NAMES if name.startswith("micro-")]
