"""What a process keeps between cells, and when it must not; requests to a busy server."""

import hashlib
import os
import tracemalloc
from pathlib import Path

import httpx
import pytest

from flows.running.cell_runner import CellRunner
from flows.running.http_retry import PAUSES_S, RetryOn503Transport
from flows.running.planning import dataset_of
from flows.running.process_cache import PROCESS_CACHE, ProcessCache
from lks.models.lm import weights_hash
from lks.results.cells import Measurements


def test_weights_are_hashed_again_only_when_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, read = ProcessCache(), []
    monkeypatch.setattr(
        "lks.models.lm.weights_hash", lambda folder: read.append(folder) or weights_hash(folder)
    )
    (tmp_path / "a.safetensors").write_bytes(b"one")
    first, bench = kept.weights_hash(tmp_path), kept.resources
    assert (kept.weights_hash(tmp_path), kept.resources, len(read)) == (first, bench, 1)
    (tmp_path / "a.safetensors").write_bytes(b"another")
    assert kept.weights_hash(tmp_path) == weights_hash(tmp_path) != first
    assert kept.resources is not bench, "the loaded model may be the old one"


def test_weight_files_are_hashed_in_pieces_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [bytes([i]) * (8 << 20) for i in range(3)]
    for number, part in enumerate(parts):
        (tmp_path / f"model-{number}-of-3.safetensors").write_bytes(part)
    wanted = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    tracemalloc.start()
    assert weights_hash(tmp_path) == wanted
    assert tracemalloc.get_traced_memory()[1] < 2 << 20, "no file is in memory as a whole"
    tracemalloc.stop()
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    monkeypatch.chdir(tmp_path.parent)
    assert weights_hash(tmp_path) == weights_hash(Path(tmp_path.name)) == wanted
    monkeypatch.undo()
    os.utime(tmp_path / "model-1-of-3.safetensors", ns=(1, 1))
    (tmp_path / "model-2-of-3.safetensors").write_bytes(b"x" + parts[2][1:])
    assert (
        weights_hash(tmp_path) == hashlib.sha256(b"".join([*parts[:2], b"x", parts[2][1:]])).hexdigest()[:16]
    )


def test_data_are_read_once_until_they_are_to_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    import lks.runs.cell

    read, load = [], lks.runs.cell.load_dataset
    monkeypatch.setattr(lks.runs.cell, "load_dataset", lambda name: read.append(name) or load(name))
    token = PROCESS_CACHE.set(kept := ProcessCache())
    try:
        assert dataset_of("world") == dataset_of("world")
        assert read == ["world"]
        assert CellRunner(Path(), None, Measurements())._shared is kept.resources  # type: ignore[arg-type]
        kept.forget()
        dataset_of("world")
        assert read == ["world", "world"]
    finally:
        PROCESS_CACHE.reset(token)


@pytest.mark.parametrize(("refused", "status"), [(0, 200), (3, 200), (len(PAUSES_S) + 1, 503)])
def test_a_busy_server_is_asked_again_some_times(
    refused: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def answer(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        asked.append(request.read())
        return httpx.Response(503 if len(asked) <= refused else 200)

    monkeypatch.setattr("flows.running.http_retry.time.sleep", lambda seconds: None)
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with httpx.Client(transport=RetryOn503Transport()) as client:
        assert client.post("http://server/", json={"key": 1}).status_code == status
    assert asked == [b'{"key":1}'] * min(refused + 1, len(PAUSES_S) + 1)
