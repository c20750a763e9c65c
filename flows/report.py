"""Flow `lks-report`: the store becomes tables and a page."""

from pathlib import Path

from prefect import flow

from flows.planning import folder_of


@flow(name="lks-report", persist_result=False)
def report(results: Path | None = None) -> str:
    """Record what finished cells left behind, then write the report.

    Args:
        results: folder of all results.

    Returns:
        Path of the HTML page.

    Raises:
        UserError: the folder holds no results.
    """
    from reports import render

    return str(render(folder_of(results)).page)
