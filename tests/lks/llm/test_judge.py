"""The LLM judge against a server of the tests' own: what is asked, what is kept, what is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from cli.app import app
from cli.judge import Scores, judge_folder, judge_results, judged_by, keep, scores
from flows.running.planning import only_writer
from lks.errors import DataError, StoreError, UserError
from lks.llm.judge import INSTRUCTION, Judge, JudgeItem, Ruling, verdict_of
from lks.llm.judge_calibration import CALIBRATION, Confusion, Labelled, calibrate, labelled_items
from lks.results.answers import Answer
from lks.results.cells import Cell, Costs, Outcome
from lks.results.judge_rows import SCHEMA, Judgement, file_name
from lks.results.shards import read_outcome, read_rows
from lks.results.store import Store
from tests.helpers.root import ROOT
from tests.helpers.stores import write_answers

Says = Callable[[str], "str | int"]


def honest(prompt: str) -> str:
    """Right if the target stands in the answer."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines())
    return "correct" if lines["Right answer"] in lines["Answer to grade"] else "Incorrect."


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server; `says` gives the reply to a prompt, or an HTTP status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.says: Says = honest
        self.wait = 0.0
        self.requests: list[dict[str, object]] = []
        self.keys: set[str] = set()
        self.now = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][1]["content"] for request in self.requests]  # type: ignore[index]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append(request | {"path": self.path})
            server.keys.add(self.headers["Authorization"])
            server.now += 1
            server.most = max(server.most, server.now)
        time.sleep(server.wait)
        said = server.says(request["messages"][1]["content"])
        with server.lock:
            server.now -= 1
        if isinstance(said, int):
            self._send(said, {"error": {"message": f"status {said}", "type": "test"}})
        else:
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._send(
                200,
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": request["model"],
                    "choices": [choice],
                },
            )

    def _send(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-should-retry", "false")  # as real servers may; the tests need not wait for pauses
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Page(Handler):
    """Says something else than a completion."""

    def _send(self, status: int, document: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def judge(server: Server, tmp_path: Path) -> Callable[..., Judge]:
    """A judge at the server; made anew it knows only what is on disk."""
    return lambda model="fake", **more: Judge(
        model, **{"base_url": server.url, "cache": tmp_path / "judge", "retries": 0} | more
    )


def items(count: int, right: int = 0) -> list[JudgeItem]:
    return [JudgeItem(f"Question {i}?", f"<{i}>", f"<{i}>" if i < right else "no idea") for i in range(count)]


def test_verdicts_in_the_order_of_items(server, judge):
    asked = judge().rule(items(5, right=2))
    assert asked == [Ruling(True, "correct")] * 2 + [Ruling(False, "Incorrect.")] * 3
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"]) == ("fake", 0)
    assert request["messages"][0] == {"role": "system", "content": INSTRUCTION}
    assert server.prompts[0] == "Question: Question 0?\nRight answer: <0>\nAnswer to grade: <0>"


def test_other_spellings_and_empty_answers_are_shown():
    prompt = JudgeItem("Q", "New York", "", ("NYC", "Big Apple")).prompt
    assert (
        prompt
        == "Question: Q\nRight answer: New York\nOther spellings: NYC; Big Apple\nAnswer to grade: (nothing)"
    )


def test_a_second_run_asks_nothing(server, judge):
    first = judge()
    before = first.rule(items(6, right=3))
    assert first.asked == len(server.requests) == 6
    again = judge()
    assert again.rule(items(6, right=3)) == before
    assert again.asked == 0
    assert len(server.requests) == 6
    judge().rule(items(7, right=3))
    assert len(server.requests) == 7


def test_what_a_reply_depends_on(server, judge):
    judge().rule([JudgeItem("q", "t", "a")])
    for model, item in [
        ("other", JudgeItem("q", "t", "a")),
        ("fake", JudgeItem("q2", "t", "a")),
        ("fake", JudgeItem("q", "t2", "a")),
        ("fake", JudgeItem("q", "t", "a2")),
        ("fake", JudgeItem("q", "t", "a", ("s",))),
    ]:
        before = len(server.requests)
        judge(model).rule([item])
        assert len(server.requests) == before + 1
    judge().rule([JudgeItem("q", "t", "a")])
    assert len(server.requests) == 6


def test_the_same_question_is_asked_once(server, judge):
    twice = items(3) + items(3)[::-1] + items(3)
    assert judge().rule(twice) == [Ruling(False, "Incorrect.")] * 9
    assert sorted(server.prompts) == sorted(item.prompt for item in items(3))


@pytest.mark.parametrize("limit", [1, 3])
def test_concurrency_is_limited(server, judge, limit):
    server.wait = 0.05
    judge(concurrency=limit).rule(items(10))
    assert server.most == limit


def test_progress_rises_to_one(judge):
    shown: list[float] = []
    judge(concurrency=1).rule(items(4) + items(2), shown.append)
    assert shown == sorted(shown)
    assert shown[-1] == 1
    assert judge().rule([]) == []


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("correct", True),
        ("Correct", True),
        ("CORRECT.", True),
        (" **Incorrect**\n", False),
        ("_correct_", True),
        ('"incorrect"', False),
        ("Incorrect. The correct answer is Rome.", False),
        ("<think>It is not correct, or is it correct?</think>\n\nincorrect", False),
        ("", None),
        ("yes", None),
        ("correctly", None),
        ("The answer is correct", None),
        ("not correct", None),
        ("correct or incorrect", None),
        ("Correct/Incorrect", None),
        ("<think>correct", None),
    ],
)
def test_what_a_reply_means(reply, verdict):
    assert verdict_of(reply) is verdict


def test_odd_replies_are_kept_and_shown(server, judge):
    server.says = lambda prompt: {"0": "maybe", "1": ""}.get(prompt[19], "correct")
    wanted = [Ruling(None, "maybe"), Ruling(None, ""), Ruling(True, "correct")]
    assert judge().rule(items(3)) == wanted
    assert judge().rule(items(3)) == wanted
    assert len(server.requests) == 3


def test_a_text_that_the_server_refuses_does_not_stop_the_others(server, judge):
    server.says = lambda prompt: 400 if "Question 2?" in prompt else honest(prompt)
    verdicts = [ruling.verdict for ruling in judge().rule(items(4, right=4))]
    assert verdicts == [True, True, None, True]


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (401, ["refuses the key", "OPENAI_API_KEY"]),
        (403, ["refuses the key", "OPENAI_API_KEY"]),
        (404, ["'fake'", "/v1"]),
        (400, ["'fake'", "status 400"]),
        (429, ["no more requests", "resume later"]),
        (500, ["'fake'", "status 500"]),
    ],
)
def test_a_server_that_refuses_is_noticed_with_the_first_question(server, judge, status, parts):
    server.says = lambda prompt: status
    with pytest.raises(UserError) as error:
        judge().rule(items(50))
    assert all(part in str(error.value) for part in [*parts, server.url])
    assert "\n" not in str(error.value)
    assert len(server.requests) == 1


def test_nobody_at_the_address(judge):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"cannot be reached.*OPENAI_BASE_URL") as error:
        judge(base_url=url).rule(items(5))
    assert url in str(error.value)


def test_a_web_page_instead_of_a_server(server, judge):
    server.RequestHandlerClass = Page
    with pytest.raises(UserError, match="ends in /v1"):
        judge(base_url=server.url.removesuffix("/v1")).rule(items(1))


def test_the_environment_names_server_and_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    Judge("fake", cache=tmp_path).rule(items(1))
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    Judge("fake2", cache=tmp_path).rule(items(1))
    Judge("fake3", api_key="mine", cache=tmp_path).rule(items(1))
    assert server.keys == {"Bearer none", "Bearer a-key", "Bearer mine"}


def test_without_key_and_server(server, tmp_path):
    with pytest.raises(UserError, match=r"OPENAI_API_KEY.*OPENAI_BASE_URL"):
        Judge("fake", cache=tmp_path)
    with pytest.raises(UserError, match="concurrency"):
        Judge("fake", base_url=server.url, cache=tmp_path, concurrency=0)


def test_a_folder_that_cannot_be_used(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="LKS_CACHE"):
        Judge("fake", base_url=server.url, cache=tmp_path / "file")


def test_the_default_folder_is_in_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "cache"))
    Judge("org/some model", base_url=server.url).rule(items(1))
    (file,) = (tmp_path / "cache" / "judge").iterdir()
    assert file.name.startswith("org-some-model-")


def test_a_failure_in_the_middle_keeps_what_was_answered(server, judge):
    server.says = lambda prompt: 500 if len(server.requests) > 5 else honest(prompt)
    with pytest.raises(UserError, match="kept"):
        judge(concurrency=1).rule(items(9))
    server.says = honest
    again = judge()
    assert again.rule(items(9, right=0)) == [Ruling(False, "Incorrect.")] * 9
    assert again.asked == 4


def test_a_kill_in_the_middle_keeps_what_was_answered(server, judge, tmp_path):
    server.wait = 0.05
    code = f"""
from pathlib import Path
from lks.llm.judge import Judge, JudgeItem
judge = Judge("fake", base_url={server.url!r}, cache=Path({str(tmp_path / "judge")!r}), concurrency=1)
judge.rule([JudgeItem(f"Question {{i}}?", f"<{{i}}>", "no idea") for i in range(500)])
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(server.requests) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    sent = len(server.requests)
    again = judge()
    again.rule(items(sent + 3))
    assert again.asked in (3, 4)  # the three new ones, and the one that was on its way


def test_a_line_that_was_cut_off_is_asked_again(server, judge, tmp_path):
    judge(concurrency=1).rule(items(3))
    (file,) = (tmp_path / "judge").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    again = judge()
    assert again.rule(items(4)) == [Ruling(False, "Incorrect.")] * 4
    assert again.asked == 2
    last = judge()
    last.rule(items(4))
    assert last.asked == 0


def test_calibration_by_hand(server, judge):
    """Ten items; people say 6 right, 4 wrong. The judge: 4 of the 6 right, 1 wrong, 1 neither; 1 of the 4
    right, 3 wrong.
    """
    replies = ["correct"] * 4 + ["incorrect", "hm"] + ["correct"] + ["incorrect"] * 3
    server.says = lambda prompt: replies[int(prompt[19])]
    labelled = [Labelled(item, i < 6) for i, item in enumerate(items(10))]
    found = calibrate(judge(), labelled)
    assert found.n == 10
    assert found.confusion == Confusion(both_correct=4, both_incorrect=3, lenient=1, strict=1, neither=1)
    assert found.agreement == pytest.approx(0.7)
    chance = 0.6 * 0.5 + 0.4 * 0.4  # each verdict's share with people times its share with the judge
    assert found.kappa == pytest.approx((0.7 - chance) / (1 - chance))


def test_a_judge_without_fault(server, judge):
    labels = {item.item.prompt: item.label for item in labelled_items()}
    server.says = lambda prompt: "correct" if labels[prompt] else "incorrect"
    found = calibrate(judge(), labelled_items())
    assert (found.agreement, found.kappa) == (1, 1)


def test_the_items_that_come_with_the_program():
    found = labelled_items(CALIBRATION)
    assert len(found) >= 40
    assert len({item.item.prompt for item in found}) == len(found)
    assert 0.4 < sum(item.label for item in found) / len(found) < 0.6
    assert any(item.item.accepted for item in found)


GOOD = '{"question": "q", "target": "t", "answer": "a", "label": true}'


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"question": "q", "target": "t", "answer": "a"}', "label"),
        ('{"question": "q", "target": "t", "answer": "a", "label": "yes"}', "label"),
        ('{"question": "", "target": "t", "answer": "a", "label": true}', "question"),
        ('{"question": "q", "target": 5, "answer": "a", "label": true}', "target"),
        ('{"question": "q", "target": "t", "answer": "a", "label": true, "accepted": "s"}', "accepted"),
        ('{"question": "q", "target": "t", "answer": "a", "label": true, "lable": true}', "lable"),
    ],
)
def test_bad_lines_of_a_calibration_file(tmp_path, line, field):
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(DataError) as error:
        labelled_items(file)
    assert f"{file}, line 3: " in str(error.value) and field in str(error.value)
    assert "\n" not in str(error.value)


def test_calibration_files_without_items(tmp_path):
    with pytest.raises(DataError, match="no items"):
        labelled_items(_file(tmp_path / "empty", b"\n"))
    with pytest.raises(DataError, match="cannot be read"):
        labelled_items(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot be read"):
        labelled_items(_file(tmp_path / "latin", b"\xe9"))
    assert labelled_items(_file(tmp_path / "good", (GOOD + "\r\n").encode())) == [
        Labelled(JudgeItem("q", "t", "a"), True)
    ]


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def answer(case: str, kind: str, text: str | None, target: str = "Paris", **more: object) -> Answer:
    return Answer(
        0,
        case,
        "Ann",
        kind,
        0,
        f"{case} {kind}?",
        target,
        (1,),
        (1,),
        (1,),
        "text",
        -1.0,
        wild_text=text,
        **more,
    )  # type: ignore[arg-type]


CELLS = [Cell("micro-llama", "world", "ft", 1, seed, 1) for seed in (0, 1)]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    for seed, said in [(0, "Paris. It is"), (1, "Rome")]:
        cell = CELLS[seed]
        rows = [
            answer("a", "edit", said),
            answer("a", "edit", " Paris\n", context="qa"),
            answer("a", "paraphrase", "Lutetia", accepted=("Lutetia", "Lutèce")),
            answer("a", "portability", "Lyon"),
            answer("a", "locality", "Oslo"),
            answer("b", "edit", None),
            answer("a", "portability", "Lyon", context="given"),
        ]
        store.record(
            Outcome(
                cell,
                "ok",
                "",
                (write_answers(store.results, cell.id, "ask", rows),),
                Costs(),
                {"finished": f"2026-01-0{seed + 1}"},
            )
        )
    return tmp_path / "results"


def test_results_are_judged_cell_by_cell(server, judge, results):
    shown: list[float] = []
    server.says = lambda prompt: "correct" if "Other spellings: Lutetia; Lutèce" in prompt else honest(prompt)
    found = dict(judge_results(results, judge(), shown.append))
    first, second = (cell.id for cell in CELLS)
    assert set(found) == {first, second}
    assert found[first] == [
        Judgement("fake", 0, "a", "edit", 0, "bare", True, "correct"),
        Judgement("fake", 0, "a", "edit", 0, "qa", True, "correct"),
        Judgement("fake", 0, "a", "paraphrase", 0, "bare", True, "correct"),
        Judgement("fake", 0, "a", "portability", 0, "bare", False, "Incorrect."),
    ]
    assert [row.verdict for row in found[second]] == [False, True, True, False]
    assert (
        len(server.requests) == 4
    )  # in the first cell three, as two contexts gave the same answer; in the second one new
    assert "Question: a edit?\nRight answer: Paris\nAnswer to grade: Paris" in server.prompts
    assert shown == sorted(shown)
    assert shown[-1] == pytest.approx(1)


def test_cells_can_be_left_out(server, judge, results):
    first, second = (cell.id for cell in CELLS)
    assert [cell for cell, _ in judge_results(results, judge(), skip={first})] == [second]
    assert list(judge_results(results, judge(), skip={first, second})) == []


def test_a_cell_is_handed_over_as_soon_as_it_is_judged(server, judge, results):
    cells = judge_results(results, judge(concurrency=1))
    next(cells)
    server.says = lambda prompt: 500
    with pytest.raises(UserError, match="status 500"):
        next(cells)


STAGE = f"judged-{file_name('fake')}"


def lks(results: Path, server: Server, *words: object) -> Result:
    """The command, with a calibration of its own."""
    file = results.parent / "calibration.jsonl"
    file.write_text(
        "\n".join(
            json.dumps({"question": f"q{i}", "target": "t", "answer": "tu"[i % 2], "label": i != 1})
            for i in range(4)
        )
    )
    said = ["--model", "fake", "--base-url", server.url, "--results", results, "--calibration", file, *words]
    return CliRunner().invoke(app, ["judge", *map(str, said)])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies are kept in a folder of the test."""
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.usefixtures("kept")
def test_the_command_calibrates_judges_and_stores(server, results):
    server.says = lambda prompt: "hm" if "Lutetia" in prompt else honest(prompt)
    done = lks(results, server)
    assert done.exit_code == 0, done.output
    first, *lines = done.output.splitlines()
    wanted = [
        "fake on 4 labelled answers",
        "agreement 75.0%",
        "kappa 0.50",
        "both correct 2, both incorrect 1",
        "only humans say correct 1",
        "neither 0",
    ]
    assert all(part in first for part in wanted), first
    assert lines[0] == "[1/2] ft | micro-llama | world | T=1: 4 answers, 1 neither"
    assert "2 cells judged, 0 had been judged before" in done.output
    for cell, said in zip(CELLS, (True, False), strict=True):
        outcome = read_outcome(results, cell.id)
        assert outcome.shards == (f"cells/{cell.id}/ask.parquet", f"cells/{cell.id}/{STAGE}.parquet")
        rows = read_rows(results / outcome.shards[1], Judgement)
        assert [(row.judge, row.kind, row.context, row.verdict) for row in rows] == [
            ("fake", "edit", "bare", said),
            ("fake", "edit", "qa", True),
            ("fake", "paraphrase", "bare", None),
            ("fake", "portability", "bare", False),
        ]
    bare = {
        cell.id: Scores(cell.id, "bare", share, share, None, 1, 3, 1)
        for cell, share in zip(CELLS, (1, 0), strict=True)
    }
    qa = {cell.id: Scores(cell.id, "qa", 1, 1, None, None, 1, 0) for cell in CELLS}
    assert scores(Store(results), "fake") == [row for cell in sorted(bare) for row in (bare[cell], qa[cell])]
    table = [line.split()[7:] for line in done.output.splitlines() if "| T=1 " in line and "bare" in line]
    assert sorted(table) == [
        ["0", "bare", "100.0", "100.0", "100.0", "3", "1"],
        ["1", "bare", "0.0", "0.0", "100.0", "3", "1"],
    ]


@pytest.mark.usefixtures("kept")
def test_a_second_run_of_the_command_judges_nothing(server, results):
    assert lks(results, server).exit_code == 0
    asked, written = len(server.requests), {path: path.read_bytes() for path in results.glob("cells/*/*")}
    again = lks(results, server)
    assert "0 cells judged, 2 had been judged before; 0 requests sent." in again.output
    assert len(server.requests) == asked
    assert {path: path.read_bytes() for path in results.glob("cells/*/*")} == written
    other = lks(results, server, "--model", "org/other")
    assert "2 cells judged, 0 had been judged before" in other.output
    stages = [Path(shard).stem for shard in read_outcome(results, CELLS[0].id).shards]
    assert stages == ["ask", STAGE, f"judged-{file_name('org/other')}"]
    assert len(Store(results).query("SELECT DISTINCT judge FROM judgements")) == 2


@pytest.mark.usefixtures("kept")
def test_a_failure_after_a_cell_keeps_that_cell(server, results, judge):
    cells = judge_results(results, judge(concurrency=1))
    store, (first, made) = Store(results), next(cells)
    keep(store, first, "fake", made)
    server.says = lambda prompt: 500
    failed = lks(results, server, "--calibration", _file(results.parent / "one.jsonl", GOOD.encode()))
    assert failed.exit_code == 2 and "status 500" in failed.output
    assert judged_by(Store(results), "fake") == {first}
    server.says = honest
    assert "1 cells judged, 1 had been judged before" in lks(results, server).output


def test_a_cell_asked_in_a_further_context_is_judged_again(results, judge):
    store = Store(results)
    for cell_id, made in judge_results(results, judge()):
        keep(store, cell_id, "fake", made)
    assert judged_by(store, "fake") == {cell.id for cell in CELLS}
    outcome = read_outcome(results, CELLS[0].id)
    more = write_answers(results, CELLS[0].id, "answers-chat", [answer("a", "edit", "Paris", context="chat")])
    store.record(replace(outcome, shards=(*outcome.shards, more)))
    assert judged_by(store, "fake") == {CELLS[1].id}
    ((cell_id, made),) = judge_results(results, judge(), skip=judged_by(store, "fake"))
    assert keep(store, cell_id, "fake", made).shards == (
        f"cells/{cell_id}/ask.parquet",
        more,
        f"cells/{cell_id}/{STAGE}.parquet",
    )
    assert store.query("SELECT count(*) FROM judgements WHERE cell_id = ?", [cell_id]) == [(5,)]


@pytest.mark.usefixtures("kept")
def test_what_the_command_refuses(server, results):
    with only_writer(results):
        assert "Another run" in lks(results, server).output
    assert server.requests == []
    nothing = lks(results.parent / "nothing", server)
    assert nothing.exit_code == 2 and "No results" in nothing.output
    assert not (results.parent / "nothing").exists()
    assert "No results" not in lks(results.parent / "nothing", server, "--only-calibrate").output
    assert len(server.requests) == 4  # the labelled answers
    assert "cannot be read" in lks(results, server, "--calibration", results / "none.jsonl").output


def test_on_a_terminal_there_is_a_bar(judge, results):
    console = Console(force_terminal=True, width=200, record=True)
    judge_folder(console, results, judge())
    shown = console.export_text()
    assert "[1/2]" not in shown
    assert "2 cells judged" in shown


def test_rows_have_the_columns_of_the_shard():
    assert SCHEMA.names == ["cell_id", *Judgement.__slots__]
    assert [field.name for field in SCHEMA if field.nullable] == ["verdict"]
    assert SCHEMA.metadata == {b"schema": b"lks-judgements", b"schema_version": b"1"}
