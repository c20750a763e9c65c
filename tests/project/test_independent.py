"""The whole way from edits to numbers against a script that shares no code with it (`independent.py`)."""

import ast
import random
import sys
from pathlib import Path

import pytest

from baselines import methods
from lks.results.cells import Cell
from lks.results.store import Store
from lks.runs.cell import LoadedResources, run
from tests.helpers.root import ROOT
from tests.lks.results.test_wild_sql import of_rows
from tests.project import independent

MODEL = ROOT / "lks" / "models" / "weights" / "micro-llama"
T = 50


def quiet(stage: str, done: float) -> None:
    pass


def test_the_script_uses_nothing_of_this_project() -> None:
    tree = ast.parse(Path(independent.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"torch", "transformers", "safetensors", "pyarrow"}


NAMES = """Paris|St. Louis|U.S. Army|J. R. R. Tolkien|北京|パリ|दिल्ली|لاہور|Москва|г. Москва|Yahoo! Inc|Jeopardy!|P!nk|C#|C++|C|A-|A+|AB-|Vitamin A|
A*|the A|The Beatles|A Clockwork Orange|-5|−5|1.5|15|1,000|1.000|1000|10:30|2-1|2–1|2 - 1|5 %|5%|$5|5 €|No. 5|COVID-19|B-52|Jean-Luc|AC/DC|9/11|+|
AT&T|Ke$ha|3. Oktober 1990|1. FC Köln|Love. Angel. Music. Baby.|...Baby|World War I|Apple Inc.|Ph.D.|at 5 p.m.|5 °C|１９９０|１．５|١٩٩٠|+5|R&B|100°|
M*A*S*H|**Paris**|“Paris”|'Paris'|Who's Afraid?|O'Brien|O’Brien|1939–1945|1/2|F#|7-Eleven|Σωκράτης|ΣΩΚΡΆΤΗΣ|#1|5'11|< 5|±3|18+|3.5 million|v1.4.5|
Dr. No|Washington, D.C.|1'000|192.168.0.1|(-5)|Rh-|node.js""".replace("\n", "").split("|")
ENDS = (".", "!", "?", "。", "।", "؟", "…", "\n", ",", ";", "", " ", "...", "?!", '."', "!”")
NEXT = (
    "It is",
    "He was",
    "Germany lost",
    "and more",
    "北京是",
    "यह है",
    "it is",
    "5 of them",
    "The end",
    "",
    "It",
)


def test_both_find_the_same_answers_and_the_same_right_ones() -> None:
    rng, rows = random.Random(0), []
    for _ in range(1500):
        name = rng.choice(NAMES)
        text = (
            f"{rng.choice(('', ' '))}{name}{rng.choice(ENDS)} {rng.choice(NEXT)}{rng.choice(('.', ' b', ''))}"
        )
        rows.append(
            (
                text,
                rng.choice((name, rng.choice(NAMES))),
                [rng.choice(NAMES)] if rng.random() < 0.4 else [],
                "",
            )
        )
    found = [row[:2] for row in of_rows(rows)]
    assert found == [
        (independent.said(text), int(independent.is_right(text, answer, others)))
        for text, answer, others, _ in rows
    ]
    assert 0.3 < sum(right for _, right in found) / len(found) < 0.7


def test_a_plain_script_finds_the_same_numbers(tmp_path: Path) -> None:
    store, bench = Store(tmp_path), LoadedResources()
    shards: dict[str, Path] = {}
    cells = {
        name: Cell("micro-llama", "world", name, T, 0, 1, variant)
        for name, variant in (("none", ()), ("lks", (("max_epochs", "5"),)))
    }
    for name, cell in cells.items():
        outcome = run(cell, methods()[name], tmp_path, quiet, bench)
        assert outcome.status == "ok", outcome.reason
        store.record(outcome)
        shards[name] = tmp_path / outcome.shards[0]
    sql = "SELECT readout || ' ' || metric, value FROM metrics WHERE cell_id = ? AND metric IN ('reliability', 'generality', 'locality')"
    stored = {
        str(name): value
        for name, value in store.query(f"{sql} AND readout <> 'likelihood'", [cells["lks"].id])
    }
    found = independent.scores(MODEL, tmp_path / "runs" / cells["lks"].id / "patch" / "0", shards["lks"])
    assert stored == pytest.approx(found, abs=1e-9) and len(found) == 15
    before = dict(
        store.query(
            "SELECT metric, value FROM metrics WHERE cell_id = ? AND readout = 'ar_exact'", [cells["none"].id]
        )
    )
    assert found["ar_exact reliability"] > float(str(before["reliability"])) + 0.2, "the edits do something"
    assert 0 < found["tf_token locality"] < 1, "and locality tells something"
