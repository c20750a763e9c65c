"""A table as data; `reports.tables.formats` writes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from lks.results.cells import RULE, RULE_NOTE


def rule_note(names: Iterable[str]) -> str:
    """Return the footnote for tables that mark a method "(rule)"; empty if no name is marked."""
    return RULE_NOTE if any(f"({RULE}{end}" in name for name in names for end in "),") else ""


def one_digit(value: float) -> str:
    """Format percentages and points as all tables print them."""
    return f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Value:
    """A number with its interval and published value, or the reason for having none.

    Attributes:
        value: number in the column's unit; None if there is none.
        low, high: ends of its 95 % interval.
        published: the same quantity as printed in a paper.
        leads: whether it is the best of its column and part, or not significantly worse.
        why: why there is no value: "not run", "oom", "not applicable"; required if `value` is None.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    leads: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        """Check that a missing value has a reason.

        Raises:
            ValueError: neither a value nor a reason is given.
        """
        if self.value is None and not self.why:
            raise ValueError("a value that is missing must say why")

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length; the value need not be in its middle."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def difference(self) -> float | None:
        """Our value minus the published one."""
        return None if self.value is None or self.published is None else self.value - self.published


Entry = Value | str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its heading.
        group: heading shared with neighbouring columns of the same group; empty for none.
        show: function that formats a number.
        note: explanation, shown as a tooltip.
    """

    heading: str
    group: str = ""
    show: Callable[[float], str] = one_digit
    note: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row; rows of the same part are grouped under its name."""

    entries: tuple[Entry, ...]
    part: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        name: stem of its file names.
        title: which table of which paper it is, and its read-out.
        columns: all columns.
        rows: rows, each with as many entries as there are columns.
        caption: what a reader must know: unit, interval, device, source of published values.
        keys: number of columns at the left that identify a row.
        readout: read-out of its numbers, if they have one.
        device: device on which our numbers were measured.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    caption: str = ""
    keys: int = 1
    readout: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        """Check that each row has one entry per column.

        Raises:
            ValueError: a row has a different number of entries.
        """
        for row in self.rows:
            if len(row.entries) != len(self.columns):
                raise ValueError(
                    f"table {self.name}: {len(row.entries)} entries for {len(self.columns)} columns in "
                    f"{row.entries[: self.keys]}"
                )

    @property
    def parts(self) -> list[tuple[str, list[TableRow]]]:
        """Rows by part, in order."""
        return [(part, list(rows)) for part, rows in groupby(self.rows, lambda row: row.part)]

    @property
    def note(self) -> str:
        """Caption, explanation of marks, and device, in one line."""
        words = (entry for row in self.rows for entry in row.entries if isinstance(entry, str))
        device = f"Ours: {self.device}." if self.device else ""
        return " ".join(filter(None, (self.caption, rule_note(words), device)))
