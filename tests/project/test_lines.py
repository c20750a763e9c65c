"""What ends a line of a text file: `\\n` and `\\r\\n`, whatever else its texts hold, in every file that is
read line by line.
"""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from baselines._locate_then_edit.corpus import texts
from cli.app import app
from lks.data.user_facts import line_of, read_facts, write_facts
from lks.evaluation.scope_prompts import abilities, read_edits
from lks.io.json_lines import JsonLinesFile, lines_of
from lks.io.lines import json_line, split_lines
from lks.llm.judge_calibration import labelled_items
from lks.prompts.files import write_lines
from lks.prompts.filters import WrittenPrompt, read
from tests.helpers.root import ROOT
from workbench.export import _subjects
from workbench.serving.protocol import Completion, Refusal, understood

ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00\ufeff\xa0\u200d\u0301"
"""Line ends elsewhere, control characters, and characters that Unicode composes or that cannot be seen."""
WORDS = st.text("aä|;, \t'\"=>\\{}" + ODD, max_size=12)


@given(st.lists(st.text("ab " + ODD)))
@settings(deadline=None)
def test_lines_end_at_newlines_alone(lines: list[str]) -> None:
    assert split_lines("".join(f"{line}\n" for line in lines)) == lines
    assert split_lines("".join(f"{line}\r\n" for line in lines)) == lines


def test_the_last_line_needs_no_end() -> None:
    assert split_lines("a\nb") == split_lines("a\r\nb\n") == ["a", "b"]
    assert split_lines("") == []
    assert split_lines("\n\n") == ["", ""]


@given(st.text())
@settings(deadline=None)
def test_a_json_line_is_one_line_for_every_reader(text: str) -> None:
    line = json_line({"text": text})
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"text": text}


def test_half_a_character_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        json_line({"text": "\ud83d"})


@given(WORDS, WORDS, WORDS, WORDS)
@example("", "\u2028", "\x85", "\x00")
@settings(deadline=None)
def test_facts_that_were_read_are_read_again_from_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, verb: str, target: str, other: str
) -> None:
    folder = tmp_path_factory.mktemp("facts")
    fact = {
        "subject": f"K{name}l",
        "prompt": f"{verb}z K{name}l is",
        "target": f"x{target}y",
        "aliases": [f"M{other}."],
    }
    fact |= {
        "paraphrases": [f"where {other}q"],
        "locality": [{"prompt": f"p{verb}{other}", "answer": f"y{other}y"}],
    }
    (folder / "raw.jsonl").write_bytes(json.dumps(fact, ensure_ascii=False).encode() + b"\r\n")
    (folder / "escaped.jsonl").write_bytes(json.dumps(fact).encode())
    found = read_facts(folder / "raw.jsonl")
    assert found.facts == read_facts(folder / "escaped.jsonl").facts
    write_facts(folder / "copy.jsonl", found)
    assert read_facts(folder / "copy.jsonl").facts == found.facts
    assert (folder / "copy.jsonl").read_text("utf-8").splitlines() == [line_of(found.facts[0])], (
        "readers that split elsewhere find it whole too"
    )
    (folder / "facts.jsonl").write_bytes((folder / "raw.jsonl").read_bytes())
    assert _subjects(folder) == (fact["subject"],)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_tables_and_triples_hold_such_characters(tmp_path: Path, odd: str, end: str) -> None:
    (tmp_path / "facts.csv").write_bytes(
        end.join(["subject,prompt,target", f'Mara,"a{odd}b, Mara is",x{odd}y', "Ada,Ada is,z"]).encode()
    )
    (tmp_path / "facts.txt").write_bytes(
        end.join([f"Mara{odd}Kel | job | a{odd}b", "Ada | job | z"]).encode()
    )
    assert [(f.line, f.prompt, f.target) for f in read_facts(tmp_path / "facts.csv").facts] == [
        (2, f"a{odd}b, Mara is", f"x{odd}y"),
        (3, "Ada is", "z"),
    ]
    assert [(f.line, f.subject, f.target) for f in read_facts(tmp_path / "facts.txt").facts] == [
        (1, f"Mara{odd}Kel", f"a{odd}b"),
        (2, "Ada", "z"),
    ]


def test_every_other_file_of_lines_is_read_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "a\u2028b\x85c\x1cd"
    write_lines(tmp_path / "training.jsonl", [{"text": odd}])
    assert [row for _, row in lines_of(tmp_path / "training.jsonl")] == [{"text": odd}]
    for row, file in (
        ({"subject": odd}, "edits.jsonl"),
        ({"question": odd, "target": "t", "answer": odd, "label": True}, "labels.jsonl"),
    ):
        (tmp_path / file).write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_edits(tmp_path / "edits.jsonl").names == ((odd,),)
    assert [item.item.question for item in labelled_items(tmp_path / "labels.jsonl")] == [odd]
    (tmp_path / "replies.jsonl").write_text(
        json.dumps({"key": "k", "reply": odd}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert JsonLinesFile(tmp_path / "replies.jsonl").entries["k"]["reply"] == odd
    (tmp_path / "corpus.txt").write_text(f"{odd}\nsecond\n", encoding="utf-8")
    assert list(texts(str(tmp_path / "corpus.txt"))) == [odd, "second"]
    for file, text in (
        ("gsm8k/test.jsonl", json.dumps({"question": odd}, ensure_ascii=False)),
        ("sst2/dev.tsv", f"sentence\tlabel\n{odd}\t1"),
        ("rte/dev.tsv", f"0\t{odd}\tso\t1"),
        ("rte/val.tsv", f"0\t{odd}\tso\t1"),
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(f"{text}\n", encoding="utf-8")
    assert [{prompt.text for prompt in outside.prompts} for outside in abilities(tmp_path)] == [
        {odd},
        {odd},
        {f"{odd} so"},
    ]
    assert read("paraphrase", "Where is\u2028it?") == WrittenPrompt("Where is it?")


def test_prompts_on_the_standard_input_end_at_newlines(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import ask
    from workbench import compare_answers, patch_folder

    asked: list[str] = []
    monkeypatch.setattr(
        patch_folder,
        "read",
        lambda folder: type("E", (), {"check_model": lambda *a: None, "patch": None, "form": "bare"})(),
    )
    monkeypatch.setattr(ask, "loaded", lambda *a: None)
    monkeypatch.setattr(compare_answers, "warm_up", lambda *a: None)
    monkeypatch.setattr(compare_answers, "reply", lambda lm, patch, prompt, *a: asked.append(prompt))
    monkeypatch.setattr(ask, "show_reply", lambda *a: None)
    words = ["ask", "--model", "micro-llama", "--patch", "x"]
    assert CliRunner().invoke(app, words, input="\ufeffa\u2028b\r\n\nc\x85d".encode()).exit_code == 0
    assert asked == ["a\u2028b", "c\x85d"]
    refused = CliRunner().invoke(app, words, input=b"caf\xe9\n")
    assert refused.exit_code == 2 and "not UTF-8 (byte 3)" in refused.output
    typed = CliRunner().invoke(app, [*words, "Mara", "caf\udce9"])
    assert typed.exit_code == 2 and "'caf\\udce9' is not UTF-8" in typed.output


@pytest.mark.parametrize("prompt", ["\ud83d", ["Mara", "\udfff"]])
def test_a_server_refuses_half_a_character(prompt: object) -> None:
    with pytest.raises(Refusal, match="half of a character"):
        understood(Completion, {"model": "m", "prompt": prompt})
    assert understood(Completion, {"model": "m", "prompt": "Mara\u2028\U0001f600"}).model == "m"


def test_nothing_that_is_read_is_split_by_splitlines() -> None:
    """It may split messages of libraries and the program's own texts, never a file or a reply:
    `lks.io.lines.split_lines` does that.
    """
    files = [
        file
        for package in ("lks", "baselines", "workbench", "cli")
        for file in sorted((ROOT / package).rglob("*.py"))
    ]
    calls = [
        (file, node.func)
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call)
    ]
    found = [
        f"{file.name}: {ast.unparse(call.value)}"
        for file, call in calls
        if isinstance(call, ast.Attribute) and call.attr == "splitlines"
    ]
    messages = ("str(error)", "f'{type(error).__name__}: {error}'", "gguf_models.py: said")
    allowed = (*messages, "connection.py: text", "Path('/proc/self/status').read_text()")
    assert not [one for one in found if not any(part in one for part in allowed)]
