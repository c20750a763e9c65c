"""Without a hub: that there is none is known within seconds, once, and what can be done without it is done."""

import hashlib
import http.server
import lzma
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from baselines._in_context.retrievers import Dense
from baselines._locate_then_edit import corpus as _corpus
from baselines._locate_then_edit import covariances
from baselines._serac.counterfactual import from_hub
from baselines._serac.scope_classifier import HubEncoder
from lks.data.download import Published, download
from lks.data.user_facts import read_facts
from lks.errors import DataError, UserError
from lks.evaluation.ability import TaskSuite
from lks.io import hub
from lks.models.lm import LM
from lks.models.registry import shape_of
from tests.helpers import real, tiny
from tests.helpers.root import ROOT
from workbench.editing import EditRequest, edit_model


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has not asked yet, with an empty cache."""
    for known in (hub.why_not, hub._answers):
        known.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "*")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    yield
    for known in (hub.why_not, hub._answers):
        known.cache_clear()


def refusing() -> str:
    """An address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Servers that answer everything with one status."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def took(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("status", "is_there"),
    [(200, True), (301, True), (404, True), (403, True), (407, False), (502, False), (503, False)],
)
def test_a_server_is_there_if_it_answers_itself(
    status: int, is_there: bool, answering: Callable[[int], str]
) -> None:
    assert hub.is_reachable(f"{answering(status)}/a/file.json") is is_there


@pytest.mark.parametrize(
    "address", ["http://nowhere.invalid", "nonsense", "http://", "http://127.0.0.1:99999", "ftp://127.0.0.1"]
)
def test_an_address_that_leads_nowhere(address: str) -> None:
    assert took(lambda: hub.is_reachable(address)) < 2 * hub.WAIT_S
    assert not hub.is_reachable(address)


def test_silence_is_waited_for_once_and_not_for_long(silent: str) -> None:
    assert took(lambda: hub.is_reachable(f"{silent}/one")) < 2 * hub.WAIT_S
    assert not hub.is_reachable(f"{silent}/one")
    assert took(lambda: hub.is_reachable(f"{silent}/another")) < 0.1


def test_offline_by_the_environment_is_believed_at_once(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    assert took(hub.why_not) < 0.5 and "HF_HUB_OFFLINE is set" in hub.why_not()


def test_libraries_are_told_that_there_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(constants, "ENDPOINT", address := refusing())
    assert address in hub.why_not()
    assert constants.is_offline_mode() and datasets.config.HF_HUB_OFFLINE
    assert (
        hub.why_not_for("./folder") == hub.why_not_for("/no/such/folder") == hub.why_not_for(str(ROOT)) == ""
    )


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch, answering: Callable[[int], str]) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", answering(200))
    assert hub.why_not() == "" and not constants.HF_HUB_OFFLINE


NEEDS = {
    "a model": lambda: LM.load("nobody/nothing", "cpu"),
    "a pinned model": lambda: LM.load("llama-2-7b-chat", "cpu"),
    "a served model's shape": lambda: shape_of("nobody/nothing"),
    "a counterfactual model": lambda: from_hub(tiny.lm("llama"), "nobody/nothing"),
    "an encoder": lambda: HubEncoder("nobody/nothing"),
    "documents of a task": lambda: TaskSuite(["arc_easy"]),
    "documents of a task that may be local": lambda: TaskSuite(["gsm8k"]),
}


@pytest.mark.parametrize("need", NEEDS)
@pytest.mark.parametrize("is_set", [True, False], ids=["offline", "unreachable"])
def test_whatever_needs_the_hub_fails_at_once_and_says_why(
    need: str, is_set: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_set)
    monkeypatch.setattr(constants, "ENDPOINT", refusing())
    with pytest.raises(
        (UserError, DataError), match="HF_HUB_OFFLINE is set" if is_set else "The hub cannot be reached"
    ):
        NEEDS[need]()


def test_a_sentence_encoder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(constants, "ENDPOINT", refusing())
    with pytest.raises(UserError, match="The hub cannot be reached"):
        Dense("nobody/nothing")


def test_a_download_from_elsewhere_is_not_waited_for(
    silent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Published, "url", property(lambda _self: f"{silent}/file.json"))
    start = time.monotonic()
    for name in ("a", "b", "c"):
        with pytest.raises(DataError, match=r"does not answer.*set LKS_DATA"):
            download(Published(f"{name}.json", "x", "0"), tmp_path / name)
    assert time.monotonic() - start < 2 * hub.WAIT_S


# The text that stands in for WikiText.


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_the_text_that_is_shipped_is_long_enough_small_and_prose() -> None:
    lines = list(_corpus.texts("shipped"))
    assert (ROOT / "baselines" / "_locate_then_edit" / "plain_text.txt.xz").stat().st_size < 1_500_000
    assert len(set(lines)) == len(lines) > 1000 and all(
        len(line.split()) >= 20 and line == line.strip() for line in lines
    )
    words = [word for line in lines for word in line.split()]
    assert len(words) > 200_000 and sum(word[0].islower() for word in words) > 0.7 * len(words)
    beginning = " ".join(lines[:60])
    assert all(sign in beginning for sign in ("economy", "Catherine", "hack")), (
        "all sources are in any beginning"
    )
    assert "public domain" in (ROOT / "baselines" / "_locate_then_edit" / "plain_text.NOTICE").read_text()


def test_its_tokens_are_counted_by_a_real_tokenizer(nobody: None) -> None:
    lm = real.tokenizer_only("smollm2-135m")
    rows, text = covariances._rows(lm, "wikitext", 5_000_000)
    count = sum(map(len, rows))
    assert count > 200_000
    assert max(map(len, rows)) <= 512
    why = "in place of WikiText (The hub is not asked: HF_HUB_OFFLINE is set)"
    assert text == f"plain text that comes with lks-grid, {count:,} tokens (5,000,000 were asked for), {why}"


def test_wikitext_is_taken_where_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch, answering: Callable[[int], str]
) -> None:
    import datasets

    monkeypatch.setattr(constants, "ENDPOINT", answering(200))
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *_, **__: iter([{"text": "= Title ="}, {"text": "A long article. " * 20}]),
    )
    rows, text = covariances._rows(tiny.lm("llama"), "wikitext", 10)
    assert len(rows) == 1 and text.startswith("wikitext, ") and "in place" not in text


@pytest.mark.parametrize(
    "failure",
    [ConnectionError("gone"), FileNotFoundError("no such data set"), ValueError("bad"), OSError("reset")],
)
def test_wikitext_that_breaks_at_the_start_is_replaced(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, answering: Callable[[int], str]
) -> None:
    import datasets

    def breaks(*_args: object, **_kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(constants, "ENDPOINT", answering(200))
    monkeypatch.setattr(datasets, "load_dataset", breaks)
    rows, text = covariances._rows(tiny.lm("llama"), "wikitext", 10)
    assert (
        rows
        and f"in place of WikiText (Salesforce/wikitext cannot be fetched ({type(failure).__name__}))" in text
    )


def test_statistics_of_another_text_are_other_ones(
    nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LKS_CACHE", str(tmp_path))
    lm = tiny.lm("llama")
    mine = tmp_path / "mine.txt"
    mine.write_text("A text of my own, which is short.\n", encoding="utf-8")
    for corpus in ("wikitext", "shipped", "world", str(mine)):
        covariances.second_moments(lm, [0], corpus, 500)
    assert len(list((tmp_path / "moments").glob("*.safetensors"))) == 3, (
        "what stands in for WikiText is the shipped text"
    )
    assert covariances.second_moments(lm, [0], str(mine), 500).text.startswith("mine.txt, "), (
        "no path of this machine"
    )


def test_a_corpus_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes("one line\n\n  \nein\u2028Satz\x85hier\r\nlast".encode())
    lines = _corpus.texts(str(file))
    assert next(lines) == "one line"
    assert list(lines) == ["ein\u2028Satz\x85hier", "last"]
    file.write_bytes("Köln\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"large.txt is not UTF-8 text"):
        list(_corpus.texts(str(file)))


@pytest.mark.parametrize("method", ["memit", "rome", "r_rome", "emmet", "alphaedit"])
def test_an_edit_without_a_corpus_says_which_text_it_took(
    method: str, nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LKS_CACHE", str(tmp_path))
    file = tmp_path / "facts.csv"
    file.write_text("subject,prompt,target\nMara Kelorin,Mara Kelorin works for,Oslo\n", encoding="utf-8")
    changes = {"corpus_tokens": "3000", "steps": "1"}
    lm = tiny.lm("llama")
    lm.name = "somebodys-model"
    made = edit_model(lm, read_facts(file), EditRequest(method, changes))
    assert made.origin is not None
    assert made.origin.made["statistics"].startswith("plain text that comes with lks-grid, ")
    assert "in place of WikiText" in made.origin.made["statistics"]


def test_the_shipped_text_is_what_statistics_were_made_of() -> None:
    """Other bytes are another corpus: the note in docs/baselines.md then has to be another one too."""
    content = lzma.decompress((ROOT / "baselines" / "_locate_then_edit" / "plain_text.txt.xz").read_bytes())
    assert hashlib.sha256(content).hexdigest()[:16] in (ROOT / "docs" / "baselines.md").read_text(
        encoding="utf-8"
    )
    assert os.linesep.join(content.decode().splitlines()[:1]) == next(_corpus.texts("shipped"))
