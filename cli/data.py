"""`lks data`: have evaluation and training prompts written for facts."""

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
"""Seconds between two lines of progress where there is no terminal."""
FEW_TEMPLATES = "Templates come from the facts themselves and the published data on this machine. Without --offline a model writes for any fact."

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Have evaluation and training prompts written for facts.",
)


@data.callback()
def _group() -> None:
    """A group even while it has one command."""


Out = Annotated[
    Path,
    typer.Option(
        "--out", help="Folder of the files, and of all replies: a stopped run goes on there.", metavar="DIR"
    ),
]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset", help="zsre, counterfact, or a file of facts (docs/data.md).", metavar="NAME|FACTS.jsonl"
    ),
]
Model = Annotated[str, typer.Option("--model", help="Name of the model on its server.", metavar="NAME")]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="The server. Default: $OPENAI_BASE_URL, else OpenAI's.", metavar="URL"),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many facts.")]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, help="Spend at most so much for this folder.", metavar="USD"),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=0, help="Use at most so many tokens for this folder.")
]
Rpm = Annotated[float | None, typer.Option("--rpm", help="Requests per minute at most.")]
Tpm = Annotated[float | None, typer.Option("--tpm", help="Tokens per minute at most.")]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Requests on their way at most.")]
PriceIn = Annotated[
    float | None,
    typer.Option("--price-in", min=0, help="USD per million tokens asked. Known for gpt-4o-mini."),
]
PriceOut = Annotated[float | None, typer.Option("--price-out", min=0, help="USD per million tokens replied.")]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds until a request counts as failed.", metavar="S")
]


@data.command("make")
def make_prompts(
    dataset: DatasetName,
    out: Out,
    split: Annotated[
        Literal["evaluation", "training", "both"] | None,
        typer.Option("--split", help="Which set. Default: both; with --offline: training."),
    ] = None,
    model: Model = "gpt-4o-mini",
    base_url: BaseUrl = None,
    limit: Limit = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Ask no model: take training prompts from templates of the dataset."),
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
            "--dry-run", help="Say how many requests, tokens and dollars it will take; ask nothing."
        ),
    ] = False,
) -> None:
    """Write evaluation.jsonl and training.jsonl for the facts, with a chat model or from templates.

    The key is read from $OPENAI_API_KEY and kept nowhere. Replies that are not usable are asked for again and listed in rejects.jsonl.

    [bold]Examples[/]

      lks data make --dataset zsre --out prompts/zsre --dry-run

      lks data make --dataset facts.jsonl --out prompts/mine --max-cost 1

      lks data make --dataset counterfact --out prompts/counterfact --offline
    """
    from flows.prompt_order import PromptOrder, make

    order = PromptOrder(
        dataset, out, split, model, base_url, limit, offline, max_cost, max_tokens, rpm, tpm, concurrency, price_in, price_out, timeout
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
    """Have a model say what it knows of each subject, bring that up to date with the edit, and make gap-filling prompts of it.

    The prompts are written to extracted.jsonl.

    [bold]Example[/]

      lks data extract --dataset facts.jsonl --out knowledge --max-cost 1
    """
    from flows.prompt_order import PromptOrder, extracted

    console = Console()
    order = PromptOrder(
        dataset, out, None, model, base_url, limit, False, max_cost, max_tokens, rpm, tpm, concurrency, price_in, price_out, timeout
    )  # fmt: skip
    with _Bar(console, "replies") as bar:
        found = extracted(order, bar.show)
    gaps = sum(len(one.gaps) for one in found)
    with_edit = sum(any(gap.edited for gap in one.gaps) for one in found)
    console.print(
        f"{out / 'extracted.jsonl'}: {gaps:,} gap-filling prompts for {len(found):,} facts, of which {with_edit:,} have one for the edited fact",
        highlight=False,
        soft_wrap=True,
    )


class _Bar:
    """Prompts done, rejected, tokens, money and time left: a bar on a terminal, a line now and then elsewhere. Use as a context manager."""

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
        """Show how far it is."""
        counts = progress.counts
        done = counts.accepted + counts.lacking + counts.arrived
        judged = f"{counts.rejected} rejected, {counts.lacking} lacking, " if self._what == "prompts" else ""
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
    """What an order will take."""
    from flows.prompt_order import foresee
    from lks.prompts.writers import ATTEMPTS

    if order.offline:
        console.print("No requests: --offline takes prompts from templates.", highlight=False)
        return
    found = foresee(order)
    usd = None if order.price is None else order.price.of(found.usage)
    price = "; the price is not known (--price-in, --price-out)" if usd is None else _money(usd)
    console.print(
        f"{found.requests:,} requests to {order.model}, beside {found.known:,} that are answered already; "
        f"about {found.usage.prompt:,} tokens asked and {found.usage.reply:,} replied{price}. "
        f"Rejected replies are asked for again: at most {ATTEMPTS} times as much.",
        highlight=False,
        soft_wrap=True,
    )


def _say_made(console: Console, order: "PromptOrder", made: "WrittenPrompts") -> None:
    """What was written, and why some of it was not."""
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
            f"{made.asked:,} requests now; for this folder in all {made.spent.total:,} tokens{_money(made.usd)}",
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
            f"{made.lacking:,} prompts are lacking: {order.out / 'lacking.jsonl'}{why}",
            highlight=False,
            soft_wrap=True,
        )
