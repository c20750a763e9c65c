"""Failures as data: out of memory, bad records, places and secrets, full disks, another process's lock,
clocks, stages run again.
"""

import errno
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import lks.io.atomic
import lks.models.memory
from baselines.none import Unedited
from flows.running.planning import compare
from lks.editing.patch import Patch, WeightPatch
from lks.edits import Case, Edit, make_case
from lks.errors import StoreError
from lks.models.frozen_prefix import batches
from lks.models.lm import LM
from lks.models.memory import OomRetry, half_batches, is_shortage, scale_batch
from lks.results.cells import FINAL, Costs, Outcome
from lks.results.provenance import provenance, time_of
from lks.results.shards import read_answers, read_outcome
from lks.results.store import Store
from lks.runs.cell import run
from lks.runs.failures import failure_of, failures, scrubbed
from lks.runs.grid import Grid
from tests.helpers.root import ROOT
from tests.lks.runs.killed_cell import CELL
from tests.lks.runs.test_cell import CASES, SPARE, TinyBench, cell, quiet

SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


class Nudged(Unedited):
    """One weight is another; it runs out of memory as often as it is told to."""

    changes: ClassVar = "weights"
    fails = 0
    asked: ClassVar[list[int]] = []

    def edit(self, lm: LM, edits: Sequence[Edit], seed: int = 0, *args: object, **kwargs: object) -> Patch:
        type(self).asked.append(scale_batch(64))
        if type(self).fails > 0:
            type(self).fails -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        noise = torch.randn(lm.mlp_output(1).weight.shape, generator=torch.Generator().manual_seed(seed))
        return WeightPatch({lm.parameter_name(lm.mlp_output(1)): noise})


@pytest.fixture
def nudged() -> type[Nudged]:
    Nudged.fails, Nudged.asked = 0, []
    return Nudged


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_shortages_are_told_from_other_errors(error: Exception) -> None:
    assert is_shortage(error) and failure_of(error).status == "oom"
    assert not is_shortage(RuntimeError("shape mismatch")) and not is_shortage(ValueError("out of memory"))


def test_a_real_allocation_that_is_too_large_is_a_shortage() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_shortage(caught.value)


def test_batches_are_half_as_large_inside_halved() -> None:
    assert max(map(len, batches([8] * 64, 128))) == 16
    with half_batches():
        assert scale_batch(7) == 3 and scale_batch(1) == 1
        made = batches([8] * 64, 128)
    assert max(map(len, made)) == 8 and sorted(i for group in made for i in group) == list(range(64))
    assert scale_batch(7) == 7


def test_a_stage_is_run_again_once_and_stays_with_half_the_batch() -> None:
    thrift, seen = OomRetry(halved := []), list[int]()

    def step() -> int:
        seen.append(scale_batch(100))
        if seen[-1] > 60:
            raise MemoryError
        return seen[-1]

    assert thrift.run("answers", step) == 50 and thrift.run("answers", step) == 50
    assert seen == [100, 50, 50] and halved == ["answers"] and scale_batch(100) == 100


def test_what_a_failed_try_held_is_gone_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of an exception keep their tensors; nothing may keep the exception."""
    import weakref

    held: list[weakref.ref[nn.Linear]] = []
    alive: list[bool] = []
    plain = lks.models.memory.release

    def release() -> None:
        plain()
        alive.append(held[0]() is not None)

    def step() -> None:
        large = nn.Linear(2, 2)
        held.append(weakref.ref(large))
        if len(held) == 1:
            raise MemoryError

    monkeypatch.setattr(lks.models.memory, "release", release)
    OomRetry([]).run("edit", step)
    assert alive == [False]


def test_a_cell_that_runs_out_of_memory_once_is_whole_and_says_so(
    tmp_path: Path, nudged: type[Nudged]
) -> None:
    bench, one = TinyBench(), cell("none", 2, 2)
    plain = run(one, nudged, tmp_path / "plain", quiet, bench)  # type: ignore[arg-type]
    nudged.fails, nudged.asked = 1, []
    short = run(one, nudged, tmp_path / "short", quiet, bench)  # type: ignore[arg-type]
    assert plain.status == short.status == "ok"
    assert "batches halved" not in plain.provenance and short.provenance["batches halved"] == "edit"
    assert nudged.asked == [64, 32, 32]  # the first draw again, the second at once
    for shard in short.shards:
        assert pq.read_table(tmp_path / "short" / shard).equals(pq.read_table(tmp_path / "plain" / shard))


def test_answers_asked_with_half_the_batch_are_the_same(
    tmp_path: Path, nudged: type[Nudged], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, one = TinyBench(), cell("none", 2, 1)
    run(one, nudged, tmp_path / "plain", quiet, bench)  # type: ignore[arg-type]
    plain, tries = bench.made.model.forward, [0]

    def forward(*args: object, **kwargs: object) -> object:
        tries[0] += 1
        if tries[0] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(*args, **kwargs)

    monkeypatch.setattr(bench.made.model, "forward", forward)
    outcome = run(one, nudged, tmp_path / "short", quiet, bench)  # type: ignore[arg-type]
    assert outcome.status == "ok" and outcome.provenance["batches halved"] == "answers"
    before, after = (read_answers(tmp_path / name / outcome.shards[0]) for name in ("plain", "short"))
    assert [replace(a, answer_logprob=0, rival_logprob=0, kl=0) for a in after] == [
        replace(a, answer_logprob=0, rival_logprob=0, kl=0) for a in before
    ]
    assert [a.answer_logprob for a in after] == pytest.approx([a.answer_logprob for a in before], abs=1e-4)


def test_a_second_shortage_is_a_row(tmp_path: Path, nudged: type[Nudged]) -> None:
    nudged.fails = 2
    outcome = run(cell("none", 2, 2), nudged, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert (outcome.status, outcome.reason) == ("oom", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert outcome.provenance["batches halved"] == "edit" and outcome.shards == ()


def test_a_failure_says_where_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-verysecret")

    class Broken(Unedited):
        changes: ClassVar = "weights"

        def edit(self, *args: object, **kwargs: object) -> Patch:
            raise RuntimeError("no answer from https://me:pw@host with sk-verysecret\nsecond line")

    outcome = run(cell(), Broken, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert re.fullmatch(
        r"RuntimeError: no answer from https://\*\*\*@host with \*\*\* \(lks/runs/edit_draw\.py:\d+\)",
        outcome.reason,
    )
    file = tmp_path / "runs" / outcome.cell.id / "failure.txt"
    text = file.read_text()
    assert (
        text.startswith(outcome.cell.label)
        and "Traceback (most recent call last)" in text
        and "second line" in text
    )
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"verysecret" in p.read_bytes()]
    good = run(cell(), Unedited, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    assert good.status == "ok" and not file.exists()


def test_provenance_holds_no_secret_and_short_values_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "HF_TOKEN": "hf_abcdef",
        "OPENAI_API_KEY": "sk-abcdef",
        "PGPASSWORD": "abcdefgh",
        "DATABASE_CONNECTION_URL": "postgresql://x:y@z",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "harmless")
    monkeypatch.setenv("SHORT_KEY", "cuda")
    assert not set(secrets.values()) & set(provenance().values())
    assert scrubbed(" ".join([*secrets.values(), "harmless", "cuda"])) == "*** *** *** *** harmless cuda"


def bad(**change: str) -> tuple[Case, ...]:
    return tuple(make_case(replace(case.edit, **change), (), ()) for case in CASES) + SPARE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        (
            bad(target=" "),
            r"bad record: world, case \d, edit, answer: ' ' has no tokens\. Give it a text, or leave the record out\.",
        ),
        (
            bad(subject="Nobody"),
            r"bad record: world, case \d, subject: 'Nobody' is not in the prompt 'The birthplace of .*",
        ),
        (
            bad(target="Oslo " * 130),
            r"bad record: world, case \d, edit: prompt and answer need \d+ tokens, the window of \S+ has 128\..*",
        ),
    ],
    ids=["empty answer", "no subject", "too long"],
)
def test_a_bad_record_is_told_before_anything_is_edited(
    tmp_path: Path, nudged: type[Nudged], cases: tuple[Case, ...], says: str
) -> None:
    outcome = run(cell("none", 2, 2), nudged, tmp_path, quiet, TinyBench(cases))  # type: ignore[arg-type]
    assert outcome.status == "error" and re.fullmatch(says, outcome.reason), outcome.reason
    assert nudged.asked == [] and "error" not in FINAL


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/r/x"),
            "Cannot use /r/x: No space left on device. Free some space and start again",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            "No space left on device. Free some space",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/r/x"), "Read-only file system. Make it writable"),
    ],
)
def test_a_disk_that_cannot_be_written_is_the_users(error: Exception, says: str) -> None:
    with pytest.raises(StoreError, match=re.escape(says)), failures():
        raise error


def test_other_file_errors_are_the_cells() -> None:
    with failures() as found:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert found[0].status == "error" and found[0].reason.startswith("ConnectionResetError: ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_is_finished_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, nudged: type[Nudged]
) -> None:
    """Really full, at several degrees: each write of a cell meets the end of the disk somewhere."""
    bench, one, results = TinyBench(), cell("none", 2, 2), small_disk / "results"
    whole = run(one, nudged, tmp_path / "whole", quiet, bench)  # type: ignore[arg-type]
    results.mkdir()
    ballast = small_disk / "ballast"
    made = []
    for free in (4, 12, 24, 28, 36, 44, 60):
        ballast.unlink(missing_ok=True)
        room = os.statvfs(small_disk)
        ballast.write_bytes(b"0" * max(0, room.f_bavail * room.f_frsize - free * 1024))
        try:
            outcome = run(one, nudged, results, quiet, bench)  # type: ignore[arg-type]
            made.append("ok")
            break
        except StoreError as error:
            assert re.search("no space left", str(error), re.IGNORECASE), error
            made.append("full")
        assert not [p for p in results.rglob("*") if p.name.endswith(".part")]
    ballast.unlink()
    assert made.count("full") >= 3
    outcome = run(one, nudged, results, quiet, bench)  # type: ignore[arg-type]
    assert outcome.status == "ok"
    for shard in whole.shards:
        assert (results / shard).read_bytes() == (tmp_path / "whole" / shard).read_bytes()


def test_a_catalogue_on_a_full_disk_is_one_line_and_is_made_good(small_disk: Path) -> None:
    results = small_disk / "results"
    store = Store(results)
    (small_disk / "ballast").write_bytes(b"0" * (900 * 1024))
    outcome = Outcome(cell(), "oom", "why", (), Costs(), {})
    with pytest.raises(StoreError, match=r"cannot be written: no space left\. Free some") as caught:
        store.record(outcome)
    assert "\n" not in str(caught.value) and read_outcome(results, outcome.cell.id) == outcome
    (small_disk / "ballast").unlink()
    assert Store(results).done() == {outcome.cell.id}


def test_an_unwritable_folder_is_one_line(tmp_path: Path, nudged: type[Nudged]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="no permission"):
        run(cell("none", 2, 2), nudged, tmp_path, quiet, TinyBench())  # type: ignore[arg-type]
    tmp_path.chmod(0o755)


def test_the_time_of_a_cell_is_that_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines whose clocks differ ask the same file server."""
    served = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    plain = lks.io.atomic.write_whole

    def write(path: Path, content: bytes) -> None:
        plain(path, content)
        os.utime(path, (served.timestamp(),) * 2)

    monkeypatch.setattr("lks.results.provenance.write_whole", write)
    assert time_of(tmp_path) == served and provenance(tmp_path)["finished"] == "2031-05-06T07:08:09+00:00"
    assert list(tmp_path.iterdir()) == []


GRID = Grid(name="g", models=["micro-tiny"], datasets=["world"], methods=["none"], n_edits=[1])


def test_failed_stages_are_run_again_alone_when_asked_for(
    tmp_path: Path, nudged: type[Nudged], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, one, store = TinyBench(), cell("none", 2, 2), Store(tmp_path)

    def short(*args: object, **kwargs: object) -> None:
        raise MemoryError("too much text")

    with monkeypatch.context() as patched:
        patched.setattr("lks.evaluation.stages.perplexity.measure_passages", short)
        first = run(one, nudged, tmp_path, quiet, bench)  # type: ignore[arg-type]
    store.record(first)
    assert first.status == "ok" and first.failed == {"passages": "oom: too much text"}
    assert (tmp_path / "runs" / one.id / "failure-passages.txt").exists()
    assert compare(GRID, [one], store).todo == ()
    work = compare(GRID, [one], store, retry_failed=True)
    assert work.todo == (one,) and work.extras.retry_failed and work.lacking(one) == ("passages",)
    before = {shard: (tmp_path / shard).stat().st_mtime_ns for shard in first.shards}
    left = run(one, nudged, tmp_path, quiet, bench, GRID.extras)  # type: ignore[arg-type]
    assert left.failed == first.failed
    nudged.asked.clear()
    again = run(one, nudged, tmp_path, quiet, bench, work.extras)  # type: ignore[arg-type]
    store.record(again)
    assert (
        again.failed == {}
        and again.shards == (*first.shards, f"cells/{one.id}/passages.parquet")
        and nudged.asked == []
    )
    assert before == {shard: (tmp_path / shard).stat().st_mtime_ns for shard in first.shards}
    assert not (tmp_path / "runs" / one.id / "failure-passages.txt").exists()
    assert compare(GRID, [one], store, retry_failed=True).todo == ()


@pytest.mark.slow
def test_a_cell_killed_at_any_moment_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    """Six kills, one after the other; nothing that was whole is made again, and the shards are the same
    bytes.
    """

    def start(name: str, *moments: str) -> list[str]:
        command = [sys.executable, "-m", "tests.lks.runs.killed_cell", str(tmp_path / name), *moments]
        done = subprocess.run(command, cwd=ROOT, timeout=600, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def moments(name: str) -> list[str]:
        return (tmp_path / f"{name}.moments").read_text().splitlines()

    assert start("whole", "") == ["0"]
    every = list(dict.fromkeys(moments("whole")))
    editing = [moment for moment in every if moment.startswith("edit ")]
    chance = random.Random(7)
    chosen = {
        *chance.sample(editing, 2),
        *chance.sample([moment for moment in every if moment not in editing], 4),
    }
    in_order = [moment for moment in every if moment in chosen]
    assert start("killed", *in_order, "") == [str(-signal.SIGKILL.value)] * 6 + ["0"]
    whole, killed = (read_outcome(tmp_path / name, CELL.id) for name in ("whole", "killed"))
    assert whole.shards == killed.shards and len(whole.shards) == 3 and killed.failed == {}
    for shard in whole.shards:
        assert (tmp_path / "whole" / shard).read_bytes() == (tmp_path / "killed" / shard).read_bytes()
    came = moments("killed")
    for draw in range(2):
        assert (
            came.count(f"after runs/{CELL.id}/patch/{draw}/cost.json") == 1
        )  # finished patches are not made again
    for shard in whole.shards:
        lost = {
            f"after {shard}",
            f"before cells/{CELL.id}/outcome.json",
        } & chosen  # between a shard and the outcome that counts it
        assert 1 <= came.count(f"after {shard}") <= 1 + len(lost)
