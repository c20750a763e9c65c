import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from cli.readying import make_ready
from flows.running.planning import revision_of_model
from tests.helpers import fakes
from tests.helpers.root import ROOT


@pytest.fixture
def grids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "grids.toml"
    file.write_text(fakes.GRIDS)
    monkeypatch.setenv("LKS_GRIDS", str(file))
    monkeypatch.setenv("LKS_GRID", "tiny")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setitem(sys.modules, "reports", fakes.fake_reports())
    return file


@pytest.fixture
def cells(grids: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.Cells:
    made = fakes.Cells()
    fakes.install(made, monkeypatch.setattr)
    return made


def lks(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Result, *parts: str) -> None:
    """One line on stderr that holds the parts, exit 2, no traceback."""
    assert result.exit_code == 2, result.output
    line = result.stderr.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    assert "Traceback" not in result.output
    for part in parts:
        assert part in line, line


def test_help_has_examples_and_starts_fast():
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", "from cli.app import app; app(['grid', '--help'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert "lks grid --grid mini --dry-run" in done.stdout
    assert took < 5, "the start is slow: is torch or prefect imported at the top of a module?"


def test_help_imports_nothing_heavy():
    code = "import sys; import cli.app; print([m for m in ('torch', 'prefect', 'transformers', 'duckdb', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_arguments_show_the_help():
    assert "grid" in lks().output
    assert "Usage" in lks().output


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["grid", "--grid", "tinny"], ["Unknown grid 'tinny'", "Did you mean 'tiny'"]),
        (["grid", "--only", "method=nnone"], ["'nnone'", "Did you mean 'none'"]),
        (["grid", "--only", "model=mikro-fake"], ["'mikro-fake'", "Did you mean 'micro-fake'"]),
        (["grid", "--only", "dataset=wold"], ["'wold'", "Did you mean 'world'"]),
        (["grid", "--only", "metod=ft"], ["'metod'", "Did you mean 'method'"]),
        (["grid", "--only", "ft"], ["key=value"]),
        (["list", "modles"], ["'modles'", "Did you mean 'models'"]),
    ],
)
def test_unknown_names(cells, tmp_path, words, parts):
    refused(lks(*words, *(["--results", tmp_path / "r"] if words[0] == "grid" else [])), *parts)
    assert cells.ran == []


@pytest.mark.parametrize(
    ("was", "becomes", "parts"),
    [
        ('"none"', '"nnone"', ["Unknown method 'nnone'", "Did you mean 'none'"]),
        ('"world"', '"wrld"', ["Unknown dataset 'wrld'", "Did you mean 'world'"]),
        ('"MODEL"', '"micro-lama"', ["Unknown model 'micro-lama'", "Did you mean 'micro-llama'"]),
        ('"MODEL"', '"mini-zsre-77"', ["not built", "lks testbed build --dataset zsre --records 77"]),
        ("[1]", "[100000]", ["T=100000"]),
        ("[wrong]", "[wrong", ["TOML"]),
    ],
)
def test_a_wrong_grid_is_refused_before_any_work(tmp_path, monkeypatch, was, becomes, parts):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"x")
    text = '[wrong]\nmodels = ["MODEL"]\ndatasets = ["world"]\nmethods = ["none"]\nn_edits = [1]\n'
    (tmp_path / "grids.toml").write_text(text.replace(was, becomes).replace("MODEL", str(model)))
    monkeypatch.setenv("LKS_GRIDS", str(tmp_path / "grids.toml"))
    refused(lks("grid", "--grid", "wrong", "--results", tmp_path / "r"), *parts)
    assert not (tmp_path / "r").exists()


def test_a_results_folder_that_cannot_be_written(cells, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(lks("grid", "--results", tmp_path / "file" / "r"), str(tmp_path / "file"), "--results")
    assert cells.ran == []


def test_results_of_another_protocol(cells, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "protocol.json").write_text('{"protocol": 0}')
    refused(lks("grid", "--results", tmp_path / "r"), "protocol 0")


def test_a_dry_run_prints_the_cells_and_makes_nothing(cells, tmp_path):
    result = lks("grid", "--dry-run", "--results", tmp_path / "r")
    assert result.exit_code == 0
    assert len(re.findall("micro-fake", result.output)) == 6
    assert "6 cells, 6 to run: no estimate" in result.output
    assert result.output.count("evaluation") == 6
    assert cells.ran == []
    assert not (tmp_path / "r").exists()


def test_status_and_report_without_results(cells, tmp_path):
    shown = lks("status", "--results", tmp_path / "r").output
    assert "No results" in shown
    assert "0 of 6 cells done, 6 to run\n" in shown
    refused(lks("report", "--results", tmp_path / "r"), "No results")


@pytest.mark.parametrize(
    ("what", "name"),
    [("methods", "lks"), ("datasets", "world"), ("grids", "tiny"), ("models", "micro-llama")],
)
def test_lists(grids, what, name):
    result = lks("list", what)
    assert result.exit_code == 0, result.output
    assert name in result.output


def test_every_method_is_listed_with_what_it_is(grids, monkeypatch):
    from baselines import methods

    monkeypatch.setenv("COLUMNS", "200")
    heading, *lines = lks("list", "methods").output.splitlines()
    assert heading.split() == ["method", "title", "changes", "regime", "source"]
    assert len(lines) == len(methods())
    for line, (name, method) in zip(lines, methods().items(), strict=True):
        assert line.split() == [
            name,
            *method.title.split(),
            method.changes,
            method.regime,
            *method.source.split(),
        ]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], [("micro-llama", "world", 10000), ("micro-mistral", "world", 10000)]),
        (["--dataset", "zsre", "--records", "1000"], [("mini", "zsre", 1000)]),
        (["mini-zsre-500"], [("mini-zsre-500", "world", 10000)]),
    ],
)
def test_testbed_build(monkeypatch, words, asked):
    from lks.testbed import build

    built = []
    monkeypatch.setattr(
        build, "build", lambda name, out, **how: built.append((name, how["dataset"], how["records"]))
    )
    assert lks("testbed", "build", *words).exit_code == 0
    assert built == asked


def test_testbed_refuses(tmp_path):
    refused(lks("testbed", "build", "micro-lama"), "Did you mean 'micro-llama'")
    refused(lks("testbed", "check", tmp_path), str(tmp_path))


@pytest.mark.usefixtures("prefect_server")
def test_a_grid_from_nothing_to_nothing_to_do(cells, tmp_path, monkeypatch):
    results = tmp_path / "r"
    first = lks("grid", "--results", results)
    assert first.exit_code == 0, first.output
    assert "[6/6] ft | micro-fake | world | T=3: ok" in first.output
    assert "the result table" in first.output
    assert f"Report: {results / 'report' / 'index.html'}" in first.output

    def no_flow(*_: object) -> None:
        raise AssertionError("the flow was started with nothing to do")

    monkeypatch.setattr("cli.run_grid._run_flow", no_flow)
    second = lks("grid", "--results", results)
    assert second.exit_code == 0, second.output
    assert "Nothing to do" in second.output
    assert "the result table" in second.output

    plan = lks("grid", "--dry-run", "--grid", "tiny", "--results", results)
    assert "6 cells, all stored, nothing to run" in plan.output
    status = lks("status", "--results", results)
    assert "6 ok" in status.output
    assert "6 of 6 cells done" in status.output
    assert len(cells.ran) == 6


WITH_A_REAL_MODEL = """
[first]
models = ["smollm2-135m"]
datasets = ["world"]
methods = ["ft"]
n_edits = [1]
otherwise = "tiny"

"""


@pytest.fixture
def nothing_to_be_had(cells, grids, tmp_path, monkeypatch):
    """No model is on the machine, and neither the hub nor a package index can be asked."""
    grids.write_text(WITH_A_REAL_MODEL + fakes.GRIDS)
    monkeypatch.delenv("LKS_GRID")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, value in (
        ("LKS_CACHE", tmp_path / "cache"),
        ("PIP_NO_INDEX", 1),
        ("HF_HUB_CACHE", tmp_path / "hub"),
    ):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "cli.readying.make_ready", lambda console, names: make_ready(console, set(names) - {"micro-fake"})
    )


@pytest.mark.usefixtures("prefect_server", "nothing_to_be_had")
def test_without_a_network_the_default_grid_makes_way_for_another_in_one_line(cells, tmp_path):
    done = lks("grid", "--results", tmp_path / "r")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if "instead" in line]
    assert "'first' needs smollm2-135m" in line
    assert "'tiny' is run instead" in line
    assert "[6/6] ft | micro-fake" in done.output


@pytest.mark.usefixtures("nothing_to_be_had")
@pytest.mark.parametrize("chosen", ["by name", "by the environment"])
def test_a_grid_that_was_asked_for_does_not_make_way(chosen, cells, tmp_path, monkeypatch):
    monkeypatch.setenv("LKS_GRID", "tiny" if chosen == "by name" else "first")
    named = ("--grid", "first") if chosen == "by name" else ()
    refused(lks("grid", *named, "--results", tmp_path / "r"), "smollm2-135m", "cannot be obtained")
    assert cells.ran == []


@pytest.mark.usefixtures("nothing_to_be_had")
@pytest.mark.parametrize(
    ("words", "variable", "said"),
    [(("--only", "method=ftt"), "", "Did you mean 'ft'"), ((), "float12", "LKS_DTYPE = 'float12'")],
)
def test_what_is_mistyped_is_told_before_a_model_is_fetched(words, variable, said, monkeypatch, tmp_path):
    def none_fetched(*_: object) -> None:
        raise AssertionError("a model was fetched")

    monkeypatch.setattr("cli.readying.make_ready", none_fetched)
    monkeypatch.setattr("flows.running.planning.revision_of_model", revision_of_model)
    monkeypatch.setenv("LKS_DTYPE", variable)
    refused(lks("grid", *words, "--results", tmp_path / "r"), said)


def test_a_grid_in_place_of_another_has_to_exist(grids):
    grids.write_text(WITH_A_REAL_MODEL.replace("tiny", "tinny") + fakes.GRIDS)
    refused(lks("grid", "--dry-run"), "'first', otherwise", "Did you mean 'tiny'")


@pytest.mark.usefixtures("prefect_server")
def test_another_run_on_the_same_folder_is_refused(cells, tmp_path):
    from flows.running.planning import only_writer

    with only_writer(tmp_path / "r"):
        refused(lks("grid", "--results", tmp_path / "r"), f"process {os.getpid()}")


@pytest.mark.usefixtures("prefect_server")
def test_what_must_be_mended_in_the_middle_is_one_line(grids, tmp_path, monkeypatch):
    from lks.errors import StoreError

    fakes.install(
        fakes.Cells(fail="ft | micro-fake | world | T=1", raises=StoreError("No space left in [results].")),
        monkeypatch.setattr,
    )
    refused(lks("grid", "--results", tmp_path / "r"), "No space left in [results].")


@pytest.mark.slow
def test_ctrl_c_drops_the_cell_in_hand_and_keeps_the_rest(grids, tmp_path, prefect_home):
    results = tmp_path / "r"
    environment = {
        **os.environ,
        "FAKE_WAIT": "1.5",
        "PREFECT_HOME": str(prefect_home),
        "PYTHONPATH": str(ROOT),
        "LKS_GRIDS": str(grids),
    }
    environment.pop("PREFECT_API_URL", None)
    process, terminal = (
        pty.fork()
    )  # a terminal of its own: Ctrl-C goes to the server's process too, as it does for people
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests started in the background inherit "ignore"
        os.execve(
            sys.executable,
            [sys.executable, fakes.__file__, "grid", "--results", str(results)],
            environment,
        )
    seen, pressed, deadline = b"", False, time.monotonic() + 200
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
        if not pressed and len(fakes.calls(results, "start")) >= 3:
            os.write(terminal, b"\x03")
            pressed = True
    else:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    text = seen.decode()
    assert os.waitstatus_to_exitcode(status) == 130, text
    assert "Finished work is kept" in text
    assert "Traceback" not in text
    assert "leaked" not in text
    assert len(list(results.glob("cells/*/outcome.json"))) == len(fakes.calls(results, "finish")) == 2
