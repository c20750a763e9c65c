"""All tables of the report, by the stem of their file names."""

from lks.results.reader import Reader
from reports.results import Results
from reports.tables.extra import abilities, contexts, errors, retention, scope
from reports.tables.known import known
from reports.tables.model import Table
from reports.tables.paper import appendix_e, table1, table2_4, table3, table5, table6, texts
from reports.tables.seconds import seconds
from reports.tables.survey import portability, survey4, survey5


def tables(results: Results, store: Reader) -> dict[str, list[Table]]:
    """Return all tables of evaluation cases; a table with nothing to show has no rows.

    Args:
        results: results as returned by `reports.results.load`.
        store: reader of the same results folder.
    """
    shown = results.of("evaluation")
    written = texts(store)
    return {
        "table1": table1(shown),
        "table2_4": table2_4(shown, store),
        "table3": table3(shown),
        "table5": table5(shown, written),
        "table6": table6(shown, store),
        "appendix_e": appendix_e(shown, store),
        "survey4": survey4(shown, written),
        "survey5": survey5(shown, store),
        "scope": scope(shown, store),
        "known": known(shown, store),
        "portability": portability(shown),
        "abilities": abilities(shown, store),
        "retention": retention(shown),
        "errors": errors(shown, store),
        "contexts": contexts(shown, store),
        "seconds": seconds(shown),
    }


def development(results: Results) -> list[Table]:
    """Return the grid of Table 1 for the development cases, on which settings are chosen.

    These are never results, so no published values are shown next to them.
    """
    return table1(results.of("development"), "Development cases, for choosing settings")
