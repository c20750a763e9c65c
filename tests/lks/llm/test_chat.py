"""The client of chat models against a server that misbehaves: retries, limits, ceilings, and what is kept."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lks.errors import StoreError, UserError
from lks.io.json_lines import JsonLinesFile
from lks.llm.client import ChatModel, ChatReply, Request, spoken
from lks.llm.limits import BURST_S, Bucket, Budget, Ceiling, Price, RequestLimits, RequestUsage
from lks.llm.reply_cache import Correspondence
from lks.llm.server import ChatServer
from tests.helpers.fake_server import FakeServer, running

Open = Callable[..., Correspondence]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with running() as one:
        yield one


@pytest.fixture
def model(server: FakeServer, tmp_path: Path) -> Open:
    """A chat model whose replies are kept; made anew it knows only what is on disk."""

    def opened(
        budget: Budget | None = None,
        model: str = "fake",
        version: str = "1",
        key: str = "sk-secret",
        **limits: object,
    ) -> Correspondence:
        limited = RequestLimits(
            **{"concurrency": 4, "retries": 3, "pause_s": 0.01, "timeout_s": 20.0} | limits
        )  # type: ignore[arg-type]
        return Correspondence(
            ChatModel(ChatServer.named("The model", server.url, key), model, limited, budget),
            tmp_path / "replies.jsonl",
            version,
        )

    return opened


def requests(count: int) -> list[Request]:
    return [Request((("system", "Repeat."), ("user", f"text {i}")), 0.5, 20) for i in range(count)]


def test_replies_in_the_order_of_requests(server, model):
    server.delay = 0.1
    arrived: list[int] = []
    replies = model().ask(requests(9), lambda: arrived.append(1))
    assert replies == [ChatReply(f"You said: text {i}", RequestUsage(1, 10)) for i in range(9)]
    assert len(arrived) == len(server.requests) == 9
    assert 1 < server.most <= 4
    first = server.requests[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("fake", 0.5, 20)
    assert first["messages"] == [
        {"role": "system", "content": "Repeat."},
        {"role": "user", "content": "text 0"},
    ]


@pytest.mark.parametrize("fault", ["429", "500", "503", "408", "malformed", "no choices", "page", "cut"])
def test_what_passes_is_tried_again(server, model, fault):
    server.fault = lambda number: fault if number in (0, 2, 3) else None
    assert [reply.text for reply in model(concurrency=1).ask(requests(3))] == [
        f"You said: text {i}" for i in range(3)
    ]
    assert server.texts == ["text 0", "text 0", "text 1", "text 1", "text 1", "text 2"]


def test_a_request_without_an_answer_times_out_and_its_cost_is_counted(server, model):
    server.fault = lambda number: "hang" if number == 1 else None
    asked = model(timeout_s=0.5, concurrency=1)
    assert asked.ask(requests(2))[1].text == "You said: text 1"
    lost = requests(2)[1].worst
    assert asked.chat.budget.spent == RequestUsage(1, 10) + RequestUsage(1, 10) + lost
    assert model().kept == asked.chat.budget.spent  # over a restart, too


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("400", ["status 400"]),
        ("401", ["refuses the key", "OPENAI_API_KEY"]),
        ("404", ["'fake'", "/v1"]),
        ("quota", ["no more money"]),
    ],
)
def test_what_does_not_pass_is_not_tried_again(server, model, fault, parts):
    server.fault = lambda number: fault
    with pytest.raises(UserError) as error:
        model().ask(requests(5))
    assert all(part in str(error.value) for part in [*parts, server.url])
    assert len(server.requests) == 1


def test_retries_come_to_an_end(server, model):
    server.fault = lambda number: None if number == 0 else "500"
    with pytest.raises(UserError, match="kept"):
        model(concurrency=1, retries=2).ask(requests(3))
    assert server.texts == ["text 0", "text 1", "text 1", "text 1"]


def test_retry_after_is_respected_by_all(server, model):
    server.fault = lambda number: "429" if number == 1 else None
    server.retry_after = "0.6"
    model(concurrency=3).ask(requests(6))
    refused = server.times[1]
    later = [when for when in server.times if when > refused + 0.3]
    assert len(later) == 7 - sum(when <= refused + 0.3 for when in server.times)
    assert min(later) >= refused + 0.55
    again = [when for when, text in zip(server.times, server.texts, strict=True) if text == server.texts[1]][
        1
    ]
    assert again >= refused + 0.55


def test_a_server_that_wants_hours_counts_as_closed(server, model):
    server.fault, server.retry_after = (lambda number: "429"), "7200"
    with pytest.raises(UserError, match="resume later"):
        model().ask(requests(2))
    assert len(server.requests) == 1


def test_a_failure_lets_requests_on_their_way_finish(server, model):
    server.delay = 0.15
    server.fault = lambda number: "401" if number == 1 else None
    with pytest.raises(UserError, match="key"):
        model(concurrency=3).ask(requests(20))
    assert 2 <= len(server.requests) <= 4  # the first alone, then three at once
    assert len(server.answered) == len(server.requests) - 1
    server.fault = lambda number: None
    model().ask(requests(20))
    assert sorted(server.answered) == sorted(f"text {i}" for i in range(20))


def test_one_refused_text_does_not_stop_the_others(server, model):
    server.fault = lambda number: "400" if number == 2 else None
    replies = model(concurrency=1).ask(requests(4))
    assert [reply.refused for reply in replies] == [False, False, True, False]
    assert model().ask(requests(4)) == replies
    assert len(server.requests) == 4


def test_nothing_is_asked_twice(server, model):
    first = model().ask([*requests(3), *requests(3)])
    assert len(server.requests) == 3
    assert model().ask([*requests(3), *requests(3)]) == first
    assert len(server.requests) == 3
    for number, other in enumerate([model(model="other"), model(version="2")], 4):
        other.ask(requests(1))
        assert len(server.requests) == number
    request = requests(1)[0]
    for number, changed in enumerate(
        [
            Request(request.messages, 0.6, 20),
            Request(request.messages, 0.5, 21),
            Request(request.messages, 0.5, 20, sample=1),
        ],
        6,
    ):
        model().ask([changed])
        assert len(server.requests) == number


def test_the_key_is_kept_nowhere(server, model, tmp_path):
    server.says = lambda text: "the key is sk-secret"
    assert model().ask(requests(1))[0].text == "the key is (the key)"
    assert server.headers_seen[0]["authorization"] == "Bearer sk-secret"
    assert b"sk-secret" not in (tmp_path / "replies.jsonl").read_bytes()
    shown = ChatServer("The model", "http://me:word@host:1/v1?token=x", "sk-secret")
    assert shown.shown == "http://host:1/v1"
    assert "word" not in shown.without_key("me:word sk-secret")
    assert "sk-secret" not in repr(shown)


def test_what_a_server_does_not_count_costs_the_worst(server, model):
    server.usage = lambda text: None
    asked = model()
    asked.ask(requests(1))
    assert asked.chat.budget.spent == requests(1)[0].worst


@pytest.mark.parametrize("kind", ["tokens", "money"])
def test_the_ceiling_is_never_passed(server, model, kind):
    worst = requests(1)[0].worst
    server.usage = lambda text: (worst.prompt, 15)
    each = worst.prompt + 15
    ceiling = 7 * each + worst.total // 2
    price = Price(1e6, 1e6)  # a dollar per token

    def budget(most: int) -> Budget:
        return Budget(price, most_usd=float(most)) if kind == "money" else Budget(price, most_tokens=most)

    server.delay = 0.02
    with pytest.raises(Ceiling, match=r"kept.*higher"):
        model(budget(ceiling), concurrency=5).ask(requests(30))
    assert server.tokens <= ceiling
    assert server.tokens + worst.total > ceiling  # it did not stop early
    before = len(server.requests)
    with pytest.raises(Ceiling):  # of the file, not of the run
        model(budget(ceiling)).ask(requests(30))
    assert len(server.requests) == before
    model(budget(30 * each + worst.total)).ask(requests(30))
    assert sorted(server.texts) == sorted(f"text {i}" for i in range(30))


def test_a_ceiling_holds_with_faults_that_are_charged(server, model):
    server.fault = lambda number: "malformed" if number % 3 == 1 else None
    worst = requests(1)[0].worst
    server.usage = lambda text: (worst.prompt, worst.reply)
    with pytest.raises(Ceiling):
        model(Budget(most_tokens=10 * worst.total)).ask(requests(30))
    assert 8 * worst.total < server.tokens <= 10 * worst.total


def test_ceilings_that_make_no_sense():
    with pytest.raises(UserError, match="price"):
        Budget(most_usd=1.0)
    with pytest.raises(UserError, match="0 or above"):
        Budget(most_tokens=-1)
    with pytest.raises(UserError, match="requests_per_minute"):
        RequestLimits(requests_per_minute=0)


def test_money_by_hand():
    assert Price(0.15, 0.60).of(RequestUsage(2_000_000, 500_000)) == pytest.approx(0.30 + 0.30)
    assert Budget(Price(1.0, 2.0), spent=RequestUsage(10, 20)).usd == pytest.approx(50e-6)


def test_the_rate_of_requests(server, model):
    model(requests_per_minute=600, concurrency=8).ask(
        requests(25)
    )  # ten a second, ten at once at the beginning
    assert server.times[-1] - server.times[0] >= (25 - 10 - 1) / 10 - 0.1


def test_a_bucket_by_hand():
    bucket = Bucket(60)  # one a second, one in store
    assert [bucket.take(1, now=10.0) for _ in range(4)] == [10.0, 10.0, 11.0, 12.0]
    assert bucket.take(1, now=30.0) == 30.0
    assert bucket.take(5, now=30.0) == 30.0
    assert bucket.take(1, now=30.0) == 35.0


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), min_size=1, max_size=40), st.integers(60, 6000)
)
def test_no_minute_has_more_than_its_rate(steps, per_minute):
    bucket, now, taken = Bucket(per_minute), 0.0, []
    for pause, amount in steps:
        now += pause
        taken.append((bucket.take(amount, now), amount))
    biggest = max(amount for _, amount in taken)
    for start, _ in taken:
        inside = sum(amount for when, amount in taken if start <= when < start + 60)
        assert inside <= per_minute * (1 + BURST_S / 60) + biggest + 1e-6


def test_a_torn_line_is_left_out_and_the_next_one_is_whole(tmp_path):
    file = tmp_path / "lines.jsonl"
    kept = JsonLinesFile(file)
    kept.keep("a", {"reply": "1"})
    kept.keep("b", {"reply": "2"})
    file.write_bytes(file.read_bytes()[:-4])
    again = JsonLinesFile(file)
    assert set(again.entries) == {"a"}
    again.keep("c", {"reply": "3"})
    assert set(JsonLinesFile(file).entries) == {"a", "c"}
    file.write_text(
        '[1]\nnull\n{"key": 1, "reply": ""}\n{"key": "d", "reply": "x", "prompt_tokens": "many"}\n'
    )
    assert set(JsonLinesFile(file).entries) == {"d"}


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="another folder"):
        JsonLinesFile(tmp_path / "file" / "replies.jsonl")


def test_thoughts_are_dropped():
    assert spoken("<think>a\nb</think>\nyes") == "\nyes"
    assert spoken("yes") == "yes"


def test_a_message_is_never_longer_than_its_worst_case():
    request = Request((("system", "é" * 10), ("user", "word " * 10)), longest=7)
    assert request.worst.prompt >= 20 + 50
    assert request.worst.reply == 7
    assert request.estimate < request.worst.prompt
    assert json.dumps(request.messages)


def test_waiting_is_not_busy(server, model):
    began = time.process_time()
    model(requests_per_minute=120, concurrency=2).ask(requests(4))
    assert time.process_time() - began < 5
