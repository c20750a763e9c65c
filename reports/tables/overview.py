"""The overview: all measurements of a cell in one wide row, as CSV and as tables for terminal and page."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from rich.table import Table

DASH = "–"


@dataclass(frozen=True, slots=True)
class Overview:
    """A row of `sql/overview.sql`, with the same columns; None where not measured.

    Units are percent, nats (KL), bits (fluency), seconds and bytes.
    """

    model: str
    dataset: str
    records: int
    split: str
    method: str
    variant: str
    end_of_answer: bool
    n_edits: int
    seed: int
    tf_rel: float | None
    tf_gen: float | None
    tf_loc: float | None
    tf_ep: float | None
    ar_rel: float | None
    ar_gen: float | None
    ar_loc: float | None
    ar_ep: float | None
    wild_rel: float | None
    wild_gen: float | None
    wild_loc: float | None
    gap: float | None
    es: float | None
    ps: float | None
    ns: float | None
    same_relation: float | None
    near_name: float | None
    far: float | None
    kl_locality_nats: float | None
    kl_same_relation_nats: float | None
    kl_near_name_nats: float | None
    kl_far_nats: float | None
    portability_wild: float | None
    portability_tf: float | None
    old_answers: int | None
    old_answers_known: int | None
    perplexity: float | None
    perplexity_ratio: float | None
    collapse: str | None
    fluency_edit: float | None
    words_edit: float | None
    fluency_plain: float | None
    words_plain: float | None
    ability: float | None
    ability_kept: float | None
    ability_kept_above_chance: float | None
    fires_in_scope: float | None
    fires_outside: float | None
    seconds_per_edit: float
    prepare_s: float
    edit_s: float
    ask_s: float
    ability_s: float | None
    further_s: float | None
    peak_bytes: int
    patch_bytes: int
    overhead_1_percent: float | None
    overhead_1_low: float | None
    overhead_1_high: float | None
    overhead_32_percent: float | None
    overhead_32_low: float | None
    overhead_32_high: float | None
    failed: str | None
    cell_id: str


def _plain(value: float | None) -> str:
    """Format a number with one decimal, or as a dash."""
    return DASH if value is None else f"{value:.1f}"


def _fine(value: float | None) -> str:
    """Format a number with two decimals, or in scientific notation if it is small."""
    return DASH if value is None else f"{value:.2f}" if value >= 0.005 or not value else f"{value:.0e}"


def _mark(row: Overview) -> str:
    """Return perplexity as a multiple of the unedited model's, with a warning if it indicates a collapse."""
    return _fine(row.perplexity_ratio) + ("" if row.collapse in (None, "fine") else f" {row.collapse}")


HEADINGS: dict[str, tuple[str, str, Callable[[Overview], str]]] = {
    "wild_rel": ("WILD", "Rel", lambda row: _plain(row.wild_rel)),
    "wild_gen": ("WILD", "Gen", lambda row: _plain(row.wild_gen)),
    "wild_loc": ("WILD", "Loc", lambda row: _plain(row.wild_loc)),
    "gap": ("WILD", "gap", lambda row: _plain(row.gap)),
    "es": ("likelier", "ES", lambda row: _plain(row.es)),
    "ps": ("likelier", "PS", lambda row: _plain(row.ps)),
    "ns": ("likelier", "NS", lambda row: _plain(row.ns)),
    "same_relation": ("others kept", "same", lambda row: _plain(row.same_relation)),
    "near_name": ("others kept", "near", lambda row: _plain(row.near_name)),
    "far": ("others kept", "far", lambda row: _plain(row.far)),
    "kl": ("KL", "Loc", lambda row: _fine(row.kl_locality_nats)),
    "portability": ("WILD", "Port", lambda row: _plain(row.portability_wild)),
    "perplexity": ("text", "ppl ×", _mark),
    "fluency": ("text", "edit", lambda row: _fine(row.fluency_edit)),
    "fluency_plain": ("text", "plain", lambda row: _fine(row.fluency_plain)),
    "ability": ("ability", "acc", lambda row: _plain(row.ability)),
    "ability_kept": ("ability", "kept", lambda row: _plain(row.ability_kept)),
    "fires_in_scope": ("gate fires", "in", lambda row: _plain(row.fires_in_scope)),
    "fires_outside": ("gate fires", "out", lambda row: _plain(row.fires_outside)),
}
"""Columns of the compact table: group, heading, function that formats a row's value."""


def used(rows: Sequence[Overview]) -> list[str]:
    """Return the columns that have a value in some row."""
    return [name for name, (_, _, text) in HEADINGS.items() if any(text(row) != DASH for row in rows)]


def overview_csv(rows: Sequence[Overview]) -> str:
    """Return all columns as CSV, bare numbers."""
    names = [field.name for field in fields(Overview)]
    return csv_text([names, *([getattr(row, name) for name in names] for row in rows)])


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Format rows as CSV; None is empty, floats have at most six decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(
            [
                ""
                if value is None
                else f"{value:.6f}".rstrip("0").rstrip(".")
                if isinstance(value, float)
                else value
                for value in row
            ]
        )
    return text.getvalue()


def terminal_table(rows: Sequence[Overview], name_of: Callable[[Overview], str]) -> Table:
    """Return the compact table, by T, with one row per method."""
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        title_justify="left",
    )
    table.title = "Beyond the paper's metrics (report: data/overview.csv, terms on the page)"
    table.add_column("model", no_wrap=True)
    table.add_column("T", justify="right")
    table.add_column("method", overflow="fold")
    columns = used(rows)
    for name in columns:
        group, heading, _ = HEADINGS[name]
        first = name == columns[0] or HEADINGS[columns[columns.index(name) - 1]][0] != group
        table.add_column(f"{group if first else ''}\n{heading}", justify="right", no_wrap=True)
    last: Overview | None = None
    names: list[str] = []
    for row in rows:
        fresh = last is None or (last.model, last.dataset, last.records) != (
            row.model,
            row.dataset,
            row.records,
        )
        names = [row.model, row.dataset] if fresh else names
        count = f"{row.n_edits:,}" if fresh or last is None or last.n_edits != row.n_edits else ""
        table.add_row(
            names.pop(0) if names else "", count, name_of(row), *(HEADINGS[name][2](row) for name in columns)
        )
        last = row
    return table
