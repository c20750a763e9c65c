"""Which model a name means, in which number format it runs, and methods without a preset for it."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from typer.testing import CliRunner

import lks.io.hub
import lks.runs.cell
from baselines import methods
from cli.app import app
from flows.running.planning import cells_of, revision_of_model
from lks.editing.editor import NoParams
from lks.errors import StoreError, UserError
from lks.method.lks import LKS
from lks.models import fetching, hub_models, precision
from lks.models.lm import LM
from lks.models.registry import KNOWN, check_name, found, kind_of, revision_of, shape_of
from lks.results.cells import PARAMETERS, RULE, RULE_NOTE, Cell, Costs, Outcome
from lks.runs.cell import run
from lks.runs.grid import Grid
from reports.results import name_of
from reports.tables.cell_rows import device_of
from reports.tables.model import Column, Table, TableRow
from tests.helpers import tiny
from tests.lks.models import gguf_files
from workbench.scoring import FixedPatchEditor


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            ("smollm2-135m", "hub"),
            ("llama-2-7b-chat", "hub"),
            ("mistral-7b-instruct-v0.3", "hub"),
            ("Qwen/Qwen2.5-0.5B", "hub"),
        ),
        *(
            ("owner/name.with.dots", "hub"),
            ("micro-llama", "testbed"),
            ("mini-zsre-1000", "testbed"),
            (".", "folder"),
            ("/", "folder"),
            ("..", "folder"),
        ),
    ],
)
def test_what_a_name_means(name: str, kind: str) -> None:
    assert kind_of(name) == kind
    check_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smollm2-135", "Did you mean 'smollm2-135m'"),
        ("smolm2-135m", "Did you mean 'smollm2-135m'"),
        ("llama-3-8b-instrct", "Did you mean 'llama-3-8b-instruct'"),
        ("gpt-j", "'gpt-j-6b'"),
        ("Qwen2.5-0.5B", "'qwen2.5-0.5b'"),
        ("./absent", "There is no model folder ./absent"),
        ("/absent/model", "There is no model folder /absent/model"),
        ("~/model", "There is no model folder ~/model"),
        ("owner/name/file", "There is no model folder owner/name/file"),
        ("", "Unknown model ''"),
    ],
)
def test_a_name_that_is_none_is_one_clear_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


def test_the_registry_is_consistent() -> None:
    repositories = [known.repository for known in KNOWN.values()]
    assert len(set(repositories)) == len(repositories) and all(
        repository.count("/") == 1 for repository in repositories
    )
    assert all(
        known.licence and known.parameters and len(known.revision) in (0, 40) for known in KNOWN.values()
    )
    assert all(method.preset("smollm2-135m") is None for name, method in methods().items() if name != "none")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub whose answers the test decides."""
    told = SimpleNamespace(up=True, here=None, fetched=[], snapshot=tmp_path / ("c" * 40))
    told.snapshot.mkdir()
    (told.snapshot / "config.json").write_text('{"n_layer": 48, "n_embd": 1600}')
    monkeypatch.setattr(lks.io.hub, "why_not", lambda: "" if told.up else "The hub cannot be reached.")
    monkeypatch.setattr(hub_models, "cached", lambda repository, revision="": told.here)
    monkeypatch.setattr(hub_models, "newest", lambda repository: "n" * 40)
    monkeypatch.setattr(
        hub_models,
        "fetch",
        lambda repository, revision="": told.fetched.append((repository, revision)) or told.snapshot,
    )
    return told


def test_a_published_model_is_the_commit_that_is_here(hub: SimpleNamespace) -> None:
    assert revision_of("owner/name") == revision_of("gpt2-xl") == "n" * 40  # what would be fetched
    assert revision_of("llama-2-7b-chat") == KNOWN["llama-2-7b-chat"].revision
    hub.here = hub.snapshot
    assert (
        revision_of("owner/name") == "c" * 40
        and found("owner/name") is not None
        and shape_of("owner/name") == (48, 1600)
    )
    assert fetching.ready("owner/name").revision == "c" * 40 and not hub.fetched


def test_the_hub_comes_before_the_package(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LKS_CACHE", str(tmp_path))
    assert fetching.ready("smollm2-135m").folder == hub.snapshot
    assert hub.fetched == [("HuggingFaceTB/SmolLM2-135M-Instruct", "")]
    assert (
        fetching.ready("llama-2-7b-chat").revision == "c" * 40
        and hub.fetched[-1][1] == KNOWN["llama-2-7b-chat"].revision
    )


def test_without_the_hub_a_model_that_is_not_here_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lks.io.hub, "why_not", lambda: "The hub is not asked: HF_HUB_OFFLINE is set.")
    for ask in (revision_of, shape_of, fetching.ready):
        with pytest.raises(
            UserError,
            match=r"owner/absent is not on this machine\. The hub is not asked: HF_HUB_OFFLINE is set\.",
        ) as caught:
            ask("owner/absent")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"hidden_size": 3}',
        '{"num_hidden_layers": "many", "hidden_size": 3}',
        '{"text_config": null}',
    ],
)
def test_a_configuration_without_a_shape_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json cannot be read, or does not say"):
        shape_of(str(tmp_path))


def test_shapes_of_families(tmp_path: Path) -> None:
    fields = [
        {"num_hidden_layers": 18, "hidden_size": 640},
        {"n_layer": 28, "n_embd": 4096},
        {"text_config": {"num_hidden_layers": 2, "hidden_size": 8}},
    ]
    shapes = []
    for one in fields:
        (tmp_path / "config.json").write_text(json.dumps(one))
        shapes.append(shape_of(str(tmp_path)))
    assert shapes == [(18, 640), (28, 4096), (2, 8)]
    assert shape_of("micro-llama") == (len((lm := LM.load("micro-llama", "cpu")).blocks), lm.dim)


# --- number formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", ""), ("auto", ""), ("float32", ""), ("AUTO", ""), (" float32 ", ""), ("bfloat16", "-bfloat16")],
)
def test_another_format_is_another_model_in_cells(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    monkeypatch.setattr(precision, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    before = revision_of_model("micro-llama")
    monkeypatch.setenv("LKS_DTYPE", value)
    assert revision_of_model("micro-llama") == before + expected
    lm = LM.load("micro-llama", "cpu")
    assert lm.provenance == {"dtype": "bfloat16" if expected else "float32"} and lm.revision == before


@pytest.mark.parametrize(
    "value", ["float16", "fp32", "bf16", "int8", "4bit", "float64", "32", "bfloat", "half", "float8", "none"]
)
def test_an_unsupported_format_is_told_before_a_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LKS_DTYPE", value)
    monkeypatch.setattr(fetching, "ready", lambda *_: pytest.fail("looked for all the same"))
    for ask in (lambda: LM.load("micro-llama", "cpu"), lambda: revision_of_model("micro-llama")):
        with pytest.raises(
            UserError, match=f"number format LKS_DTYPE = '{value}'.*Known: auto, bfloat16, float32"
        ):
            ask()


def test_a_format_that_the_machine_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    assert (
        precision.chosen(torch.device("cpu")) == torch.float32
        and precision.chosen(torch.device("cuda")) == torch.bfloat16
    )
    monkeypatch.setenv("LKS_DTYPE", "bfloat16")
    with pytest.raises(
        UserError, match=r"LKS_DTYPE=bfloat16: This CPU has no instructions for bfloat16 .* set it to float32"
    ):
        LM.load("micro-llama", "cpu")


# --- methods without a preset -------------------------------------------------------------------------------


def grid(**changes: object) -> Grid:
    fields = {
        "name": "g",
        "models": ["micro-llama"],
        "datasets": ["world"],
        "methods": ["*"],
        "n_edits": [2],
        "records": 30,
    }
    return Grid.model_validate(fields | changes)


def test_every_method_runs_on_a_model_that_none_was_tuned_for(file: Path) -> None:
    cells = cells_of(grid(models=[str(file)]))
    assert {cell.method for cell in cells} == set(methods())
    parameters = {cell.method: json.loads(cell.parameters) for cell in cells}
    assert parameters["lks"] | {"block": 1, "gate": "contrast"} == parameters["lks"]
    assert parameters["ft"]["block"] == 21 * 2 // 32
    assert {cell.model_revision for cell in cells} == {revision_of(str(file))}
    (changed,) = (
        c
        for c in cells_of(grid(models=[str(file)], methods=[{"method": "lks", "block": 0}]))
        if c.method == "lks"
    )
    assert json.loads(changed.parameters) == parameters["lks"] | {"block": 0}


def test_rule_and_edit_agree(file: Path) -> None:
    from workbench.presets import BY_RULE, editor_for

    editor, source = editor_for(LKS, str(file), (2, 32), (2, "world"), {})  # type: ignore[arg-type]
    assert source == BY_RULE and editor.params == LKS.for_model(str(file), "world", 2).params
    assert (
        not LKS.by_rule("micro-llama")
        and LKS.by_rule("smollm2-135m")
        and not methods()["none"].by_rule("smollm2-135m")
    )


@dataclass(frozen=True, slots=True)
class Hand:
    """Parameters without defaults."""

    block: int
    lr: float
    how: str = "well"


class Bare(FixedPatchEditor):
    """A method with neither presets nor a rule."""

    name: ClassVar[str] = "bare"
    params_type: ClassVar[type] = Hand
    presets: ClassVar = {}

    @classmethod
    def by_rule(cls, model: str) -> bool:
        return False


def test_a_method_with_neither_preset_nor_rule_says_how_to_give_parameters() -> None:
    says = r"Method 'bare' has no preset for model 'm', and no rule .* \{ method = \"bare\", block = 12, lr = 0.1 \}"
    for overrides in ({}, {"how": "badly"}):
        with pytest.raises(UserError, match=says):
            Bare.for_model("m", "world", 1, overrides)
    with pytest.raises(UserError, match=r"lr = 0\.1 \}"):
        Bare.for_model("m", "world", 1, {"block": "3"})
    assert Bare.for_model("m", "world", 1, {"block": "3", "lr": "0.5"}).params == Hand(3, 0.5)
    with pytest.raises(UserError, match="Unknown parameter 'blok'"):
        Bare.for_model("m", "world", 1, {"block": "3", "lr": "0.5", "blok": "1"})


def test_a_method_is_called_by_its_registry_name() -> None:
    assert {name: method.registry_name() for name, method in methods().items()} == {
        name: name for name in methods()
    }


class Unfit(FixedPatchEditor):
    """A method that cannot edit the model."""

    error: ClassVar[Exception] = UserError("The model has no such layer. Use ft.")

    def edit(self, *args: object, **kwargs: object):
        raise self.error


@pytest.fixture
def one_cell(tmp_path: Path) -> Iterator[tuple[Cell, Path]]:
    (cell,) = (c for c in cells_of(grid(methods=["ft"])) if c.method == "ft")
    yield cell, tmp_path / "results"


def test_a_method_that_cannot_run_on_a_model_fails_as_a_cell(one_cell: tuple[Cell, Path]) -> None:
    outcome = run(one_cell[0], Unfit, one_cell[1], lambda stage, done: None)
    assert (outcome.status, outcome.reason) == ("error", "The model has no such layer. Use ft.")


def test_a_folder_that_cannot_be_used_still_ends_the_grid(
    one_cell: tuple[Cell, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unfit, "error", StoreError("The cache is full. Free space."))
    with pytest.raises(StoreError):
        run(one_cell[0], Unfit, one_cell[1], lambda stage, done: None)


def test_a_cell_on_an_untuned_gguf_model_says_so_in_every_table(file: Path, tmp_path: Path) -> None:
    changes = {"method": "ft", "max_epochs": 1}
    (cell,) = (c for c in cells_of(grid(models=[str(file)], methods=[changes])) if c.method == "ft")
    outcome = run(cell, methods()["ft"], tmp_path, lambda stage, done: None, lks.runs.cell.LoadedResources())
    assert outcome.status == "ok", outcome.reason
    assert outcome.provenance[PARAMETERS] == RULE and outcome.provenance["dtype"] == "float32"
    assert name_of(outcome) == f"{methods()['ft'].title} (rule, max_epochs=1)"
    table = Table("t", "T", (Column("Method"),), (TableRow((name_of(outcome),)),), device=device_of(outcome))
    assert RULE_NOTE in table.note and "dequantised from a GGUF file (mixed: F32" in table.note


def test_tables_mark_a_rule_and_a_chosen_format_and_nothing_else() -> None:
    cell = Cell("m", "d", "ft", 1, 0, 1, model_revision="r-bfloat16")
    plain = Outcome(cell, "ok", "", (), Costs(), {"title": "FT-M", "device": "CPU", "dtype": "bfloat16"})
    assert name_of(plain) == "FT-M" and device_of(plain) == "CPU, in bfloat16"
    usual = replace(
        plain,
        cell=replace(cell, model_revision="r", variant=(("ruler", "5"),)),
        provenance={"title": "FT-M", "device": "CPU", "dtype": "float32"},
    )
    assert (name_of(usual), device_of(usual)) == ("FT-M (ruler=5)", "CPU")
    assert RULE_NOTE not in Table("t", "T", (Column("Method"),), (TableRow((name_of(usual),)),)).note
    ruled = replace(plain, provenance=plain.provenance | {PARAMETERS: RULE})
    assert (
        name_of(ruled) == "FT-M (rule)"
        and RULE_NOTE in Table("t", "T", (Column("Method"),), (TableRow((name_of(ruled),)),)).note
    )


# --- the commands -------------------------------------------------------------------------------------------


def test_models_are_listed_fetched_and_removed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "250")
    runner = CliRunner()
    listed = runner.invoke(app, ["models", "list"])
    assert listed.exit_code == 0, listed.output
    assert (
        all(name in listed.output for name in (*KNOWN, "micro-llama", "FILE.gguf"))
        and "(gated)" in listed.output
    )
    assert runner.invoke(app, ["list", "models"]).output == listed.output
    done = runner.invoke(app, ["models", "fetch", str(file)])
    assert done.exit_code == 0 and "(GGUF, mixed: F32" in done.output, done.output
    assert found(str(file)) is not None
    gone = runner.invoke(app, ["models", "remove", str(file)])
    assert gone.exit_code == 0 and "MB freed" in gone.output and found(str(file)) is None and file.exists()
    assert "nothing of it is in the cache" in runner.invoke(app, ["models", "remove", str(file)]).output
    for wrong in (["fetch", "smollm"], ["remove", "micro-llama"], ["remove", str(tmp_path)]):
        assert runner.invoke(app, ["models", *wrong]).exit_code == 2


def test_a_gguf_file_is_edited_and_asked(file: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps({"subject": "the hen", "prompt": "the hen eats", "target": "hay"}))
    runner = CliRunner()
    edit = [
        "edit",
        "--model",
        str(file),
        "--facts",
        str(facts),
        "--out",
        str(tmp_path / "patch"),
        "--method",
        "ft",
        "--set",
        "max_epochs=1",
    ]
    done = runner.invoke(app, edit)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "patch" / "edit.json").read_text())
    assert record["base"]["name"] == "tiny.gguf" and record["base"]["revision"] == revision_of(str(file))
    assert record["made"]["quantisation"].startswith("mixed") and record["made"]["dtype"] == "float32"
    asked = runner.invoke(
        app, ["ask", "--model", str(file), "--patch", str(tmp_path / "patch"), "the hen eats"]
    )
    assert asked.exit_code == 0, asked.output
    chat = runner.invoke(
        app, ["ask", "--model", str(file), "--patch", str(tmp_path / "patch"), "--chat", "the hen eats"]
    )
    assert chat.exit_code == 2 and "has no chat template" in chat.output + str(chat.stderr)


def test_no_parameters_are_needed_of_the_unedited_model() -> None:
    assert FixedPatchEditor.for_model("any", "world", 1).params == NoParams()


@pytest.mark.parametrize(("dtype", "joined"), [(torch.bfloat16, True), (torch.float32, False)])
def test_the_vocabulary_projection_gets_one_piece_of_memory_in_bfloat16(
    dtype: torch.dtype, joined: bool
) -> None:
    """A strided input is a thousand times slower there; what comes out is the same."""
    model = tiny.lm("llama").model
    lm = LM(copy.deepcopy(model).to(dtype), tiny.lm("llama").tokenizer)
    seen: list[bool] = []
    lm.vocabulary_projection.register_forward_hook(
        lambda _module, args, _out: seen.append(args[0].is_contiguous())
    )
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        last = lm.model(input_ids=ids, logits_to_keep=1).logits
        every = lm.model(input_ids=ids).logits
    assert seen[0] is joined
    assert torch.allclose(last[:, 0].float(), every[:, -1].float(), atol=1e-2)
