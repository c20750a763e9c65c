"""A killed meta-training of MEND or SERAC goes on to the very end that an undisturbed one comes to; what is
kept is whole or not used.
"""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines._locate_then_edit import covariances
from baselines._mend.passes import BorderRows
from baselines._mend.training import MendTrainer
from baselines._serac import counterfactual, scope_classifier
from baselines.mend import Mend, MendParams
from baselines.serac import Serac, SeracParams
from lks.errors import StoreError
from lks.io import cache
from lks.io.checkpoint import VERSION, Checkpoint
from tests.helpers import tiny

MEND = MendParams(
    blocks=(-2, -1),
    rank=4,
    edit_lr=0.03,
    lr=1e-3,
    accumulate=3,
    max_steps=12,
    validation_interval=2,
    decay=True,
)
SERAC = SeracParams(
    dim=16,
    layers=1,
    encoder_dim=8,
    max_steps=8,
    validation_interval=2,
    batch_size=3,
    scope_batch=3,
    locality_prompts=1,
)
EDITORS = {"mend": lambda: Mend(MEND), "serac": lambda: Serac(SERAC)}


class Killed(BaseException):
    """Stands for a signal: nothing in the library may catch it."""


def trained(name: str, progress: Callable[[float], None] = lambda done: None) -> dict[str, Tensor]:
    """What a method's preparation comes to, in the cache folder that is set."""
    editor = EDITORS[name]()
    editor.prepare(tiny.lm("llama"), tiny.training(), progress)
    found = editor._trained
    assert found is not None
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; every validation is kept."""
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lks.io.checkpoint.EVERY_S", 0.0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """Trained in one go, with nothing kept on the way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "due", lambda self: False)
        patch.setenv("LKS_CACHE", str(tmp_path_factory.mktemp("undisturbed")))
        return {name: trained(name) for name in EDITORS}


def left(folder: Path) -> list[str]:
    """Names of what is in the cache, without the hash."""
    return sorted(path.name.partition(".")[2] for path in folder.rglob("*") if path.is_file())


def killed_at(fraction: float) -> Callable[[float], None]:
    def progress(done: float) -> None:
        if done >= fraction:
            raise Killed

    return progress


@pytest.mark.parametrize("name", EDITORS)
def test_a_killed_training_comes_to_the_same_end_however_often_it_is_killed(
    name: str, folder: Path, undisturbed: dict[str, dict[str, Tensor]]
) -> None:
    for fraction in (0.05, 0.11, 0.3, 0.45, 0.5, 0.7, 0.99):
        with pytest.raises(Killed):
            trained(name, killed_at(fraction))
    assert any(kind.endswith("training.state") for kind in left(folder)) and not any(
        kind == "safetensors" for kind in left(folder)
    )
    told: list[float] = []
    assert equal(trained(name, told.append), undisturbed[name])
    assert told[0] > 0.15 and told == sorted(told)  # progress goes on from where it was
    assert left(folder) == ["json", "safetensors"]


def test_training_changes_the_weights_and_draws_from_no_generator_but_its_own(
    folder: Path, undisturbed: dict[str, dict[str, Tensor]]
) -> None:
    before = torch.get_rng_state()
    for name in EDITORS:
        assert equal(trained(name), undisturbed[name])
    assert torch.equal(before, torch.get_rng_state())
    assert undisturbed["mend"]["steps"].std() > 0  # the best weights are not the untrained ones
    fresh = dict(
        counterfactual.fresh(
            tiny.lm("llama"), SERAC.dim, SERAC.layers, SERAC.heads, seed=0
        ).named_parameters()
    )
    assert not any(
        torch.equal(undisturbed["serac"][f"counterfactual.{weight}"], value)
        for weight, value in fresh.items()
    )


def test_a_finished_scope_classifier_is_not_trained_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, dict[str, Tensor]]
) -> None:
    with pytest.raises(Killed):
        trained("serac", killed_at(0.5))
    monkeypatch.setattr(scope_classifier.ScopeClassifierTrainer, "fit", None)
    assert equal(trained("serac"), undisturbed["serac"])


def test_the_steps_before_the_kill_are_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        trained("serac", killed_at(0.2 + 0.8 * 7 / 8))
    losses: list[int] = []
    original = counterfactual.CounterfactualTrainer._drawn

    def counted(
        self: counterfactual.CounterfactualTrainer, edits: list, answers: list
    ) -> tuple[list[str], list[str], list[str]]:
        losses.extend([1] if answers else [])
        return original(self, edits, answers)

    monkeypatch.setattr(counterfactual.CounterfactualTrainer, "_drawn", counted)
    trained("serac")
    assert len(losses) == 2  # killed in step 7 of 8, kept after step 6


def child(target: Callable[..., object], *given: object) -> BaseProcess:
    """A process of its own, which has all modules already."""
    process = multiprocessing.get_context("fork").Process(target=target, args=given)
    process.start()
    return process


def shot_at(name: str, fraction: float) -> None:
    def progress(done: float) -> None:
        if done >= fraction:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(name, progress)


@pytest.mark.parametrize("name", EDITORS)
def test_a_process_killed_from_outside_goes_on_in_another(
    name: str, folder: Path, undisturbed: dict[str, dict[str, Tensor]]
) -> None:
    for fraction in (0.15, 0.6):
        process = child(shot_at, name, fraction)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    assert any(kind.endswith("training.state") for kind in left(folder))
    assert equal(trained(name), undisturbed[name])
    assert left(folder) == ["json", "safetensors"]


def ends_with(name: str, result: "multiprocessing.Queue[bytes]") -> None:
    tensors = trained(name)
    result.put(b"".join(tensors[key].detach().numpy().tobytes() for key in sorted(tensors)))
    result.close()
    result.join_thread()
    os._exit(0)  # what other tests have left in the process that was forked is not to be torn down here


@pytest.mark.parametrize("locks", [True, False])
def test_two_processes_that_want_the_same_come_to_the_same(
    locks: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr("fcntl.flock", refused)
    steps = folder.parent / "steps"
    original = MendTrainer.loss

    def counted(self: MendTrainer, *rows: BorderRows) -> Tensor:
        with steps.open("a") as file:
            file.write("x")
        return original(self, *rows)

    monkeypatch.setattr(MendTrainer, "loss", counted)
    results: multiprocessing.Queue[bytes] = multiprocessing.get_context("fork").Queue()
    processes = [child(ends_with, "mend", results) for _ in range(3)]
    ends = {results.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(ends) == 1 and all(process.exitcode == 0 for process in processes)
    alone = 12 + 7  # steps and validations
    assert len(steps.read_text()) == alone if locks else len(steps.read_text()) >= alone
    assert left(folder) == ["json", "safetensors"]


def refused(*given: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("killed", [0, 2, 5])
def test_interrupted_sums_of_moments_go_on_to_the_same_sums(
    killed: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny.lm("llama")
    original = covariances.batches
    monkeypatch.setattr(covariances, "batches", lambda lengths, most: original(lengths, 300))
    monkeypatch.setenv("LKS_CACHE", str(folder / "other"))
    whole = covariances.second_moments(lm, [0, 2], "world", 2000)
    monkeypatch.setenv("LKS_CACHE", str(folder / "own"))
    told: list[float] = []

    def progress(done: float) -> None:
        told.append(done)
        if len(told) == killed:
            raise Killed

    if killed:
        with pytest.raises(Killed):
            covariances.second_moments(lm, [0, 2], "world", 2000, progress)
        assert len(told) == killed
    again = covariances.second_moments(lm, [0, 2], "world", 2000, told.append)
    assert (
        told == sorted(told)
        and told[0] < 0.2
        and len(told) > 8
        and told[killed] > told[killed - 1] * bool(killed)
    )
    for block in (0, 2):
        assert torch.equal(whole.blocks[block].vectors, again.blocks[block].vectors)
        assert torch.equal(whole.blocks[block].values, again.blocks[block].values)
    assert left(folder / "own") == ["json", "json", "safetensors", "safetensors"]


def test_a_factor_that_was_interrupted_needs_no_second_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny.lm("llama")
    original, factored = torch.linalg.eigh, []

    def once(matrix: Tensor) -> object:
        factored.append(1)
        if len(factored) == 2:
            raise Killed
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", once)
    with pytest.raises(Killed):
        covariances.second_moments(lm, [0, 2], "world", 1000)
    monkeypatch.setattr(covariances, "_sums", None)
    assert set(covariances.second_moments(lm, [0, 2], "world", 1000).blocks) == {0, 2} and len(factored) == 3


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "version", "identity", "tensor", "folder"])
def test_a_state_that_is_damaged_or_of_another_kind_is_not_used(
    damage: str,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, dict[str, Tensor]],
) -> None:
    if damage == "version":
        monkeypatch.setattr("lks.io.checkpoint.VERSION", "0")
    with pytest.raises(Killed):
        trained("mend", killed_at(0.7))
    monkeypatch.setattr("lks.io.checkpoint.VERSION", VERSION)
    [path] = folder.rglob("*.training.state")
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    other = (
        content.replace(b"edit_lr", b"edit_lR")
        if damage == "identity"
        else content.replace(b'\\"steps\\"', b'\\"stebs\\"')
    )
    changed = {"cut": content[:-9], "garbage": b"{}" * 500, "empty": b"", "identity": other, "tensor": other}
    if damage in changed:
        path.write_bytes(changed[damage])
        assert changed[damage] != content
    told: list[float] = []
    if damage == "folder":
        (path / "in the way").touch()
    assert equal(trained("mend", told.append), undisturbed["mend"])
    assert told[0] == 0.0 and "it starts over" in caplog.text


def test_a_state_is_kept_as_often_as_its_cost_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lks.io.checkpoint.time.monotonic", lambda: now[0])

    def slow(path: Path, tensors: object, about: object) -> None:
        now[0] += 1.0

    monkeypatch.setattr("lks.io.checkpoint.write", slow)
    kept = Checkpoint(tmp_path / "a.state", "")
    assert not kept.due()
    now[0] = 30.0
    assert kept.due()
    kept.save({})
    now[0] = 31.0 + 49.0
    assert not kept.due()  # a second of writing allows another one after fifty
    now[0] = 31.0 + 50.0
    assert kept.due()


def test_a_full_disk_ends_no_training_but_the_last_write_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lks.io.checkpoint.save_file", full)
    told: list[float] = []
    with pytest.raises(StoreError, match=r"No space left on device.*Free space"):
        trained("mend", told.append)
    assert told[-1] == 1.0 and "starts over if it is killed" in caplog.text


def test_seconds_are_those_of_all_attempts(folder: Path) -> None:
    def attempt(making: cache.Making) -> dict[str, Tensor]:
        kept = making.checkpoint("counting")
        if state := kept.load():
            return state
        making.clock.go_on(1000.0)
        kept.save({"a": torch.ones(1)})
        raise Killed

    with pytest.raises(Killed):
        cache.made("kind", {"a": 1}, attempt)
    made = cache.made("kind", {"a": 1}, attempt)
    assert 1000.0 < made.seconds < 1060.0 and cache.made("kind", {"a": 1}, attempt).seconds == made.seconds
    assert cache.known("kind", {"a": 2}) is None
