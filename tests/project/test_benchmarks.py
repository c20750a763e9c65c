"""Benchmarks: what they measure and leave out, not how long it takes."""

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from baselines.none import Unedited
from benchmarks import __main__ as every
from benchmarks import edit_speed
from lks.data.datasets import load as load_dataset
from lks.editing.patch import NoPatch, Patch
from lks.edits import Dataset, Edit, make_case
from lks.errors import UserError
from lks.models.lm import LM
from lks.results.cells import Cell
from tests.helpers import tiny

CASES = tuple(make_case(e, (), ()) for e in tiny.edits(5) + tiny.training(4))


class Counting(Unedited):
    """Notes how many edits it is asked for."""

    made: list[int]

    def edit(self, lm: LM, edits: Sequence[Edit], *args: object, **kwargs: object) -> Patch:
        self.made.append(len(edits))
        if len(edits) == 4:
            raise RuntimeError("four are too many\nreally")
        return NoPatch()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr(Counting, "made", [], raising=False)
    return Counting


def cells(*n_edits: int) -> list[Cell]:
    return [Cell("micro-tiny", "world", "none", n, 0, 1) for n in n_edits]


def test_one_untimed_edit_then_each_number_of_edits_until_one_fails(counting: type[Counting]) -> None:
    lm = tiny.lm("llama")
    found = list(edit_speed.timings("n", counting, lm, CASES, cells(1, 3, 4, 5)))  # type: ignore[arg-type]
    assert counting.made == [1, 1, 3, 4]
    assert [(t.n_edits, t.why) for t in found] == [(1, ""), (3, ""), (4, "RuntimeError: four are too many")]
    assert found[1].edit_s is not None and found[1].per_edit == found[1].edit_s / 3
    assert found[2].per_edit is None


def test_what_would_take_too_long_is_left_out(counting: type[Counting]) -> None:
    found = list(edit_speed.timings("n", counting, tiny.lm("llama"), CASES, cells(1, 3, 9), limit=0.0))  # type: ignore[arg-type]
    assert counting.made == [1, 1]
    assert [t.why for t in found] == ["", "over 0 s", "over 0 s"]


def test_more_edits_than_cases_are_said(counting: type[Counting]) -> None:
    *_, last = edit_speed.timings("n", counting, tiny.lm("llama"), CASES, cells(1, 10))  # type: ignore[arg-type]
    assert last.why.startswith("TooManyEdits: ") and "has 9" in last.why


@pytest.mark.parametrize(
    ("model", "dataset", "records", "n_edits"),
    [
        ("mini-zsre-1000", "zsre", 1000, [1, 10, 100, 1000]),
        ("mini-counterfact", "counterfact", 0, [1, 10, 100, 1000]),
        ("micro-llama", "world", 0, [1, 10, 100, 300]),
        ("llama-2-7b-chat", "zsre", 0, [1, 10, 100, 1000]),
    ],
)
def test_a_model_is_edited_with_what_it_knows(
    model: str, dataset: str, records: int, n_edits: list[int]
) -> None:
    made = edit_speed.cells_for(model)
    assert {(c.dataset, c.records) for c in made} == {(dataset, records)}
    assert [c.n_edits for c in made] == n_edits


def test_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edit_speed.LM, "load", lambda name: tiny.lm("llama"))
    monkeypatch.setattr(edit_speed, "load", lambda name: Dataset("world", CASES, "r"))
    monkeypatch.setenv("LKS_RESULTS", str(tmp_path))
    edit_speed.main(["--model", "micro-tiny", "--methods", "none", "--edits", "2,1"])
    shown = capsys.readouterr().out
    assert "T=1" in shown and "none" in shown
    written = json.loads((tmp_path / "benchmarks" / "edit_speed-micro-tiny.json").read_text())
    assert [(t["method"], t["n_edits"]) for t in written["timings"]] == [("none", 1), ("none", 2)]
    assert written["provenance"]["torch"]
    with pytest.raises(UserError, match="Unknown method 'nnone'"):
        edit_speed.main(["--model", "micro-tiny", "--methods", "nnone"])


def test_every_benchmark_is_found_and_one_can_be_chosen(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"edit_speed", "naive_lks"} <= set(every.names()) and "__main__" not in every.names()
    ran: list[list[str]] = []

    def note(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, len(ran) - 1)

    monkeypatch.setattr(every.subprocess, "run", note)
    assert every.main(["edit_speed"]) == 0
    assert ran == [[sys.executable, "-m", "benchmarks.edit_speed"]]
    assert every.main([]) == 1  # the others still run
    assert [command[2].removeprefix("benchmarks.") for command in ran[1:]] == every.names()
    assert every.main(["speed"]) == 2
    assert "Known: ask_speed, edit_speed" in capfd.readouterr().err


@pytest.mark.parametrize("name", every.names())
def test_every_benchmark_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").main


def test_all_gpu_steps_run_in_miniature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import gpu

    monkeypatch.setattr(
        gpu.lks_shape, "edits_of", lambda count: [case.edit for case in load_dataset("world").cases[:count]]
    )
    monkeypatch.setattr(gpu, "real_cases", lambda count: load_dataset("world").cases[:2])
    monkeypatch.setattr(gpu.GpuBenchmark, "real_lm", LM.load("micro-llama", "cpu"))
    file = tmp_path / "deep" / "gpu.json"
    gpu.main(["--out", str(file), "--model", "micro-llama"])
    steps = json.loads(file.read_text())["steps"]
    assert list(steps) == ["roofline", "lks-4", "real-4", "overhead", "memit-4", "lks-8", "real-8"]
    assert not [(name, step) for name, step in steps.items() if "error" in step or "left_out" in step]
    assert (
        steps["lks-8"]["n_edits"] == 8
        and steps["roofline"]["matmul_tflops"] > 0
        and steps["real-4"]["edit_ar_exact"] == 1.0
    )
    assert {row["rows"] for row in steps["overhead"]["rows"]} == {1, 32}
    assert "measures nothing" in capsys.readouterr().out
    with pytest.raises(UserError, match="Unknown step 'lks-1'"):
        gpu.main(["--only", "lks-1"])


def test_gpu_steps_that_do_not_fit_are_left_out_and_finished_ones_kept() -> None:
    from benchmarks import gpu

    def fail() -> gpu.Result:
        raise RuntimeError("no memory\nreally")

    kept: list[dict[str, gpu.Result]] = []
    steps = [gpu.Step("a", 1, lambda: {"x": 1}), gpu.Step("b", 1e9, fail), gpu.Step("c", 0, fail)]
    found = dict(
        zip(
            "abc",
            (result for _, result in gpu.run(steps, 100.0, lambda results: kept.append(dict(results)))),
            strict=True,
        )
    )
    assert (
        found["a"]["x"] == 1
        and str(found["b"]["left_out"]).startswith("needs about")
        and found["c"]["error"] == "RuntimeError: no memory"
    )
    assert [list(results) for results in kept] == [["a"], ["a", "b"], ["a", "b", "c"]]
