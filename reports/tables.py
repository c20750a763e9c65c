"""Tables as files and for the terminal, in the layout of the paper's Table 1."""

import csv
import io

from rich.table import Table

from lks.grid import Outcome
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Block, Results, Row, Score, seconds_per_edit, why

DASH = "–"
CAPTION = "Percent, ± half-width of the 95 % interval clustered by subject. Rows marked (paper) are published values."


def number(score: Score | None, interval: bool = True) -> str:
    """A score as a table prints it: "97.4 ±1.9"; a dash where there is none."""
    if score is None or score.value is None:
        return DASH
    return f"{score.value:.1f} ±{score.half_width:.1f}" if interval and score.half_width is not None else f"{score.value:.1f}"


def table1_csv(results: Results) -> str:
    """Table 1 with a block of rows for each read-out; values as text with intervals. `results.csv` has the bare numbers."""
    n_edits = sorted({n for block in results.blocks for n in block.n_edits})
    rows = [["readout", "dataset", "model", "method", *(f"T={n} {heading}" for n in n_edits for heading in COLUMNS.values())]]
    for readout in READOUTS:
        for block in results.blocks:
            name = block.dataset + (f"[:{block.records}]" if block.records else "")
            rows += [[readout, name, block.model, *line] for line in _lines(results, block, readout, n_edits)]
    return _csv_text(rows)


def table1_md(results: Results) -> str:
    """Table 1 in Markdown: one table per read-out and model."""
    parts = ["# Results", CAPTION]
    for readout, title in READOUTS.items():
        parts.append(f"## {title}: {READOUT_NOTES[readout]}")
        for block in results.blocks:
            head = ["Method", *(f"T={n} {heading}" for n in block.n_edits for heading in COLUMNS.values())]
            table = [head, ["---", *["---:"] * (len(head) - 1)], *_lines(results, block, readout, block.n_edits)]
            rows = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)
            parts.append(f"### {block.title}\n\n{rows}")
    if not results.blocks:
        parts.append("Nothing has been run yet.")
    return "\n\n".join(parts) + "\n"


def table1_tex(results: Results) -> str:
    """Table 1 in LaTeX (booktabs, graphicx): one table per read-out, one block of rows per model."""
    return "\n".join(_tex_table(results, readout) for readout in READOUTS) if results.blocks else "% Nothing has been run yet.\n"


def results_csv(results: Results) -> str:
    """Long form: one row per cell, read-out and metric; a cell without numbers has one row that says why."""
    head = ["dataset", "records", "model", "method", "variant", "n_edits", "seed", "draws", "status", "reason"]
    rows = [[*head, "readout", "metric", "value", "half_width", "n_items", "n_subjects", "published", "cell_id"]]
    by_cell: dict[str, list[Score]] = {}
    for key in sorted(results.scores):
        by_cell.setdefault(key[0], []).append(results.scores[key])
    for outcome in results.outcomes:
        cell = outcome.cell
        variant = " ".join(f"{key}={value}" for key, value in cell.variant)
        start = [cell.dataset, str(cell.records), cell.model, cell.method, variant, str(cell.n_edits), str(cell.seed), str(cell.draws)]
        start += [outcome.status, outcome.reason]
        scores = by_cell.get(cell.id, [])
        rows += [[*start, *_long(results, outcome, score), cell.id] for score in scores] or [[*start, *[""] * 7, cell.id]]
    return _csv_text(rows)


def terminal_table(results: Results) -> Table:
    """The compact table at the end of a run, for 100 to 120 columns."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1), title="Percent; TF token as in the paper, AR exact as generated")
    table.add_column("model", no_wrap=True)
    table.add_column("method", overflow="fold")
    table.add_column("T", justify="right")
    for readout in ("TF", "AR"):
        for heading in COLUMNS.values():
            table.add_column(f"{readout}\n{heading}" if heading == "Rel" else f"\n{heading}", justify="right", no_wrap=True)
    table.add_column("s per\nedit", justify="right", no_wrap=True)
    for block in results.blocks:
        names = iter((block.model, block.dataset))
        for row in block.rows:
            for n_edits in block.n_edits:
                if n_edits in row.cells or not row.variant:
                    _terminal_row(table, results, row.cells.get(n_edits), [next(names, ""), row.name, f"{n_edits:,}"])
        table.add_section()
    return table


def _terminal_row(table: Table, results: Results, outcome: Outcome | None, start: list[str]) -> None:
    if outcome is None or outcome.status != "ok":
        table.add_row(*start, f"[dim]{why(outcome, 5)}[/]" if outcome is None else f"[red]{outcome.status}[/]", *[""] * 8)
        return
    tf, ar = ([number(results.score(outcome, readout, metric), False) for metric in COLUMNS] for readout in ("tf_token", "ar_exact"))
    seconds = seconds_per_edit(outcome)
    table.add_row(*start, *tf[:3], f"[bold]{tf[3]}[/]", *ar[:3], f"[bold]{ar[3]}[/]", f"{seconds:.2f}" if seconds else DASH)


def _lines(results: Results, block: Block, readout: str, n_edits: list[int] | tuple[int, ...]) -> list[list[str]]:
    """Rows of a block: name, then four cells per T; below a row the published one, if any."""
    lines = []
    for row in block.rows:
        lines.append([row.name])
        for n in n_edits:
            lines[-1] += _group(results, row.cells.get(n), readout) if n in block.n_edits else [""] * len(COLUMNS)
        published = _published_line(results, block, row, n_edits)
        if readout == "tf_token" and published:
            lines.append(published)
    return lines


def _group(results: Results, outcome: Outcome | None, readout: str) -> list[str]:
    reason = why(outcome)
    if outcome is None or reason:
        return [reason, *[DASH] * (len(COLUMNS) - 1)]
    return [number(results.score(outcome, readout, metric)) for metric in COLUMNS]


def _published_line(results: Results, block: Block, row: Row, n_edits: list[int] | tuple[int, ...]) -> list[str]:
    values = {(n, metric): results.published_for(block, row, n, metric) for n in block.n_edits for metric in COLUMNS}
    if all(value is None for value in values.values()):
        return []
    texts = {key: DASH if value is None else f"{value:.1f}" for key, value in values.items()}
    return [f"{row.name} (paper)", *(texts.get((n, metric), "") for n in n_edits for metric in COLUMNS)]


def _long(results: Results, outcome: Outcome, score: Score) -> list[str]:
    cell = outcome.cell
    ours = score.readout == "tf_token" and not cell.variant
    published = results.published.get((cell.dataset, cell.model, cell.method, cell.n_edits, score.metric)) if ours else None
    numbers = ["" if value is None else f"{value:.4f}" for value in (score.value, score.half_width)]
    return [score.readout, score.metric, *numbers, str(score.n_items), str(score.n_subjects), "" if published is None else f"{published:g}"]


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _tex_table(results: Results, readout: str) -> str:
    n_edits = sorted({n for block in results.blocks for n in block.n_edits})
    width = len(COLUMNS)
    groups = " & ".join(f"\\multicolumn{{{width}}}{{c}}{{$T={n}$}}" for n in n_edits)
    rules = " ".join(f"\\cmidrule(lr){{{2 + width * i}-{1 + width * (i + 1)}}}" for i in range(len(n_edits)))
    lines = [
        "\\begin{table}\n\\centering\n\\resizebox{\\linewidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * width * len(n_edits)}}}\n\\toprule",
        f" & {groups} \\\\\n{rules}",
        f"Method & {' & '.join(list(COLUMNS.values()) * len(n_edits))} \\\\",
    ]
    for block in results.blocks:
        lines.append(f"\\midrule\n\\multicolumn{{{1 + width * len(n_edits)}}}{{l}}{{\\emph{{{_tex(block.title)}}}}} \\\\")
        lines += [" & ".join(_tex(cell) for cell in line) + " \\\\" for line in _lines(results, block, readout, n_edits)]
    caption = _tex(f"{READOUTS[readout]}: {READOUT_NOTES[readout]}. {CAPTION}")
    lines.append(f"\\bottomrule\n\\end{{tabular}}}}\n\\caption{{{caption}}}\n\\label{{tab:{readout.replace('_', '-')}}}\n\\end{{table}}\n")
    return "\n".join(lines)


def _tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {"\\": "\\textbackslash{}", "±": "$\\pm$", "–": "--", "…": "\\dots{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
