"""Words of the project's early private idiom, which texts for users no longer use, each with what to write instead."""

import re
from pathlib import Path

import pytest

from tests.helpers.root import ROOT

REJECTED = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again, rebuild, recompute",
    r"go(es|ing)? on from": "resume from, continue from",
    r"one's own": "your own, separate",
    r"an URL": "a URL",
    r"made world": "synthetic world",
    r"for ever": "indefinitely",
}
WORDS = re.compile(rf"\b({'|'.join(REJECTED)})\b", re.IGNORECASE)
PRODUCT = ("lks", "baselines", "flows", "reports", "workbench", "cli", "benchmarks", "deploy", "docs")
KINDS = {".py", ".md", ".toml", ".yaml", ".sql", ".html", ".js", ".css", ".sh", ".sbatch"}
ALLOWED = re.compile(r"\bMEND\b|[\"'`/]mend\b|\bmend(\.py|\.Mend)|baselines\.mend|class Mend\b")
"""The method MEND, by its title, its registry name and its module."""

FILES = [
    file
    for folder in PRODUCT
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in KINDS and not file.is_relative_to(ROOT / "docs" / "results")
] + [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "prefect.yaml", "pyproject.toml")]


def found_in(text: str) -> list[str]:
    return [match[0] for line in text.splitlines() for match in WORDS.finditer(ALLOWED.sub("", line))]


def test_the_files_are_there() -> None:
    assert len(FILES) > 300


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_rejected_words_are_not_used(file: Path) -> None:
    found = found_in(file.read_text(encoding="utf-8"))
    assert not found, (
        f"{file} says {found}; write instead: {[v for k, v in REJECTED.items() if re.fullmatch(k, found[0], re.I)]}"
    )


@pytest.mark.parametrize(
    "text",
    ["Mend the line.", "edit anew", "It goes on from there.", "of one's own", "an URL", "a made world"],
)
def test_they_would_be_found(text: str) -> None:
    assert found_in(text)


def test_the_method_is_not_meant() -> None:
    assert not found_in('MEND trains an editor; `mend` in "mend" of baselines.mend')
