"""How often edit scope indicators fire on prompts that are about no edited subject, against T."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.figures.axes import LINE, Frame, against_t, heading, sheet
from reports.figures.data import ReportData
from reports.figures.drawing import Absent, Drawing
from reports.figures.style import COLOURS, DASHES, INK, MARKERS, SOFT
from reports.results import Fires, ScopeRate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {
    "official": (COLOURS[1], "o", 4.6, 1.8), "exact": (COLOURS[0], "s", 7.5, 3.0),
    "fuzzy": (COLOURS[4], "^", 5.4, 1.8), "exact+gate": (COLOURS[3], "D", 3.0, 0.9),
}  # fmt: skip
"""Colour, marker, marker size and line width; later lines are thinner, so that all are visible where they
overlap."""

NAMES = {"official": "official (the authors' rules)"}
EARLIER = "the authors' rules, measured before"
LINEAR = 0.1
"""Percentage below which the axis is linear, so that it can show zero."""


def scope(source: ReportData) -> Drawing | Absent:
    """Draw how often each indicator fires on prompts about other subjects: a panel per dataset and model."""
    name, title = "scope", "Edit scope: how often it fires on prompts about other subjects"
    panels: dict[tuple[str, str, int], list[ScopeRate]] = {}
    for rate in source.results.scope:
        if rate.probe_set == "others" and rate.measure == "scope":
            panels.setdefault((rate.dataset, rate.model, rate.records), []).append(rate)
    if not panels:
        return Absent(name, title, "no scope indicator was asked: lks grid --grid scope")
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = sheet(
        [2.3] * lines,
        columns,
        Frame(left=0.5, bottom=0.45 + 3 * LINE, top=0.15 + LINE, down=0.45 + LINE, across=0.5),
    )
    places = [axes for line in grid for axes in line]
    for axes, ((dataset, model, records), rates) in zip(places, panels.items(), strict=False):
        heading(axes, f"{model} on {dataset}" + (f" (first {records:,} records)" if records else ""), 0.0)
        _panel(axes, rates, source.results.known_fires)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    handles = {
        label: handle
        for axes in places
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles[EARLIER] = handles.pop(EARLIER)  # move it to the end
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower left",
        bbox_to_anchor=(0.01, 0.04 / figure.get_figheight()),
        ncols=2,
    )
    prompts = sorted({rate.probes for rates in panels.values() for rate in rates})
    caption = (
        f"Percent of {prompts[0]:,} to {prompts[-1]:,} prompts about subjects that are not edited. Both axes "
        f"are logarithmic, percents below {LINEAR:g} linear. Diamonds: the authors' rules in an earlier "
        "measurement on CounterFact, a value or a range."
    )
    return Drawing(
        name,
        title,
        caption,
        (
            "Share of prompts about other subjects on which each scope indicator fires, against the number "
            "of edits"
        ),
        figure,
    )


def _panel(axes: "Axes", rates: Sequence[ScopeRate], published: Sequence[Fires]) -> None:
    """Draw a line for each indicator, and the earlier measurements."""
    others = 0
    for scope in dict.fromkeys(rate.scope for rate in rates):
        own = [rate for rate in rates if rate.scope == scope]
        style = STYLES.get(scope, (SOFT, MARKERS[5 + others % 4], 4.0, 1.0))
        others += scope not in STYLES
        colour, marker, size, width = style
        at, values = [rate.n_edits for rate in own], [rate.fired for rate in own]
        axes.plot(
            at,
            values,
            color=colour,
            marker=marker,
            ms=size,
            lw=width,
            ls=DASHES[others % len(DASHES)],
            label=NAMES.get(scope, scope),
        )
    middle, half = (
        [(one.low + one.high) / 2 for one in published],
        [(one.high - one.low) / 2 for one in published],
    )
    counts = [one.n_edits for one in published]
    axes.errorbar(
        counts,
        middle,
        yerr=half,
        fmt="D",
        ms=7,
        mfc="none",
        mec=INK,
        ecolor=INK,
        mew=1.0,
        label=EARLIER,
        zorder=5,
    )
    against_t(axes, [*counts, *(rate.n_edits for rate in rates)])
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    axes.set_ylim(-0.02, 130)
    axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("edits in force together (T)")
    axes.set_ylabel("prompts on which it fires, %")
