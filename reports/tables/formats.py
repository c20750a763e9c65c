"""The four output formats of a table: CSV, Markdown, LaTeX (booktabs) and HTML."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import groupby

from markupsafe import Markup, escape

from reports.tables.model import Column, Entry, Table, TableRow, Value

MINUS = "−"
LONG = 40
"""Length in characters above which a LaTeX text column wraps its lines."""


def csv_text(tables: Sequence[Table]) -> str:
    """Format the tables of one file as CSV.

    Tables with numbers are written in long form: one line per number, under the names of its row's keys, with
    its interval, the published value, the difference (ours minus published) and, if there is no number, the
    reason. Tables that hold only words are written as they are; all of them must then have the same columns.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if all(isinstance(entry, str) for table in tables for row in table.rows for entry in row.entries):
        writer.writerow(["part", *(column.heading for column in tables[0].columns)])
        writer.writerows([row.part, *row.entries] for table in tables for row in table.rows)
        return text.getvalue()
    names = list(dict.fromkeys(column.heading for table in tables for column in table.columns[: table.keys]))
    writer.writerow([*_LEAD, *names, "group", "column", *_NUMBERS, "device"])
    for table in tables:
        headings = [column.heading for column in table.columns[: table.keys]]
        for row in table.rows:
            keys = dict(zip(headings, row.entries, strict=False))
            start = [table.title, table.readout, row.part, *(keys.get(name, "") for name in names)]
            for column, entry in zip(table.columns[table.keys :], row.entries[table.keys :], strict=True):
                device = "" if isinstance(entry, Value) and entry.value is None else table.device
                writer.writerow([*start, column.group, column.heading, *_fields(entry), device])
    return text.getvalue()


_LEAD = ("table", "readout", "part")
_NUMBERS = ("value", "low", "high", "published", "difference", "leads", "why")


def _fields(entry: Entry) -> list[str]:
    """Return the fields of an entry, in the order of `_NUMBERS`."""
    if isinstance(entry, str):
        return [entry, *[""] * 6]
    numbers = (entry.value, entry.low, entry.high, entry.published, entry.difference)
    texts = ("" if number is None else f"{number:.6f}".rstrip("0").rstrip(".") for number in numbers)
    return [*texts, "yes" if entry.leads else "", entry.why if entry.value is None else ""]


def markdown(tables: Sequence[Table]) -> str:
    """Format the tables of one file as Markdown.

    The leading values are bold; the published value and the difference are in parentheses.
    """
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    """Format one table as Markdown."""
    parts = [f"## {table.title}", table.note] if table.note else [f"## {table.title}"]
    head = [_plain(f"{column.group} {column.heading}".strip()) for column in table.columns]
    rule = ["---"] * table.keys + [
        "---:" if _numeric(table, i) else "---" for i in range(table.keys, len(table.columns))
    ]
    for name, rows in table.parts:
        lines = [
            head,
            rule,
            *(
                [
                    _words(entry, column, "**", "**", _plain)
                    for entry, column in zip(row.entries, table.columns, strict=True)
                ]
                for row in rows
            ),
        ]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts.append(f"### {name}\n\n{text}" if name else text)
    if not table.rows:
        parts.append("Nothing of this has been measured yet.")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Return a text on one line with Markdown's special characters escaped."""
    return re.sub(r"([\\`*|\[\]]|<(?=[A-Za-z/!?]))", r"\\\1", " ".join(text.split()))


def latex(tables: Sequence[Table]) -> str:
    """Format the tables of one file as LaTeX (booktabs, graphicx)."""
    return "\n".join(_latex(table, number) for number, table in enumerate(tables))


def _latex(table: Table, number: int) -> str:
    """Format one table as LaTeX; `number` makes its label unique within the file."""
    aligned = "".join(_aligned(table, i) for i in range(len(table.columns)))
    lines = [
        f"\\begin{{table}}\n\\centering\n\\resizebox{{\\linewidth}}{{!}}{{%\n\\begin{{tabular}}{{{aligned}}}\n\\toprule"
    ]
    if any(column.group for column in table.columns):
        spans = list(_spans(table))
        lines.append(
            " & ".join(
                f"\\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}" if group else " & " * (width - 1)
                for _, width, group in spans
            )
            + " \\\\"
        )
        lines.append(
            " ".join(
                f"\\cmidrule(lr){{{start + 1}-{start + width}}}" for start, width, group in spans if group
            )
        )
    lines.append(" & ".join(_tex(column.heading) for column in table.columns) + " \\\\")
    for name, rows in table.parts:
        lines.append(
            "\\midrule"
            + (f"\n\\multicolumn{{{len(table.columns)}}}{{l}}{{\\emph{{{_tex(name)}}}}} \\\\" if name else "")
        )
        for row in rows:
            pairs = zip(row.entries, table.columns, strict=True)
            lines.append(
                " & ".join(_words(entry, column, "\\textbf{", "}", _tex) for entry, column in pairs) + " \\\\"
            )
    caption, label = (
        _tex(" ".join(filter(None, (table.title + ".", table.note)))),
        table.name + (f"-{number}" if number else ""),
    )
    lines.append(
        f"\\bottomrule\n\\end{{tabular}}}}\n\\caption{{{caption}}}\n\\label{{tab:{label}}}\n\\end{{table}}\n"
    )
    return "\n".join(lines)


def _aligned(table: Table, i: int) -> str:
    """Return the alignment of a LaTeX column; columns with words longer than `LONG` characters wrap."""
    if i >= table.keys and _numeric(table, i):
        return "r"
    longest = max((len(entry) for row in table.rows if isinstance(entry := row.entries[i], str)), default=0)
    return f"p{{{LONG // 2}em}}" if longest > LONG else "l"


FORMS: dict[str, Callable[[Sequence[Table]], str]] = {"csv": csv_text, "md": markdown, "tex": latex}
"""File extension -> function that formats the tables of a file."""


def html(table: Table) -> Markup:
    """Format a table as HTML.

    The head has buttons for sorting, and number cells carry their sort values.
    """
    spans = list(_spans(table))
    first = {start for start, _, group in spans if group}
    groups = "".join(
        f'<th class="t first" scope="colgroup" colspan="{width}">{escape(group)}</th>'
        if group
        else "<td></td>" * width
        for _, width, group in spans
    )
    numeric = [_numeric(table, i) for i in range(len(table.columns))]
    heads = "".join(_head(i, column, i in first, numeric[i]) for i, column in enumerate(table.columns))
    bodies = []
    for name, rows in table.parts:
        title = (
            f'<tr class="part"><th colspan="{len(table.columns)}" scope="rowgroup">{escape(name)}</th></tr>'
            if name
            else ""
        )
        bodies.append(
            f"<tbody>{title}{''.join(_html_row(table, row, first, numeric) for row in rows)}</tbody>"
        )
    top = f"<tr>{groups}</tr>" if any(column.group for column in table.columns) else ""
    return Markup(f'<table class="results"><thead>{top}<tr>{heads}</tr></thead>{"".join(bodies)}</table>')


def _head(i: int, column: Column, is_first: bool, is_numeric: bool) -> str:
    """Return the HTML of a column's head."""
    note = f' title="{escape(column.note)}"' if column.note else ""
    classes = " ".join(filter(None, ("first" if is_first else "", "" if is_numeric else "left")))
    style = f' class="{classes}"' if classes else ""
    return (
        f'<th scope="col"{style}{note}>'
        f'<button type="button" data-column="{i}">{escape(column.heading)}</button></th>'
    )


def _html_row(table: Table, row: TableRow, first: set[int], numeric: Sequence[bool]) -> str:
    """Return the HTML of a row."""
    cells = []
    for i, (entry, column) in enumerate(zip(row.entries, table.columns, strict=True)):
        mark = "first " if i in first else ""
        if isinstance(entry, str):
            cells.append(
                f'<th scope="row">{escape(entry)}</th>'
                if i == 0
                else f'<td class="{mark}{"" if numeric[i] else "left"}">{escape(entry)}</td>'
            )
            continue
        at = "" if entry.value is None else f' data-v="{round(entry.value, 6):g}"'
        if entry.value is None:
            inside = f'<span class="why">{escape(entry.why)}</span>'
        else:
            half = (
                f'<span class="half">±{column.show(entry.half_width)}</span>'
                if entry.half_width is not None
                else ""
            )
            inside = f"{escape(column.show(entry.value))}{half}"
        if entry.published is not None:
            inside += f'<span class="paper">paper {escape(_published(entry, column))}</span>'
        cells.append(f'<td class="{mark}n{" ep" if entry.leads else ""}"{at}>{inside}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _spans(table: Table) -> list[tuple[int, int, str]]:
    """Return the first column, width and name of each run of columns with the same group."""
    spans, start = [], 0
    for group, columns in groupby(table.columns, lambda column: column.group):
        width = len(list(columns))
        spans.append((start, width, group))
        start += width
    return spans


def _numeric(table: Table, i: int) -> bool:
    """Return whether a column holds any numbers, not only reasons for having none."""
    entries = [row.entries[i] for row in table.rows]
    return any(
        isinstance(entry, Value) and (entry.value is not None or entry.published is not None)
        for entry in entries
    )


def _words(entry: Entry, column: Column, begin: str, end: str, quote: Callable[[str], str] = str) -> str:
    """Return an entry as text: "97.4 ±1.9 (98.0, −0.6)", marked if it leads, or why it has no value."""
    if isinstance(entry, str):
        return quote(entry)
    text = entry.why if entry.value is None else column.show(entry.value)
    if entry.value is not None and entry.half_width is not None:
        text += f" ±{column.show(entry.half_width)}"
    text = f"{begin}{quote(text)}{end}" if entry.leads else quote(text)
    return f"{text} {quote(f'({_published(entry, column)})')}" if entry.published is not None else text


def _published(entry: Value, column: Column) -> str:
    """Return the published value, and our value minus it."""
    text = column.show(entry.published) if entry.published is not None else ""
    if entry.difference is None:
        return text
    return f"{text}, {MINUS if entry.difference < 0 else '+'}{column.show(abs(entry.difference))}"


TEX = {
    "\\": "\\textbackslash{}",
    "±": "$\\pm$",
    "–": "--",
    "…": "\\dots{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    MINUS: "$-$",
    "×": "$\\times$",
    "→": "$\\to$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "[": "{[}",
    '"': "''",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "\n": " ",
}
"""Characters that LaTeX interprets or does not know, with their replacements."""


def _tex(text: str) -> str:
    """Escape a text for pdfLaTeX.

    Characters missing in its fonts (free texts hold anything) become codes such as "U+4E2D".
    """
    return "".join(
        TEX.get(c) or (f"\\{c}" if c in "&%$#_{}" else c if _printed(c) else f"U+{ord(c):04X}") for c in text
    )


def _printed(character: str) -> bool:
    """Return whether pdfLaTeX prints a character without further packages.

    It prints ASCII, and Latin letters with accents.
    """
    if character.isascii():
        return character.isprintable()
    return (
        ord(character) < 0x180
        and unicodedata.category(character).startswith("L")
        and unicodedata.decomposition(character) != ""
    )
