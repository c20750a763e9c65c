"""One cell: draws, failures as data, reuse of finished patches."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal

import pyarrow.parquet as pq
import pytest
import torch

from baselines import methods
from baselines.none import Unedited
from cli.judge import keep
from cli.status import _stored
from lks.editing.editor import After, NoParams, no_callback
from lks.editing.patch import NoPatch, Patch, WeightPatch
from lks.edits import Case, Dataset, Edit, make_case
from lks.errors import TooManyEdits
from lks.evaluation.readouts import ask, ask_draws
from lks.evaluation.scope_decisions import Indicator, asked, scope_params
from lks.method.params import LKSParams
from lks.models.lm import LM
from lks.progress import Progress, no_progress
from lks.results.answers import Answer
from lks.results.cells import CACHED, PREPARATION, Cell, Measurements
from lks.results.judge_rows import Judgement
from lks.results.shards import read_answers
from lks.results.store import Store
from lks.runs.cell import LoadedResources, run
from lks.runs.draws import draws, held_out, unedited
from reports.results import cached_note
from tests.helpers import tiny

CASES = tuple(
    make_case(e, (f"Surely {e.subject} was born in",), ((f"{e.subject} works for", "Oslo"),))
    for e in tiny.edits(5)
)
SPARE = tuple(make_case(e, (), ()) for e in tiny.training())  # beyond the cell's records


class TinyBench(LoadedResources):
    """A tiny model and a few cases instead of the registries."""

    def __init__(self, cases: tuple[Case, ...] = CASES + SPARE) -> None:
        super().__init__()
        self.made, self.cases = tiny.lm("llama"), cases

    def lm(self, name: str) -> LM:
        return self.made

    def dataset(self, name: str) -> Dataset:
        return Dataset("tiny", self.cases, "r")


def cell(method: str = "none", n_edits: int = 1, count: int = 3) -> Cell:
    return Cell("micro-tiny", "world", method, n_edits, 0, count, records=len(CASES))


def quiet(stage: str, done: float) -> None:
    pass


def test_draws_are_disjoint_and_the_same_for_every_method() -> None:
    sets = draws(CASES, cell("none", 2, 2))
    ids = [case.case_id for cases in sets for case in cases]
    assert len(ids) == len(set(ids)) == 4
    assert sets == draws(CASES, cell("lks", 2, 2))
    assert [c.case_id for c in draws(CASES, cell("none", 4, 1))[0]] == ids


def test_too_many_edits_is_refused_before_work() -> None:
    with pytest.raises(TooManyEdits, match="needs 6 cases, world has 5"):
        draws(CASES, cell("none", 3, 2))


MANY = tuple(
    make_case(replace(e, case_id=f"{e.case_id}-{i}", subject=f"{e.subject} {i}"), (), ())
    for i in range(4)
    for e in tiny.training()
)


@pytest.mark.parametrize("records", [0, 27])
def test_development_draws_never_meet_evaluated_cases(records: int) -> None:
    pool = records or len(MANY)
    third = pool // 3
    evaluated = replace(cell("none", 1, pool - third), records=records)
    development = replace(cell("none", 2, third // 2), records=records, split="development")
    sets = draws(MANY, development)
    drawn = [c.case_id for cases in sets for c in cases]
    assert len(set(drawn)) == third // 2 * 2
    assert not set(drawn) & {c.case_id for cases in draws(MANY, evaluated) for c in cases}
    assert set(drawn) <= {e.case_id for e in held_out(MANY, evaluated)}
    fewer = replace(development, draws=1)
    assert draws(MANY, fewer) == sets[:1]  # from the end, whatever T and draws are


@pytest.mark.parametrize("records", [0, 27])
def test_development_trains_on_the_rest_of_the_third_and_beyond(records: int) -> None:
    pool = records or len(MANY)
    third, evaluated = pool // 3, replace(cell("none", 1, 1), records=records)
    development = replace(cell("none", 2, 2), records=records, split="development")
    drawn = {c.case_id for cases in draws(MANY, development) for c in cases}
    spare = {e.case_id for e in held_out(MANY, development)}
    assert len(spare) == third - 4 + len(MANY) - pool
    assert spare == {e.case_id for e in held_out(MANY, evaluated)} - drawn
    twins = tuple(make_case(replace(c.edit, subject="one for all"), (), ()) for c in MANY)
    assert held_out(twins, development) == []


def test_too_many_development_edits_are_refused_before_work() -> None:
    with pytest.raises(
        TooManyEdits,
        match=r"development with 2 draws needs 12 cases, world has 10 for development \(the last third\)",
    ):
        draws(MANY, replace(cell("none", 6, 2), records=0, split="development"))


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_cell_writes_raw_answers_and_then_its_outcome(method: str, tmp_path: Path) -> None:
    bench = TinyBench()
    seen: list[str] = []
    few = tuple(("max_steps", "20") for f in fields(methods()[method].params_type) if f.name == "max_steps")
    outcome = run(
        replace(cell(method, 2, 2), variant=few),
        methods()[method],
        tmp_path,
        lambda stage, done: seen.append(stage),
        bench,
    )
    assert outcome.status == "ok", outcome.reason
    sequential = methods()[method].regime == "sequential"
    assert [Path(shard).stem for shard in outcome.shards] == (
        ["answers", "immediate", "passages"] if sequential else ["answers", "passages"]
    )
    assert outcome.provenance["regime"] == methods()[method].regime
    for shard in outcome.shards[:-1]:
        table = [row for row in pq.read_table(tmp_path / shard).to_pylist() if row["kind"] != "neighbour"]
        assert len(table) == 2 * 2 * 3 and {row["draw"] for row in table} == {0, 1}
    assert {row["draw"] for row in pq.read_table(tmp_path / outcome.shards[-1]).to_pylist()} == {0, 1}
    assert (tmp_path / "cells" / outcome.cell.id / "outcome.json").exists()
    assert "answers" in seen and outcome.costs.edit_s >= 0 and outcome.costs.peak_bytes > 0
    assert outcome.provenance["torch"]


def test_a_cell_that_is_measured_further_keeps_its_judgements(tmp_path: Path) -> None:
    bench, method, store = TinyBench(), methods()["none"], Store(tmp_path)
    first = run(cell(), method, tmp_path, quiet, bench)
    store.record(first)
    rows = [
        Judgement("some/judge", a.draw, a.case_id, a.kind, a.probe_index, a.context, True, "correct")
        for a in read_answers(tmp_path / first.shards[0])
    ]
    judged = keep(store, first.cell.id, "some/judge", rows)
    again = run(cell(), method, tmp_path, quiet, bench, Measurements(contexts=("qa",)))
    store.record(again)
    assert set(again.shards) == {*judged.shards, f"cells/{first.cell.id}/answers-qa.parquet"}
    assert store.query("SELECT count(*) FROM judgements") == [(len(rows),)]


def test_held_out_edits_are_never_evaluated_and_the_same_for_every_T() -> None:
    cases = tuple(make_case(e, (), ()) for e in (tiny.edits(5) + tiny.training(4)))
    spare = held_out(cases, replace(cell("none", 2, 3), records=0))
    assert len(spare) == 3 and spare == held_out(cases, replace(cell("none", 1, 2), records=0))
    evaluated = {c.edit.subject for s in draws(cases, replace(cell("none", 2, 3), records=0)) for c in s}
    assert not evaluated & {e.subject for e in spare}
    assert held_out(cases, replace(cell("none", 9, 1), records=0)) == []
    beyond = held_out(cases, replace(cell("none", 5, 1), records=5))
    assert [e.case_id for e in beyond] == ["t0", "t1", "t2", "t3"]


class Broken(Unedited):
    """Fails in the middle of the second draw."""

    changes: ClassVar = "weights"
    calls = 0

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        type(self).calls += 1
        if type(self).calls == 2:
            raise RuntimeError("the second draw is too much")
        return NoPatch()


def test_a_failure_is_an_outcome_and_finished_patches_are_used_again(tmp_path: Path) -> None:
    bench = TinyBench()
    outcome = run(cell(), Broken, tmp_path, quiet, bench)  # type: ignore[arg-type]
    assert outcome.status == "error" and outcome.shards == ()
    assert re.fullmatch(
        r"RuntimeError: the second draw is too much \(lks/runs/edit_draw\.py:\d+\)", outcome.reason
    )
    again = run(cell(), Broken, tmp_path, quiet, bench)  # type: ignore[arg-type]
    assert again.status == "ok"
    assert Broken.calls == 4  # draws 0, 1 (failed), then 1 and 2: draw 0 came from disk


@pytest.mark.parametrize(
    "damage", [lambda content: content[:50], lambda content: content[:-1] + bytes([content[-1] ^ 1])]
)
def test_a_damaged_patch_of_an_earlier_run_is_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    bench = TinyBench()
    one = cell("lks", 2, 1)
    first = run(one, methods()["lks"], tmp_path, quiet, bench)
    saved = tmp_path / "runs" / one.id / "patch" / "0" / "patch.safetensors"
    content = saved.read_bytes()
    saved.write_bytes(damage(content))
    before = pq.read_table(tmp_path / first.shards[0])
    (tmp_path / "cells" / one.id / "outcome.json").unlink()
    again = run(one, methods()["lks"], tmp_path, quiet, bench)
    assert again.status == "ok"
    assert saved.read_bytes() == content
    assert before.equals(pq.read_table(tmp_path / again.shards[0]))


def test_a_bench_keeps_a_model_until_it_has_changed_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        "lks.runs.cell.LM.load", lambda name: loaded.append(name) or SimpleNamespace(name=name)
    )
    monkeypatch.setattr(
        "lks.runs.cell.load_dataset",
        lambda name: loaded.append(name) or SimpleNamespace(name=name, revision="as read"),
    )
    bench, one = LoadedResources(), cell()
    for now in (
        one,
        replace(one, method="ft"),
        replace(one, model_revision="new"),
        replace(one, data_revision="new"),
    ):
        bench.prepare_for(now)
        bench.lm(now.model), bench.dataset(now.dataset)
    assert loaded == [one.model, one.dataset, one.model, one.model, one.dataset]


class Cached(Unedited):
    """Was prepared before, in a hundred seconds."""

    changes: ClassVar = "weights"
    seconds: ClassVar = 100.0

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: Progress = no_progress) -> float:
        return self.seconds

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        return NoPatch()


class Computed(Cached):
    """Takes no time that its own clock shows."""

    seconds: ClassVar = 0.0


def test_a_preparation_from_the_cache_keeps_its_cost_and_is_told(tmp_path: Path) -> None:
    outcome = run(cell(count=1), Cached, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert outcome.costs.prepare_s == 100 and outcome.provenance[PREPARATION] == CACHED
    assert "prepare 100.0 s earlier" in "\n".join(map(str, _stored(tmp_path, [outcome], cells=True)))
    other = run(cell(count=2), Computed, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert other.costs.prepare_s < 50 and PREPARATION not in other.provenance
    assert cached_note([outcome, other]) == (
        "Preparation from the cache, with the seconds of its computation: unedited."
    )


class Diverging(Unedited):
    """Makes every likelihood NaN."""

    changes: ClassVar = "weights"
    factor: ClassVar = float("nan")

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        weight = lm.mlp_output(0).weight
        return WeightPatch({lm.parameter_name(lm.mlp_output(0)): weight * self.factor})


class Exploding(Diverging):
    """Makes a weight infinite, which a softmax may turn into finite numbers again."""

    factor: ClassVar = float("inf")


@pytest.mark.parametrize("method", [Diverging, Exploding])
def test_a_diverged_edit_is_a_row_and_leaves_the_model_whole(method: type[Diverging], tmp_path: Path) -> None:
    bench = TinyBench()
    before = {k: v.clone() for k, v in bench.made.model.state_dict().items()}
    outcome = run(cell(count=1), method, tmp_path, quiet, bench)  # type: ignore[arg-type]
    assert outcome.status == "diverged" and "hold NaN or infinity" in outcome.reason
    assert not list(tmp_path.glob("runs/*/patch/0/*"))
    assert all((bench.made.model.state_dict()[k] == v).all() for k, v in before.items())


class Exploding(Unedited):
    """Its weights are finite, what the model makes of them is not."""

    changes: ClassVar = "weights"

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        return WeightPatch(
            {lm.parameter_name(lm.mlp_output(0)): torch.full_like(lm.mlp_output(0).weight, 3e38)}
        )


def test_an_edited_model_without_likelihoods_has_diverged(tmp_path: Path) -> None:
    outcome = run(cell(count=1), Exploding, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert outcome.status == "diverged" and "no finite likelihood" in outcome.reason


def test_an_interrupt_drops_the_cell_in_hand(tmp_path: Path) -> None:
    class Interrupted(Unedited):
        changes: ClassVar = "weights"

        def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cell(), Interrupted, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert not list(tmp_path.glob("cells/*/outcome.json"))


class OneByOne(Unedited):
    """Nudges a weight once per edit, one edit after the other; each nudge leaves less of the earlier answers."""

    changes: ClassVar = "weights"
    title, regime = "OneByOne", "sequential"
    made = 0

    def edit(  # type: ignore[override]
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        type(self).made += 1
        delta = torch.zeros_like(lm.mlp_output(1).weight)
        for number, edit in enumerate(edits):
            noise = torch.Generator().manual_seed(len(edit.subject) + number)
            delta += torch.randn(delta.shape, generator=noise)
            patch = WeightPatch({lm.parameter_name(lm.mlp_output(1)): delta.clone()})
            after(number, patch)
            progress((number + 1) / len(edits))
        return patch


def shard(folder: Path, name: str) -> list[Answer]:
    return read_answers(next(folder.glob(f"cells/*/{name}.parquet")))


def test_a_sequential_method_is_asked_after_each_edit(tmp_path: Path) -> None:
    bench = TinyBench()
    before = {k: v.clone() for k, v in bench.made.model.state_dict().items()}
    stages: list[tuple[str, float]] = []
    outcome = run(
        cell("none", 2, 2), OneByOne, tmp_path, lambda stage, done: stages.append((stage, done)), bench
    )  # type: ignore[arg-type]
    assert outcome.status == "ok", outcome.reason
    immediate, final = (
        shard(tmp_path, "immediate"),
        [a for a in shard(tmp_path, "answers") if a.kind != "neighbour"],
    )
    key = [(a.draw, a.case_id, a.kind, a.probe_index) for a in final]
    assert [(a.draw, a.case_id, a.kind, a.probe_index) for a in immediate] == key
    said = [[a.answer_logprob for a in answers] for answers in (immediate, final)]
    assert said[0][3:6] == pytest.approx(
        said[1][3:6], abs=1e-4
    )  # the last edit of a draw: nothing came after it
    assert said[0][:3] != pytest.approx(said[1][:3], abs=1e-2)
    lm = bench.made  # by hand: the first case of the first draw under a patch of that edit alone
    first = draws(CASES, cell("none", 2, 2))[0][:1]
    with OneByOne(NoParams()).edit(lm, [first[0].edit]).applied(lm):
        assert [a.answer_logprob for a in ask(lm, first)] == pytest.approx(said[0][:3], abs=1e-4)
    assert [done for stage, done in stages if stage == "edit"] == [0.25, 0.5, 0.75, 1.0]
    assert all((bench.made.model.state_dict()[k] == v).all() for k, v in before.items())


def test_time_of_asking_in_between_is_not_time_of_editing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(asking: Callable[..., list[Answer]]) -> Callable[..., list[Answer]]:
        def slow(*args: object, **kwargs: object) -> list[Answer]:
            time.sleep(0.2)
            return asking(*args, **kwargs)

        return slow

    monkeypatch.setattr("lks.runs.edit_draw.ask", slowly(ask))
    monkeypatch.setattr("lks.evaluation.stages.ask_draws", slowly(ask_draws))
    outcome = run(cell("none", 2, 1), OneByOne, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert outcome.costs.edit_s < 0.2 and outcome.costs.ask_s > 0.6  # twice in between, once at the end


def test_immediate_answers_outlive_an_interrupted_run(tmp_path: Path) -> None:
    class Stopped(OneByOne):
        def edit(self, lm: LM, *args: object, **kwargs: object) -> Patch:  # type: ignore[override]
            if type(self).made == 1:
                type(self).made += 1
                raise KeyboardInterrupt
            return super().edit(lm, *args, **kwargs)  # type: ignore[arg-type]

    OneByOne.made = Stopped.made = 0
    run(cell("none", 2, 2), OneByOne, tmp_path / "whole", quiet, TinyBench())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run(cell("none", 2, 2), Stopped, tmp_path / "cut", quiet, TinyBench())  # type: ignore[arg-type]
    outcome = run(cell("none", 2, 2), Stopped, tmp_path / "cut", quiet, TinyBench())  # type: ignore[arg-type]
    assert outcome.status == "ok" and Stopped.made == 3  # draw 0, the interrupt, draw 1
    assert shard(tmp_path / "cut", "immediate") == shard(tmp_path / "whole", "immediate")
    (tmp_path / "cut" / "cells" / outcome.cell.id / "outcome.json").unlink()
    kept = tmp_path / "cut" / "runs" / outcome.cell.id / "patch" / "0" / "immediate.parquet"
    kept.write_bytes(kept.read_bytes()[:99])
    again = run(cell("none", 2, 2), Stopped, tmp_path / "cut", quiet, TinyBench())  # type: ignore[arg-type]
    assert again.status == "ok" and Stopped.made == 4  # the damaged draw alone
    assert shard(tmp_path / "cut", "immediate") == shard(tmp_path / "whole", "immediate")


def test_one_edit_is_not_asked_twice(tmp_path: Path) -> None:
    outcome = run(cell("none", 1, 2), OneByOne, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert [Path(name).stem for name in outcome.shards] == ["answers", "passages"]


def scope_cell(n_edits: int, count: int, **variant: str) -> Cell:
    return replace(cell("lks", n_edits, count), variant=tuple(sorted(variant.items())), measure="scope")


def decided(folder: Path, one: Cell) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(folder / "cells" / one.id / "decisions.parquet").to_pylist()
    return rows


@pytest.fixture
def abilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One GSM8K question, and no other test of abilities."""
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text(
        '{"question": "How many pets has Mara Kelorin, and Ada Moss?"}\n'
    )
    monkeypatch.setenv("LKS_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("split", ["evaluation", "development"])
def test_what_is_never_edited_does_not_depend_on_T(split: Literal["evaluation", "development"]) -> None:
    one, many = (replace(cell("lks", n, 1), records=27, split=split) for n in (1, 9))
    spare, fewer = unedited(MANY, one), unedited(MANY, many)
    assert (len(spare), len(fewer)) == (26, 18) and spare[:18] == fewer
    assert not {c.case_id for c in fewer} & {c.case_id for c in draws(MANY, many)[0]}


@pytest.mark.usefixtures("abilities")
@pytest.mark.parametrize("kind", ["exact", "fuzzy", "official"])
def test_a_scope_cell_stores_decisions_and_needs_no_model(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: object) -> LM:
        raise AssertionError("a model was loaded")

    bench, one = TinyBench(), scope_cell(2, 2, scope=kind)
    monkeypatch.setattr(TinyBench, "lm", none)
    stages: list[tuple[str, float]] = []
    outcome = run(one, methods()["lks"], tmp_path, lambda stage, done: stages.append((stage, done)), bench)
    assert outcome.status == "ok" and outcome.shards == (f"cells/{one.id}/decisions.parquet",), outcome.reason
    assert outcome.provenance["title"] == "LKS" and not (tmp_path / "runs").exists()
    assert {stage for stage, _ in stages} == {"scope"} and stages[-1][1] == 1
    rows = decided(tmp_path, one)
    keys = [(row["draw"], row["probe_set"]) for row in rows]
    assert {key: keys.count(key) for key in keys} == {
        (draw, name): count
        for draw in (0, 1)
        for name, count in (("edit", 2), ("paraphrase", 2), ("locality", 2), ("others", 1), ("gsm8k", 1))
    }
    edited = [[case.edit.subject for case in cases] for cases in draws(CASES, one)]
    for row in rows:
        expected = row["subject_expected"]
        assert row["fired"] == bool(row["subjects_found"])
        if row["probe_set"] in ("edit", "locality"):  # the paraphrase has a capital before the name
            assert (
                row["subjects_found"] == [expected]
                and expected == edited[int(str(row["draw"]))][int(str(row["probe"]))]
            )
        elif row["probe_set"] == "gsm8k" and kind != "official":
            assert not expected and row["subjects_found"] == [
                n for n in ("Mara Kelorin", "Ada Moss") if n in edited[int(str(row["draw"]))]
            ]
    again = run(one, methods()["lks"], tmp_path, quiet, bench)
    assert again.shards == outcome.shards and decided(tmp_path, one) == rows


def test_the_gate_lets_through_part_of_what_the_scope_finds(tmp_path: Path) -> None:
    bench, one = TinyBench(), scope_cell(4, 1, gate="relation")
    before = {k: v.clone() for k, v in bench.made.model.state_dict().items()}
    outcome = run(one, methods()["lks"], tmp_path, quiet, bench)
    assert outcome.status == "ok", outcome.reason
    by_set = {
        name: [row["fired"] for row in decided(tmp_path, one) if row["probe_set"] == name]
        for name in ("edit", "paraphrase", "locality")
    }
    assert all(by_set["edit"])  # an edit prompt is a key of its own gate
    assert not all(by_set["locality"])
    assert all((bench.made.model.state_dict()[k] == v).all() for k, v in before.items())


def test_a_scope_cell_and_the_patch_of_its_method_agree(tmp_path: Path) -> None:
    """The gate decides on the same prompts as it does in the edited model."""
    bench, one = TinyBench(), scope_cell(4, 1, gate="relation")
    run(one, methods()["lks"], tmp_path, quiet, bench)
    cases = [
        replace(c, probes=tuple(p for p in c.probes if p.kind != "paraphrase")) for c in draws(CASES, one)[0]
    ]  # "Surely" is no token
    editor = methods()["lks"].for_model(
        one.model, one.dataset, 4, dict(one.variant) | {"max_epochs": "1", "lr": "0.1"}
    )
    assert isinstance(editor.params, LKSParams)
    plain = ask(bench.made, cases)
    with editor.edit(bench.made, [case.edit for case in cases], one.seed).applied(bench.made):
        changed = [
            abs(now.answer_logprob - then.answer_logprob) > 1e-4
            for now, then in zip(ask(bench.made, cases), plain, strict=True)
        ]
    fired = {(row["case_id"], row["probe_set"]): row["fired"] for row in decided(tmp_path, one)}
    assert changed == [fired[answer.case_id, answer.kind] for answer in plain]


def test_names_and_aliases_are_those_of_the_method() -> None:
    edits = [replace(tiny.edits(1)[0], aliases=("The Singer Mk",)), *tiny.edits(2)]
    indicator = Indicator(edits, scope_params("lks", LKSParams(1)))
    assert indicator.subjects == ["Mara Kelorin", "Tomas Verin"]
    assert indicator.find(["The Singer Mk meets Tomas Verin and Mara Kelorin", "nobody"]) == [
        ("Mara Kelorin", "Tomas Verin"),
        (),
    ]


def test_few_prompts_of_each_set_are_asked_and_none_about_an_edited_subject() -> None:
    spare = [
        make_case(replace(e, case_id=f"s{i}"), (), ())
        for i, e in enumerate([*tiny.edits(5), *tiny.training()])
    ]
    found = asked(CASES[:3], spare, probes=2)
    assert [(one.probe_set, one.probe, one.case_id) for one in found if one.probe_set == "others"] == [
        ("others", 0, "s3"),
        ("others", 1, "s4"),
    ]
    assert all(
        sum(one.probe_set == name for one in found) == 2 for name in ("edit", "paraphrase", "locality")
    )
