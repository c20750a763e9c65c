"""One cell: draws, failures as data, reuse of finished patches."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from baselines import methods
from baselines.none import Unedited
from lks.cell import Bench, draws, held_out, run
from lks.edits import Dataset, Edit, make_case
from lks.errors import TooManyEdits
from lks.grid import Cell
from lks.lm import LM
from lks.patch import NoPatch, Patch
from tests import tiny

CASES = tuple(make_case(e, (f"Surely {e.subject} was born in",), ((f"{e.subject} works for", "Oslo"),)) for e in tiny.edits(5))
SPARE = tuple(make_case(e, (), ()) for e in tiny.training())  # beyond the cell's records


class TinyBench(Bench):
    """A tiny model and five cases instead of the registries."""

    def __init__(self) -> None:
        super().__init__()
        self.made = tiny.lm("llama")

    def lm(self, name: str) -> LM:
        return self.made

    def dataset(self, name: str) -> Dataset:
        return Dataset("tiny", CASES + SPARE, "r")


def cell(method: str = "none", n_edits: int = 1, count: int = 3) -> Cell:
    return Cell("micro-tiny", "tiny", method, n_edits, 0, count, records=len(CASES))


def quiet(stage: str, done: float) -> None:
    pass


def test_draws_are_disjoint_and_the_same_for_every_method() -> None:
    sets = draws(CASES, cell("none", 2, 2))
    ids = [case.case_id for cases in sets for case in cases]
    assert len(ids) == len(set(ids)) == 4
    assert sets == draws(CASES, cell("lks", 2, 2))
    assert [c.case_id for c in draws(CASES, cell("none", 4, 1))[0]] == ids


def test_too_many_edits_is_refused_before_work() -> None:
    with pytest.raises(TooManyEdits, match="needs 6 cases, tiny has 5"):
        draws(CASES, cell("none", 3, 2))


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_cell_writes_raw_answers_and_then_its_outcome(method: str, tmp_path: Path) -> None:
    bench = TinyBench()
    seen: list[str] = []
    few = tuple(("max_steps", "20") for f in fields(methods()[method].params_type) if f.name == "max_steps")
    outcome = run(replace(cell(method, 2, 2), variant=few), methods()[method], tmp_path, lambda stage, done: seen.append(stage), bench)
    assert outcome.status == "ok", outcome.reason
    table = pq.read_table(tmp_path / outcome.shards[0]).to_pylist()
    assert len(table) == 2 * 2 * 3 and {row["draw"] for row in table} == {0, 1}
    assert (tmp_path / "cells" / outcome.cell.id / "outcome.json").exists()
    assert "ask" in seen and outcome.costs.edit_s >= 0 and outcome.costs.peak_bytes > 0
    assert outcome.provenance["torch"]


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

    calls = 0

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        type(self).calls += 1
        if type(self).calls == 2:
            raise RuntimeError("the second draw is too much")
        return NoPatch()


def test_a_failure_is_an_outcome_and_finished_patches_are_used_again(tmp_path: Path) -> None:
    bench = TinyBench()
    outcome = run(cell(), Broken, tmp_path, quiet, bench)  # type: ignore[arg-type]
    assert outcome.status == "error" and outcome.reason == "RuntimeError: the second draw is too much" and outcome.shards == ()
    again = run(cell(), Broken, tmp_path, quiet, bench)  # type: ignore[arg-type]
    assert again.status == "ok"
    assert Broken.calls == 4  # draws 0, 1 (failed), then 1 and 2: draw 0 came from disk


def test_a_damaged_patch_of_an_earlier_run_is_made_again(tmp_path: Path) -> None:
    bench = TinyBench()
    one = cell("lks", 2, 1)
    first = run(one, methods()["lks"], tmp_path, quiet, bench)
    saved = tmp_path / "runs" / one.id / "patch" / "0" / "patch.safetensors"
    saved.write_bytes(saved.read_bytes()[:50])
    again = run(one, methods()["lks"], tmp_path, quiet, bench)
    assert again.status == "ok"
    assert pq.read_table(tmp_path / first.shards[0]).equals(pq.read_table(tmp_path / again.shards[0]))


class Diverging(Unedited):
    """Makes every likelihood NaN."""

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        from lks.patch import WeightPatch

        weight = lm.mlp_output(0).weight
        return WeightPatch({lm.parameter_name(lm.mlp_output(0)): weight * float("nan")})


def test_a_diverged_edit_is_a_row_and_leaves_the_model_whole(tmp_path: Path) -> None:
    bench = TinyBench()
    before = {k: v.clone() for k, v in bench.made.model.state_dict().items()}
    outcome = run(cell(count=1), Diverging, tmp_path, quiet, bench)  # type: ignore[arg-type]
    assert outcome.status == "diverged" and "3 of 3 probes" in outcome.reason
    assert all((bench.made.model.state_dict()[k] == v).all() for k, v in before.items())


def test_an_interrupt_drops_the_cell_in_hand(tmp_path: Path) -> None:
    class Interrupted(Unedited):
        def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cell(), Interrupted, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert not list(tmp_path.glob("cells/*/outcome.json"))
