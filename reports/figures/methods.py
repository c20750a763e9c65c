"""Figures with a line per method: gap between read-outs, the survey's sub-metrics, errors in free answers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.figures.axes import (
    LINE,
    Frame,
    across_percents,
    heading,
    keys,
    list_height,
    list_width,
    listed,
    sheet,
)
from reports.figures.data import EXACT, ReportData, compared
from reports.figures.drawing import Absent, Drawing
from reports.figures.style import COLOURS, DEEP, FAINT, INK, PAPER, RULE, SOFT, MethodStyle
from reports.results import READOUTS, Block, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAPS = {
    "tf_token": ("o", COLOURS[0], 8.0),
    "ar_exact": ("s", COLOURS[1], 5.2),
    "wild": ("D", COLOURS[2], 2.6),
}
"""Read-outs from the most lenient to the strictest: marker, colour and size."""

LESSER = {
    "same_relation": "same\nrelation", "near_name": "like-named\nsubject", "far": "far\nsubject",
    "locality/same_subject": "same\nsubject", "locality/forgetfulness": "forget-\nfulness",
    "locality/relation_specificity": "relation\nspecificity", "portability/alias": "port.:\nalias",
    "portability/reasoning": "port.:\nreasoning", "portability/logical": "port.:\nlogical",
    "portability/reverse": "port.:\nreverse", "portability/two_hop": "port.:\ntwo hop",
    "portability_all": "port.:\nall",
}  # fmt: skip
"""Parts of locality and portability, the survey's and our own, with their panel titles.

Other parts follow under their own names."""

ERRORS = {
    "missing_token": ("a part is missing", COLOURS[4]),
    "partial_replacement": ("partly replaced", COLOURS[1]), "unchanged": ("old answer", COLOURS[5]),
    "knowledge_irrelevant": ("something else", DEEP), "meaningless": ("meaningless", INK),
}  # fmt: skip
"""Classes of errors from the nearest to the farthest: name and colour; neighbours differ in lightness."""


def readouts(source: ReportData) -> Drawing | Absent:
    """Draw the reliability of each method under three read-outs, with a column for each T.

    The read-outs are teacher forcing, exact generation and free generation.
    """
    name, title = "readouts", "One edit, three read-outs"
    blocks = [
        (block, names)
        for block in source.results.blocks
        if (names := _having(source, block, "tf_token", "reliability"))
    ]
    if not blocks:
        return Absent(name, title, "no method was run: lks grid")
    blocks = compared(blocks, len)
    columns = max(len(block.n_edits) for block, _ in blocks)
    frame = Frame(
        left=max(list_width(names) for _, names in blocks),
        bottom=0.5,
        top=0.2 + 2 * LINE,
        down=0.35 + 2 * LINE,
        across=0.12,
    )
    figure, rows = sheet([list_height(names) for _, names in blocks], columns, frame)
    for (block, names), panels in zip(blocks, rows, strict=True):
        heading(panels[0], block.title)
        for axes, n_edits in zip(panels, block.n_edits, strict=False):
            listed(axes, names, axes is panels[0])
            across_percents(axes, f"T = {n_edits:,}")
            for row in block.rows:
                if row.name in names and row.cells.get(n_edits):
                    scores = {
                        one: source.results.score(row.cells[n_edits], one, "reliability") for one in GAPS
                    }
                    _gap(axes, names.index(row.name), scores)
        for axes in panels[len(block.n_edits) :]:
            axes.set_axis_off()
    keys(figure, [(READOUTS[one], _mark(one)) for one in GAPS])
    caption = (
        "Reliability in percent under each read-out of the same edited model; the line is the gap. TF token: "
        "teacher-forced, fraction of the answer's tokens; AR exact: generated, all tokens; WILD: generated "
        "freely to a natural stop. Methods by edit performance over all tables, the best first; without a "
        "mark: not run, or failed." + source.ended()
    )
    return Drawing(
        name,
        title,
        caption,
        "Reliability of each method under three read-outs at each number of edits",
        figure,
    )


def _gap(axes: "Axes", y: int, scores: dict[str, Score | None]) -> None:
    """Draw up to three markers on one line."""
    known = {
        one: score.value for one, score in scores.items() if score is not None and score.value is not None
    }
    if known:
        axes.plot(
            [min(known.values()), max(known.values())],
            [y, y],
            color=FAINT,
            lw=1.6,
            solid_capstyle="butt",
            zorder=2,
        )
    for number, (one, value) in enumerate(known.items()):
        axes.plot([value], [y], ls="", zorder=3 + number, clip_on=False, **_mark(one))


def _mark(readout: str) -> dict[str, Any]:
    """Return how a read-out is drawn; the markers nest, so that all are visible where they agree."""
    marker, colour, size = GAPS[readout]
    return {
        "marker": marker,
        "color": colour,
        "ms": size,
        "mfc": colour if readout == "wild" else "none",
        "mew": 1.1,
    }


def submetrics(source: ReportData) -> Drawing | Absent:
    """Draw parts of locality and portability of each method, at the T that most methods were run at."""
    name, title = "submetrics", "Parts of locality and portability"
    blocks = [(block, found) for block in source.results.blocks if (found := _lesser(source, block))]
    if not blocks:
        return Absent(
            name,
            title,
            (
                "no neighbours, strata of locality or portability questions were asked: lks grid --grid "
                "baselines, --grid knowedit"
            ),
        )
    own = [_ordered({metric for _, metric in scores}) for _, (_, scores) in blocks]
    lists = [source.order({method for method, _ in scores}) for _, (_, scores) in blocks]
    frame = Frame(
        left=max(list_width(names) for names in lists),
        bottom=0.45,
        top=0.2 + 3 * LINE,
        down=0.35 + 3 * LINE,
        across=0.12,
    )
    figure, rows = sheet([list_height(names) for names in lists], max(len(metrics) for metrics in own), frame)
    strong = source.strong(source.order({method for names in lists for method in names}))
    for (block, (n_edits, scores)), names, metrics, panels in zip(blocks, lists, own, rows, strict=True):
        heading(panels[0], f"{block.title}, T = {n_edits:,}", 2 * LINE)
        for axes, metric in zip(panels, metrics, strict=False):
            listed(axes, names, axes is panels[0])
            across_percents(axes, LESSER.get(metric, metric.replace("/", ":\n").replace("_", " ")))
            for y, method in enumerate(names):
                _dot(
                    axes, y, scores.get((method, metric)), source.looks[method] if method in strong else None
                )
        for axes in panels[len(metrics) :]:
            axes.set_axis_off()
    said = source.said(source.order({method for names in lists for method in names}))
    caption = (
        f"{READOUTS[EXACT]}, percent with 95 % interval clustered by subject. Locality of neighbours and "
        "strata: the same answer as the unedited model's; portability: questions whose other facts the "
        f"unedited model knows ('all': every question).{said}"
    )
    return Drawing(
        name,
        title,
        caption,
        "Parts of locality and portability of each method as dots with intervals",
        figure,
    )


def _lesser(source: ReportData, block: Block) -> tuple[int, dict[tuple[str, str], Score]] | None:
    """Return T, and (method, metric) -> score; None if there are no scores."""
    whole = {"reliability", "generality", "locality", "edit_performance", "harmonic_mean", "portability"}
    names = {
        outcome.cell.id: (row.name, n)
        for row in block.rows
        for n, outcome in row.cells.items()
        if row.name not in source.unedited
    }
    found = {
        (*names[score.cell_id], score.metric): score
        for (_, readout, metric), score in source.results.scores.items()
        if readout == EXACT and metric not in whole and score.cell_id in names and score.value is not None
    }
    if not found:
        return None
    at = source.widest(block, {(method, n): 1.0 for method, n, _ in found})
    return at, {(method, metric): score for (method, n, metric), score in found.items() if n == at}


def _ordered(metrics: set[str]) -> list[str]:
    """Return the parts in the order of the panels, unknown ones last."""
    return [one for one in LESSER if one in metrics] + sorted(metrics - set(LESSER))


def _dot(axes: "Axes", y: int, score: Score | None, look: MethodStyle | None) -> None:
    """Draw a value with its interval; in grey if `look` is None."""
    if score is not None and score.value is not None:
        colour = look.colour if look else SOFT
        low, high = (score.value if end is None else end for end in (score.low, score.high))
        axes.plot([low, high], [y, y], color=colour, lw=1.0, zorder=2)
        axes.plot(
            [score.value],
            [y],
            marker=look.marker if look else "o",
            color=colour,
            ms=4.2,
            zorder=3,
            clip_on=False,
        )


@dataclass(frozen=True, slots=True)
class AnswerShare:
    """The share of a cell's free answers to the prompts of a metric that are of one kind, in percent."""

    cell_id: str
    metric: str
    error: str
    share: float
    n_items: int


def errors(source: ReportData) -> Drawing | Absent:
    """Draw the share of each class of errors in free answers, at the T that most methods were run at."""
    name, title = "errors", "What is wrong with free answers"
    shares = source.rows(AnswerShare, "figure_errors")
    blocks = [(block, part) for block in source.results.blocks if (part := _shares(source, block, shares))[1]]
    if not blocks:
        return Absent(name, title, "no answers were generated freely: lks grid")
    blocks = compared(blocks, lambda part: len({method for method, _ in part[1]}))
    lists = [source.order({method for method, _ in found}) for _, (_, found) in blocks]
    frame = Frame(
        left=max(list_width(names) for names in lists),
        bottom=0.75,
        top=0.2 + 2 * LINE,
        down=0.35 + 2 * LINE,
        across=0.2,
    )
    figure, rows = sheet([list_height(names) for names in lists], 2, frame)
    for (block, (n_edits, found)), names, panels in zip(blocks, lists, rows, strict=True):
        heading(panels[0], f"{block.title}, T = {n_edits:,}")
        for axes, (metric, words) in zip(
            panels, {"reliability": "edit prompts", "generality": "paraphrases"}.items(), strict=True
        ):
            listed(axes, names, axes is panels[0])
            axes.grid(False, axis="y")
            across_percents(axes, words)
            for y, method in enumerate(names):
                _bar(axes, y, found.get((method, metric), {}))
            if not any(metric == one for _, one in found):
                axes.text(50, (len(names) - 1) / 2, "not asked", ha="center", va="center", color=SOFT)
    square = [("right", {"marker": "s", "color": RULE, "ms": 6.5})] + [
        (words, {"marker": "s", "color": c, "ms": 6.5}) for words, c in ERRORS.values()
    ]
    keys(figure, square[:3], above=0.04 + LINE)
    keys(figure, square[3:])
    items = sorted({share.n_items for share in shares})
    caption = (
        f"Percent of the free answers (WILD, bare prompt) of each method, {items[0]:,} to {items[-1]:,} of "
        "them; a right answer in any of its spellings is right. Each table at the T that most methods were "
        "run at; methods by edit performance over all tables, the best first." + source.ended()
    )
    return Drawing(
        name,
        title,
        caption,
        "For each method a bar with the shares of right answers and of each class of errors",
        figure,
    )


def _shares(
    source: ReportData, block: Block, shares: list[AnswerShare]
) -> tuple[int, dict[tuple[str, str], dict[str, float]]]:
    """Return T, and (method, metric) -> class -> percent."""
    names = {
        outcome.cell.id: (row.name, n)
        for row in block.rows
        for n, outcome in row.cells.items()
        if row.name not in source.unedited
    }
    own = [share for share in shares if share.cell_id in names]
    at = source.widest(block, {names[share.cell_id]: 1.0 for share in own})
    found: dict[tuple[str, str], dict[str, float]] = {}
    for share in own:
        method, n_edits = names[share.cell_id]
        if n_edits == at:
            found.setdefault((method, share.metric), {})[share.error] = share.share
    return at, found


def _bar(axes: "Axes", y: int, shares: dict[str, float]) -> None:
    """Draw right answers first, then errors from the nearest to the farthest."""
    left = 0.0
    for kind, colour in [("right", RULE), *((kind, colour) for kind, (_, colour) in ERRORS.items())]:
        width = shares.get(kind, 0.0)
        if width:
            axes.barh(y, width, left=left, height=0.74, color=colour, edgecolor=PAPER, linewidth=0.6)
        left += width


def _having(source: ReportData, block: Block, readout: str, metric: str) -> list[str]:
    """Return the methods of a table that have a score, the best first."""
    cells = [(row.name, outcome) for row in block.rows for outcome in row.cells.values()]
    return source.order(
        {method for method, outcome in cells if source.results.score(outcome, readout, metric)}
    )
