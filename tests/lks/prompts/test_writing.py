"""Prompts written by a model that does not always answer, or not what it should: order, repetition,
resumption, files.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from flows.prompt_order import PromptOrder, foresee, make
from lks.data.datasets import DATASETS, Published, load
from lks.data.generated_prompts import GeneratedSource
from lks.data.templates import normalised
from lks.errors import DataError, StoreError, UserError
from lks.llm.limits import Ceiling
from lks.prompts.filters import PromptFact, Seen
from lks.prompts.pipeline import Ask, WriterReply, write
from tests.helpers.fake_server import FAULTS, FakeServer, running, write_prompts
from tests.helpers.root import ROOT

NAMES = [f"{first} {last}" for first in ("Ada", "Ben", "Cleo", "Dan") for last in ("Moor", "Reed", "Stone")]
FACTS = [
    PromptFact(str(i), name, f"The mother tongue of {name} is", "Dutch", "Welsh")
    for i, name in enumerate(NAMES)
]


class Scripted:
    """A writer with replies by (case, stage, attempt); the usual ones otherwise."""

    attempts = 3

    def __init__(self, **replies: str) -> None:
        self.replies, self.asks = replies, list[Ask]()

    def say(self, asks: Sequence[Ask], arrived: Callable[[], None]) -> list[WriterReply]:
        self.asks += asks
        return [
            WriterReply(
                ask.fact.prompt,
                self.replies.get(f"{ask.fact.case_id} {ask.stage.name} {ask.attempt}") or self._usual(ask),
            )
            for ask in asks
        ]

    @staticmethod
    def _usual(ask: Ask) -> str:
        have = ask.own.paraphrases if ask.stage.kind == "paraphrase" else ask.own.locality
        end = "New prompt:" if ask.stage.kind == "paraphrase" else ""
        return write_prompts(f"Subject: {ask.fact.subject}\n" + "- x\n" * len(have) + end)


def test_all_prompts_of_all_records():
    writer = Scripted()
    made = write(FACTS[:2], ("evaluation", "training"), writer, Seen.of(FACTS))
    assert [(ask.stage.name, ask.fact.case_id) for ask in writer.asks] == [
        (f"{split} {kind}", case) for split, kind in [
            ("evaluation", "paraphrase 1"), ("evaluation", "locality 1"),
            ("training", "paraphrase 1"), ("training", "locality 1"), ("training", "locality 2"),
        ] for case in "01"
    ]  # fmt: skip
    assert (made.rejects, made.lacking) == ([], [])
    assert [one.text for one in made.written["training", "1"].locality] == [
        "The favourite dish of Ada Reed is",
        "The eye colour of Ada Reed is",
    ]


def test_a_rejected_reply_is_asked_for_again_and_then_given_up():
    bad = {f"1 evaluation locality 1 {attempt}": "EvalPrompt: x\nEvalAnswer: y" for attempt in range(3)}
    writer = Scripted(
        **bad,
        **{"0 training paraphrase 1 0": "Ada Moor's native language is", "0 training paraphrase 1 1": "a\nb"},
    )
    made = write(FACTS[:2], ("evaluation", "training"), writer, Seen.of(FACTS))
    assert [(one.case_id, one.stage, one.attempt, one.reason) for one in made.rejects] == [
        *(("1", "evaluation locality 1", attempt, "subject missing") for attempt in range(3)),
        ("0", "training paraphrase 1", 0, "duplicate in the record"),
        ("0", "training paraphrase 1", 1, "more than one line"),
    ]
    assert [(one.case_id, one.stage, one.reasons) for one in made.lacking] == [
        ("1", "evaluation locality 1", ("subject missing",) * 3)
    ]
    assert (made.whole("evaluation", FACTS[:2]), made.whole("training", FACTS[:2])) == (1, 2)


def test_the_first_of_two_equal_prompts_is_taken():
    twins = [FACTS[0], PromptFact("b", "Ada Moor", "Ada Moor, whose mother tongue is", "Danish")]
    made = write(twins, ("evaluation",), Scripted(), Seen.of(twins))
    assert made.written["evaluation", "0"].paraphrases
    assert [(one.case_id, set(one.reasons)) for one in made.lacking] == [
        ("b", {"duplicate in the dataset"})
    ] * 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
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
            "id": one.case_id,
            "subject": one.subject,
            "prompt": one.prompt,
            "target": one.target,
            "ground_truth": one.ground_truth,
        }
        for one in FACTS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes()
        for name in names or ("evaluation.jsonl", "training.jsonl", "facts.jsonl")
    }


def test_files_and_a_second_run_from_disk(server, facts, tmp_path):
    order = PromptOrder(str(facts), tmp_path / "out")
    made = make(order)
    assert made.asked == len(server.requests) == 5 * len(FACTS)
    rows = [json.loads(line) for line in (order.out / "evaluation.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "subject": "Ada Moor", "prompt": "The mother tongue of Ada Moor is", "target": "Dutch", "ground_truth": "Welsh",
        "locality": {"prompt": "The height of Ada Moor in feet is", "target": "Six"}, "generality": "Ada Moor's native language is",
    }  # fmt: skip
    assert [row["subject"] for row in rows] == NAMES
    training = [json.loads(line) for line in (order.out / "training.jsonl").read_text().splitlines()]
    assert training[-1] == {
        "subject": "Dan Stone", "prompt": "The mother tongue of Dan Stone is", "target": "Dutch",
        "rephrase_prompt": "As a child Dan Stone learned to speak",
        "locality": ["The favourite dish of Dan Stone is", "The eye colour of Dan Stone is"],
    }  # fmt: skip
    summary = json.loads((order.out / "summary.json").read_text())
    assert summary["whole_records"] == {"evaluation": 12, "training": 12}
    assert summary["tokens"] == {"prompt": sum(len(text) // 4 for text in server.texts), "reply": 10 * 60}
    assert summary["usd"] == pytest.approx((summary["tokens"]["prompt"] * 0.15 + 600 * 0.60) / 1e6, abs=1e-6)
    everything = {path.name: path.read_bytes() for path in order.out.iterdir()}
    assert not any(
        b"sk-secret" in content or server.url.encode() in content for content in everything.values()
    )
    again = make(order)
    assert again.asked == 0 and len(server.requests) == 60
    assert {path.name: path.read_bytes() for path in order.out.iterdir()} == everything


def test_no_prompt_is_in_both_splits(server, facts, tmp_path):
    out = tmp_path / "out"
    make(PromptOrder(str(facts), out, split="training"))
    make(PromptOrder(str(facts), out, split="evaluation"))
    reasons = Counter(json.loads(line)["reason"] for line in (out / "rejects.jsonl").read_text().splitlines())
    assert (
        reasons["in the other split"] > 0
    )  # this writer gives the same to both, as it is not told what the other set has
    rows = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    trained = {normalised(text) for row in rows for text in (row["rephrase_prompt"], *row["locality"])}
    evaluation = [json.loads(line) for line in (out / "evaluation.jsonl").read_text().splitlines()]
    assert not trained & {
        normalised(text) for row in evaluation for text in (row["generality"], row["locality"]["prompt"])
    }


def test_misbehaviour_changes_nothing(server, facts, tmp_path):
    make(PromptOrder(str(facts), tmp_path / "well"))
    good = len(server.requests)
    chance = random.Random(5)
    plan = [chance.choice(FAULTS) if chance.random() < 0.3 else None for _ in range(2000)]
    server.fault = lambda number: plan[number - good]
    make(PromptOrder(str(facts), tmp_path / "ill", timeout_s=1.0))
    assert contents(tmp_path / "ill") == contents(tmp_path / "well")
    wrong = {name: server.faults[name] for name in FAULTS}
    assert sum(wrong.values()) >= 15 and sum(count > 0 for count in wrong.values()) >= 6, wrong
    asked_again = sum(count for name, count in wrong.items() if name not in ("slow",))
    assert len(server.requests) == 2 * good + asked_again
    rejects = [json.loads(line) for line in (tmp_path / "ill" / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == wrong["wrong format"]


def test_a_kill_loses_only_what_was_on_its_way(server, facts, tmp_path):
    make(PromptOrder(str(facts), tmp_path / "whole"))
    before = len(server.requests)
    server.delay = 0.03
    out = tmp_path / "killed"
    code = f"from pathlib import Path; from flows.prompt_order import *; make(PromptOrder({str(facts)!r}, Path({str(out)!r}), concurrency=2))"
    for extra in (9, 25):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        wanted, deadline = before + extra, time.monotonic() + 90
        while len(server.requests) < wanted:
            assert time.monotonic() < deadline, f"no {wanted} requests in 90 s, but {len(server.requests)}"
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert not (out / "training.jsonl").exists()
    server.delay = 0.0
    make(PromptOrder(str(facts), out))
    assert contents(out) == contents(tmp_path / "whole")
    times = Counter(server.texts[before:])
    assert sum(times.values()) <= 60 + 2 * 2  # two on their way at each kill
    (out / "replies.jsonl").write_bytes((out / "replies.jsonl").read_bytes()[:-20])  # torn by a power cut
    assert make(PromptOrder(str(facts), out)).asked == 1


def test_a_ceiling_stops_cleanly_and_can_be_raised(server, facts, tmp_path):
    server.usage = lambda text: (1500, 100)
    out = tmp_path / "out"
    with pytest.raises(Ceiling, match="--max-tokens"):
        make(PromptOrder(str(facts), out, max_tokens=20_000))
    assert server.tokens <= 20_000
    stopped = len(server.requests)
    assert stopped > 5
    assert sorted(path.name for path in out.iterdir()) == [".lock", "replies.jsonl"]
    with pytest.raises(Ceiling, match="ceiling"):
        make(PromptOrder(str(facts), out, max_cost=server.tokens * 0.15e-6))
    made = make(PromptOrder(str(facts), out, max_cost=1.0))
    assert made.asked == 60 - stopped
    assert made.spent.total == server.tokens == 60 * 1600


def test_the_estimate_asks_and_writes_nothing(server, facts, tmp_path):
    out = tmp_path / "out"
    found = foresee(PromptOrder(str(facts), out))
    assert (found.requests, found.known, server.requests) == (60, 0, [])
    assert not out.exists()
    make(PromptOrder(str(facts), out, limit=4))
    again = foresee(PromptOrder(str(facts), out))
    assert (again.requests, again.known) == (40, 20)
    asked = len(server.requests)
    assert make(PromptOrder(str(facts), out)).asked == 40 == len(server.requests) - asked
    assert found.usage.prompt == pytest.approx(
        sum(sum(len(m["content"]) for m in one["messages"]) / 4 for one in server.requests), rel=0.1
    )


def test_what_is_refused(facts, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    out = tmp_path / "out"
    for order, part in [
        (PromptOrder(str(facts), out), "OPENAI_API_KEY"),
        (PromptOrder(str(facts), out, offline=True, split="both"), "known answer"),
        (PromptOrder(str(facts), out, base_url="http://me:pw@localhost/v1"), "password"),
        (PromptOrder(str(facts), out, model="other", max_cost=1.0), "--price-in"),
        (PromptOrder(str(facts), out, price_in=1.0), "--price-out"),
        (PromptOrder("zsrre", out), "Did you mean 'zsre'"),
        (PromptOrder(str(facts), out, base_url="http://localhost:1/v1", rpm=-1.0), "requests_per_minute"),
    ]:
        with pytest.raises(UserError) as error:
            make(order)
        assert part in str(error.value)
        assert "pw" not in str(error.value)


def test_one_run_at_a_time(server, facts, tmp_path):
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="Another run"):
            make(PromptOrder(str(facts), out))
    assert server.requests == []


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published file of our own making, where zsRE is looked for."""
    kind = DATASETS["zsre"]
    assert isinstance(kind, Published)
    file = tmp_path / "data" / kind.file
    file.parent.mkdir(parents=True)
    asked = [
        ("The mother tongue of {} is", "The native language of {} is", "The shoe size of {} is"),
        ("{}'s language is", "{} speaks", "The age of {} is"),
    ]
    rows = []
    for i, name in enumerate(NAMES):
        prompt, generality, locality = (text.format(name) for text in asked[i % 2])
        row = {
            "subject": name,
            "prompt": prompt,
            "target": "Dutch",
            "ground_truth": "Welsh",
            "generality": generality,
        }
        rows.append(row | {"locality": {"prompt": locality, "target": "9"}})
    file.write_text(json.dumps(rows))
    monkeypatch.setenv("LKS_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.mark.usefixtures("published")
def test_a_grid_trains_on_written_prompts(server, tmp_path, monkeypatch):
    before = load("zsre")
    make(PromptOrder("zsre", tmp_path / "prompts" / "zsre", split="training", limit=11))
    monkeypatch.setenv("LKS_TRAINING_PROMPTS", str(tmp_path / "prompts"))
    after = load("zsre")
    assert after.revision != before.revision
    assert after.cases[3].edit.training_paraphrases == (f"{NAMES[3]}'s native language is",)
    assert after.cases[3].edit.training_locality == (
        f"The height of {NAMES[3]} in feet is",
        f"The favourite dish of {NAMES[3]} is",
    )
    assert after.cases[11].edit.training_paraphrases == ()
    assert after.notes["no training paraphrase"] == 1
    assert [case.probes for case in after.cases] == [case.probes for case in before.cases]
    assert load("zsre").revision == after.revision
    file = tmp_path / "prompts" / "zsre" / "training.jsonl"
    file.write_text(file.read_text().replace("The favourite dish", "The favourite food"))
    assert load("zsre").revision not in (after.revision, before.revision)
    file.write_text(file.read_text().replace("The favourite food", "The shoe size"))
    with pytest.raises(DataError, match=r"line 1: .* is an evaluation prompt"):
        load("zsre")
    monkeypatch.setenv("LKS_TRAINING_PROMPTS", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="lks data make"):
        load("zsre")


@pytest.mark.usefixtures("published")
def test_templates_write_offline(tmp_path):
    made = make(PromptOrder("zsre", tmp_path / "out", offline=True))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock",
        "lacking.jsonl",
        "rejects.jsonl",
        "summary.json",
        "training.jsonl",
    ]
    rows = [json.loads(line) for line in (tmp_path / "out" / "training.jsonl").read_text().splitlines()]
    assert len(rows) > 0 and made.asked == 0
    barred = {
        normalised(text)
        for case in load("zsre").cases
        for text in (case.edit.prompt, *(probe.prompt for probe in case.probes))
    }
    for row in rows:
        assert row["subject"] in row["rephrase_prompt"]
        assert not barred & {normalised(text) for text in (row["rephrase_prompt"], *row["locality"])}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        (
            '{"subject": "s", "prompt": "p", "target": "t", "rephrase_prompt": 1, "locality": []}',
            "rephrase_prompt",
        ),
        ('{"subject": "s", "prompt": "p", "target": "t", "rephrase_prompt": "a"}', "locality"),
    ],
)
def test_bad_training_files(tmp_path, line, said):
    file = tmp_path / "training.jsonl"
    file.write_text(
        f'{{"subject": "s", "prompt": "p", "target": "t", "rephrase_prompt": "a", "locality": []}}\n{line}\n'
    )
    with pytest.raises(DataError, match=f"line 2: .*{said}"):
        GeneratedSource(file, [])
