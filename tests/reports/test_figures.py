"""Figures: what they show is what the queries give, the same bytes each time, looks that can be told apart,
labels that lie on nothing.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from lks.results.cells import DECISIONS, STUDY, Cell
from lks.results.decisions import Decision
from lks.results.store import Store
from lks.results.study_rows import StudyRow
from reports.figures import labels, style
from reports.figures.all import figures
from reports.figures.cost import front, quantity
from reports.figures.data import ReportData
from reports.figures.drawing import KINDS, Absent, Drawing
from reports.figures.metrics import by_edits
from reports.figures.style import DARK, MANY, MARKERS, VARIABLES, applied, looks, page_css
from reports.results import Results, load, query
from tests.helpers.stores import answers_of, fill, put

WORLD = ("micro-llama", "world")
MADE = [
    *("metrics_ar_exact", "metrics_tf_token", "readouts", "cost", "cost_memory", "seconds"),
    *("fig8_ability", "retention", "submetrics", "errors", "scope"),
]
STUDIES = ["fig2_probe", "fig4_swap", "fig7_gain", "tracing"]
QUANTITIES = {
    "probe": {"subject_last": ("accuracy", "control")},
    "swap": {"subject_last": ("rises", "first", "old_first")},
    "gain": {"subject_last": ("bits", "before_bits")},
    "tracing": {"subject_last": ("state", "mlp", "attention"), "last": ("state", "mlp", "attention")},
}


def study_rows(study: str) -> list[StudyRow]:
    """Three blocks and four subjects; each value differs from all others of the study."""
    made = []
    for site, quantities in QUANTITIES[study].items():
        for number, name in enumerate(quantities):
            for block in range(3):
                values = [(i + block + number) % 4 / 4 + (site == "last") / 8 for i in range(4)]
                made += [
                    StudyRow(0, str(i), f"subject {i}", block, site, name, value)
                    for i, value in enumerate(values)
                ]
    return [*made, StudyRow(0, "0", "subject 0", -1, "", "known", 1.0)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small store, with more methods than have colours, every study, and portability and neighbours."""
    made = Store(tmp_path_factory.mktemp("figures") / "results")
    fill(made)
    for number in range(10):
        for n_edits in (1, 100):
            cell = Cell(*WORLD, f"method{number}", n_edits, 0, 2 if n_edits == 1 else 1)
            put(
                made,
                cell,
                f"Method {number}",
                answers_of(cell, {"paraphrase": number % 4, "locality": number % 3}),
            )
    for study in QUANTITIES:
        put(made, Cell(*WORLD, study, 4, 0, 1, measure="study"), study, [], stages={STUDY: study_rows(study)})
    rules = Cell(
        "mini", "counterfact", "lks", 1000, 0, 1, (), '{"scope": "official", "gate": "none"}', measure="scope"
    )
    put(
        made,
        rules,
        "LKS",
        [],
        stages={
            DECISIONS: [
                Decision(0, "others", i, f"other-{i}", ("Ann",) if i < 3 else (), "") for i in range(4)
            ]
        },
    )
    return made


@pytest.fixture(scope="module")
def results(store: Store) -> Results:
    return loaded(store)


@pytest.fixture(scope="module")
def drawn(results: Results, store: Store) -> dict[str, Drawing]:
    made = figures(results, store)
    assert [figure.name for figure in made] == [*MADE, *STUDIES]
    assert not [figure for figure in made if isinstance(figure, Absent)]
    return {figure.name: figure for figure in made if isinstance(figure, Drawing)}


def loaded(store: Store) -> Results:
    return load(store, store.sync())


def test_each_kind_of_file_opens_and_is_the_same_when_drawn_again(
    results: Results, store: Store, drawn: dict[str, Drawing]
) -> None:
    again = {figure.name: figure for figure in figures(results, store) if isinstance(figure, Drawing)}
    for name, figure in drawn.items():
        files = {kind: figure.file(kind) for kind in KINDS}  # type: ignore[arg-type]
        assert files == {kind: again[name].file(kind) for kind in KINDS}, name  # type: ignore[arg-type]
        assert files["pdf"].startswith(b"%PDF") and b"CreationDate" not in files["pdf"]
        root = ElementTree.fromstring(files["svg"])
        width, height = figure.figure.get_size_inches()
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * width, abs=0.1)
        image = Image.open(io.BytesIO(files["png"]))
        assert image.size == (pytest.approx(220 * width, abs=1), pytest.approx(220 * height, abs=1))
        assert len(set(image.convert("L").resize((200, 200)).tobytes())) > 10, f"{name} is blank"


def test_figures_fit_a_column_or_a_page_and_nothing_is_smaller_than_eight_points(
    drawn: dict[str, Drawing],
) -> None:
    for name, figure in drawn.items():
        assert figure.figure.get_figwidth() in (style.SINGLE, style.DOUBLE), name
        sizes = [
            float(size)
            for size in re.findall(r"font(?:-size)?: (?:[a-z0-9]+ )?([0-9.]+)px", figure.file("svg").decode())
        ]
        assert sizes and min(sizes) >= 8, name


def test_on_the_page_colours_are_the_pages_ids_are_unique_and_nothing_is_loaded(
    drawn: dict[str, Drawing],
) -> None:
    page = "".join(figure.on_page() for figure in drawn.values())
    assert not re.search(r"url\(|@import|fetch\(|<\?xml|<!DOCTYPE|xlink:href|NaN", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 100
    links = re.findall(r' href="([^"]*)"', page)
    assert links and all(link.startswith("#") and link[1:] in set(ids) for link in links)
    plain = re.sub(r"var\(--[a-z0-9]+, #[0-9a-f]{6}\)", "", page)
    assert not re.findall(
        r"(?:fill|stroke): ?#[0-9a-f]{6}", plain
    )  # no colour that a dark page would not change
    for figure in drawn.values():
        ElementTree.fromstring(figure.on_page())
        assert f'aria-label="{figure.alt}"' in figure.on_page()


def test_the_pages_css_gives_every_colour_for_light_and_dark() -> None:
    light, system, chosen = page_css().strip().split("\n")
    for colour, name in VARIABLES.items():
        assert (
            f"--{name}:{colour};" in light
            and f"--{name}:{DARK[colour]};" in system
            and f"--{name}:{DARK[colour]};" in chosen
        )
        assert DARK[colour] != colour
    assert "prefers-color-scheme:dark" in system and "data-theme=dark" in chosen


def test_curves_against_t_are_the_scores(results: Results, drawn: dict[str, Drawing]) -> None:
    for name, readout in (("metrics_ar_exact", "ar_exact"), ("metrics_tf_token", "tf_token")):
        panels = drawn[name].figure.axes
        block = next(block for block in results.blocks if block.model == "micro-llama")
        assert [axes.get_title(loc="left") for axes in panels] == [
            "reliability",
            "generality",
            "locality",
            "edit performance",
        ]
        for axes, metric in zip(
            panels, ("reliability", "generality", "locality", "edit_performance"), strict=True
        ):
            assert axes.get_xscale() == "log" and [text.get_text() for text in axes.get_xticklabels()] == [
                "1",
                "10",
                "100",
            ]
            expected = []
            for row in block.rows:
                scores = {n: results.score(outcome, readout, metric) for n, outcome in row.cells.items()}
                expected.append(
                    [(n, score.value) for n, score in sorted(scores.items()) if score is not None]
                )
            lines = [list(map(tuple, line.get_xydata().tolist())) for line in axes.get_lines()]
            assert sorted(line for line in lines if line) == sorted(line for line in expected if line)


def test_published_values_stand_beside_the_same_model_only(results: Results, store: Store) -> None:
    key = ("world", "micro-llama", "lks", 100, "reliability")
    with_one = replace(results, published={key: 61.5})

    def marks(results: Results, readout: str) -> list[tuple[float, float]]:
        with applied():
            made = by_edits(ReportData(results, store), readout)
        assert isinstance(made, Drawing)
        lines = [line.get_xydata().tolist() for line in made.figure.axes[0].get_lines()]
        return [(x, y) for line in lines for x, y in line if y == 61.5]

    assert marks(with_one, "tf_token") == [(100, 61.5)]
    assert (
        marks(with_one, "ar_exact") == [] and marks(results, "tf_token") == []
    )  # the paper printed teacher-forced tokens


def test_read_outs_lie_on_one_line_for_each_method(
    results: Results, store: Store, drawn: dict[str, Drawing]
) -> None:
    source = ReportData(results.of("evaluation"), store)
    axes = drawn["readouts"].figure.axes[1]
    assert axes.get_title(loc="left") == "T = 100"
    names = [text.get_text() for text in drawn["readouts"].figure.axes[0].get_yticklabels()]
    block = next(block for block in results.blocks if block.model == "micro-llama")
    assert names == [name for name in source.looks if name in names] and "unedited" not in names
    dots = {
        (round(y), round(x, 4))
        for line in axes.get_lines()
        if line.get_marker() != "None"
        for x, y in line.get_xydata()
    }
    lks = next(row for row in block.rows if row.name == "LKS")
    values = [
        results.score(lks.cells[100], readout, "reliability") for readout in ("tf_token", "ar_exact", "wild")
    ]
    assert {
        (names.index("LKS"), round(score.value, 4)) for score in values if score and score.value is not None
    } <= dots


def test_cost_points_and_front(results: Results, store: Store, drawn: dict[str, Drawing]) -> None:
    assert front([(1, 10), (2, 9), (3, 30), (3, 20), (0.5, 1)]) == [(0.5, 1), (1, 10), (3, 30)]
    assert front([(1, 5), (1, 7)]) == [(1, 7)] and front([(1, 5), (2, 5)]) == [(1, 5)]
    assert [quantity(v, "s") for v in (0.0001, 0.01, 1, 15, 1500)] == [
        "100 µs",
        "10 ms",
        "1 s",
        "15 s",
        "1.5 ks",
    ]
    names, rows = store.table(query("figure_cost"))
    seconds = {row[names.index("cell_id")]: row[names.index("seconds")] for row in rows}
    axes = drawn["cost"].figure.axes[0]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "time per edit"
    dots = {tuple(line.get_xydata()[0]) for line in axes.get_lines() if line.get_marker() != "None"}
    block = next(block for block in results.blocks if block.model == "micro-llama")
    cells = [row.cells[1] for row in block.rows if row.name != "unedited" and 1 in row.cells]
    scores = {cell.cell.id: results.score(cell, "ar_exact", "edit_performance") for cell in cells}
    assert dots == {(seconds[cell], score.value) for cell, score in scores.items() if score}


def test_no_name_in_the_cost_figure_lies_on_another(drawn: dict[str, Drawing]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for name in ("cost", "cost_memory"):
        figure = drawn[name].figure
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axes in figure.axes:
            boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_zorder() == 6]
            assert len(boxes) >= 12
            assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]


def test_bars_of_seconds_are_the_shares_of_each_cells_costs(
    results: Results, drawn: dict[str, Drawing]
) -> None:
    (axes,) = drawn["seconds"].figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    block = next(block for block in results.blocks if block.model == "micro-llama")
    costs = {
        row.name: row.cells[100].costs
        for row in block.rows
        if 100 in row.cells and row.cells[100].status == "ok"
    }
    assert names[0] == "unedited" and sorted(names) == sorted(costs)
    totals = [text for text in axes.texts if text.get_text().endswith(" s")]
    for y, name in enumerate(names):
        bars = sorted(
            (bar.get_x(), bar.get_width())
            for bar in axes.patches
            if round(bar.get_y() + bar.get_height() / 2) == y
        )
        spent = [costs[name].prepare_s, costs[name].edit_s, costs[name].ask_s, *costs[name].stage_s.values()]
        assert [width for _, width in bars] == pytest.approx(
            [100 * part / sum(spent) for part in spent if part]
        )
        assert [x for x, _ in bars] == pytest.approx(
            [100 * sum(spent[:number]) / sum(spent) for number in range(len(bars))]
        )
        assert totals[y].get_text() == f"{sum(spent):,.0f} s"


def test_names_of_many_points_in_one_place_find_room() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with applied():
        figure = Figure(figsize=(3.3, 3.3))
        axes = figure.add_axes((0.1, 0.1, 0.85, 0.85))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        marks = [
            labels.PointLabel(0.5 + 0.02 * (i % 5), 0.5 + 0.02 * (i // 5), f"method {i}", i < 6)
            for i in range(20)
        ]
        labels.name_points(axes, marks)
    renderer = FigureCanvasAgg(figure).get_renderer()
    area = axes.get_window_extent(renderer)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 20 and not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
    assert all(area.x0 - 2 < box.x0 and box.x1 < area.x1 + 2 for box in boxes)


@pytest.mark.parametrize(
    ("start", "end", "crosses"),
    [((0, 0), (3, 3), True), ((0, 0), (0.5, 3), False), ((0, 1.5), (3, 1.5), True), ((0, 3), (3, 3), False)],
)
def test_a_line_crosses_a_box(start: tuple[float, float], end: tuple[float, float], crosses: bool) -> None:
    assert labels.Box(1, 1, 2, 2).crossed(start, end) is crosses


def test_ability_has_the_unedited_band_and_the_tests_values(drawn: dict[str, Drawing]) -> None:
    axes = drawn["fig8_ability"].figure.axes[0]
    assert axes.get_title(loc="left") == "piqa"
    values = [[float(y) for y in line.get_ydata()] for line in axes.get_lines()]
    assert sorted(values) == [[75.0], [100.0, 100.0]]  # unedited 4 of 4 across the panel, LKS 3 of 4


def test_retention_shows_both_moments(drawn: dict[str, Drawing]) -> None:
    axes = drawn["retention"].figure.axes[0]
    assert axes.get_title(loc="left") == "reliability"
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [
        [50.0],
        [75.0],
    ]  # GRACE: after all edits two of four, right after each three


def test_parts_of_portability_count_known_questions(drawn: dict[str, Drawing]) -> None:
    titles = [axes.get_title(loc="left") for axes in drawn["submetrics"].figure.axes if axes.axison]
    assert "port.:\nalias" in titles and "port.:\nall" in titles
    axes = next(
        axes for axes in drawn["submetrics"].figure.axes if axes.get_title(loc="left") == "port.:\nalias"
    )
    dots = [float(line.get_xdata()[0]) for line in axes.get_lines() if len(line.get_xdata()) == 1]
    assert dots == [50.0]  # Ann is right, Bob is not


def test_shares_of_errors_add_up(results: Results, store: Store, drawn: dict[str, Drawing]) -> None:
    axes = drawn["errors"].figure.axes[0]
    bars: dict[int, float] = {}
    for bar in axes.patches:
        bars[round(bar.get_y() + bar.get_height() / 2)] = (
            bars.get(round(bar.get_y() + bar.get_height() / 2), 0) + bar.get_width()
        )
    assert len(bars) == len(axes.get_yticks()) and all(width == pytest.approx(100) for width in bars.values())


def test_scope_has_our_rates_and_the_earlier_ones(drawn: dict[str, Drawing]) -> None:
    axes = drawn["scope"].figure.axes[0]
    assert axes.get_xscale() == "log" and axes.get_yscale() == "symlog"
    lines = [line.get_xydata().tolist() for line in axes.get_lines()]
    assert [[100, 25.0], [1000, 75.0]] in lines
    assert [[1, 0.2], [100, 7.4], [1000, 47.0], [10000, 85.5]] in lines
    assert "the authors' rules, measured before" in drawn["scope"].file("svg").decode().replace("&#x27;", "'")


@pytest.mark.parametrize(
    ("name", "study", "scale"),
    [
        ("fig2_probe", "probe", 100),
        ("fig4_swap", "swap", 100),
        ("fig7_gain", "gain", 1),
        ("tracing", "tracing", 100),
    ],
)
def test_studies_show_the_means_by_block(
    drawn: dict[str, Drawing], name: str, study: str, scale: float
) -> None:
    rows = study_rows(study)
    panels = drawn[name].figure.axes
    assert len(panels) == len(QUANTITIES[study])
    for axes, (site, quantities) in zip(panels, QUANTITIES[study].items(), strict=True):
        means = []
        for measured in quantities:
            chosen = [
                [row.value for row in rows if (row.site, row.quantity, row.block) == (site, measured, block)]
                for block in range(3)
            ]
            means.append([pytest.approx(scale * sum(values) / len(values)) for values in chosen])
        shown = [list(line.get_ydata()) for line in axes.get_lines() if len(line.get_xdata()) == 3]
        assert shown == (means[:1] if study == "gain" else means)
        assert axes.get_xlabel() == "block" and [text.get_text() for text in axes.get_xticklabels()] == [
            "0",
            "1",
            "2",
        ]
        assert len(axes.collections) == len(shown)  # a band for each line
    assert ("chance" in {text.get_text() for axes in panels for text in axes.texts}) == (study == "probe")


def test_what_has_no_data_says_what_to_run(tmp_path: Path) -> None:
    empty = Store(tmp_path / "results")
    absent = figures(loaded(empty), empty)
    assert [figure.name for figure in absent] == [*MADE, *STUDIES]
    assert all(isinstance(figure, Absent) and "lks grid" in figure.why and figure.title for figure in absent)


def test_a_method_looks_the_same_in_all_figures_and_unlike_any_other() -> None:
    names = [f"method {i}" for i in range(40)]
    made = looks(names)
    assert made == looks(names) and len({(look.marker, look.dash) for look in made.values()}) == 40
    for start in range(0, 36, 6):
        assert len({made[name].colour for name in names[start : start + 6]}) == 6
    assert len({made[name].marker for name in names[: len(MARKERS)]}) == len(MARKERS)
    assert looks(names[:1]) == {names[0]: made[names[0]]}
    assert (
        looks([names[7]])[names[7]] == looks([names[7], *names[:7]])[names[7]]
    )  # the best has what it wishes


def test_of_many_methods_only_the_best_are_in_colour(
    results: Results, store: Store, drawn: dict[str, Drawing]
) -> None:
    source = ReportData(results.of("evaluation"), store)
    names = list(source.looks)
    assert (
        len(names) > MANY and len(source.strong(names)) == 6 and source.strong(names[:MANY]) == names[:MANY]
    )
    means = {row.name: row for block in results.blocks if block.model == "micro-llama" for row in block.rows}
    assert source.performance(means[source.order(set(means))[0]].cells[1]) == max(
        source.performance(row.cells[1]) or 0 for row in means.values() if 1 in row.cells
    )
    scored = {
        name
        for name, row in means.items()
        if any(source.performance(outcome) is not None for outcome in row.cells.values())
    }
    assert scored < set(means)  # one has failed
    assert f"the 6 best of {len(source.order(scored))} methods" in drawn["metrics_ar_exact"].caption
    svg = drawn["metrics_ar_exact"].file("svg").decode()
    for name in source.order({"LKS", "GRACE", "Method 0"}):
        assert f">{name}<" in svg  # the legend has every method


def test_captions_say_read_out_interval_and_unit(drawn: dict[str, Drawing]) -> None:
    for name in ("metrics_ar_exact", "submetrics"):
        assert "AR exact" in drawn[name].caption and "95 %" in drawn[name].caption
    for name in STUDIES:
        assert "95 %" in drawn[name].caption and "subjects" in drawn[name].caption
    assert "bits" in drawn["fig7_gain"].caption and "log axes" in drawn["cost"].caption
