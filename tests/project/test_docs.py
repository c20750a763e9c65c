"""What the documents show works: commands exist with these options, blocks of code run, links lead somewhere.

Languages of code blocks: `bash` and `python` are run, in order, in one empty folder per document; of
`console` the `lks` commands are only parsed (they need a GPU, another machine or hours); `toml` and `json`
are read; `text` is left alone.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import typer

from cli.app import app
from tests.helpers.root import ROOT

DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "deploy/README.md")
] + [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/experiments/*.md"))]
RUN, KNOWN = ("bash", "python"), ("bash", "python", "console", "toml", "json", "yaml", "text")
LONGEST_S = 500


@dataclass(frozen=True, slots=True)
class Block:
    line: int
    language: str
    text: str


def blocks(document: Path) -> Iterator[Block]:
    lines, start = document.read_text(encoding="utf-8").splitlines(), None
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start is None:
                start = number
            else:
                yield Block(
                    start,
                    lines[start - 1].removeprefix("```").strip(),
                    "\n".join(lines[start : number - 1]) + "\n",
                )
                start = None
    assert start is None, f"{document}:{start}: a code block without an end"


def of(*languages: str) -> list:
    return [
        pytest.param(document, block, id=f"{document.name}:{block.line}")
        for document in DOCUMENTS
        if document.exists()
        for block in blocks(document)
        if block.language in languages
    ]


def test_every_block_has_a_language():
    strange = [
        f"{d.name}:{b.line} {b.language!r}"
        for d in DOCUMENTS
        if d.exists()
        for b in blocks(d)
        if b.language not in KNOWN
    ]
    assert not strange, f"give them one of {', '.join(KNOWN)}"


def commands(text: str) -> Iterator[list[str]]:
    """The `lks` commands of a block, without what is piped in or out, environment and comments."""
    joined = re.sub(r"<<'?(\w+)'?.*?^\1$", "", text.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
    for line in joined.splitlines():
        for part in re.split(r"\s(?:\||&&|\|\|)\s", line):
            words = shlex.split(part.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0].rpartition("/")[2] == "lks":
                words = words[1:]
                yield words[
                    : next((i for i, word in enumerate(words) if re.match(r"\d?[<>&]", word)), len(words))
                ]


@pytest.mark.parametrize(("document", "block"), of("console", "bash"))
def test_commands_take_what_they_are_given(document: Path, block: Block):
    for words in commands(block.text):
        command: click.Command = typer.main.get_command(app)
        parent = click.Context(command, info_name="lks")
        while isinstance(command, click.Group):
            name = words.pop(0)
            assert name in command.commands, f"{document.name}:{block.line}: lks has no command {name!r}"
            command = command.commands[name]
            parent = click.Context(command, parent, info_name=name)
        try:
            command.make_context(command.name, [word for word in words if word != "&"], parent.parent)
        except click.UsageError as error:
            pytest.fail(f"{document.name}:{block.line}: {error.format_message()}")


@pytest.mark.parametrize(("document", "block"), of("toml"))
def test_toml_is_read(document: Path, block: Block):
    tomllib.loads(block.text)


@pytest.mark.parametrize(("document", "block"), of("json"))
def test_json_is_read(document: Path, block: Block):
    for line in block.text.splitlines() if "\n{" in block.text else [block.text]:
        json.loads(line)


RUNNABLE = [
    pytest.param(document, id=document.name)
    for document in DOCUMENTS
    if document.exists() and any(block.language in RUN for block in blocks(document))
]


@pytest.mark.slow
@pytest.mark.parametrize("document", RUNNABLE)
def test_code_runs(document: Path, tmp_path: Path):
    home = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{home}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    folder = tmp_path / "here"
    folder.mkdir()
    for block in blocks(document):
        if block.language in RUN:
            text = 'exec python -c "$0"' if block.language == "python" else block.text
            # as in one terminal: what was exported stays
            whole = f"if [ -f ../kept ]; then . ../kept; fi\n{text}\nexport -p > ../kept"
            command = ["bash", "-euo", "pipefail", "-c", whole, block.text]
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LONGEST_S,
                check=False,
            )
            assert done.returncode == 0, (
                f"{document.name}:{block.line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            )


LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


@pytest.mark.parametrize(
    "document", [pytest.param(document, id=document.name) for document in DOCUMENTS if document.exists()]
)
def test_links_lead_somewhere(document: Path):
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target, anchor in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path = document.parent / target if target else document
        assert path.exists(), f"{document.name}: {target} is not there"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
            }
            assert anchor[1:] in anchors, f"{document.name}: {target}{anchor} is not there"


def test_the_reference_of_commands_is_that_of_the_help_texts():
    """`make docs` writes it."""
    from cli.reference import PAGE, reference

    assert PAGE.read_text(encoding="utf-8") == reference()
