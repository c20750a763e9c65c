"""A table as data; `reports.tables.formats` writes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from lks.results.cells import RULE, RULE_NOTE


def rule_note(names: Iterable[str]) -> str:
    """Return the footnote of a table in which a method's name is marked "(rule)"; empty where none is."""
    return RULE_NOTE if any(f"({RULE}{end}" in name for name in names for end in "),") else ""


def one_digit(value: float) -> str:
    """Percent and points as all tables print them."""
    return f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Value:
    """A number with what is said about it, or why there is none.

    Attributes:
        value: in the column's unit; None if there is none.
        low, high: ends of its 95 % interval.
        published: the same quantity as a paper prints it.
        leads: the best of its column and part, or not significantly worse.
        why: why there is no value: "not run", "oom", "not applicable"; never empty then.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    leads: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        """Check that a missing value says why.

        Raises:
            ValueError: neither a value nor a reason.
        """
        if self.value is None and not self.why:
            raise ValueError("a value that is missing must say why")

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length; the value need not be in its middle."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def difference(self) -> float | None:
        """Ours less the published."""
        return None if self.value is None or self.published is None else self.value - self.published


Entry = Value | str


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        heading: above it.
        group: above the headings of neighbouring columns with the same group; empty for none.
        show: a number as text.
        note: what it is, for a reader who points at it.
    """

    heading: str
    group: str = ""
    show: Callable[[float], str] = one_digit
    note: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row; rows of a part stand together under its name."""

    entries: tuple[Entry, ...]
    part: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: which table of which paper it is, and its read-out.
        columns: all of them.
        rows: each with as many entries as there are columns.
        caption: what a reader must know: unit, interval, device, source of published values.
        keys: so many columns at the left say which row it is.
        readout: of its numbers, if they have one.
        device: on which our numbers were made.
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
        """Check that rows fit.

        Raises:
            ValueError: a row has another number of entries.
        """
        for row in self.rows:
            if len(row.entries) != len(self.columns):
                raise ValueError(
                    f"table {self.name}: {len(row.entries)} entries for {len(self.columns)} columns in {row.entries[: self.keys]}"
                )

    @property
    def parts(self) -> list[tuple[str, list[TableRow]]]:
        """Rows by part, in order."""
        return [(part, list(rows)) for part, rows in groupby(self.rows, lambda row: row.part)]

    @property
    def note(self) -> str:
        """Caption, what its marks mean and device in one line."""
        words = (entry for row in self.rows for entry in row.entries if isinstance(entry, str))
        device = f"Ours: {self.device}." if self.device else ""
        return " ".join(filter(None, (self.caption, rule_note(words), device)))
