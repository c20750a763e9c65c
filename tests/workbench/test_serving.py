"""The server as clients see it, through the real `openai` client."""

import asyncio
import json
import random
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from benchmarks import served
from lks.errors import UserError
from lks.models.lm import LM
from tests.helpers import tiny
from workbench.serving.batch import GenerationBatch
from workbench.serving.models import base_name, check, chosen, curl, read_all
from workbench.serving.protocol import Message
from workbench.serving.server import GracefulServer, api_key, check_host
from workbench.serving.service import Rules, plain

COUNT = 8
KEY = "a-long-enough-key"
ASKED = served.questions()
PROMPTS = [prompt for _, prompt in ASKED]


def until(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until something holds."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama")


@pytest.fixture(scope="module")
def expected(lm: LM) -> dict[str, list[str]]:
    return {
        name: served.answers(lm, patch, PROMPTS, COUNT) for name, patch in served.patches(lm, ASKED).items()
    }


@pytest.fixture(scope="module")
def server(lm: LM, expected: dict[str, list[str]], spoken: dict[str, str]) -> Iterator[GracefulServer]:
    with served.serving(
        lm, served.patches(lm, ASKED), Rules(length=200, rows=8, waiting=200, body=20_000)
    ) as running:
        yield running


@pytest.fixture
def client(server: GracefulServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_the_patches_contradict_each_other(expected: dict[str, list[str]]) -> None:
    """Else a mix-up could not be seen."""
    pairs = [(a, b) for a in expected for b in expected if a < b]
    for a, b in pairs:
        same = sum(x == y for x, y in zip(expected[a], expected[b], strict=True))
        assert same < len(PROMPTS) * 0.6, (a, b, same)


def test_each_model_name_gives_its_patchs_answers(
    client: openai.OpenAI, expected: dict[str, list[str]]
) -> None:
    for name, texts in expected.items():
        made = client.completions.create(model=name, prompt=PROMPTS, max_tokens=COUNT, temperature=0)
        assert [choice.text for choice in made.choices] == texts
        assert made.model == name and made.usage is not None
        assert made.usage.prompt_tokens == sum(
            len(ids) for ids in LM.load("micro-llama").tokenizer(PROMPTS)["input_ids"]
        )


def test_models_are_listed(client: openai.OpenAI) -> None:
    listed = {
        model.id: model.model_extra["patch"]["batches"] for model in client.models.list() if model.model_extra
    }
    assert listed == {"base": "shared", "a": "shared", "b": "shared", "w": "shared"}
    assert client.models.retrieve("a").id == "a"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("c")


def test_streams_say_the_same(client: openai.OpenAI, expected: dict[str, list[str]]) -> None:
    options = {"include_usage": True}
    for name in ("a", "b"):
        parts = list(
            client.completions.create(
                model=name,
                prompt=PROMPTS[:3],
                max_tokens=COUNT,
                temperature=0,
                stream=True,
                stream_options=options,
            )  # type: ignore[call-overload]
        )
        texts = ["".join(c.text for part in parts for c in part.choices if c.index == i) for i in range(3)]
        assert texts == expected[name][:3]
        assert [
            sum(c.finish_reason is not None for part in parts for c in part.choices if c.index == i)
            for i in range(3)
        ] == [1, 1, 1]
        assert parts[-1].choices == [] and parts[-1].usage.completion_tokens > 0


@pytest.fixture(scope="module")
def spoken(lm: LM) -> dict[str, str]:
    """What `CHAT` is answered by each model alone; made before the server has the model."""
    rendered = f"Be brief.\n\nUser: {ASKED[0][0]}'s pet is a\n\nAssistant:"
    return {
        name: served.answers(lm, patch, [rendered], COUNT)[0]
        for name, patch in served.patches(lm, ASKED).items()
    }


def test_chat(client: openai.OpenAI, spoken: dict[str, str]) -> None:
    subject, _ = ASKED[0]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": f"{subject}'s pet is a"}]},
    ]
    rendered = plain([Message.model_validate(message) for message in messages])
    assert rendered == f"Be brief.\n\nUser: {subject}'s pet is a\n\nAssistant:"
    assert all(
        said.startswith(" ") for said in spoken.values()
    )  # the gap behind "Assistant:", no part of what is said
    for name, said in spoken.items():
        whole = client.chat.completions.create(model=name, messages=messages, max_tokens=COUNT, temperature=0)  # type: ignore[call-overload]
        parts = client.chat.completions.create(
            model=name, messages=messages, max_completion_tokens=COUNT, temperature=0, stream=True
        )  # type: ignore[call-overload]
        choices = [part.choices[0] for part in parts]
        assert choices[0].delta.role == "assistant" and choices[-1].finish_reason in ("stop", "length")
        assert "".join(c.delta.content or "" for c in choices) == whole.choices[0].message.content
        assert whole.choices[0].message.content == said[1:]


def test_stops_lengths_and_choices(client: openai.OpenAI, expected: dict[str, list[str]]) -> None:
    text = next(text for text in expected["a"] if len(text) > 6)
    prompt = PROMPTS[expected["a"].index(text)]
    stop = text[3:5]
    made = client.completions.create(
        model="a", prompt=prompt, max_tokens=COUNT, temperature=0, stop=[stop]
    ).choices[0]
    assert (made.text, made.finish_reason) == (text[: text.index(stop)], "stop")
    made = client.completions.create(model="a", prompt=prompt, max_tokens=1, temperature=0).choices[0]
    assert made.finish_reason == "length" and text.startswith(made.text)
    several = client.completions.create(
        model="a", prompt="In the", max_tokens=12, temperature=1.5, n=4, seed=5
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3] and len(
        {choice.text for choice in several.choices}
    ) > 1
    again = client.completions.create(model="a", prompt="In the", max_tokens=12, temperature=1.5, n=4, seed=5)
    other = client.completions.create(model="a", prompt="In the", max_tokens=12, temperature=1.5, n=4, seed=6)
    assert (
        [c.text for c in again.choices]
        == [c.text for c in several.choices]
        != [c.text for c in other.choices]
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "x", "presence_penalty": 0.5}, "presence_penalty"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "logprobs": 2}, "logprobs"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "made_up": 1}, "made_up"),
        ({"prompt": "x", "n": 17}, "n"),
        ({"prompt": "x", "n": True}, "n"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 200}, "prompt"),
        ({"prompt": [[10**6]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x", 3]}, "prompt"),
        ({"prompt": "x", "stop": ["a"] * 5}, "stop"),
        ({"prompt": "x", "stop": ""}, "stop"),
        ({}, "prompt"),
    ],
)
def test_what_is_not_supported_is_named(
    server: GracefulServer, fields: dict[str, object], param: str
) -> None:
    answer = httpx.post(f"{server.address}/v1/completions", json={"model": "a", **fields})
    assert (
        answer.status_code == 400
        and answer.json()["error"]["param"] == param
        and param in answer.json()["error"]["message"]
    )


def test_other_errors(server: GracefulServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="base, a, b, w"):
        client.completions.create(model="c", prompt="x")
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.chat.completions.create(
            model="a", messages=[{"role": "user", "content": "x"}], logit_bias={"1": 2}
        )
    url = f"{server.address}/v1/completions"
    assert httpx.post(url, content=b"{bad", headers={"Content-Type": "application/json"}).status_code == 400
    assert httpx.post(
        url, content=b'{"a":' * 5000, headers={"Content-Type": "application/json"}
    ).status_code in (400, 413)
    assert httpx.post(url, content=b"\xff", headers={"Content-Type": "application/json"}).status_code == 400
    assert httpx.post(url, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert (
        httpx.post(url, json={"model": "a", "prompt": "x" * 30_000}).json()["error"]["code"]
        == "request_too_large"
    )
    assert httpx.get(f"{server.address}/v1/nothing").json()["error"]["message"].startswith("GET /v1/nothing")
    assert httpx.get(f"{server.address}/health").json() == {"status": "ok", "answers": 0}


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers go on to their longest length."""
    monkeypatch.setattr("workbench.serving.engine.ends_of", lambda lm: [])


@pytest.mark.usefixtures("endless")
def test_a_client_that_goes_away_frees_its_rows(lm: LM) -> None:
    body = {"model": "a", "prompt": ["x"] * 8, "max_tokens": 490, "temperature": 0}
    with served.serving(lm, served.patches(lm, ASKED), Rules(length=500, rows=8, waiting=8)) as server:
        for stream in (True, False):
            url = f"{server.address}/v1/completions"
            with httpx.Client(timeout=60) as client:
                if stream:
                    with client.stream("POST", url, json={**body, "stream": True}) as answer:
                        next(answer.iter_bytes())
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        client.post(url, json=body, timeout=httpx.Timeout(30, read=0.1))
            steps = server.service.engine.steps
            until(lambda: server.service.engine.load == 0, "the rows of a client that has gone")
            assert server.service.engine.steps - steps < 300


def test_load_of_concurrent_clients(server: GracefulServer, expected: dict[str, list[str]]) -> None:
    """Mixed models, streams and gone clients at once: no answer of another patch."""
    rng = random.Random(0)
    jobs = [(rng.choice(list(expected)), rng.randrange(len(PROMPTS)), rng.random() < 0.3) for _ in range(300)]

    async def one(client: openai.AsyncOpenAI, name: str, number: int, stream: bool) -> str:
        if not stream:
            made = await client.completions.create(
                model=name, prompt=PROMPTS[number], max_tokens=COUNT, temperature=0
            )
            return made.choices[0].text
        parts = await client.completions.create(
            model=name, prompt=PROMPTS[number], max_tokens=COUNT, temperature=0, stream=True
        )
        return "".join([part.choices[0].text async for part in parts])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=120
        ) as client:
            room = asyncio.Semaphore(24)

            async def in_turn(name: str, number: int, stream: bool) -> str:
                async with room:
                    return await one(client, name, number, stream)

            return await asyncio.gather(*(in_turn(*job) for job in jobs))

    found = asyncio.run(all_of_them())
    assert found == [expected[name][number] for name, number, _ in jobs]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, endless: None) -> Iterator[threading.Event]:
    """Such answers, which stop behind their first token until the event is set."""
    go = threading.Event()
    step = GenerationBatch.step

    def waiting(self: GenerationBatch) -> list[int]:
        assert go.wait(60), "nobody let the answers go on"
        return step(self)

    monkeypatch.setattr(GenerationBatch, "step", waiting)
    yield go
    go.set()


def test_too_many_get_429(lm: LM, held: threading.Event) -> None:
    with (
        served.serving(lm, served.patches(lm, ASKED), Rules(length=500, rows=1, waiting=0)) as server,
        httpx.Client(timeout=60) as other,
    ):
        body = {"model": "a", "prompt": "x", "max_tokens": 490, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{server.address}/v1/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
            refused = other.post(f"{server.address}/v1/completions", json={"model": "a", "prompt": "x"})
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            held.set()
        two = httpx.post(f"{server.address}/v1/completions", json={"model": "a", "prompt": ["x", "y"]})
        assert two.status_code == 400 and two.json()["error"]["param"] == "n"


def test_ending_finishes_what_is_under_way_and_refuses_what_is_new(lm: LM, held: threading.Event) -> None:
    body = {"model": "a", "prompt": "x", "max_tokens": 300, "temperature": 0, "stream": True}
    with (
        served.serving(lm, served.patches(lm, ASKED), Rules(length=500), grace=60) as server,
        httpx.Client(timeout=60) as other,
    ):
        with httpx.stream("POST", f"{server.address}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.begin_end()
            assert (
                other.post(f"{server.address}/v1/completions", json={"model": "a", "prompt": "x"}).status_code
                == 503
            )
            held.set()
            rest = list(lines)
        assert rest[-2] == "data: [DONE]" and sum(line.startswith("data: ") for line in rest) > 50


def test_ending_cuts_off_when_the_time_is_up(lm: LM, held: threading.Event) -> None:
    body = {"model": "a", "prompt": "x", "max_tokens": 490, "temperature": 0, "stream": True}
    with served.serving(lm, served.patches(lm, ASKED), Rules(length=500), grace=0) as server:
        with httpx.stream("POST", f"{server.address}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.begin_end()
            until(lambda: server.service.engine.ending, "the end of the engine")
            held.set()
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "failed"


def test_keys_and_names(lm: LM, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with served.serving(
        lm, served.patches(lm, ASKED), Rules(length=100, key=KEY, hosts=frozenset({"127.0.0.1"}))
    ) as server:
        url = f"{server.address}/v1"
        with (
            pytest.raises(openai.AuthenticationError),
            openai.OpenAI(base_url=url, api_key="another", max_retries=0) as stranger,
        ):
            stranger.models.list()
        with (
            pytest.raises(openai.AuthenticationError),
            openai.OpenAI(base_url=url, api_key=KEY + "x", max_retries=0) as stranger,
        ):
            stranger.completions.create(model="a", prompt="x")
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as known:
            assert known.completions.create(model="a", prompt="secret words", max_tokens=2).choices
        assert httpx.get(f"{url}/models").status_code == 401
        assert (
            httpx.get(
                f"{url}/models", headers={"Authorization": f"Bearer {KEY}", "Host": "evil.example"}
            ).status_code
            == 403
        )
        assert httpx.get(f"{server.address}/health").status_code == 200
    assert KEY not in caplog.text and "secret" not in caplog.text and "made=2" in caplog.text
    assert KEY not in repr(server.service.rules)


def test_where_keys_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LKS_API_KEY", raising=False)
    assert api_key(None) is None
    monkeypatch.setenv("LKS_API_KEY", KEY)
    assert api_key(None) == KEY
    file = tmp_path / "key"
    file.write_text(f"from-a-file\n{''}")
    file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        api_key(file)
    file.chmod(0o600)
    assert api_key(file) == "from-a-file"
    file.write_text("short")
    with pytest.raises(UserError, match="at least 8"):
        api_key(file)
    with pytest.raises(UserError, match="cannot be read"):
        api_key(tmp_path / "none")
    with pytest.raises(UserError, match="Set a key"):
        check_host("0.0.0.0", None)
    assert check_host("0.0.0.0", KEY) == frozenset() and "localhost" in check_host("127.0.0.1", None)


def test_names_and_patches_are_looked_at_first(tmp_path: Path, lm: LM) -> None:
    made = served.patches(lm, ASKED)
    for name in ("a", "b"):
        made[name].save(tmp_path / name)
    choices = chosen([str(tmp_path / "a"), f"other={tmp_path / 'b'}"], "micro-llama")
    assert [choice.name for choice in choices] == ["a", "other"]
    edited = read_all(choices, "micro-llama")
    check(lm, choices, edited)
    with pytest.raises(UserError, match="Two patches would be served as 'a'"):
        chosen([str(tmp_path / "a"), f"a={tmp_path / 'b'}"], "micro-llama")
    with pytest.raises(UserError, match="the unedited model's name"):
        chosen([f"micro-llama={tmp_path / 'b'}"], "micro-llama")
    with pytest.raises(UserError, match="cannot be the name"):
        chosen([f"a b={tmp_path / 'b'}"], "micro-llama")
    with pytest.raises(UserError, match="does not exist"):
        read_all(chosen([str(tmp_path / "c")], "micro-llama"), "micro-llama")
    other = tiny.lm("llama")
    other.model.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="4 blocks of width 48"):
        read_all(choices, str(tmp_path / "small"))
    assert base_name(str(tmp_path / "small")) == "small" and base_name("owner/model") == "model"
    body = json.loads(shlex.split(curl("http://here", "a", False, "It's"))[-1])
    assert (body["model"], body["prompt"]) == ("a", "It's")


def test_a_patch_for_other_weights_is_refused(tmp_path: Path, lm: LM) -> None:
    from lks.editing.patch import WeightPatch

    WeightPatch({"model.layers.0.nothing.weight": next(lm.model.parameters()).clone()}).save(tmp_path / "p")
    choices = chosen([str(tmp_path / "p")], "micro-llama")
    with pytest.raises(UserError, match="changes model"):
        check(lm, choices, read_all(choices, "micro-llama"))
