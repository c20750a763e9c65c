"""The figure of a search: a panel for each parameter, a mark for each trial."""

from dataclasses import replace

import pytest

from reports.figures.tuning import TrialPoint, trials

POINTS = [
    TrialPoint({"block": b, "lr": lr, "gate": g}, rung, value, b == 3, (b, rung) == (5, 1))
    for b, lr, g, rung, value in (
        (3, 1e-3, "none", 0, 0.5),
        (5, 1e-2, "contrast", 0, 0.7),
        (7, 1e-4, "none", 0, None),
        (3, 1e-3, "none", 1, 0.4),
        (5, 1e-2, "contrast", 1, 0.6),
    )
]
PARAMETERS = {"block": False, "lr": True, "gate": False}
RUNGS = ["T = 10", "T = 10, 3 sets"]


def test_a_panel_for_each_parameter() -> None:
    drawn = trials(POINTS, PARAMETERS, RUNGS, ("HM, %", "FT-M on m"))
    panels = [axes for axes in drawn.figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == ["block", "lr", "gate"]
    assert [axes.get_xscale() for axes in panels] == ["linear", "log", "linear"]
    (legend,) = drawn.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*RUNGS, "default", "chosen", "failed"]
    low, high = panels[0].get_ylim()
    assert low < 40 and high > 70
    assert drawn.file("png").startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_equal_trials_are_drawn_within_the_percents(value: float | None) -> None:
    points = [replace(point, score=value) for point in POINTS]
    drawn = trials(points, PARAMETERS, RUNGS, ("HM, %", "FT-M on m"))
    ticks = drawn.figure.axes[0].get_yticks()
    assert len(ticks) and min(ticks) >= 0 and max(ticks) <= 100
