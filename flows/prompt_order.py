"""Prompt writing for `lks data make` and flow `lks-data`: facts in, files out, all checked before any
request.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from flows.prompt_facts import keep_facts, material_of
from lks.data.template_prompts import TemplateSource
from lks.errors import StoreError, UserError
from lks.io.locks import locked
from lks.llm.client import ChatModel, ChatReply, Request
from lks.llm.limits import NOTHING, PRICES, Budget, Price, RequestLimits, RequestUsage
from lks.llm.reply_cache import Correspondence
from lks.llm.server import ChatServer
from lks.progress import no_progress
from lks.prompts.extraction import VERSION as EXTRACTION
from lks.prompts.extraction import Extracted, extract
from lks.prompts.files import REPLIES, keep, prompts_in, write_lines
from lks.prompts.filters import PromptFact, Seen, Split
from lks.prompts.instructions import VERSION
from lks.prompts.pipeline import SPLITS, Counts, WritingOutcome, write
from lks.prompts.writers import ChatWriter, Estimate, TemplateWriter, estimate

TEMPLATE_ATTEMPTS = 8
"""Attempts per record; more than there are templates, so that all of them are tried."""
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """A request to write prompts for facts.

    Attributes:
        dataset: zsre, counterfact, or a file of facts.
        out: folder of the files; it also keeps the replies, so the same order resumes where an earlier one
            stopped.
        split: which set to write; None: both, or training if `offline`.
        model: name of the model on its server.
        base_url: URL of the server; default `OPENAI_BASE_URL`, else OpenAI's. The key is only read from
            `OPENAI_API_KEY`.
        limit: use only the first N facts.
        offline: use no model; prompts come from templates of the dataset.
        max_cost, max_tokens: spending caps (US dollars, tokens) over all requests ever made for this folder.
        rpm, tpm: maximum number of requests and tokens per minute.
        concurrency: maximum number of concurrent requests.
        price_in, price_out: US dollars per million tokens; those of gpt-4o-mini are known.
        timeout_s: seconds until a request counts as failed.
    """

    dataset: str
    out: Path
    split: Literal["evaluation", "training", "both"] | None = None
    model: str = "gpt-4o-mini"
    base_url: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    offline: bool = False
    max_cost: Annotated[float, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    rpm: Positive | None = None
    tpm: Positive | None = None
    concurrency: Annotated[int, Field(ge=1)] = 8
    price_in: Annotated[float, Field(ge=0)] | None = None
    price_out: Annotated[float, Field(ge=0)] | None = None
    timeout_s: Positive = 60.0

    @property
    def splits(self) -> tuple[Split, ...]:
        """The sets to write."""
        split = self.split or ("training" if self.offline else "both")
        return SPLITS if split == "both" else (split,)

    @property
    def price(self) -> Price | None:
        """The prices given, or else those known for the model.

        Raises:
            UserError: only one of the two prices is given.
        """
        if self.price_in is None and self.price_out is None:
            return PRICES.get(self.model)
        if self.price_in is None or self.price_out is None:
            raise UserError("Give both prices, --price-in and --price-out, in US dollars per million tokens.")
        return Price(self.price_in, self.price_out)


@dataclass(frozen=True, slots=True)
class WrittenPrompts:
    """Summary of the prompts that were written.

    Attributes:
        summary: content of summary.json.
        whole: number of records that have all prompts, by split.
        rejected: number of rejected replies, by reason.
        lacking: number of prompts that could not be written.
        spent: tokens of all requests ever made for the folder.
        usd: their cost in US dollars; None if the price is not known.
        asked: number of requests in this run.
    """

    summary: dict[str, object]
    whole: dict[Split, int]
    rejected: dict[str, int]
    lacking: int
    spent: RequestUsage
    usd: float | None
    asked: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an order: counts of prompts, and what was spent for the folder so far."""

    counts: Counts
    spent: RequestUsage
    usd: float | None


def check_order(order: PromptOrder) -> None:
    """Check an order before anything is read.

    Raises:
        UserError: the order cannot be carried out.
    """
    if order.offline and "evaluation" in order.splits:
        raise UserError(
            "--offline writes the training set only: an evaluation prompt needs a known answer, "
            "and templates have none. Use --split training."
        )
    if order.base_url and (urlsplit(order.base_url).username or urlsplit(order.base_url).query):
        raise UserError(
            "The URL of the server must contain neither a password nor parameters. "
            "Pass the key in OPENAI_API_KEY."
        )
    if order.price is None and order.max_cost is not None and not order.offline:
        raise UserError(
            f"The prices of {order.model} are not known: --max-cost needs --price-in and --price-out. "
            "Or use --max-tokens."
        )


def make(order: PromptOrder, show: Callable[[Progress], None] = no_progress) -> WrittenPrompts:
    """Write the prompts of an order.

    Raises:
        UserError: the order, its facts or the server are not usable, or a spending cap is reached; replies
            received until then are kept.
    """
    check_order(order)
    material = material_of(order.dataset, order.limit, order.offline)
    server = None if order.offline else ChatServer.named("The model", order.base_url)
    with _alone(order.out):
        seen = _seen(order, material.facts)
        if server is None:
            templates = TemplateWriter(TemplateSource(material.records), TEMPLATE_ATTEMPTS)
            outcome = write(
                material.facts,
                order.splits,
                templates,
                seen,
                lambda counts: show(Progress(counts, NOTHING, None)),
            )
            used = spent = NOTHING
            usd, asked = None, 0
        else:
            correspondence = _correspondence(order, server)
            budget = correspondence.chat.budget
            writer = ChatWriter(correspondence)
            outcome = write(
                material.facts,
                order.splits,
                writer,
                seen,
                lambda counts: show(Progress(counts, budget.spent, budget.usd)),
            )
            used, spent, usd, asked = writer.used, budget.spent, budget.usd, correspondence.chat.asked
        summary = _summary(order, material.facts, outcome, used)
        keep(order.out, material.facts, order.splits, outcome, summary)
        if material.own is not None:
            keep_facts(order.out / "facts.jsonl", material, outcome)
    whole = {split: outcome.whole(split, material.facts) for split in order.splits}
    return WrittenPrompts(summary, whole, outcome.reasons(), len(outcome.lacking), spent, usd, asked)


def extracted(order: PromptOrder, show: Callable[[Progress], None] = no_progress) -> list[Extracted]:
    """Extract what a model knows of the subjects as up-to-date fill-in prompts; they are kept in
    extracted.jsonl.

    Raises:
        UserError: the order, its facts or the server are not usable, or a spending cap is reached; replies
            received until then are kept.
    """
    check_order(order)
    facts = material_of(order.dataset, order.limit, offline=False).facts
    server = ChatServer.named("The model", order.base_url)
    with _alone(order.out):
        correspondence = _correspondence(order, server, EXTRACTION)
        budget, counts = correspondence.chat.budget, Counts(0)

        def arrived() -> None:
            counts.arrived += 1
            show(Progress(counts, budget.spent, budget.usd))

        def ask(requests: Sequence[Request]) -> list[ChatReply]:
            counts.wanted += sum(not correspondence.known(request) for request in requests)
            return correspondence.ask(requests, arrived)

        found = extract(facts, ask)
        write_lines(order.out / "extracted.jsonl", map(asdict, found))
    return found


def foresee(order: PromptOrder) -> Estimate:
    """Estimate what an order will take, without sending or writing anything.

    Raises:
        UserError: the order or its facts are not usable.
    """
    check_order(order)
    facts = material_of(order.dataset, order.limit, order.offline).facts
    if order.offline:
        return Estimate(0, RequestUsage(), 0)
    kept = order.out / REPLIES
    known = (
        Correspondence(ChatModel(ChatServer("The model", "", ""), order.model), kept, VERSION)
        if kept.is_file()
        else None
    )
    return estimate(facts, order.splits, _seen(order, facts), known)


def _seen(order: PromptOrder, facts: Sequence[PromptFact]) -> Seen:
    """Return the prompts that exist already: of edits, of published evaluation sets and of the other
    split.
    """
    seen = Seen.of(facts)
    for split in set(SPLITS) - set(order.splits):
        seen.written[split] |= prompts_in(order.out, split)
    return seen


def _correspondence(order: PromptOrder, server: ChatServer, version: str = VERSION) -> Correspondence:
    limits = RequestLimits(
        order.concurrency, 6, order.timeout_s, requests_per_minute=order.rpm, tokens_per_minute=order.tpm
    )
    chat = ChatModel(server, order.model, limits, Budget(order.price, order.max_cost, order.max_tokens))
    return Correspondence(chat, order.out / REPLIES, version)


def _summary(
    order: PromptOrder, facts: Sequence[PromptFact], outcome: WritingOutcome, used: RequestUsage
) -> dict[str, object]:
    """Return counts and costs, without time, place or key, so that a second run writes the same file."""
    usd = order.price.of(used) if order.price and not order.offline else None
    whole = {split: outcome.whole(split, facts) for split in order.splits}
    return {
        "dataset": Path(order.dataset).name,
        "model": None if order.offline else order.model,
        "prompt_version": TemplateSource.version if order.offline else VERSION,
        "facts": len(facts),
        "whole_records": whole,
        "rejected": outcome.reasons(),
        "lacking": len(outcome.lacking),
        "tokens": {"prompt": used.prompt, "reply": used.reply},
        "usd": None if usd is None else round(usd, 6),
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder for one run; the lock is released when the process ends.

    Raises:
        StoreError: the folder cannot be written, or another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror}. Name another folder with --out."
        ) from None
    with file:
        if locked(file) is False:
            raise StoreError(
                f"Another run is writing to {folder}. Wait for it, or name another folder with --out."
            )
        yield
