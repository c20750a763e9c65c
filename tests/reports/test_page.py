"""What is in the page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lks.results.store import Store
from reports import render
from tests.reports.page_results import DEVICE, fill


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def file(results: Path) -> Path:
    return render(results).page


@pytest.fixture(scope="module")
def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text: str) -> dict[str, Any]:
    """What the script gets."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


class Page(HTMLParser):
    """Collects what the page refers to and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")
        ]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"


def test_the_page_is_well_formed_and_refers_to_nothing_but_files_beside_it(file: Path, text: str) -> None:
    page = Page()
    page.feed(text)
    assert page.open == [] and page.handlers == []
    assert len(page.ids) == len(set(page.ids))
    anchors = {ref[1:] for ref in page.references if ref.startswith("#") and "=" not in ref}
    assert anchors and anchors <= set(page.ids)
    files = {ref for ref in page.references if not ref.startswith(("#", "data:"))}
    assert files and all((file.parent / ref).is_file() for ref in files)
    assert not re.search(
        r"@import|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text
    )
    assert "default-src 'none'" in text


def test_prompts_and_reasons_cannot_become_markup(text: str, data: dict[str, Any]) -> None:
    assert "<b>Ann" not in text and "<i>odd" not in text and "<draw 0>" not in text
    assert text.count("</script>") == 2  # the data's and the script's own
    prompts = {sample["prompt"] for samples in data["samples"].values() for sample in samples}
    assert "edit <b>Ann</b> </script> & more" in prompts


def test_the_same_store_gives_the_same_page(results: Path, file: Path, text: str) -> None:
    (results / "lks.duckdb").unlink()
    assert render(results).page.read_text(encoding="utf-8") == text


def test_the_leaderboard_has_every_cell_with_scores_or_the_reason(
    results: Path, data: dict[str, Any]
) -> None:
    stored = {outcome.cell.id: outcome for outcome in Store(results).outcomes()}
    assert {entry["cell"] for entry in data["entries"]} == set(stored)
    for entry in data["entries"]:
        assert bool(entry["scores"]) == (stored[entry["cell"]].status == "ok") == (not entry["why"])
    lks = next(e for e in data["entries"] if e["method"] == "LKS" and e["n_edits"] == 100)
    # one of four paraphrases and two of four answers about others are wrong
    marks = [
        lks["scores"]["ar_exact"][metric][0]
        for metric in ("reliability", "generality", "locality", "edit_performance")
    ]
    assert marks == [100.0, 75.0, 50.0, 75.0]
    assert lks["spent"]["per_edit_s"] == 2.0 and lks["main"]


def test_published_values_stand_beside_the_paper_s_read_out_only(data: dict[str, Any]) -> None:
    published = {
        (e["method"], readout): marks["generality"][3]
        for e in data["entries"]
        for readout, marks in e["scores"].items()
        if e["model"] == "llama-2-7b-chat"
    }
    assert published["LKS", "tf_token"] == 94.5
    assert (
        published["LKS", "ar_exact"] is None
        and published["unedited" if ("unedited", "tf_token") in published else "Unedited", "tf_token"] is None
    )


def test_samples_are_right_and_wrong_answers_of_each_kind(data: dict[str, Any]) -> None:
    cell = next(e["cell"] for e in data["entries"] if e["method"] == "ROME")
    found = [(sample["kind"], sample["is_right"]) for sample in data["samples"][cell]]
    assert {pair: found.count(pair) for pair in found} == {
        **{(kind, False): 3 for kind in ("edit", "paraphrase")},
        **{(kind, True): 1 for kind in ("edit", "paraphrase")},
        ("locality", True): 3,
    }
    wrong = next(s for s in data["samples"][cell] if s["kind"] == "edit" and not s["is_right"])
    assert (wrong["tf_right"], wrong["tf_tokens"], wrong["ar_text"], wrong["fired"]) == (
        1,
        2,
        "<i>odd</i>",
        False,
    )
    assert wrong["unedited_wild"] == "stone" and wrong["error"]


def test_without_script_numbers_reasons_and_provenance_are_there(text: str) -> None:
    still = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "<noscript>" in still and 'id="table-table1"' in still
    assert 'id="table-seconds"' in still and 'id="figure-seconds"' in still
    assert "loss is NaN at step 12 &lt;draw 0&gt;" in still and DEVICE in still
    assert "arXiv 2508.03741" in still and "<dt>Loc</dt>" in still


def test_the_summary_tells_the_best_and_the_gap_to_generation(text: str) -> None:
    plain = text.replace("\u00a0", " ")
    assert "FT-M, LKS and ROME made 1 to 1,000 edits at a time on micro-llama on world and" in plain
    assert "8 of 9 cells have a result (without: 1 × diverged)." in plain
    # Rel 100, Gen (3 + 0.5) / 4, Loc (2 + 2 * 0.5) / 4
    assert "is that of LKS (micro-llama on world, T = 100: 87.5 ±" in plain
    # LKS: 3 of 4 edits at T = 1,000, all at 100; there the wrong one has half of its tokens: 87.5 less 75
    assert "75 to 100 % of the edits and 75 to 100 % of their paraphrases come out wholly right" in plain
    assert "teacher forcing flatters reliability by up to 12.5 points." in plain


def test_a_store_without_cells_says_so(tmp_path: Path) -> None:
    Store(tmp_path / "results")
    text = render(tmp_path / "results").page.read_text(encoding="utf-8")
    assert "Nothing has been run yet." in text and "then <code>lks report" in text
