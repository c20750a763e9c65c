"""Tables of `lks list`. Each function imports what it needs: listing grids and datasets does not load
torch.
"""

from rich.table import Table

from lks.data.datasets import irregularities
from lks.errors import UserError


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="bold")


def methods() -> Table:
    """List every method that was found."""
    import baselines

    table = _table("method", "title", "changes", "regime", "source")
    for name, method in baselines.methods().items():
        table.add_row(name, method.title, method.changes, method.regime, method.source)
    return table


def studies() -> Table:
    """List every study; in grids of studies they take the place of methods."""
    from lks.studies.registry import STUDIES

    table = _table("study", "title", "source")
    for name, study in STUDIES.items():
        table.add_row(name, study.title, study.source)
    return table


def models() -> Table:
    """List models with a short name, with their source and whether they are on this machine."""
    from cli.models import table

    return table()


def datasets() -> Table:
    """List every dataset with its size and irregularities."""
    from lks.data.datasets import load, names

    table = _table("dataset", "cases", "revision", "irregularities, counted and kept")
    for name in names():
        try:
            found = load(name)
        except UserError as error:
            table.add_row(name, "?", "", str(error))
            continue
        table.add_row(name, str(len(found.cases)), found.revision, irregularities(found))
    table.add_row("NAME", "", "", "your own facts: NAME.jsonl, .csv or .txt in the folder LKS_FACTS")
    return table


def grids() -> Table:
    """List every grid of the file in use."""
    import lks.runs.grid
    from flows.settings import Settings

    table = _table("grid", "what")
    for name, found in lks.runs.grid.grids(Settings().grids).items():
        table.add_row(name, found.description)
    return table
