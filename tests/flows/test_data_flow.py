"""`lks data` and flow `lks-data` with an order, against a server of the tests' own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from tests.helpers.fake_server import FakeServer, running, write_prompts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with running() as one:
        one.says = write_prompts
        monkeypatch.setenv("OPENAI_BASE_URL", one.url)
        yield one


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    file = tmp_path / "facts.jsonl"
    rows = [
        {
            "subject": name,
            "prompt": f"The mother tongue of {name} is",
            "target": "Dutch",
            "ground_truth": "Welsh",
        }
        for name in ("Ann Lee", "Bo Ray")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_the_command(server, facts, tmp_path):
    out = tmp_path / "out"
    told = ["make", "--dataset", facts, "--out", out]
    dry = lks(*told, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "10 requests to gpt-4o-mini, in addition to 0 that are answered already" in dry.output
    assert "USD" in dry.output
    assert not out.exists() and server.requests == []
    done = lks(*told)
    assert done.exit_code == 0, done.output
    assert "2 of 2 records have all prompts" in done.output
    assert "10 requests in this run" in done.output
    assert "sk-secret" not in done.output
    rows = [json.loads(line) for line in (out / "facts.jsonl").read_text().splitlines()]
    assert rows[0]["paraphrases"] == ["Ann Lee's native language is"]
    assert rows[0]["training_locality"] == [
        "The favourite dish of Ann Lee is",
        "The eye colour of Ann Lee is",
    ]
    assert "0 requests in this run" in lks(*told).output


def test_a_file_that_comes_back_is_a_file_of_facts(server, facts, tmp_path):
    from lks.data.user_facts import read_facts

    assert lks("make", "--dataset", facts, "--out", tmp_path / "out").exit_code == 0
    case = read_facts(tmp_path / "out" / "facts.jsonl").dataset().cases[1]
    assert case.edit.training_paraphrases == ("As a child Bo Ray learned to speak",)
    assert [probe.prompt for probe in case.probes][1:] == [
        "Bo Ray's native language is",
        "The height of Bo Ray in feet is",
    ]


def test_what_the_command_says_of_rejects_and_ceilings(server, facts, tmp_path):
    server.fault = lambda number: "wrong format" if number < 2 else None
    done = lks("make", "--dataset", facts, "--out", tmp_path / "out", "--split", "evaluation")
    assert "more than one line" in done.output
    stopped = lks("make", "--dataset", facts, "--out", tmp_path / "out", "--max-tokens", 10)
    assert stopped.exit_code == 2
    assert "ceiling" in stopped.output and "--max-tokens" in stopped.output
    alone = lks("make", "--dataset", facts, "--out", tmp_path / "other", "--offline", "--split", "evaluation")
    assert alone.exit_code == 2 and "--split training" in alone.output


def test_the_command_without_a_server(facts, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    failed = lks("make", "--dataset", facts, "--out", tmp_path / "out")
    assert failed.exit_code == 2
    assert "cannot be reached" in " ".join(failed.output.split())


def test_without_a_key_nothing_is_written(facts, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for command in ("make", "extract"):
        failed = lks(command, "--dataset", facts, "--out", tmp_path / "out")
        assert failed.exit_code == 2 and "OPENAI_API_KEY" in failed.output
        assert not (tmp_path / "out").exists()


def test_extraction(server, facts, tmp_path):
    def says(text: str) -> str:
        name = text.split("Entity: ")[1].split("\n", maxsplit=1)[0]
        if "Sentence: " in text:
            return f"GapPrompt: {name} is a famous ___.\nGapAnswer: dancer"
        return f"The mother tongue of {name} is Welsh.\n{name} is a famous dancer."

    server.says = says
    done = lks("extract", "--dataset", facts, "--out", tmp_path / "out")
    assert "4 fill-in prompts for 2 facts, of which 2 have one for the edited fact" in done.output
    first = json.loads((tmp_path / "out" / "extracted.jsonl").read_text().splitlines()[0])
    assert first["sentences"][0] == "The mother tongue of Ann Lee is Dutch."
    assert (
        lks("extract", "--dataset", facts, "--out", tmp_path / "one", "--limit", 1, "--rpm", 6000).exit_code
        == 0
    )
    assert len((tmp_path / "one" / "extracted.jsonl").read_text().splitlines()) == 1
    assert first["gaps"][1] == {"prompt": "Ann Lee is a famous ___.", "answer": "dancer", "edited": False}


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_writes_what_is_ordered(server, facts, tmp_path):
    from flows.data import data
    from flows.prompt_order import PromptOrder

    assert data(order={"dataset": str(facts), "out": str(tmp_path / "out"), "limit": 1}) == []
    assert len(server.requests) == 5
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["whole_records"] == {
        "evaluation": 1,
        "training": 1,
    }
    data(order=PromptOrder(str(facts), tmp_path / "out"))
    assert len(server.requests) == 10


def test_the_form_of_the_flow_has_the_order():
    from flows.data import data

    order = data.parameters.model_dump()["definitions"]["PromptOrder"]["properties"]
    assert {"dataset", "out", "split", "model", "max_cost", "offline", "rpm"} <= set(order)
    assert not {"api_key", "key"} & set(order)
