"""Flow `lks-data`: the named datasets are fetched and checked before a grid needs them."""

from dataclasses import dataclass
from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from flows.artifacts import write_markdown
from flows.lists import irregularities
from lks.datasets import load, names
from lks.errors import UserError

Name = Annotated[str, Field(json_schema_extra={"enum": list(names())})]


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset on this machine.

    Attributes:
        name: as in grids.
        cases: number of them; 0 where there is a problem.
        revision: hash of the content.
        notes: irregularities, or what is to be done to have it.
    """

    name: str
    cases: int
    revision: str
    notes: str


@flow(name="lks-data", flow_run_name="lks-data", persist_result=False)
def data(datasets: list[Name] | None = None) -> list[Found]:
    """Fetch datasets, check them against their pinned content, and report sizes and revisions.

    Args:
        datasets: names; empty means all, and then those that cannot be had are reported, too.

    Returns:
        One entry per dataset.

    Raises:
        UserError: an unknown name, or a named dataset cannot be had.
    """
    found = [_found(name, asked=bool(datasets)) for name in datasets or names()]
    log = get_run_logger()
    for one in found:
        log.info("%s: %d cases, revision %s (%s)", one.name, one.cases, one.revision or "?", one.notes)
    rows = [f"| {one.name} | {one.cases or ''} | {one.revision} | {one.notes} |" for one in found]
    write_markdown("lks-data", "\n".join(["| dataset | cases | revision | notes |", "|---|---|---|---|", *rows]), "Datasets on the worker's machine")
    return found


def _found(name: str, asked: bool) -> Found:
    try:
        dataset = load(name)
    except UserError as error:
        if asked:
            raise
        return Found(name, 0, "", str(error))
    return Found(name, len(dataset.cases), dataset.revision, irregularities(dataset))
