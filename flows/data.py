"""Flow `lks-data`: fetches and checks datasets before a grid needs them, or writes prompts for facts."""

import time
from dataclasses import dataclass
from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from flows.prompt_order import Progress, PromptOrder, make
from flows.running.artifacts import write_markdown
from lks.data.datasets import irregularities, load, names
from lks.errors import UserError

LINE_EVERY_S = 10.0
"""Seconds between two lines of progress in the log."""

Name = Annotated[str, Field(json_schema_extra={"enum": list(names())})]


@dataclass(frozen=True, slots=True)
class LocalDataset:
    """A dataset on this machine.

    Attributes:
        name: name as used in grids.
        cases: number of cases; 0 if there is a problem.
        revision: hash of the content.
        notes: irregularities, or what to do to obtain the dataset.
    """

    name: str
    cases: int
    revision: str
    notes: str


@flow(name="lks-data", flow_run_name="lks-data", persist_result=False)
def data(datasets: list[Name] | None = None, order: PromptOrder | None = None) -> list[LocalDataset]:
    """Fetch datasets, check them against their pinned content and report sizes and revisions; or write
    prompts.

    Args:
        datasets: Names of datasets. Empty means all (none if there is an order); then those that cannot be
            had are reported, too.
        order: Prompts to write, as for `lks data make`. Folders are on the worker's machine, which must also
            have the key in OPENAI_API_KEY.

    Returns:
        One entry per dataset.

    Raises:
        UserError: a name is unknown, a named dataset cannot be had, or the order cannot be carried out.
    """
    if order is not None:
        _write(order)
    if order is not None and not datasets:
        return []
    found = [_found(name, asked=bool(datasets)) for name in datasets or names()]
    log = get_run_logger()
    for one in found:
        log.info("%s: %d cases, revision %s (%s)", one.name, one.cases, one.revision or "?", one.notes)
    rows = [f"| {one.name} | {one.cases or ''} | {one.revision} | {one.notes} |" for one in found]
    write_markdown(
        "lks-data",
        "\n".join(["| dataset | cases | revision | notes |", "|---|---|---|---|", *rows]),
        "Datasets on the worker's machine",
    )
    return found


def _write(order: PromptOrder) -> None:
    """Write the prompts of an order, logging progress from time to time; a retry of the flow resumes the
    work.
    """
    log, said = get_run_logger(), time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal said
        if time.monotonic() - said > LINE_EVERY_S:
            said = time.monotonic()
            counts = progress.counts
            log.info(
                "%d of %d prompts, %d rejected, %d tokens",
                counts.accepted,
                counts.wanted,
                counts.rejected,
                progress.spent.total,
            )

    made = make(order, show)
    log.info(
        "%s: complete records %s, %d prompts missing, %d requests now, %d tokens in total",
        order.out,
        made.whole,
        made.lacking,
        made.asked,
        made.spent.total,
    )
    rows = [f"| {key} | {value} |" for key, value in made.summary.items()]
    write_markdown("lks-data-made", "\n".join(["| | |", "|---|---|", *rows]), f"Prompts in {order.out}")


def _found(name: str, asked: bool) -> LocalDataset:
    try:
        dataset = load(name)
    except UserError as error:
        if asked:
            raise
        return LocalDataset(name, 0, "", str(error))
    return LocalDataset(name, len(dataset.cases), dataset.revision, irregularities(dataset))
