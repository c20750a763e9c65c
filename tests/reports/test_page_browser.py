"""What the page does, in a headless Chromium."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lks.results.store import Store
from reports import render
from tests.reports.browser import CHROMIUM, Browser, browser
from tests.reports.page_results import DEVICE, fill

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(fill(tmp_path_factory.mktemp("page"))).page


@pytest.fixture(scope="module")
def cells(file: Path) -> dict[str, str]:
    """Title of a method -> id of one of its cells."""
    return {outcome.provenance["title"]: outcome.cell.id for outcome in Store(file.parents[1]).outcomes()}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture
def tab(opened: Browser, file: Path) -> Iterator[Browser]:
    """The page, loaded from scratch; at the end it must not have complained, nor asked for anything but
    itself.
    """
    opened.look(1280, 900)
    opened.complaints.clear()
    opened.open(file.as_uri())
    yield opened
    assert opened.complaints == []
    assert {address.partition("#")[0] for address in opened.requests} == {file.as_uri()}


def shown(tab: Browser) -> list[list[str]]:
    """Method, T and EP of the rows of the leaderboard."""
    rows: list[list[str]] = tab.run(
        "[...document.querySelectorAll('table.board tbody tr:not(.part)')].map(row => [row.querySelector('.method').textContent,"
        " row.cells[1].textContent, (row.querySelector('[data-metric=edit_performance] .value') ?? row.querySelector('.reason'))?.textContent ?? ''])"
    )
    return rows


def said(tab: Browser) -> str:
    """What is said of the number of rows."""
    status: str = tab.run("document.querySelector('#board [role=status]').textContent")
    return status


def choose(tab: Browser, facet: str, value: str) -> None:
    tab.click(f'label.chip:has(input[data-facet={facet}][value="{value}"])')


def address(tab: Browser) -> str:
    fragment: str = tab.run("location.hash")
    return fragment


def test_the_first_view_is_the_t_of_most_methods_generated_best_first(tab: Browser) -> None:
    rows = shown(tab)
    assert [row[0] for row in rows[:2]] == ["LKS", "ROME"] and rows[0][1:] == ["100", "75.0"]
    assert ["FT-M", "100", "diverged: loss is NaN at step 12 <draw 0>"] in rows  # last of its group, and seen
    assert {row[1] for row in rows} == {"100", "1,000"}
    assert tab.run("document.querySelector('[aria-sort]').textContent") == "EP"
    assert said(tab) == f"{len(rows)} of 11 cells"
    assert tab.run("document.querySelector('.reset').disabled")


def test_filters_search_and_reset(tab: Browser) -> None:
    choose(tab, "t", "1")
    choose(tab, "t", "main")
    assert {row[1] for row in shown(tab)} == {"1"} and "t=1" in address(tab)
    choose(tab, "readout", "tf_token")
    assert said(tab) == "6 rows, 3 of 11 cells"  # two read-outs each
    choose(tab, "method", "FT-M")
    assert {row[0] for row in shown(tab)} == {"FT-M"}
    tab.click(".reset")
    assert address(tab) in ("", "#")
    tab.click("#board input[type=search]")
    tab.type("llama-2 lks")
    assert [row[:2] for row in shown(tab)] == [["LKS", "1,000"]] and "search=llama-2+lks" in address(tab)
    tab.type(" nowhere")
    assert (
        shown(tab) == []
        and "No cell fits" in tab.run("document.querySelector('.holder').textContent")
        and said(tab) == "0 of 11 cells"
    )
    tab.click(".empty button")
    assert len(shown(tab)) == 6


def test_every_column_sorts_both_ways(tab: Browser) -> None:
    tab.click("[name=grouped]")
    choose(tab, "t", "")
    for key in tab.run(
        "[...document.querySelectorAll('table.board thead button')].map(button => button.dataset.sort)"
    ):
        orders = []
        for _ in range(2):
            tab.click(f'[data-sort="{key}"]')
            orders.append(
                tab.run(
                    f"""document.querySelector('th:has([data-sort="{key}"])').getAttribute('aria-sort')"""
                )
            )
        assert sorted(orders) == ["ascending", "descending"], key
        assert tab.run(f"document.activeElement.dataset.sort === '{key}'")  # the focus stays where it was
    tab.click('[data-sort="edit_performance"]')
    values = [float(row[2]) for row in shown(tab) if row[2][0].isdigit()]
    down = tab.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert len(values) == 8 and values == sorted(values, reverse=down)
    assert shown(tab)[-1][2].startswith("diverged")  # what is missing comes last either way


def test_the_address_brings_the_same_view_back(tab: Browser, file: Path) -> None:
    choose(tab, "readout", "wild")
    choose(tab, "readout", "ar_exact")
    choose(tab, "model", "micro-llama")
    tab.click('[data-sort="locality"]')
    tab.click("[name=grouped]")
    before, kept = shown(tab), address(tab)
    tab.open(file.as_uri() + kept)
    assert shown(tab) == before and address(tab) == kept
    assert tab.run(
        "document.querySelector('input[value=wild]').checked && !document.querySelector('[name=grouped]').checked"
    )
    tab.open(
        file.as_uri() + "#model=nonsense&sort=-nonsense&t=1&readout=%3Cb%3E"
    )  # what does not exist is ignored
    assert {row[1] for row in shown(tab)} == {"1"}


def test_the_mouse_opens_the_answers_behind_a_score(tab: Browser, cells: dict[str, str]) -> None:
    cell = cells["ROME"]
    tab.click(f'[data-cell="{cell}"][data-metric=generality]')
    assert tab.run("document.getElementById('panel').open")
    words = tab.run("document.getElementById('panel').innerText")
    for part in (
        "ROME",
        "micro-llama on world",
        "Paraphrases",
        "paraphrase <b>",
        "Wrong",
        "Right",
        "stone",
        "<i>odd</i>",
        "1 of 2 tokens",
        cell,
        DEVICE,
        "Parameters",
    ):
        assert part in words, part
    assert not tab.run(
        "[...document.querySelectorAll('#panel b, #panel i')].some(node => /Ann|odd/.test(node.textContent))"
    )
    assert f"cell={cell}" in address(tab) and "metric=generality" in address(tab)
    tab.click("#tab-locality")
    assert "locality <b>" in tab.run("document.getElementById('answers').innerText")
    tab.click("#tab-reliability")
    assert "silent" in tab.run("document.getElementById('answers').innerText")
    tab.click("#panel .close")
    assert not tab.run("document.getElementById('panel').open") and "cell=" not in address(tab)


def test_the_keyboard_does_all_of_it(tab: Browser, file: Path) -> None:
    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    for _ in range(80):
        tab.press("Tab")
        if tab.run("document.activeElement.classList.contains('score')"):
            break
    metric, cell = tab.run("[document.activeElement.dataset.metric, document.activeElement.dataset.cell]")
    assert metric == "edit_performance"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter")
    assert tab.run(
        "document.getElementById('panel').open && document.activeElement.getAttribute('role') === 'tab'"
    )
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.id") == "tab-reliability"
    for _ in range(12):
        tab.press("Tab")
        assert tab.run(
            "document.activeElement === document.body || document.getElementById('panel').contains(document.activeElement)"
        )
    tab.press("Escape")
    assert not tab.run("document.getElementById('panel').open")
    assert tab.run("[document.activeElement.dataset.metric, document.activeElement.dataset.cell]") == [
        metric,
        cell,
    ]
    tab.open(f"{file.as_uri()}#cell={cell}&metric=locality")  # a link to the answers themselves
    assert tab.run("document.querySelector('#panel [aria-selected=true]').id") == "tab-locality"


def test_development_cells_are_apart(tab: Browser) -> None:
    choose(tab, "t", "")
    assert not any("lr=0.125" in row[0] for row in shown(tab))
    assert tab.run("getComputedStyle(document.querySelector('.apart-note')).display") == "none"
    tab.click("#development a.scripted")
    tab.wait("document.querySelector('#board').classList.contains('apart')")
    assert any("lr=0.125" in row[0] for row in shown(tab))
    assert tab.run("getComputedStyle(document.querySelector('.apart-note')).display") == "block"


def test_tables_of_the_page_sort_too(tab: Browser) -> None:
    column = tab.run(
        "[...document.querySelectorAll('#table-table1 table')][0].querySelector('th button[data-column]:not([data-column=\"0\"])').dataset.column"
    )
    name = f'#table-table1 table th button[data-column="{column}"]'
    orders = []
    for _ in range(2):
        tab.click(name)
        orders.append(tab.run(f"document.querySelector('{name}').closest('th').getAttribute('aria-sort')"))
    assert sorted(orders) == ["ascending", "descending"]


CONTRAST = """(() => {
  const parse = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    const colour = parse(getComputedStyle(node).backgroundColor);
    return colour.length < 4 || colour[3] === 1 ? colour : behind(node.parentElement);
  };
  return Object.fromEntries(%s.map(name => { const node = document.querySelector(name);
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    return [name, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; }));
})()"""
READ = [
    "body",
    "h1",
    ".summary p",
    ".note",
    "nav a",
    ".chip span",
    ".chip input:checked + span",
    ".score .value",
    ".lead .half",
    ".half",
    ".failed .plain",
    ".regime",
    "thead th",
    "footer",
]
READ_IN_PANEL = [
    "#panel h2",
    ".answer .prompt",
    ".said td",
    ".said td.no",
    ".said td.yes",
    ".verdicts span",
    ".settings dt",
    "[role=tab]",
    "#panel pre",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_both_schemes(tab: Browser, scheme: str) -> None:
    tab.look(1280, 900, scheme)
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in re.findall(r"\d+", ground)[:3]) < 200) == (scheme == "dark")
    found = tab.run(CONTRAST % json.dumps(READ))
    tab.click("[data-metric=edit_performance]")
    found |= tab.run(CONTRAST % json.dumps(READ_IN_PANEL))
    assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}


def test_a_phone_scrolls_down_only(tab: Browser, file: Path) -> None:
    tab.look(390, 844, phone=True)
    tab.open(file.as_uri())
    for node in tab.run(
        "[...document.querySelectorAll('details')].map((node, i) => (node.id ||= 'fold-' + i))"
    ):
        tab.run(f"document.getElementById('{node}').open = true")
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    # the table scrolls in its box, and the names stay
    tab.run("document.querySelector('.holder').scrollLeft = 200")
    assert tab.run("document.querySelector('.holder').scrollLeft") == 200
    left = "Math.round(document.querySelector('%s').getBoundingClientRect().left)"
    assert tab.run(left % "table.board tbody th[scope=row]") == tab.run(left % ".holder")
    tab.run("document.querySelector('.holder').scrollLeft = 0")
    tab.click("[data-metric=edit_performance]")
    assert tab.run(
        "[document.getElementById('panel').getBoundingClientRect().width, document.documentElement.scrollWidth]"
    ) == [390, 390]


def test_motion_only_for_who_wants_it(tab: Browser) -> None:
    tab.click("[data-metric=edit_performance]")
    assert tab.run("getComputedStyle(document.getElementById('panel')).animationName") == "none"
    tab.press("Escape")
    tab.look(1280, 900, motion="no-preference")
    tab.click("[data-metric=edit_performance]")
    assert tab.run("getComputedStyle(document.getElementById('panel')).animationName") == "slide"


def test_nothing_may_leave_the_page(tab: Browser) -> None:
    tab.run(
        "new Promise(done => { const image = new Image(); image.onerror = image.onload = () => done(1); image.src = 'http://127.0.0.1:9/x.png'; })"
    )
    assert tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert len(tab.complaints) >= 2 and all(
        "Content Security Policy" in complaint for complaint in tab.complaints
    )
    tried = {
        event["params"]["requestId"]
        for event in tab.events
        if "127.0.0.1:9" in json.dumps(event) and event["method"] == "Network.requestWillBeSent"
    }
    stopped = {
        event["params"]["requestId"]
        for event in tab.events
        if event.get("params", {}).get("blockedReason") == "csp"
    }
    assert tried <= stopped
    tab.complaints.clear()
    tab.requests[:] = [request for request in tab.requests if "127.0.0.1:9" not in request]
