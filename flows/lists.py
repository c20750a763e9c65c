"""What `lks list` shows. Each function imports what it needs: grids and datasets are listed without loading torch."""

from rich.table import Table

from lks.errors import UserError


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="bold")


def methods() -> Table:
    """Every method that was found."""
    import baselines

    table = _table("method", "title", "changes", "edits", "source")
    for name, method in baselines.methods().items():
        table.add_row(name, method.title, method.changes, method.regime, method.source)
    return table


def models() -> Table:
    """Testbed models with the command that builds them if need be, and pinned models of the hub."""
    from flows.planning import build_command, revision_of_model
    from lks.lm import HUB
    from lks.testbed import NAMES

    table = _table("model", "revision", "where from")
    for name in NAMES:
        try:
            table.add_row(name, revision_of_model(name), "testbed")
        except UserError:
            table.add_row(name, "not built", build_command(name))
    for name, source in HUB.items():
        table.add_row(name, source.revision[:16], source.repository)
    table.add_row("FOLDER or OWNER/NAME", "", "any causal language model of a known family")
    return table


def datasets() -> Table:
    """Every dataset."""
    from lks.datasets import names

    table = _table("dataset")
    for name in names():
        table.add_row(name)
    return table


def grids() -> Table:
    """Every grid of the file in use."""
    import lks.grid
    from flows.settings import Settings

    table = _table("grid", "what")
    for name, found in lks.grid.grids(Settings().grids).items():
        table.add_row(name, found.description)
    return table
