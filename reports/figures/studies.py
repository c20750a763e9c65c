"""The paper's Figs. 2, 4 and 7 and ROME's causal tracing: what each block holds and what changing it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.figures.axes import LINE, Frame, heading, sheet
from reports.figures.data import ReportData
from reports.figures.drawing import Absent, Drawing
from reports.figures.style import COLOURS, DASHES, DOUBLE, MARKERS, SINGLE, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One quantity of a study at one block, with its 95 % interval."""

    cell_id: str
    model: str
    dataset: str
    n_edits: int
    site: str
    quantity: str
    block: int
    value: float
    low: float | None
    high: float | None
    n_items: int
    n_subjects: int


@dataclass(frozen=True, slots=True)
class StudyPanel:
    """A panel: which rows of the study are its lines, and the label of its axis.

    Attributes:
        title: title of the panel.
        site: site of its rows; any if empty.
        lines: quantity -> label of the line.
        axis: name and unit.
        scale: factor for the values: 100 for percent.
        chance: reference level, in the axis's unit.
    """

    title: str
    site: str
    lines: dict[str, str]
    axis: str
    scale: float = 1.0
    chance: float | None = None


def probe(source: ReportData) -> Drawing | Absent:
    """Draw Fig. 2: how often the state of the subject's last token is nearer to the true statement.

    The alternative is the counterfactual one.
    """
    part = StudyPanel(
        "",
        "",
        {"accuracy": "the subject's own state", "control": "another subject's state (control)"},
        "accuracy, %",
        100,
        50,
    )
    caption = (
        "Share of entities whose state at the subject's last token is more like (cosine) the true "
        "statement's than the counterfactual one's."
    )
    return _study(source, "probe", ("fig2_probe", "Probe accuracy by block (Fig. 2)"), [part], caption)


def swap(source: ReportData) -> Drawing | Absent:
    """Draw Fig. 4: what happens to answers when the subject's state is replaced by another subject's."""
    lines = {
        "rises": "donor's answer rises",
        "first": "donor's answer is first",
        "old_first": "old answer stays first",
    }
    caption = (
        "The state at the subject's last token is replaced by another subject's at one block: share of "
        "pairs in which the other's answer "
    )
    caption += (
        "rises in rank, becomes the most likely one, and in which the old answer stays the most likely one."
    )
    return _study(
        source,
        "swap",
        ("fig4_swap", "Swapping the knowledge block (Fig. 4)"),
        [StudyPanel("", "", lines, "pairs, %", 100)],
        caption,
    )


def gain(source: ReportData) -> Drawing | Absent:
    """Draw Fig. 7: information gain of replacing the state of each block."""
    part = StudyPanel("", "", {"bits": "information gain"}, "bits", 1.0, 0.0)
    caption = (
        "Information gain H(Y|R) - H(Y|R~) in bits (Eq. 9) of replacing the state of one block; the block "
        "with the most is the one to edit."
    )
    return _study(source, "gain", ("fig7_gain", "Information gain by block (Fig. 7)"), [part], caption)


def tracing(source: ReportData) -> Drawing | Absent:
    """Draw causal tracing as in ROME.

    It shows how much of the right answer's probability comes back when one clean state is restored.
    """
    lines = {"state": "state", "mlp": "MLP", "attention": "attention"}
    sites = {"subject_last": "subject's last token", "last": "last token"}
    parts = [
        StudyPanel(words, site, lines, "probability recovered, points", 100, 0.0)
        for site, words in sites.items()
    ]
    caption = (
        "Indirect effect: probability of the right answer with noise on the subject and one clean state "
        "restored, less that without it, in points "
    )
    caption += "of percent; the state after the block, or the output of its MLP or attention."
    return _study(source, "tracing", ("tracing", "Causal tracing (ROME)"), parts, caption)


def _study(
    source: ReportData, study: str, names: tuple[str, str], parts: Sequence[StudyPanel], caption: str
) -> Drawing | Absent:
    """Draw a panel for each model, dataset and part, two in a row."""
    rows = [row for row in source.rows(StudyPoint, "figure_study", [study]) if row.block >= 0]
    cells = list(dict.fromkeys((row.model, row.dataset) for row in rows))
    if not cells:
        return Absent(*names, f"the study was not run: lks grid --grid studies (measure = study, {study})")
    panels = [(cell, part) for cell in cells for part in parts]
    columns = min(2, len(panels))
    titles, keyed = any(part.title for part in parts), len(parts[0].lines) > 1
    frame = Frame(
        left=0.55, bottom=0.4 + 1.3 * LINE * keyed, top=0.15 + LINE * (1 + titles),
        down=0.55 + LINE * (1 + titles), across=0.55, width=SINGLE if columns == 1 else DOUBLE,
    )  # fmt: skip
    figure, grid = sheet([1.7] * -(-len(panels) // columns), columns, frame)
    places = [axes for line in grid for axes in line]
    for axes, ((model, dataset), part) in zip(places, panels, strict=False):
        heading(axes, f"{model} on {dataset}", LINE * titles)
        axes.set_title(part.title)
        _panel(
            axes,
            part,
            [
                row
                for row in rows
                if (row.model, row.dataset) == (model, dataset) and part.site in ("", row.site)
            ],
        )
        axes.set_ylim(*_limits(parts, rows))
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    if keyed:
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0.01, 0.04 / figure.get_figheight()),
            ncols=len(labels),
        )
    counts = "; ".join(
        f"{row.model} {row.n_items:,} of {row.n_subjects:,} subjects"
        for row in {row.model: row for row in rows}.values()
    )
    caption = (
        f"{caption} Blocks count from 0; bands are 95 % intervals clustered by subject. Items: {counts}."
    )
    return Drawing(
        names[0],
        names[1],
        caption,
        f"{names[1]}: a line with its interval against the block, a panel for each model",
        figure,
    )


def _limits(parts: Sequence[StudyPanel], rows: Sequence[StudyPoint]) -> tuple[float, float]:
    """Return the common limits of all panels: 0 to 100 for shares, otherwise the data's range with zero."""
    scale, bounded = parts[0].scale, parts[0].chance != 0.0
    values = [
        scale * end
        for row in rows
        if row.quantity in parts[0].lines
        for end in (row.value, row.low, row.high)
        if end is not None
    ]
    low, high = (0.0, 100.0) if bounded else (min(0.0, *values), max(0.0, *values))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _panel(axes: "Axes", part: StudyPanel, rows: Sequence[StudyPoint]) -> None:
    """Draw lines with bands against the block."""
    blocks = sorted({row.block for row in rows})
    if part.chance is not None:
        axes.axhline(part.chance, color=SOFT, lw=0.9, ls=(0, (4, 2)), zorder=1.5)
    for number, (quantity, words) in enumerate(part.lines.items()):
        points = [row for row in rows if row.quantity == quantity]
        if not points:
            continue
        at = [row.block for row in points]
        values, low, high = ([part.scale * v for v in column] for column in _columns(points))
        axes.fill_between(at, low, high, color=COLOURS[number], alpha=0.16, lw=0, zorder=2)
        axes.plot(
            at,
            values,
            color=COLOURS[number],
            marker=MARKERS[number],
            ls=DASHES[number],
            lw=1.4,
            ms=4,
            zorder=3,
            label=words,
        )
    axes.set_xticks(blocks[:: -(-len(blocks) // 8)])
    axes.set_xlim(blocks[0] - 0.3, blocks[-1] + 0.3)
    axes.set_xlabel("block")
    axes.set_ylabel(part.axis)
    axes.grid(False, axis="x")
    if part.chance:
        axes.annotate(
            "chance",
            (1, part.chance),
            (0, 2),
            ("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=SOFT,
        )


def _columns(rows: Sequence[StudyPoint]) -> tuple[list[float], list[float], list[float]]:
    """Return the values and the ends of their intervals."""
    low = [row.value if row.low is None else row.low for row in rows]
    return [row.value for row in rows], low, [row.value if row.high is None else row.high for row in rows]
