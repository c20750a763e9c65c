"""Two results folders side by side: hand-worked differences, what can go wrong, and how often a difference is
seen where there is none.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from lks.errors import StoreError, UserError
from lks.results.answers import Answer
from lks.results.cells import DECISIONS, PASSAGES, PROTOCOL, Cell, Costs, Outcome
from lks.results.decisions import Decision
from lks.results.rows import Passage
from lks.results.shards import write_outcome, write_stage
from lks.results.store import Store
from reports.compare.compare import compare, from_json, to_csv, to_json
from reports.compare.model import LEVEL, ComparisonReport, Match, ScoreDifference
from reports.compare.scores import Sums, differences, with_edit_performance
from reports.compare.text import text
from tests.helpers.answers_made import NAMES, answers
from tests.helpers.root import ROOT
from tests.helpers.stores import Wrong

GOLDEN = ROOT / "tests" / "golden" / "compare.txt"
FT, LKS = (Cell("micro-llama", "world", method, 12, 0, 1) for method in ("ft", "lks"))
PROVENANCE = {"title": "A method", "device": "cpu", "torch": "2.1", "finished": "2026-01-01T00:00:00"}


def put(store: Store, cell: Cell, made: list[Answer], costs: Costs | None = None, **provenance: str) -> None:
    stages = (
        write_stage(store.results, cell.id, "answers", made),
        write_stage(store.results, cell.id, PASSAGES, [Passage(0, 0, 10, -20.0)]),
    )
    write_outcome(
        store.results,
        Outcome(
            cell, "ok", "", stages, costs or Costs(1.0, 12.0, 3.0, 400_000_000, 64), PROVENANCE | provenance
        ),
    )


def failed(store: Store, cell: Cell, status: str = "oom") -> None:
    write_outcome(store.results, Outcome(cell, status, "out of memory", (), Costs(), PROVENANCE))  # type: ignore[arg-type]


def filled(folder: Path, **wrong: Wrong) -> Store:
    """A folder with the unedited model, FT and LKS; the unedited model has edits and paraphrases wrong. Its
    catalogue is for others to make.
    """
    store = Store(folder)
    put(store, FT.unedited, answers({"edit": 12, "paraphrase": 12}))
    for cell in (FT, LKS):
        put(store, cell, answers(wrong.get(cell.method, {})))
    return store


@pytest.fixture
def before(tmp_path: Path) -> Store:
    return filled(tmp_path / "before")


def of(report: ComparisonReport, method: str) -> Match:
    return next(match for match in report.matches if match.a.cell.method == method)


def row(match: Match, readout: str, metric: str) -> ScoreDifference:
    return next(one for one in match.differences if (one.readout, one.metric) == (readout, metric))


def test_copies_are_identical(before: Store, tmp_path: Path) -> None:
    shutil.copytree(before.results, tmp_path / "after")
    report = compare(before.results, tmp_path / "after")
    assert report.verdict == "identical" and report.counts["identical"] == 3 and report.tests == 0
    assert all(match.items.identical and not match.changes and not match.examples for match in report.matches)
    assert {one.state for match in report.matches for one in match.differences} == {"unchanged"}
    assert not report.only_a and not report.only_b


def test_a_folder_is_identical_with_itself(before: Store) -> None:
    assert compare(before.results, before.results).verdict == "identical"
    assert compare(before.results, before.results / "lks.duckdb").verdict == "identical"


def test_differences_are_the_hand_worked_ones(before: Store, tmp_path: Path) -> None:
    # B has 9 of 12 paraphrases and 1 of 12 edits wrong. TF token: a wrong answer scores 0.5:
    # Gen (3 + 9 * 0.5) / 12 = 62.5, Rel 95.83. EP: (-4.1667 - 37.5 + 0) / 3 = -13.8889.
    # AR exact: Gen 25, EP (-8.3333 - 75) / 3 = -27.7778.
    after = filled(tmp_path / "after", lks={"paraphrase": 9, "edit": 1})
    match = of(compare(before.results, after.results), "lks")
    assert match.verdict == "different" and match.a.cell_id == match.b.cell_id
    assert (match.items.shared, match.items.changed, match.items.tf, match.items.ar, match.items.wild) == (
        36,
        10,
        10,
        10,
        10,
    )
    generality = row(match, "tf_token", "generality")
    assert (generality.a, generality.b, generality.value) == pytest.approx((100, 62.5, -37.5))
    assert (
        generality.n_items,
        generality.n_subjects,
        generality.changed,
        generality.better,
        generality.worse,
    ) == (12, 12, 9, 0, 9)
    assert generality.low is not None and generality.high is not None
    assert -50 <= generality.low < -37.5 < generality.high < 0
    assert generality.state == "different" and generality.p <= generality.adjusted_p < LEVEL
    assert row(match, "tf_token", "edit_performance").value == pytest.approx(-13.8889, abs=1e-3)
    assert row(match, "tf_token", "edit_performance").n_items == 36
    assert row(match, "ar_exact", "edit_performance").value == pytest.approx(-27.7778, abs=1e-3)
    alone = row(match, "wild", "reliability")  # one subject differs: nothing that can be found
    assert alone.value == pytest.approx(-100 / 12) and alone.p == 1 and alone.state == "no difference found"
    assert row(match, "tf_token", "locality").state == "unchanged"
    assert of(compare(before.results, after.results), "ft").verdict == "identical"


def test_the_view_of_metrics_has_the_same_means(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after", lks={"paraphrase": 5, "edit": 1, "locality": 3}, ft={"edit": 2})
    report = compare(before.results, after.results)
    means = {
        (c, r, m): 100 * v
        for c, r, m, v in after.query("SELECT cell_id, readout, metric, value FROM metrics")
    }  # type: ignore[operator]
    shown = [(match.b.cell_id, one) for match in report.matches for one in match.differences]
    assert len(shown) == 3 * 3 * 4
    for cell_id, one in shown:
        assert one.b == pytest.approx(means[cell_id, one.readout, one.metric])


def test_the_other_way_round_has_the_other_sign(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after", lks={"paraphrase": 9})
    there, back = (
        row(of(compare(*sides), "lks"), "wild", "generality")
        for sides in ((before.results, after.results), (after.results, before.results))
    )
    assert (there.value, there.worse, there.better) == (-75, 9, 0) and (
        back.value,
        back.worse,
        back.better,
    ) == (75, 0, 9)
    assert there.low is not None and back.high == pytest.approx(-there.low, abs=10)


def test_a_changed_text_without_a_changed_score_is_no_difference_and_not_identical(
    before: Store, tmp_path: Path
) -> None:
    after = filled(tmp_path / "after")
    put(
        after,
        LKS.unedited,
        [
            replace(one, wild_text="another") if one.kind == "edit" else one
            for one in answers({"edit": 12, "paraphrase": 12})
        ],
    )
    report = compare(before.results, after.results)
    match = of(report, "none")
    assert report.verdict == match.verdict == "no difference found" and report.tests == 0
    assert match.items.changed == match.items.wild == 12 and match.items.ar == 0
    assert (
        match.examples[0].a_said == "other"
        and match.examples[0].b_said == "another"
        and match.examples[0].effect == ""
    )


def test_answers_may_be_equal_and_the_unedited_ones_not(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    put(after, LKS.unedited, answers({"edit": 12, "paraphrase": 12, "locality": 10}))
    match = of(compare(before.results, after.results), "lks")
    assert match.items.identical and match.verdict == "different"
    assert row(match, "wild", "locality").value == pytest.approx(-1000 / 12)


def test_other_parameters_make_another_id_and_the_same_cell(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    shutil.rmtree(after.results / "cells" / LKS.id)
    other = replace(LKS, parameters='{"lr": 0.1, "width": 4}', model_revision="new")
    put(after, replace(other, method="none", parameters="{}"), answers({"edit": 12, "paraphrase": 12}))
    put(after, other, answers({}), torch="2.2", device="cuda")
    match = of(compare(before.results, after.results), "lks")
    assert match.verdict == "identical" and match.a.cell_id != match.b.cell_id
    assert {(change.what, change.a, change.b) for change in match.changes} == {
        *(
            ("lr", "", "0.1"),
            ("width", "", "4"),
            ("model revision", "", "new"),
            ("torch", "2.1", "2.2"),
            ("device", "cpu", "cuda"),
        ),
    }


def test_equal_cells_go_together_before_newer_ones(before: Store, tmp_path: Path) -> None:
    shutil.copytree(before.results, tmp_path / "after")
    put(Store(tmp_path / "after"), replace(LKS, draws=2), answers({"edit": 12}), finished="2027")
    report = compare(before.results, tmp_path / "after")
    assert report.verdict == "identical" and [held.cell.draws for held in report.only_b] == [2]


def test_cells_and_items_of_one_side_are_told(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    shutil.rmtree(after.results / "cells" / FT.id)
    put(after, replace(FT, seed=1), answers({}))
    put(after, LKS, answers({}, NAMES[:9]))
    report = compare(before.results, after.results)
    assert [held.cell.seed for held in report.only_a] == [0] and [
        held.cell.seed for held in report.only_b
    ] == [1]
    match = of(report, "lks")
    assert (match.items.shared, match.items.only_a, match.items.only_b, match.items.changed) == (27, 9, 0, 0)
    assert match.verdict == "no difference found"


def test_a_question_put_otherwise_is_another_question(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    put(
        after,
        LKS,
        [
            replace(one, prompt="please: " + one.prompt) if one.subject == NAMES[0] else one
            for one in answers({})
        ],
    )
    items = of(compare(before.results, after.results), "lks").items
    assert (items.shared, items.only_a, items.only_b) == (33, 3, 3)


def test_a_cell_that_no_longer_runs_is_different(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    failed(after, LKS)
    report = compare(before.results, after.results)
    match = of(report, "lks")
    assert (
        report.verdict == match.verdict == "different"
        and match.why == "ok → oom: out of memory"
        and not match.differences
    )
    failed(before, LKS)
    match = of(compare(before.results, after.results), "lks")
    assert match.verdict == "cannot be compared" and match.why == "oom on both sides"


def test_locality_without_the_unedited_model_on_one_side_is_counted(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    shutil.rmtree(after.results / "cells" / FT.unedited.id)
    match = of(compare(before.results, after.results, readouts=["ar_exact"]), "lks")
    assert [(lost.readout, lost.metric, lost.n_items, lost.in_a, lost.in_b) for lost in match.unscored] == [
        ("ar_exact", "locality", 12, 0, 12)
    ]
    assert [one.metric for one in match.differences] == ["reliability", "generality"]


def test_scope_cells_are_compared_by_what_fires(before: Store, tmp_path: Path) -> None:
    cell = replace(LKS, measure="scope")
    after = filled(tmp_path / "after")
    for store, acts in ((before, 0), (after, 11)):
        made = [Decision(0, "others", i, f"c{i}", ("x",) if i < acts else (), "") for i in range(12)]
        stage = write_stage(store.results, cell.id, DECISIONS, made)
        write_outcome(store.results, Outcome(cell, "ok", "", (stage,), Costs(), PROVENANCE))
    match = next(
        match for match in compare(before.results, after.results).matches if match.a.cell.measure == "scope"
    )
    assert match.items.shared == 12 and match.items.fired == 11 and match.verdict == "different"
    assert row(match, "fires", "others").value == pytest.approx(1100 / 12)


def test_costs_stand_beside_and_are_not_tested(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after")
    put(after, LKS, answers({}), Costs(1.0, 36.0, 3.0, 600_000_000, 64))
    match = of(compare(before.results, after.results), "lks")
    beside = {one.name: one.ratio for one in match.beside}
    assert (
        beside["seconds_per_edit"] == pytest.approx(3)
        and beside["peak_bytes"] == pytest.approx(1.5)
        and beside["perplexity"] == 1
    )
    assert match.verdict == "identical"


def test_a_tolerance_asks_for_the_whole_interval(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after", lks={"paraphrase": 9})
    states = {}
    for tolerance in (0.0, 38.0, 60.0):
        report = compare(before.results, after.results, ["tf_token"], ["generality"], tolerance=tolerance)
        states[tolerance] = row(of(report, "lks"), "tf_token", "generality").state, report.verdict
    assert states == {
        0.0: ("different",) * 2,
        38.0: ("different",) * 2,
        60.0: ("within tolerance", "no difference found"),
    }


def test_filters_leave_out_cells_read_outs_and_metrics(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after", lks={"paraphrase": 9})
    report = compare(
        before.results,
        after.results,
        ["likelihood", "tf_exact"],
        ["reliability", "portability"],
        {"method": ("lks",)},
    )
    assert [match.a.cell.method for match in report.matches] == ["lks"] and not report.only_a
    assert [(one.readout, one.metric) for one in report.matches[0].differences] == [
        ("tf_exact", "reliability")
    ]
    assert (
        report.verdict == "no difference found"
    )  # the texts of paraphrases differ, the scores asked for do not
    for words in ({"readouts": ["tf_tokens"]}, {"metrics": ["generalty"]}):
        with pytest.raises(UserError, match="Did you mean"):
            compare(before.results, after.results, **words)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not below 0"):
        compare(before.results, after.results, tolerance=-1)


def test_a_catalogue_alone_will_do_and_is_not_written(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after", lks={"paraphrase": 9})
    alone = tmp_path / "sent" / "theirs.duckdb"
    alone.parent.mkdir()
    after.sync()
    shutil.copy(after.results / "lks.duckdb", alone)
    held = alone.read_bytes()
    assert compare(before.results, alone).matches == compare(before.results, after.results).matches
    assert alone.read_bytes() == held and list(alone.parent.iterdir()) == [alone]


def outdated(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE catalogue SET schema = 'older'")


def test_another_version_s_catalogue_is_made_again_if_its_cells_are_there(
    before: Store, tmp_path: Path
) -> None:
    after = filled(tmp_path / "after")
    alone = tmp_path / "alone.duckdb"
    for store in (after, before):
        store.sync()
        outdated(store.results / "lks.duckdb")
    shutil.copy(after.results / "lks.duckdb", alone)
    with pytest.raises(StoreError, match=r"alone\.duckdb was made by another version"):
        compare(before.results, alone)
    assert compare(before.results / "lks.duckdb", after.results).verdict == "identical"


def test_what_cannot_be_opened_is_told(before: Store, tmp_path: Path) -> None:
    (tmp_path / "text.duckdb").write_text("no database, but longer than any header would be" * 100)
    duckdb.connect(str(tmp_path / "other.duckdb")).close()
    (tmp_path / "empty").mkdir()
    newer = filled(tmp_path / "newer")
    newer.sync()
    (newer.results / "protocol.json").write_text(json.dumps({"protocol": PROTOCOL + 1}))
    strange = filled(tmp_path / "strange")
    strange.sync()
    with duckdb.connect(str(strange.results / "lks.duckdb")) as connection:
        connection.execute("UPDATE cells SET cell_id = 'f' || cell_id[2:]")
    shutil.copy(strange.results / "lks.duckdb", tmp_path / "strange.duckdb")
    for name, said in {
        "missing": "does not exist",
        "text.duckdb": "not a catalogue that can be read",
        "other.duckdb": "no catalogue of results",
        "empty": "holds no results",
        "newer": f"protocol {PROTOCOL + 1}; this program compares protocol {PROTOCOL}",
        "newer/lks.duckdb": f"protocol {PROTOCOL + 1}; this program compares protocol {PROTOCOL}",
        "strange.duckdb": "not of this program's evaluation protocol",
    }.items():
        for sides in ((before.results, tmp_path / name), (tmp_path / name, before.results)):
            with pytest.raises(StoreError, match=said):
                compare(*sides)


def test_a_catalogue_that_another_process_holds_is_told(before: Store, tmp_path: Path) -> None:
    from reports.compare.stores import side_by_side

    before.sync()
    shutil.copy(before.results / "lks.duckdb", tmp_path / "held.duckdb")
    code = f"import duckdb, sys; c = duckdb.connect({str(tmp_path / 'held.duckdb')!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdin is not None and other.stdout.readline() == b"open\n"
        with (
            pytest.raises(StoreError, match=r"held\.duckdb is in use by another process"),
            side_by_side(before.results, tmp_path / "held.duckdb", 0.1),
        ):
            pass
        other.stdin.close()


def test_stores_without_a_common_cell_say_what_they_hold(before: Store, tmp_path: Path) -> None:
    after = Store(tmp_path / "after")
    put(after, replace(LKS, n_edits=500), answers({}))
    with pytest.raises(
        StoreError,
        match=r"before holds 3 cells \(ft \| micro-llama.*after holds 1 cell \(lks \| micro-llama \| world \| T=500\)",
    ):
        compare(before.results, after.results)


def test_json_gives_the_report_back_and_csv_has_all_rows(before: Store, tmp_path: Path) -> None:
    after = filled(tmp_path / "after", lks={"paraphrase": 9})
    shutil.rmtree(after.results / "cells" / FT.id)
    report = compare(before.results, after.results)
    assert from_json(to_json(report)) == report
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(rows) == 2 * 12 + 1 and rows[-1]["verdict"] == "only in A" and rows[-1]["method"] == "ft"
    found = next(
        one for one in rows if (one["method"], one["readout"], one["metric"]) == ("lks", "wild", "generality")
    )
    assert (found["value"], found["worse"], found["state"]) == ("-75", "9", "different")


def test_one_subject_leaves_the_interval_open(tmp_path: Path) -> None:
    for name, wrong in (("before", {}), ("after", {"edit": 1})):
        put(Store(tmp_path / name), LKS, answers(wrong, NAMES[:1]))
    report = compare(tmp_path / "before", tmp_path / "after", ["wild"], ["reliability", "generality"])
    assert [(one.value, one.low, one.high, one.state) for one in report.matches[0].differences] == [
        *((-100.0, None, None, "no difference found"), (0.0, None, None, "unchanged")),
    ]
    assert from_json(to_json(report)) == report


def drawn(generator: np.random.Generator, right: np.ndarray) -> dict[tuple[str, str], Sums]:
    """A match in whose two halves each subject's items are right with one probability, the same on both
    sides.
    """
    made = {}
    for metric, n_items in (("reliability", 1), ("generality", 2), ("locality", 3)):
        a, b = (generator.binomial(n_items, right).astype(float) for _ in range(2))
        made["wild", metric] = Sums(
            np.array(NAMES * 5, dtype=object)[: len(right)],
            a,
            b,
            np.full(len(right), float(n_items)),
            0,
            int((b > a).sum()),
            1,
        )
    return made


def test_random_halves_are_seldom_called_different() -> None:
    # 100 comparisons of two cells each: 5 % false alarms would be 5, with a standard deviation of 2.2.
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        found = [
            with_edit_performance(_named(drawn(generator, generator.uniform(0.3, 1.0, 60)))) for _ in range(2)
        ]
        judged, tests = differences(found, 0.0)
        assert tests == 8
        alarms += any(one.state == "different" for match in judged for one in match)
    assert alarms <= 11


def _named(sums: dict[tuple[str, str], Sums]) -> dict[tuple[str, str], Sums]:
    """With 60 subjects of their own names."""
    names = np.array([f"subject {i:02}" for i in range(60)], dtype=object)
    return {key: replace(one, subjects=names) for key, one in sums.items()}


def test_what_never_changes_costs_no_power() -> None:
    # one cell with a clear difference among so many that did not change: their tests are not counted
    names = np.array(NAMES, dtype=object)
    ones, none = np.ones(12), np.zeros(12)
    same = {("wild", "reliability"): Sums(names, ones, ones, ones, 0, 0, 0)}
    lost = {("wild", "reliability"): Sums(names, ones, none, ones, 12, 0, 12)}
    judged, tests = differences([same] * 500 + [lost], 0.0)
    assert tests == 1 and judged[-1][0].state == "different"


@pytest.fixture
def lks(before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    from cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: CliRunner().invoke(app, ["compare", *map(str, words)])


def test_exit_codes_tell_the_verdict(lks: Callable[..., Result], tmp_path: Path) -> None:
    filled(tmp_path / "after", lks={"paraphrase": 9})
    assert lks("before", "before").exit_code == 0
    result = lks("before", "after", "--json", "found.json", "--csv", "found.csv")
    assert result.exit_code == 1 and "different" in result.output
    assert from_json((tmp_path / "found.json").read_text()).verdict == "different"
    assert (tmp_path / "found.csv").read_text().startswith("model,dataset,")
    assert lks("before", "after", "--only", "method=ft").exit_code == 0
    assert lks("before", "after", "--metric", "reliability", "--metric", "locality").exit_code == 0
    assert lks("before", "after", "--readout", "tf_token", "--tolerance", "60").exit_code == 0
    for words in (
        ("before", "nowhere"),
        ("before", "after", "--only", "method"),
        ("before", "after", "--tolerance", "-1"),
    ):
        result = lks(*words)
        assert (
            result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        )
    for folder in ("before", "after"):
        failed(Store(tmp_path / folder), LKS)
    result = lks("before", "after", "--only", "method=lks")
    assert result.exit_code == 2 and "Nothing could be compared: oom on both sides." in result.stderr


def test_unchanged_rows_are_shown_on_demand(lks: Callable[..., Result], tmp_path: Path) -> None:
    filled(tmp_path / "after", lks={"paraphrase": 9})
    short, long = lks("before", "after").output, lks("before", "after", "--all").output
    assert "ft | micro-llama" not in short and "identical  ft | micro-llama" in long
    assert " Loc " not in short and " Loc " in long


def test_the_terminal_shows_the_golden_text(
    before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = filled(tmp_path / "after", ft={"locality": 1})
    put(
        after, LKS, answers({"paraphrase": 9, "edit": 1}), Costs(1.0, 15.0, 3.0, 500_000_000, 64), torch="2.2"
    )
    put(after, replace(LKS, n_edits=500), answers({}))
    for store, status in ((before, "ok"), (after, "oom")):
        cell = replace(FT, variant=(("lr", "0.1"),), parameters='{"lr": 0.1}')
        failed(store, cell) if status == "oom" else put(store, cell, answers({}))
    monkeypatch.chdir(tmp_path)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(text(compare(Path("before"), Path("after"))), highlight=False)
    made = "".join(line.rstrip() + "\n" for line in console.export_text().splitlines())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(made)
    assert made == GOLDEN.read_text(), "check the difference; UPDATE_GOLDEN=1 takes the new one"
    assert "…" not in made
