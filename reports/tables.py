"""Tables as files, in the layout of the paper's Table 1."""

import csv
import io
from collections.abc import Sequence

from lks.grid import Outcome
from reports.overview import csv_text
from reports.results import COLUMNS, READOUT_NOTES, READOUTS, Block, Results, Row, Score, seconds_per_edit, why

DASH = "–"
PER_EDIT, PREPARE = "s/edit", "Prepare s"
CAPTION = (
    "Percent, ± half of the 95 % interval, clustered by subject (its ends are in results.csv). *: the best method and all not significantly worse "
    "(paired cluster bootstrap, Holm over the table; comparisons.csv). Rows marked (paper) are published values. "
    "Seconds per edit are without preparation, which is done once."
)


def number(score: Score | None, interval: bool = True, mark: str = "") -> str:
    """A score as a table prints it: "97.4 ±1.9", "*97.4 ±1.9" with a mark; a dash where there is none."""
    if score is None or score.value is None:
        return DASH
    return mark + (f"{score.value:.1f} ±{score.half_width:.1f}" if interval and score.half_width is not None else f"{score.value:.1f}")


def short(seconds: float) -> str:
    """Seconds with two or three digits: "0.0021", "0.35", "12.4", "1,250"; a dash for less than a tenth of a millisecond."""
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.2g}" if seconds >= 0.0001 else DASH


def preparation(seconds: float) -> str:
    """Seconds of preparation; a dash for what only looks whether there is something to prepare."""
    return short(seconds) if seconds >= 0.01 else DASH


def table1_csv(results: Results) -> str:
    """Table 1 with a block of rows for each read-out; values as text with intervals. `results.csv` has the bare numbers."""
    n_edits = sorted({n for block in results.blocks for n in block.n_edits})
    rows = [["readout", "dataset", "model", "method", "regime", *_head(n_edits)[2:]]]
    for readout in READOUTS:
        for block in results.blocks:
            name = block.dataset + (f"[:{block.records}]" if block.records else "")
            rows += [[readout, name, block.model, *line] for line in _lines(results, block, readout, n_edits)]
    return _csv_text(rows)


def table1_md(results: Results, title: str = "Results") -> str:
    """Table 1 in Markdown: one table per read-out and model."""
    parts = [f"# {title}", CAPTION]
    for readout, heading in READOUTS.items():
        parts.append(f"## {heading}: {READOUT_NOTES[readout]}")
        for block in results.blocks:
            head = _head(block.n_edits)
            table = [head, ["---", "---", *["---:"] * (len(head) - 2)], *_lines(results, block, readout, block.n_edits)]
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
    costs = ["status", "reason", "prepare_s", "seconds_per_edit"]
    rows = [[*CELL_HEAD, *costs, "readout", "metric", "value", "low", "high", "n_items", "n_subjects", "published", "cell_id"]]
    by_cell: dict[str, list[Score]] = {}
    for key in sorted(results.scores):
        by_cell.setdefault(key[0], []).append(results.scores[key])
    for outcome in results.outcomes:
        seconds = [f"{outcome.costs.prepare_s:.3f}", f"{seconds_per_edit(outcome):.5f}"] if outcome.status == "ok" else ["", ""]
        start = [*_coordinates(outcome), outcome.status, outcome.reason, *seconds]
        scores = by_cell.get(outcome.cell.id, [])
        rows += [[*start, *_long(results, outcome, score), outcome.cell.id] for score in scores] or [[*start, *[""] * 8, outcome.cell.id]]
    return _csv_text(rows)


def retention_csv(results: Results) -> str:
    """What sequential methods keep, long form: one row per cell, read-out and metric."""
    rows = [[*CELL_HEAD, "readout", "metric", "immediate", "final", "lost", "half_width", "n_items", "n_subjects", "cell_id"]]
    outcomes = {outcome.cell.id: outcome for outcome in results.outcomes}
    for key in sorted(results.kept):
        kept = results.kept[key]
        numbers = ["" if value is None else f"{value:.4f}" for value in (kept.immediate, kept.final, kept.lost, kept.half_width)]
        counts = [str(kept.n_items), str(kept.n_subjects)]
        rows.append([*_coordinates(outcomes[kept.cell_id]), kept.readout, kept.metric, *numbers, *counts, kept.cell_id])
    return _csv_text(rows)


def comparisons_csv(results: Results) -> str:
    """Each method against the best one of its table: points of percent, p values before and after Holm, who is tied."""
    columns = ["readout", "metric", "difference", "low", "high", "p", "adjusted_p", "mcnemar_p", "tied", "cell_id", "best_id"]
    outcomes = {outcome.cell.id: outcome for outcome in results.outcomes}
    rows: list[list[object]] = [[*CELL_HEAD, *columns]]
    rows += [[*_coordinates(outcomes[one.cell_id]), *(getattr(one, name) for name in columns)] for one in results.comparisons]
    return csv_text(rows)


CELL_HEAD = ["split", "dataset", "records", "model", "method", "variant", "regime", "n_edits", "seed", "draws"]


def _coordinates(outcome: Outcome) -> list[str]:
    """Which cell it is, under `CELL_HEAD`."""
    cell = outcome.cell
    variant = " ".join(f"{key}={value}" for key, value in cell.variant)
    where = [cell.split, cell.dataset, str(cell.records), cell.model, cell.method, variant, outcome.provenance.get("regime", "")]
    return [*where, str(cell.n_edits), str(cell.seed), str(cell.draws)]


def _head(n_edits: Sequence[int]) -> list[str]:
    """Headings of `_lines`."""
    return ["Method", "Regime", *(f"T={n} {heading}" for n in n_edits for heading in (*COLUMNS.values(), PER_EDIT)), PREPARE]


def _lines(results: Results, block: Block, readout: str, n_edits: list[int] | tuple[int, ...]) -> list[list[str]]:
    """Rows of a block: name, regime, five cells per T, preparation; below a row the published one, if any."""
    lines = []
    for row in block.rows:
        lines.append([row.name, row.regime])
        for n in n_edits:
            lines[-1] += _group(results, row.cells.get(n), readout) if n in block.n_edits else [""] * (len(COLUMNS) + 1)
        lines[-1].append(preparation(row.prepare_s))
        published = _published_line(results, block, row, n_edits)
        if readout == "tf_token" and published:
            lines.append(published)
    return lines


def _group(results: Results, outcome: Outcome | None, readout: str) -> list[str]:
    reason = why(outcome)
    if outcome is None or reason:
        return [reason, *[DASH] * len(COLUMNS)]
    marks = ["*" if (outcome.cell.id, readout, metric) in results.leaders else "" for metric in COLUMNS]
    numbers = [number(results.score(outcome, readout, metric), mark=mark) for metric, mark in zip(COLUMNS, marks, strict=True)]
    return [*numbers, short(seconds_per_edit(outcome))]


def _published_line(results: Results, block: Block, row: Row, n_edits: list[int] | tuple[int, ...]) -> list[str]:
    values = {(n, metric): results.published_for(block, row, n, metric) for n in block.n_edits for metric in COLUMNS}
    if all(value is None for value in values.values()):
        return []
    texts = {key: DASH if value is None else f"{value:.1f}" for key, value in values.items()}
    return [f"{row.name} (paper)", "", *(texts.get((n, metric), "") for n in n_edits for metric in (*COLUMNS, PER_EDIT)), ""]


def _long(results: Results, outcome: Outcome, score: Score) -> list[str]:
    cell = outcome.cell
    ours = score.readout == "tf_token" and not cell.variant and cell.split == "evaluation"
    published = results.published.get((cell.dataset, cell.model, cell.method, cell.n_edits, score.metric)) if ours else None
    numbers = ["" if value is None else f"{value:.4f}" for value in (score.value, score.low, score.high)]
    return [score.readout, score.metric, *numbers, str(score.n_items), str(score.n_subjects), "" if published is None else f"{published:g}"]


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _tex_table(results: Results, readout: str) -> str:
    n_edits = sorted({n for block in results.blocks for n in block.n_edits})
    width, columns = len(COLUMNS) + 1, 2 + (len(COLUMNS) + 1) * len(n_edits) + 1
    groups = " & ".join(f"\\multicolumn{{{width}}}{{c}}{{$T={n}$}}" for n in n_edits)
    rules = " ".join(f"\\cmidrule(lr){{{3 + width * i}-{2 + width * (i + 1)}}}" for i in range(len(n_edits)))
    lines = [
        "\\begin{table}\n\\centering\n\\resizebox{\\linewidth}{!}{%",
        f"\\begin{{tabular}}{{ll{'r' * (columns - 2)}}}\n\\toprule",
        f" & & {groups} & \\\\\n{rules}",
        f"Method & Regime & {' & '.join([*COLUMNS.values(), PER_EDIT] * len(n_edits))} & {PREPARE} \\\\",
    ]
    for block in results.blocks:
        lines.append(f"\\midrule\n\\multicolumn{{{columns}}}{{l}}{{\\emph{{{_tex(block.title)}}}}} \\\\")
        lines += [" & ".join(_tex(cell) for cell in line) + " \\\\" for line in _lines(results, block, readout, n_edits)]
    caption = _tex(f"{READOUTS[readout]}: {READOUT_NOTES[readout]}. {CAPTION}")
    lines.append(f"\\bottomrule\n\\end{{tabular}}}}\n\\caption{{{caption}}}\n\\label{{tab:{readout.replace('_', '-')}}}\n\\end{{table}}\n")
    return "\n".join(lines)


def _tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {"\\": "\\textbackslash{}", "±": "$\\pm$", "–": "--", "…": "\\dots{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
