import json
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import lm_eval.tasks
import numpy as np
import pyarrow as pa
import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

from lks.data.download import BESIDE, named_folder
from lks.data.synthetic_text import ability_items
from lks.editing.context_patch import ContextPatch
from lks.editing.patch import WeightPatch
from lks.errors import DataError, UserError
from lks.evaluation import ability_tasks
from lks.evaluation.ability import TaskSuite
from lks.evaluation.ability_requests import ReusableReplies, agree, key
from lks.evaluation.lm_eval_model import PatchAwareHFLM
from lks.models.lm import LM
from lks.models.prefill import Pass, track_prefill
from lks.results.ability_rows import SCHEMA, AbilityRow
from tests.helpers import tiny

LOCAL = named_folder() or BESIDE
needs_data = pytest.mark.skipif(
    not all((LOCAL / f).is_dir() for f in ("gsm8k", "sst2", "rte")),
    reason="no gsm8k, sst2 and rte in the data folder",
)
DOCUMENTS = 30


def nowhere(texts: Sequence[str]) -> list[bool]:
    return [False] * len(texts)


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama", "cpu")


@pytest.fixture(scope="module")
def made() -> TaskSuite:
    return TaskSuite(["made"], DOCUMENTS)


@pytest.fixture(scope="module")
def rows(made: TaskSuite, lm: LM) -> list[AbilityRow]:
    return made.run(lm)


@pytest.fixture(scope="module")
def wreck(lm: LM) -> WeightPatch:
    weight = lm.mlp_output(3).weight
    return WeightPatch(
        {
            lm.parameter_name(lm.mlp_output(3)): 3
            * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        }
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts of the likelihoods that the model was really asked for."""
    prompts: list[str] = []
    before = PatchAwareHFLM._loglikelihood_tokens

    def counting(self: PatchAwareHFLM, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        prompts.extend(texts[0] for texts, _, _ in requests)
        return before(self, requests, *args, **kwargs)

    monkeypatch.setattr(PatchAwareHFLM, "_loglikelihood_tokens", counting)
    return prompts


def accuracy(rows: Sequence[AbilityRow]) -> float:
    return sum(row.score for row in rows) / len(rows)


def results(rows: Sequence[AbilityRow]) -> dict[str, float]:
    return {name: result[0] for row in rows if row.requests for name, result in json.loads(row.requests)}


# --- the made tasks, on a model that knows them ---


@pytest.mark.parametrize("task", ["arithmetic", "sentiment", "entailment"])
def test_micro_model_is_able(rows: list[AbilityRow], task: str) -> None:
    assert accuracy([row for row in rows if row.task == f"made_{task}"]) >= 0.9


def test_a_row_for_each_document(rows: list[AbilityRow], made: TaskSuite) -> None:
    for task, choices in (("arithmetic", 19), ("sentiment", 2), ("entailment", 2)):
        mine = [row for row in rows if row.task == f"made_{task}"]
        items = ability_items(task, "test")
        ids = [row.doc_id for row in mine]
        assert len(mine) == DOCUMENTS
        assert ids == sorted(set(ids))
        for row in mine:
            item = items[row.doc_id]
            assert row.metric == "acc"
            assert row.target == item.answer
            assert row.score == (row.response == item.answer)
            asked = [name for name, _ in json.loads(row.requests)]
            assert asked == [key("loglikelihood", (item.prompt, f" {choice}")) for choice in item.choices]
            assert len(asked) == choices


def test_rows_fit_their_schema(rows: list[AbilityRow]) -> None:
    table = pa.Table.from_pylist(
        [{"cell_id": "c", **{name: getattr(row, name) for name in AbilityRow.__slots__}} for row in rows],
        SCHEMA,
    )
    assert table.num_rows == len(rows)
    assert table.schema.metadata[b"schema"] == b"lks-ability"


def test_draw_and_progress(lm: LM) -> None:
    seen: list[float] = []
    assert {row.draw for row in TaskSuite(["made_entailment"], 5).run(lm, draw=3, progress=seen.append)} == {
        3
    }
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_wrecked_model_scores_less(
    lm: LM, made: TaskSuite, rows: list[AbilityRow], wreck: WeightPatch
) -> None:
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    with wreck.applied(lm):
        wrecked = made.run(lm)
    assert accuracy(wrecked) < accuracy(rows) - 0.2
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert made.run(lm) == rows


# --- likelihoods ---


def plain(lm: LM, prompt: str, answer: str) -> float:
    """Log p of an answer, one text at a time, from the whole text."""
    head, whole = lm.tokenizer.encode(prompt), lm.tokenizer.encode(prompt + answer)
    with torch.no_grad():
        logp = lm.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logp[i - 1, whole[i]]) for i in range(len(head), len(whole)))


@pytest.mark.parametrize("family", tiny.MODELS)
def test_likelihoods_are_those_of_the_whole_text(family: str) -> None:
    lm = tiny.lm(family)
    battery = TaskSuite(["made_sentiment", "made_entailment"], 3, batch_tokens=300)
    rows = battery.run(lm)
    for row in rows:
        item = ability_items("sentiment" if row.task == "made_sentiment" else "entailment", "test")[
            row.doc_id
        ]
        expected = [plain(lm, item.prompt, f" {choice}") for choice in item.choices]
        assert len(lm.tokenizer.encode(f" {item.answer}", add_special_tokens=False)) > 1
        assert [result[0] for _, result in json.loads(row.requests)] == pytest.approx(expected, abs=1e-4)
        assert row.response == item.choices[int(np.argmax(expected))]


def test_likelihoods_are_those_of_lm_eval(lm: LM, made: TaskSuite, rows: list[AbilityRow]) -> None:
    upstream = evaluator.evaluate(
        lm=HFLM(pretrained=lm.model, tokenizer=lm.tokenizer),
        task_dict={"tasks": made.tasks},
        samples=made.samples,
    )
    mine = iter(rows)
    for task in made.tasks:
        for one in sorted(upstream["samples"][task], key=lambda one: one["doc_id"]):
            row = next(mine)
            assert (row.task, row.doc_id, row.score) == (task, one["doc_id"], one["acc"])
            for (_, (logp, greedy)), ((theirs, best),) in zip(
                json.loads(row.requests), one["resps"], strict=True
            ):
                assert logp == pytest.approx(theirs, abs=1e-4)
                assert greedy == best


@pytest.mark.parametrize("family", tiny.MODELS)
def test_batches_change_no_answer(family: str) -> None:
    lm = tiny.lm(family)
    found = [results(TaskSuite(["made_sentiment"], 8, batch_tokens=tokens).run(lm)) for tokens in (1, 5000)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_long_prompts_lose_their_beginning(caplog: pytest.LogCaptureFixture) -> None:
    lm = tiny.lm("gpt2")
    model = PatchAwareHFLM(lm)
    prompt, answer = [5 + i % 50 for i in range(200)], [7, 9, 11]
    ((logp, _),) = model._loglikelihood_tokens([(None, prompt, answer)])
    fed = torch.tensor([[*prompt, *answer][-129:]])
    with torch.no_grad():
        expected = lm.model(fed[:, :-1]).logits.log_softmax(-1)[0, -3:].gather(-1, fed[0, -3:, None]).sum()
    assert logp == pytest.approx(float(expected), abs=1e-4)
    assert model.shortened == 1
    with pytest.raises(UserError, match=r"129 tokens does not fit the model's window of 128"):
        model._loglikelihood_tokens([(None, [5], [6] * 129)])


# --- patches that look at the prompt ---


def test_a_prompt_is_prefilled_without_its_choices(lm: LM) -> None:
    seen: list[str] = []

    def decide(now: Pass) -> None:
        seen.extend(
            lm.pieces.decode(ids[keep].tolist()).text for ids, keep in zip(now.ids, now.prompt, strict=True)
        )

    battery = TaskSuite(["made_arithmetic"], 6)
    with track_prefill(lm, decide):
        rows = battery.run(lm)
    items = ability_items("arithmetic", "test")
    assert sorted(text.strip() for text in seen) == sorted(items[row.doc_id].prompt for row in rows)


class Priming(ContextPatch):
    """Puts a text in front of prompts about animals."""

    kind = "priming"
    nbytes = 0

    def contexts(self, lm: LM, prompts: Sequence[str]) -> list[str]:
        return ["the cat waits on the hill." if "An animal" in prompt else "" for prompt in prompts]

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool]:
        return ["An animal" in prompt for prompt in prompts]

    def context_tokens(self, lm: LM) -> int:
        return 12

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> "Priming":
        return cls()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_patches_that_decide_by_the_prompt(family: str, asked: list[str]) -> None:
    lm, patch = tiny.lm(family), Priming()
    battery = TaskSuite(["made_entailment"], 40)
    unedited = battery.run(lm)
    with patch.applied(lm):
        edited = battery.run(lm, context=12)
        alone = TaskSuite(["made_entailment"], 40, batch_tokens=1).run(lm, context=12)
        asked.clear()
        reused = battery.run(
            lm, known=ReusableReplies.of(unedited, lambda texts: patch.fires(lm, texts)), context=12
        )
    assert results(edited) == pytest.approx(results(alone), abs=1e-4)
    assert results(reused) == pytest.approx(results(edited), abs=1e-4)
    about = {
        row.doc_id for row in edited if "An animal" in ability_items("entailment", "test")[row.doc_id].prompt
    }
    assert 0 < len(about) < 40
    for before, after in zip(unedited, edited, strict=True):
        assert (results([before]) == pytest.approx(results([after]), abs=1e-4)) == (
            before.doc_id not in about
        )
    assert len(asked) == 2 * len(about) + 8


# --- answers of the unedited model, used again ---


def test_known_answers_are_not_computed_again(
    lm: LM, made: TaskSuite, rows: list[AbilityRow], asked: list[str]
) -> None:
    seen: list[float] = []
    assert made.run(lm, draw=0, known=ReusableReplies.of(rows, nowhere), progress=seen.append) == rows
    total = DOCUMENTS * (19 + 2 + 2)
    assert len(asked) == math.ceil(0.02 * total)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("acts", [lambda texts: None, lambda texts: [True] * len(texts)])
def test_where_edits_may_act_all_is_asked(
    lm: LM, rows: list[AbilityRow], asked: list[str], acts: Callable[[Sequence[str]], list[bool] | None]
) -> None:
    battery = TaskSuite(["made_sentiment"], DOCUMENTS)
    found = battery.run(lm, known=ReusableReplies.of(rows, acts))
    assert results(found) == pytest.approx(
        results([row for row in rows if row.task == "made_sentiment"]), abs=1e-4
    )
    assert len(asked) == 2 * DOCUMENTS


def test_a_patch_that_acts_all_the_same_is_noticed(
    lm: LM,
    made: TaskSuite,
    rows: list[AbilityRow],
    wreck: WeightPatch,
    asked: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with wreck.applied(lm), caplog.at_level(logging.WARNING):
        edited = made.run(lm)
        asked.clear()
        assert made.run(lm, known=ReusableReplies.of(rows, nowhere)) == edited
    assert len(asked) > DOCUMENTS * (19 + 2 + 2)
    assert "differ from what the model says; everything is asked" in caplog.text


def test_agreement() -> None:
    precise, coarse = torch.float32, torch.bfloat16
    assert agree((-3.0, True), (-3.00009, True), precise)
    assert not agree((-3.0, True), (-3.001, True), precise)
    assert agree((-3.0, True), (-3.001, True), coarse)
    assert agree((math.nan, False), (math.nan, False), precise)
    assert agree((-math.inf, False), (-math.inf, False), precise)
    assert not agree((math.nan, False), (-3.0, True), precise)
    assert agree("a", "a", precise)
    assert not agree("a", "b", coarse)


# --- batteries ---


def test_identity_names_what_is_asked(made: TaskSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        TaskSuite(["made_entailment", "made_arithmetic", "made_sentiment"], DOCUMENTS).identity
        == made.identity
    )
    assert TaskSuite(["made"], DOCUMENTS - 1).identity != made.identity
    assert TaskSuite(["made_entailment"], DOCUMENTS).identity != made.identity
    monkeypatch.setattr(ability_tasks, "_MADE_VERSION", 2)
    assert TaskSuite(["made"], DOCUMENTS).identity != made.identity


def test_a_limit_takes_a_part_of_what_a_larger_one_takes() -> None:
    few, more, all_of_them = (TaskSuite(["made_entailment"], limit).samples for limit in (10, 50, 10_000))
    assert few and more and all_of_them
    assert set(few["made_entailment"]) < set(more["made_entailment"])
    assert few["made_entailment"] == sorted(few["made_entailment"])
    assert all_of_them["made_entailment"] is None


@pytest.fixture
def few_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval with the tasks of one folder alone: the whole index takes half a minute."""
    folder = str(Path(lm_eval.tasks.__file__).parent / "gsm8k")
    monkeypatch.setattr(
        ability_tasks, "TaskManager", lambda **_: TaskManager(include_path=folder, include_defaults=False)
    )


@pytest.mark.usefixtures("few_known")
def test_unknown_task() -> None:
    with pytest.raises(
        UserError,
        match=r"Unknown test of ability 'gsm8'. Did you mean .*'gsm8k'.*made_sentiment.*all other tasks of lm-eval",
    ):
        TaskSuite(["gsm8"])
    with pytest.raises(UserError, match=r"'made_arithmetics'. Did you mean 'made_arithmetic'"):
        TaskSuite(["made_arithmetics"])


def test_nothing_to_ask() -> None:
    with pytest.raises(UserError, match="No test of ability was named"):
        TaskSuite([])
    with pytest.raises(UserError, match="at least one document per task, not 0"):
        TaskSuite(["made"], 0)


def test_quiet_and_repeatable(lm: LM, capfd: pytest.CaptureFixture[str]) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    TaskSuite(["made_entailment"], 4).run(lm)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert capfd.readouterr() == ("", "")


# --- tasks of lm-eval ---


def loaded(documents: dict[str, list[dict[str, object]]]) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows) for split, rows in documents.items()}
    )


def test_a_task_of_lm_eval_by_name(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "goal": "open the door",
        "sol1": "push the door",
        "sol2": "eat the door and the window",
        "label": 1,
    }
    monkeypatch.setattr(datasets, "load_dataset", loaded({"train": [document], "validation": [document] * 3}))
    rows = TaskSuite(["piqa"]).run(lm)
    assert [(row.task, row.metric, row.doc_id) for row in rows] == [
        ("piqa", metric, i) for i in range(3) for metric in ("acc", "acc_norm")
    ]
    assert {row.target for row in rows} == {"eat the door and the window"}
    assert [bool(row.requests) for row in rows] == [True, False] * 3


def test_only_plain_tasks_are_looked_up_in_their_own_folder() -> None:
    assert ability_tasks._manager("piqa") is not None
    assert ability_tasks._manager("mmlu") is None  # a group
    assert ability_tasks._manager("../piqa") is None


def test_tasks_that_cannot_be_run() -> None:
    def task(**given: object) -> SimpleNamespace:
        return SimpleNamespace(
            **{"OUTPUT_TYPE": "multiple_choice", "aggregation": lambda: {"acc": None}} | given
        )

    ability_tasks._check("fine", task())
    with pytest.raises(UserError, match="runs code that the model writes"):
        ability_tasks._check("humaneval", task(UNSAFE_CODE=True))
    with pytest.raises(UserError, match="images or sound"):
        ability_tasks._check("mmmu", task(MULTIMODAL=True))
    with pytest.raises(UserError, match="'cola' has no score per document, only mcc"):
        ability_tasks._check("cola", task(aggregation=lambda: {"mcc": None}))


def test_too_much_to_generate() -> None:
    request = SimpleNamespace(args=("Question:", {"until": ["\n"], "max_gen_toks": 500}), task_name="long")
    with pytest.raises(UserError, match=r"'long' generates up to 500 tokens; the model's window holds 128"):
        PatchAwareHFLM(tiny.lm("llama"))._generate([request])


# --- published tasks from files ---

DECIDES = (
    *(
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "output_type",
        "num_fewshot",
        "fewshot_split",
        "test_split",
        "validation_split",
    ),
    *(
        "generation_kwargs",
        "filter_list",
        "metric_list",
        "repeats",
        "target_delimiter",
        "fewshot_delimiter",
        "description",
        "process_docs",
    ),
)


@contextmanager
def from_hub(monkeypatch: pytest.MonkeyPatch, empty: Path, name: str) -> Iterator[None]:
    """The data folder without the task's files, and a hub with its documents."""
    documents, _ = ability_tasks._documents(ability_tasks.LOCAL[name])
    with monkeypatch.context() as patch:
        patch.setenv("LKS_DATA", str(empty))
        patch.setattr(
            datasets, "load_dataset", loaded({"train": next(iter(documents.values())), **documents})
        )
        yield


@needs_data
@pytest.mark.parametrize(("name", "count"), [("gsm8k", 1319), ("sst2", 872), ("rte", 277)])
def test_published_tasks_are_lm_evals_own(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = ability_tasks.load([name])[name]
    with from_hub(monkeypatch, tmp_path, name):
        theirs = ability_tasks.load([name])[name]
        hub = TaskSuite([name], 3).identity
    assert len(mine.eval_docs) == count
    assert mine.config.custom_dataset is not None
    assert theirs.config.custom_dataset is None
    assert mine.VERSION == theirs.VERSION
    for field in DECIDES:
        assert getattr(mine.config, field) == getattr(theirs.config, field), field
    assert mine.fewshot_cfg.split == theirs.fewshot_cfg.split
    assert TaskSuite([name], 3).identity == hub  # the same prompts, examples and answers


@needs_data
def test_published_documents() -> None:
    sst2, rte, gsm8k = (ability_tasks.load([name])[name] for name in ("sst2", "rte", "gsm8k"))
    assert sst2.eval_docs[0] == {"sentence": "it 's a charming and often affecting journey . ", "label": 1}
    assert {doc["label"] for doc in sst2.eval_docs} == {0, 1}
    assert (
        sum('"' in doc["sentence"] for doc in sst2.eval_docs)
        + sum('"' in doc["sentence1"] for doc in rte.eval_docs)
        > 0
    )
    assert rte.doc_to_choice(rte.eval_docs[1])[rte.eval_docs[1]["label"]] == "True"  # entailment
    assert rte.eval_docs[0]["sentence2"] == "Christopher Reeve had an accident."
    assert sum(doc["label"] == 0 for doc in rte.eval_docs) == 146
    assert len(gsm8k.training_docs()) == 7473


@needs_data
def test_published_tasks_run(lm: LM, capfd: pytest.CaptureFixture[str]) -> None:
    battery = TaskSuite(["paper"], 2)
    rows = battery.run(lm)
    assert [(row.task, row.metric) for row in rows[::2]] == [("gsm8k", "exact_match,strict-match")] * 2 + [
        ("sst2", "acc"),
        ("rte", "acc"),
    ]
    assert [row.metric for row in rows[1:4:2]] == ["exact_match,flexible-extract"] * 2
    assert {row.response for row in rows if row.task == "rte"} <= {"True", "False"}
    prompt, settings = battery.tasks["gsm8k"].instances[0].args
    assert prompt.count("Question:") == 6
    assert settings["until"] == ["Question:", "</s>", "<|im_end|>"]
    assert TaskSuite(["paper"], 2).run(lm, known=ReusableReplies.of(rows, nowhere)) == rows
    assert capfd.readouterr() == ("", "")


def test_generated_answers_are_used_again(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    documents: list[dict[str, object]] = [
        {"question": f"Sam has {i} apples. How many?", "answer": f"#### {i}"} for i in range(12)
    ]
    monkeypatch.setenv("LKS_DATA", "nowhere")
    monkeypatch.setattr(datasets, "load_dataset", loaded({"train": documents, "test": documents}))
    battery = TaskSuite(["gsm8k"])
    rows = battery.run(lm)
    asked: list[int] = []
    generate = PatchAwareHFLM._generate
    monkeypatch.setattr(
        PatchAwareHFLM,
        "_generate",
        lambda self, requests: asked.append(len(requests)) or generate(self, requests),
    )
    assert battery.run(lm, known=ReusableReplies.of(rows, nowhere)) == rows
    assert asked == [8, 0]
    assert battery.run(lm, known=ReusableReplies.of([row for row in rows if row.doc_id % 2], nowhere)) == rows
    assert asked[2:] == [6, 6]


def test_documents_that_are_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError,
        match=r"'gsm8k' cannot be read .*Couldn't reach.*put gsm8k/train.jsonl and gsm8k/test.jsonl into .*LKS_DATA",
    ):
        TaskSuite(["gsm8k"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
            "holds 1 documents, 277 were published",
        ),
        ("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tmaybe\n", "KeyError: 'maybe'"),
        ("index\tsentence1\tsentence2\tlabel\n0\tA.\tentailment\n", "ValueError"),
        ("sentence1\tlabel\nA.\tentailment\n", "KeyError: 'sentence2'"),
    ],
)
def test_damaged_file(text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LKS_DATA", str(tmp_path))
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "dev.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        TaskSuite(["rte"])
