"""Commands `lks data`: write evaluation and training prompts for facts."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from flows.prompt_order import Progress, PromptOrder, WrittenPrompts

LINE_EVERY_S = 10.0
"""Seconds between two progress lines if there is no terminal."""
FEW_TEMPLATES = (
    "Templates come from the facts themselves and the published data on this machine. "
    "Without --offline a model writes prompts for any fact."
)

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Write evaluation and training prompts for facts.",
)


@data.callback()
def _group() -> None:
    """Make this a command group even while it has a single command."""


Out = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Output folder; it also keeps all replies, so that a stopped run can resume.",
        metavar="DIR",
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="Facts to use: zsre, counterfact, or a file of facts (see docs/data.md).",
        metavar="NAME|FACTS.jsonl",
    ),
]
Model = Annotated[str, typer.Option("--model", help="Name of the chat model on its server.", metavar="NAME")]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        help="URL of the chat model's server. Default: $OPENAI_BASE_URL, else OpenAI's.",
        metavar="URL",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Number of facts to use, from the start. Default: all.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost", min=0, help="Spending cap in US dollars, over all runs for this folder.", metavar="USD"
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=0, help="Token cap, over all runs for this folder."),
]
Rpm = Annotated[float | None, typer.Option("--rpm", help="Maximum number of requests per minute.")]
Tpm = Annotated[float | None, typer.Option("--tpm", help="Maximum number of tokens per minute.")]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="Maximum number of concurrent requests.")
]
PriceIn = Annotated[
    float | None,
    typer.Option(
        "--price-in",
        min=0,
        help="Price of prompt tokens in US dollars per million. Known for gpt-4o-mini.",
    ),
]
PriceOut = Annotated[
    float | None,
    typer.Option(
        "--price-out",
        min=0,
        help="Price of reply tokens in US dollars per million. Known for gpt-4o-mini.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds until a request counts as failed.", metavar="S")
]


@data.command("make")
def make_prompts(
    dataset: DatasetName,
    out: Out,
    split: Annotated[
        Literal["evaluation", "training", "both"] | None,
        typer.Option("--split", help="Which prompts to write. Default: both; with --offline: training."),
    ] = None,
    model: Model = "gpt-4o-mini",
    base_url: BaseUrl = None,
    limit: Limit = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Use no model: make training prompts from templates of the dataset."),
    ] = False,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrency: Concurrency = 8,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    timeout: Timeout = 60.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the number of requests, tokens and dollars needed; send nothing."
        ),
    ] = False,
) -> None:
    """Write evaluation.jsonl and training.jsonl for facts, with a chat model or from templates.

    The key is read from $OPENAI_API_KEY and stored nowhere. Unusable replies are requested again and listed
    in rejects.jsonl.

    [bold]Examples[/]

      lks data make --dataset zsre --out prompts/zsre --dry-run

      lks data make --dataset facts.jsonl --out prompts/mine --max-cost 1

      lks data make --dataset counterfact --out prompts/counterfact --offline
    """
    from flows.prompt_order import PromptOrder, make

    order = PromptOrder(
        dataset, out, split, model, base_url, limit, offline, max_cost, max_tokens,
        rpm, tpm, concurrency, price_in, price_out, timeout
    )  # fmt: skip
    console = Console()
    if dry_run:
        _say_estimate(console, order)
        return
    with _Bar(console) as bar:
        made = make(order, bar.show)
    _say_made(console, order, made)


@data.command("extract")
def extract_knowledge(
    dataset: DatasetName,
    out: Out,
    model: Model = "gpt-4o-mini",
    base_url: BaseUrl = None,
    limit: Limit = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrency: Concurrency = 8,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    timeout: Timeout = 60.0,
) -> None:
    """Extract what a model knows about each subject, update it with the edit, and turn it into fill-in
    prompts.

    The prompts are written to extracted.jsonl.

    [bold]Example[/]

      lks data extract --dataset facts.jsonl --out knowledge --max-cost 1
    """
    from flows.prompt_order import PromptOrder, extracted

    console = Console()
    order = PromptOrder(
        dataset, out, None, model, base_url, limit, False, max_cost, max_tokens,
        rpm, tpm, concurrency, price_in, price_out, timeout
    )  # fmt: skip
    with _Bar(console, "replies") as bar:
        found = extracted(order, bar.show)
    gaps = sum(len(one.gaps) for one in found)
    with_edit = sum(any(gap.edited for gap in one.gaps) for one in found)
    console.print(
        f"{out / 'extracted.jsonl'}: {gaps:,} fill-in prompts for {len(found):,} facts, "
        f"of which {with_edit:,} have one for the edited fact",
        highlight=False,
        soft_wrap=True,
    )


class _Bar:
    """Display of prompts done, rejected replies, tokens, cost and time left; use it as a context manager.

    It is a bar on a terminal, and a line from time to time elsewhere.
    """

    def __init__(self, console: Console, what: str = "prompts") -> None:
        self._console, self._said, self._what = console, time.monotonic(), what
        columns = (
            TextColumn(what),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[more]}"),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None, more="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: "Progress") -> None:
        """Show the progress."""
        counts = progress.counts
        done = counts.accepted + counts.lacking + counts.arrived
        judged = f"{counts.rejected} rejected, {counts.lacking} missing, " if self._what == "prompts" else ""
        more = f"{judged}{progress.spent.total:,} tokens{_money(progress.usd)}"
        self._bar.update(self._task, total=counts.wanted, completed=min(done, counts.wanted), more=more)
        if not self._console.is_terminal and time.monotonic() - self._said > LINE_EVERY_S:
            self._said = time.monotonic()
            self._console.print(
                f"{done}/{counts.wanted} {self._what}, {more}", highlight=False, soft_wrap=True
            )


def _money(usd: float | None) -> str:
    return "" if usd is None else f", {usd:.4f} USD"


def _say_estimate(console: Console, order: "PromptOrder") -> None:
    """Print what an order will take."""
    from flows.prompt_order import foresee
    from lks.prompts.writers import ATTEMPTS

    if order.offline:
        console.print("No requests: --offline takes prompts from templates.", highlight=False)
        return
    found = foresee(order)
    usd = None if order.price is None else order.price.of(found.usage)
    price = "; the price is not known (--price-in, --price-out)" if usd is None else _money(usd)
    console.print(
        f"{found.requests:,} requests to {order.model}, in addition to {found.known:,} "
        "that are answered already; "
        f"about {found.usage.prompt:,} prompt tokens and {found.usage.reply:,} reply tokens{price}. "
        f"Rejected replies are requested again: at most {ATTEMPTS} times as much.",
        highlight=False,
        soft_wrap=True,
    )


def _say_made(console: Console, order: "PromptOrder", made: "WrittenPrompts") -> None:
    """Print what was written, and why some of it was not."""
    from lks.prompts.files import FILES

    summary = made.summary
    for split, whole in made.whole.items():
        console.print(
            f"{order.out / FILES[split]}: {whole:,} of {summary['facts']:,} records have all prompts",
            highlight=False,
            soft_wrap=True,
        )
    if not order.offline:
        console.print(
            f"{made.asked:,} requests in this run; "
            f"in total for this folder {made.spent.total:,} tokens{_money(made.usd)}",
            highlight=False,
        )
    if made.rejected:
        table = Table("rejected because", "replies", box=None, header_style="bold")
        for reason, count in made.rejected.items():
            table.add_row(reason, f"{count:,}")
        console.print(table)
    if made.lacking:
        why = f". {FEW_TEMPLATES}" if order.offline else ""
        console.print(
            f"{made.lacking:,} prompts are missing, listed in {order.out / 'lacking.jsonl'}{why}",
            highlight=False,
            soft_wrap=True,
        )
