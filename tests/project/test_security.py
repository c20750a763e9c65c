"""What a stranger's files, a curious server and the network may not do (docs/security.md)."""

import ast
import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import baselines
import lks.editing.patch
from lks.editing.patch import NoPatch, WeightPatch
from lks.errors import DataError, StoreError, UserError
from lks.io.atomic import write_whole
from lks.results.cells import ANSWERS, PROTOCOL, Cell, Costs, Outcome
from lks.results.shards import read_checked, read_outcome, write_outcome, write_stage
from lks.results.store import Store
from tests.helpers import stores
from tests.helpers.root import ROOT
from tests.lks.llm.test_judge import Server, server

__all__ = ["server"]

PACKAGES = ("lks", "baselines", "flows", "cli", "reports")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
CELL = Cell("micro-llama", "world", "none", 1, 0, 1)
RUNS_CODE = ("eval", "exec", "compile", "torch.load", "torch.save", "np.load", "os.system", "os.popen")
KEY = "sk-test-0123456789abcdef"


# No code in data


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_is_read_that_can_run_code(file: Path):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.split(".")[0] for module in modules} & {
        "pickle",
        "marshal",
        "joblib",
        "shelve",
        "dill",
        "cloudpickle",
    }
    for name, call in called(tree):
        assert name not in (
            "eval",
            "exec",
            "compile",
            "torch.load",
            "torch.save",
            "np.load",
            "os.system",
            "os.popen",
        ), f"{file}:{call.lineno} calls {name}"
        assert not (name.startswith("yaml.") and "safe" not in name), f"{file}:{call.lineno} calls {name}"
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("shell") != "True" and given.get("trust_remote_code") in (None, "False"), (
            f"{file}:{call.lineno} calls {name}"
        )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_models_come_as_safetensors_and_without_their_code(file: Path):
    for name, call in called(ast.parse(file.read_text(encoding="utf-8"))):
        if name.startswith("Auto") and name.endswith(".from_pretrained"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("trust_remote_code") == "False", f"{file}:{call.lineno}"
            assert "Tokenizer" in name or given.get("use_safetensors") == "True", f"{file}:{call.lineno}"


# Patches


def document(folder: Path, **changes: object) -> Path:
    """A saved patch whose JSON says something else."""
    NoPatch().save(folder)
    said = json.loads((folder / "patch.json").read_text()) | changes
    (folder / "patch.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    "module",
    [
        "spy",
        "lks.spy",
        "lks.editing.patch.spy",
        "tests.spy",
        "lks..spy",
        "os",
        "lks",
        "",
        ".spy",
        "baselines.spy:run",
    ],
)
def test_a_patch_names_no_module_but_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str):
    (tmp_path / "spy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not installed as a part of this program"):
        lks.editing.patch.load(document(tmp_path / "patch", kind="spy", module=module))
    assert not (tmp_path / "ran").exists()


def test_a_module_of_ours_without_such_a_kind_is_a_damaged_patch(tmp_path: Path):
    with pytest.raises(DataError, match="has no patch of kind 'spy'"):
        lks.editing.patch.load(document(tmp_path, kind="spy", module="baselines.rome"))


OLD_MODULES = {
    "weights": "lks.patch",
    "knowledge_blocks": "lks.replacer",
    "facts in front": "baselines._retrieval",
    "serac": "baselines._serac_patch",
}
"""Where classes were, by kind, before the modules went into sub-packages."""


def test_patches_that_name_an_earlier_module_are_read(tmp_path: Path):
    """In a process that has imported none of them."""
    from tests.helpers import patches_made

    folders = patches_made.made(tmp_path)
    for folder in folders:
        said = json.loads((folder / "patch.json").read_text())
        said["module"] = OLD_MODULES.get(said["kind"], said["module"])
        (folder / "patch.json").write_text(json.dumps(said))
    code = "import sys; from pathlib import Path; from lks.editing.patch import load; print([load(Path(folder)).kind for folder in sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == str([lks.editing.patch.load(folder).kind for folder in folders]), (
        done.stderr
    )


def test_every_kind_of_patch_is_found_by_its_name():
    for name in baselines.methods():
        assert name == "lks" or importlib.import_module(f"baselines.{name}")
    for module in lks.editing.patch.HOMES.values():
        importlib.import_module(module)
    for kind, made in lks.editing.patch.kinds().items():
        top, _, rest = made.__module__.partition(".")
        if top in ("lks", "baselines") and made.__module__ != "lks.editing.patch":
            assert lks.editing.patch.HOMES.get(kind, made.__module__) == made.__module__
            assert kind in lks.editing.patch.HOMES or (top == "baselines" and "." not in rest), (
                f"{kind} is missing in HOMES"
            )


def test_a_patch_that_asks_for_much_memory_gets_none(tmp_path: Path):
    gate = {
        "gate.keys": torch.ones(1, 4),
        "gate.owner": torch.tensor([1 << 40]),
        "gate.centre": torch.ones(4),
    }
    settings = {"names": [["Ann"]], "blocks": [0], "positions": "last", "scope": "exact", "threshold": 0.5}
    document(tmp_path, kind="knowledge_blocks", module="lks.method.replacer", settings=settings)
    save_file({"table": torch.ones(1, 1, 4), **gate}, tmp_path / "patch.safetensors")
    with pytest.raises(DataError, match=r"gate\.owner"):
        lks.editing.patch.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_hidden_layers": 10**6}, "more blocks than tensors"),
        ({"vocab_size": 10**9}, "huge number"),
        ({"hidden_size": 1 << 20, "num_attention_heads": 1}, "do not fit together"),
        ({"model_type": "bert"}, "family 'bert'"),
    ],
)
def test_a_patch_with_a_model_gets_no_other_model_than_its_tensors(
    tmp_path: Path, changes: dict[str, object], complaint: str
):
    from tests.helpers import patches_made

    folder = patches_made.made(tmp_path)[-1]
    said = json.loads((folder / "patch.json").read_text())
    said["settings"]["counterfactual"] |= changes
    (folder / "patch.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match=complaint):
        lks.editing.patch.load(folder)


def test_a_model_in_a_patch_names_no_code_and_no_kernel(tmp_path: Path):
    from baselines._serac.patch import SeracPatch
    from tests.helpers import patches_made

    folder = patches_made.made(tmp_path)[-1]
    said = json.loads((folder / "patch.json").read_text())
    said["settings"]["counterfactual"] |= {
        "auto_map": {"AutoModelForCausalLM": "evil/code--model.Model"},
        "_attn_implementation": "evil/kernel",
        "attn_implementation": "evil/kernel",
        "_name_or_path": "/",
        "quantization_config": {"quant_method": "evil"},
    }
    (folder / "patch.json").write_text(json.dumps(said))
    patch = lks.editing.patch.load(folder)
    assert isinstance(patch, SeracPatch) and "evil" not in json.dumps(patch.counterfactual.config)


def test_saving_does_not_write_through_links(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    folder = tmp_path / "patch"
    folder.mkdir()
    for name in ("patch.safetensors", "patch.json", "patch.safetensors.part", "patch.json.part"):
        (folder / name).symlink_to(kept)
    WeightPatch({"a": torch.ones(1)}).save(folder)
    (tmp_path / f".x.{os.getpid()}.part").symlink_to(kept)
    write_whole(tmp_path / "x", b"new")
    assert kept.read_text() == "mine" and (tmp_path / "x").read_bytes() == b"new"
    assert isinstance(lks.editing.patch.load(folder), WeightPatch)


# Results folders


def put(results: Path, *shards: str) -> Path:
    """A cell that names these shards."""
    Store(results)
    return write_outcome(results, Outcome(CELL, "ok", "", shards, Costs(), {}))


@pytest.mark.parametrize(
    "shard",
    [
        "../../x.parquet",
        "/etc/passwd",
        "cells/{other}/answers.parquet",
        "cells/{own}/../x.parquet",
        "cells/{own}/.parquet",
        "cells/{own}/*.parquet",
        "",
    ],
)
def test_a_shard_is_in_its_cell_s_folder(tmp_path: Path, shard: str):
    write_stage(tmp_path / "results", "0" * 16, ANSWERS, [stores.answer(0, "Ann", "edit", True)])
    (tmp_path / "results" / "protocol.json").write_text(json.dumps({"protocol": PROTOCOL}))
    put(tmp_path / "results", shard.format(other="0" * 16, own=CELL.id))
    with pytest.raises(DataError, match="Run its cell again"):
        read_outcome(tmp_path / "results", CELL.id)
    (warning,) = Store(tmp_path / "results").sync()
    assert CELL.id in warning


@pytest.mark.parametrize("what", ["shard", "outcome", "folder"])
def test_a_link_out_of_the_results_folder_is_not_followed(tmp_path: Path, what: str):
    results, outside = tmp_path / "results", tmp_path / "outside"
    Store(results)
    put(results, write_stage(results, CELL.id, ANSWERS, [stores.answer(0, "Ann", "edit", True)]))
    own = results / "cells" / CELL.id
    moved = {"shard": own / f"{ANSWERS}.parquet", "outcome": own / "outcome.json", "folder": own}[what]
    shutil.move(moved, outside)
    moved.symlink_to(outside)
    with pytest.raises(DataError, match="leads out of"):
        read_outcome(results, CELL.id)
    assert len(Store(results).sync()) == 1
    if what == "folder":
        before = sorted(file.stat().st_mtime_ns for file in outside.iterdir())
        for write in (lambda: put(results), lambda: write_stage(results, CELL.id, ANSWERS, [])):
            with pytest.raises(DataError, match="leads out of"):
                write()
        assert sorted(file.stat().st_mtime_ns for file in outside.iterdir()) == before


def test_a_report_is_not_written_through_a_link(tmp_path: Path):
    from reports import render

    Store(tmp_path / "results")
    (tmp_path / "outside").mkdir()
    kept = tmp_path / "outside" / "kept.txt"
    kept.write_text("mine")
    (tmp_path / "results" / "report").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leads out of"):
        render(tmp_path / "results")
    assert [file.name for file in kept.parent.iterdir()] == ["kept.txt"]


def test_a_lock_or_a_catalogue_that_is_a_link_is_left_alone(tmp_path: Path):
    from flows.running.planning import only_writer

    results, kept = tmp_path / "results", tmp_path / "kept"
    Store(results)
    kept.write_text("mine")
    (results / ".lock").symlink_to(kept)
    with pytest.raises(StoreError), only_writer(results):
        pass
    (results / "lks.duckdb").unlink(missing_ok=True)
    duckdb.connect(str(tmp_path / "own.duckdb")).execute("CREATE TABLE answers AS SELECT 1 AS mine").close()
    (results / "lks.duckdb").symlink_to(tmp_path / "own.duckdb")
    with pytest.raises(DataError, match="leads out of"):
        Store(results).sync()
    assert kept.read_text() == "mine"
    assert duckdb.connect(str(tmp_path / "own.duckdb")).execute("FROM answers").fetchall() == [(1,)]


@pytest.mark.parametrize("name", ["outcome.json", "answers.parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str):
    file = put(tmp_path).with_name(name)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    with pytest.raises(DataError, match="is not a regular file"):
        read_outcome(tmp_path, CELL.id) if name == "outcome.json" else read_checked(file)


def test_few_bytes_that_mean_many_are_not_unpacked(tmp_path: Path):
    from lks.results.answers import SCHEMA

    good = tmp_path / write_stage(tmp_path, CELL.id, ANSWERS, [stores.answer(0, "Ann", "edit", True)])
    rows = pq.read_table(good).take(pa.array([0] * 20_000))
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 1_000_000]))
    place = rows.schema.get_field_index("prompt")
    rows = rows.set_column(place, rows.schema.field("prompt").with_type(long.type), long)
    with pq.ParquetWriter(good, rows.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata(SCHEMA.metadata)
    assert good.stat().st_size < 1_000_000
    with pytest.raises(DataError, match="once unpacked"):
        read_checked(good)


def test_an_extension_type_in_a_shard_is_not_loaded(tmp_path: Path):
    """Old versions of Arrow unpickled what a Parquet file called a Python type."""
    ran = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {ran}'\ntR."
    named = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": evil}
    field = pa.field("cell_id", pa.string(), metadata=named)
    pq.write_table(pa.table({"cell_id": ["x"]}, schema=pa.schema([field])), tmp_path / "answers.parquet")
    with pytest.raises(DataError):
        read_checked(tmp_path / "answers.parquet")
    assert not ran.exists()


# Catalogues


def poisoned(results: Path, secret: Path) -> None:
    """A view of the catalogue shows a file of this machine."""
    stores.fill(Store(results))
    Store(results).sync()
    with duckdb.connect(str(results / "lks.duckdb")) as connection:
        connection.execute(
            f"CREATE OR REPLACE VIEW metrics AS SELECT content AS cell_id FROM read_text('{secret}')"
        )


def test_a_catalogue_s_views_read_no_other_file(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    poisoned(tmp_path / "results", secret)
    with pytest.raises(duckdb.PermissionException):
        Store(tmp_path / "results").query("FROM metrics")
    with pytest.raises(duckdb.Error), Store(tmp_path / "results").copy() as copy:
        copy.query("FROM metrics")
    for statement in (
        f"COPY cells TO '{tmp_path / 'out.csv'}'",
        "SET lock_configuration = false",
        f"ATTACH '{tmp_path / 'x.duckdb'}'",
        "LOAD httpfs",
    ):
        with pytest.raises(duckdb.Error):
            Store(tmp_path / "results").query(statement)


def test_a_catalogue_alone_is_compared_only_if_its_views_are_ours(tmp_path: Path):
    from reports.compare.stores import side_by_side

    secret = tmp_path / "secret"
    secret.write_text("mine")
    poisoned(tmp_path / "results", secret)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "results" / "lks.duckdb", alone)
    with (
        pytest.raises(StoreError, match="tables differ"),
        side_by_side(alone / "lks.duckdb", alone / "lks.duckdb"),
    ):
        pass


def test_a_catalogue_beside_its_cells_is_compared_only_if_its_views_are_ours(tmp_path: Path):
    from reports.compare.stores import side_by_side

    secret = tmp_path / "secret"
    secret.write_text("mine")
    poisoned(tmp_path / "results", secret)
    with (
        pytest.raises(StoreError, match="Delete it"),
        side_by_side(tmp_path / "results", tmp_path / "results"),
    ):
        pass
    (tmp_path / "results" / "lks.duckdb").unlink()
    with side_by_side(tmp_path / "results", tmp_path / "results") as (_, names, warnings):
        assert names and not warnings


def test_side_by_side_nothing_else_can_be_opened(tmp_path: Path):
    from reports.compare.stores import side_by_side

    stores.fill(Store(tmp_path / "results"))
    with side_by_side(tmp_path / "results", tmp_path / "results") as (connection, names, _):
        assert connection.execute(f"SELECT count(*) FROM {names['a']}.cells").fetchall() != [(0,)]
        for statement in (
            "FROM read_text('/etc/passwd')",
            f"ATTACH '{tmp_path / 'x'}'",
            "SET enable_external_access = true",
            f"DELETE FROM {names['a']}.cells",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)


# Secrets, listening, telemetry


@pytest.mark.parametrize(
    "says", [lambda prompt: "correct", lambda prompt: f"correct {KEY}", lambda prompt: 401]
)
def test_a_key_is_in_no_file_and_no_message(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    says: object,
):
    from typer.testing import CliRunner

    from cli.app import app

    server.says = says  # type: ignore[assignment]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results"
    held = Store(results)
    put(results, write_stage(results, CELL.id, ANSWERS, [stores.answer(0, "Ann", "edit", True)]))
    held.sync()
    with caplog.at_level(logging.DEBUG):
        ran = CliRunner().invoke(app, ["judge", "--model", "fake", "--results", str(results)])
    assert server.keys == {f"Bearer {KEY}"}, "the key was not used"
    assert ran.exit_code == (0 if says("") != 401 else 2)  # type: ignore[operator]
    assert KEY not in ran.output and KEY not in caplog.text
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) >= 3 and not [file for file in written if KEY.encode() in file.read_bytes()]


def test_a_run_s_provenance_has_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    from lks.results.provenance import provenance

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = json.dumps(provenance())
    assert KEY not in said and not [
        value for name, value in os.environ.items() if len(value) > 12 and value in said
    ]


def test_servers_listen_on_loopback_alone():
    for file in sorted((ROOT / "flows").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        assert "0.0.0.0" not in text and '"::"' not in text, file
        for name, call in called(ast.parse(text)):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "uvicorn.run":
                assert given["host"] == "'127.0.0.1'"
            if name.endswith(".bind"):
                assert ast.unparse(call.args[0]).startswith("('127.0.0.1'"), f"{file}:{call.lineno}"
    commands = [
        ast.unparse(node)
        for file in (ROOT / "flows").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.List)
    ]
    assert all("'--host', '127.0.0.1'" in command for command in commands if "'server', 'start'" in command)


def test_telemetry_is_off():
    code = "from flows.settings import calm_prefect, os; calm_prefect(True); import json; print(json.dumps(dict(os.environ)))"
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "HF_", "DO_NOT"))
    }
    said = json.loads(
        subprocess.run(
            [sys.executable, "-c", code], env=clean, capture_output=True, check=True, cwd=ROOT, timeout=120
        ).stdout
    )
    assert (
        said["DO_NOT_TRACK"] == "1"
        and said["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        and said["HF_HUB_DISABLE_TELEMETRY"] == "1"
    )
