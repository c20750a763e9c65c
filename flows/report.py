"""Flow `lks-report`: renders the store as tables and an HTML page."""

from pathlib import Path

from prefect import flow

from flows.running.artifacts import report_artifact
from flows.running.planning import folder_of, share_in_use


@flow(name="lks-report", flow_run_name="lks-report", persist_result=False)
def report(results: Path | None = None) -> str:
    """Record what finished cells left behind, then write the report.

    Args:
        results: Folder of all results. Default: `LKS_RESULTS`, else `results`.

    Returns:
        Path of the HTML page.

    Raises:
        UserError: the folder holds no results.
    """
    from reports import render

    folder = folder_of(results)
    share_in_use().exchange(folder, sending=False)
    page = render(folder).page
    report_artifact(folder, page)
    return str(page)
