"""What the unedited model knows, as report and page tell it: the numbers are those of a plain calculation
over the rows.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from lks.edits import ProbeKind
from lks.results.answers import Answer
from lks.results.cells import ANSWERS, Cell
from lks.results.store import Store
from lks.statistics import clustered_error, interval
from reports import render
from reports.figures.data import ReportData
from reports.figures.methods import submetrics
from reports.figures.style import applied
from reports.page.summary import sentences
from reports.publish import publish
from reports.results import Results, load
from reports.tables import formats
from reports.tables.all import tables
from reports.tables.model import Table, Value
from reports.tables.survey import portability
from tests.helpers.stores import fail, put

FACTS, PLAIN, NEVER = (Cell("tiny", dataset, "lks", 8, 0, 2) for dataset in ("facts", "plain", "never"))
PLACES = ("Rome", "Oslo", "Lima", "Bonn")
STRATA = ("alias", "reverse", "two_hop")


@dataclass(frozen=True)
class Asked:
    """What a cell's edited model and the unedited one said, row by row."""

    before: list[Answer]
    after: list[Answer]
    given: list[Answer]


def asked(cell: Cell, has_old: bool, knows: float) -> Asked:
    """Answers of both models to two draws of eight edits, two to a subject; the unedited model knows so many
    of the old answers.
    """
    rng = Random(cell.dataset)
    before, after, given = [], [], []
    for draw in range(cell.draws):
        for case in range(cell.n_edits):
            old, new = rng.sample(PLACES, 2)
            kinds: list[tuple[ProbeKind, int]] = [
                ("edit", 0),
                ("paraphrase", 0),
                ("paraphrase", 1),
                ("locality", 0),
                ("locality", 1),
                ("portability", 0),
            ]
            for kind, index in kinds[: 5 + (case % 4 > 0)]:
                rival, answer = (
                    (old if has_old and kind in ("edit", "paraphrase") else ""),
                    (old if kind == "locality" else new),
                )
                stratum = STRATA[case % 3] if kind == "portability" else ""
                ids = tuple(range(1, rng.randint(2, 5)))
                row = Answer(
                    draw,
                    f"case {case}",
                    f"subject {case // 2}",
                    kind,
                    index,
                    "?",
                    answer,
                    ids,
                    ids,
                    ids,
                    "",
                    -1.0,
                    stratum=stratum,
                    rival=rival,
                )
                said = (
                    rng.choice([old, f"{old} is the one", f"{old}ville"])
                    if rng.random() < knows
                    else rng.choice(["Peru", "it is Rome"])
                )
                before.append(replace(row, tf_ids=_spoilt(rng, ids), wild_text=said))
                after.append(replace(row, tf_ids=_spoilt(rng, ids), wild_text=rng.choice([new, said, old])))
                if kind == "portability":
                    given.append(replace(row, context="given", wild_text=rng.choice([new, new, old])))
    return Asked(before, after, given)


def _spoilt(rng: Random, ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(rng.choice([number, 0]) for number in ids)


@pytest.fixture(scope="module")
def made() -> dict[Cell, Asked]:
    return {
        FACTS: asked(FACTS, has_old=True, knows=0.7),
        PLAIN: asked(PLAIN, has_old=False, knows=0.7),
        NEVER: asked(NEVER, has_old=True, knows=0.0),
    }


@pytest.fixture(scope="module")
def store(made: dict[Cell, Asked], tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("known") / "results")
    for cell, one in made.items():
        put(
            store,
            replace(cell, method="none"),
            "unedited",
            one.before,
            stages={f"{ANSWERS}-given": one.given},
        )
        put(store, cell, "LKS", one.after)
    fail(store, replace(FACTS, method="rome"), "ROME", "oom", "out of memory")
    alone = replace(FACTS, n_edits=3, draws=1)
    put(store, alone, "LKS", [row for row in made[FACTS].after if row.draw == 0 and row.case_id < "case 3"])
    return store


@pytest.fixture(scope="module")
def results(store: Store) -> Results:
    return load(store, store.sync())


@pytest.fixture(scope="module")
def found(results: Results, store: Store) -> list[Table]:
    with store.copy() as copy:
        return tables(results, copy)["known"]


def entries(table: Table, part: str, t: str, method: str) -> dict[str, Value]:
    """The numbers of one row by "group heading"."""
    (row,) = [row for row in table.rows if row.part == part and row.entries[:2] == (t, method)]
    named = zip(table.columns[2:], row.entries[2:], strict=True)
    return {f"{column.group} {column.heading}": entry for column, entry in named if isinstance(entry, Value)}


def scores(one: Asked, after: list[Answer], readout: str) -> Iterator[tuple[str, bool, str, float]]:
    """Metric, whether the fact is known, subject and score of each question, from the rows alone."""

    def key(row: Answer) -> tuple[object, ...]:
        return row.draw, row.case_id, row.kind, row.probe_index

    before = {key(row): row for row in one.before}
    begins = {key(row): f"{row.wild_text} ".startswith(f"{row.rival or row.answer} ") for row in one.before}
    counts = {key(row) for row in one.given if row.wild_text == row.answer}
    for row in after:
        stays = row.kind == "locality"
        own, wanted = before[key(row)], before[key(row)].tf_ids if stays else row.answer_ids
        score = float(row.wild_text == (own.wild_text if stays else row.answer))
        if readout == "tf_token":
            score = sum(a == b for a, b in zip(wanted, row.tf_ids, strict=True)) / len(wanted)
        if row.kind != "portability" or key(row) in counts:
            metric = {"edit": "Rel", "paraphrase": "Gen", "locality": "Loc", "portability": "Port"}[row.kind]
            yield (
                metric,
                begins[key(row) if stays else (row.draw, row.case_id, "edit", 0)],
                row.subject,
                score,
            )


@pytest.mark.parametrize("readout", ["wild", "tf_token"])
@pytest.mark.parametrize("method", ["unedited", "LKS"])
def test_values_over_known_facts_and_over_all_are_those_of_the_rows(
    readout: str, method: str, made: dict[Cell, Asked], found: list[Table]
) -> None:
    (table,) = [table for table in found if table.readout == readout]
    ours = entries(table, "tiny on facts", "8", method)
    one = made[FACTS]
    rows = list(scores(one, one.after if method == "LKS" else one.before, readout))
    for metric in ("Rel", "Gen", "Loc", "Port"):
        for heading in ("known", "all"):
            chosen = [
                (subject, score)
                for name, is_known, subject, score in rows
                if name == metric and (is_known or heading == "all")
            ]
            subjects, values = zip(*chosen, strict=True)
            mean, error = sum(values) / len(values), clustered_error(values, subjects)
            entry = ours[f"{metric} {heading}"]
            assert len(set(subjects)) > 2 and len(values) < sum(name == metric for name, *_ in rows) + (
                heading == "all"
            ), "too easy"
            assert entry.value == pytest.approx(100 * mean, abs=1e-4), (metric, heading)
            ends = [100 * end for end in interval(mean, error, len(set(subjects)))]
            assert (entry.low, entry.high) == pytest.approx(ends, abs=0.05), (
                metric,
                heading,
            )  # Student's t is a series in SQL


def test_known_facts_are_counted(made: dict[Cell, Asked], found: list[Table], results: Results) -> None:
    rows = list(scores(made[FACTS], made[FACTS].after, "wild"))
    old, others = ([is_known for name, is_known, *_ in rows if name == metric] for metric in ("Rel", "Loc"))
    expected = {
        "Old answers known": sum(old),
        "Old answers all": 16,
        "Other facts known": sum(others),
        "Other facts all": 32,
    }
    assert 0 < sum(old) < 16 and 0 < sum(others) < 32
    for table in found:
        for method in ("unedited", "LKS"):
            ours = entries(table, "tiny on facts", "8", method)
            assert {name: ours[name].value for name in expected} == expected
    told = {
        row.method: (row.old_answers, row.old_answers_known)
        for row in results.overview
        if row.dataset == "facts" and row.n_edits == 8
    }
    assert told == {"none": (16, sum(old)), "lks": (16, sum(old))}
    assert (
        f"Of the old answers of the edits the unedited model gives {sum(old)} of 16 (tiny on facts, T = 8)"
        in " ".join(sentences(results))
    )


def test_where_nothing_is_known_or_can_be_it_is_said(found: list[Table]) -> None:
    assert {row.part for table in found for row in table.rows} == {"tiny on facts", "tiny on never"}, (
        "plain has no old answers"
    )
    for table in found:
        ours = entries(table, "tiny on never", "8", "LKS")
        assert [
            ours[name].value
            for name in ("Old answers known", "Old answers all", "Other facts known", "Other facts all")
        ] == [0, 16, 0, 32]
        assert {
            entry.why for name, entry in ours.items() if name.endswith(" known") and entry.value is None
        } == {"none known"}
        assert [ours[f"{metric} all"].value is not None for metric in ("Rel", "Gen", "Loc", "Port")] == [
            True
        ] * 4
        assert {entry.why for entry in entries(table, "tiny on facts", "8", "ROME").values()} == {"oom"}
        lonely = entries(table, "tiny on facts", "3", "LKS")
        assert (
            lonely["Old answers known"].why
            == lonely["Rel known"].why
            == "not applicable: no free answers of the unedited model"
        )
        assert (
            lonely["Rel all"].value is not None
            and lonely["Loc all"].why == "not applicable: unedited model not run"
        )


def test_more_pairs_of_model_and_dataset_than_are_named_are_counted(results: Results) -> None:
    blocks = [replace(block, model=f"tiny-{number}") for number in range(2) for block in results.blocks]
    overview = [replace(row, model=f"tiny-{number}") for number in range(2) for row in results.overview]
    text = " ".join(sentences(replace(results, blocks=tuple(blocks), overview=tuple(overview))))
    assert re.search(
        r"Before editing, the models give 0 to \d+ % of the old answers of the edits, on 4 pairs of model and dataset\.",
        text,
    )


def test_kinds_of_portability_have_headings_in_tables_and_figures(results: Results, store: Store) -> None:
    (table,) = portability(results)
    assert [column.heading for column in table.columns[4:]] == [
        "known",
        "all",
        "alias",
        "reverse",
        "two hop",
    ] * 2
    assert "Two hop: a fact about the new answer." in table.caption and all(
        column.note for column in table.columns[6:9]
    )
    with applied():
        drawn = submetrics(ReportData(results, store))
    titles = {axes.get_title(loc="left") for axes in drawn.figure.axes}  # type: ignore[union-attr]
    assert {"port.:\nalias", "port.:\nreverse", "port.:\ntwo hop"} <= titles


def test_the_table_is_on_the_page_in_its_files_and_published(
    store: Store, found: list[Table], tmp_path: Path
) -> None:
    report = render(store.results)
    page = report.page.read_text(encoding="utf-8")
    assert 'id="table-known"' in page and "What the unedited model knows (WILD)" in page
    assert (report.folder / "tables/known.md").read_text(encoding="utf-8") == formats.markdown(found)
    rows = list(csv.DictReader(io.StringIO((report.folder / "tables/known.csv").read_text(encoding="utf-8"))))
    ours = {
        f"{r['group']} {r['column']}": r["value"]
        for r in rows
        if (r["readout"], r["part"], r["T"], r["Method"]) == ("wild", "tiny on facts", "8", "LKS")
    }
    expected = entries(next(table for table in found if table.readout == "wild"), "tiny on facts", "8", "LKS")
    assert {name: float(value) for name, value in ours.items()} == {
        name: pytest.approx(entry.value) for name, entry in expected.items()
    }
    publish(report, tmp_path / "docs")
    assert formats.markdown(found).strip() in (tmp_path / "docs" / "README.md").read_text(encoding="utf-8")
