"""What a model cannot be taught or asked is told with its line before it trains; what a method lacks is told
with what helps.
"""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from lks.data.fact_validation import UserFact
from lks.data.user_facts import BadLines, Facts, read_facts
from lks.errors import DataError, NothingToLearnFrom, UserError
from lks.models.lm import LM
from lks.progress import no_progress
from tests.helpers import tiny
from workbench.editing import EditRequest, _prepare, edit_model, update_model
from workbench.fitting import fitting
from workbench.patch_folder import SavedEdits, is_patch
from workbench.presets import TRAINING_HINT

LONG = "The river ran on past the mill. " * 64
FINE = {"subject": "Mara Kel", "prompt": "Mara Kel is on the staff of", "target": "Falcon Lines"}
FIELDS = {
    "edit": {"prompt": f"{LONG}Ada works as a"},
    "edit ": {"target": LONG.strip()},
    "paraphrase 2": {"paraphrases": ["Where is Ada", f"{LONG}Where is Ada"]},
    "locality 1": {"locality": [{"prompt": f"{LONG}Bo is a", "answer": "baker"}]},
    "portability 1": {"portability": [{"prompt": "Where", "answer": LONG}]},
    "training paraphrase 1": {"training_paraphrases": [f"{LONG}Ada is a"]},
    "training locality prompt 2": {"training_locality": ["Ada was", f"{LONG}Ada was"]},
}


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load("micro-llama", "cpu")


def facts(folder: Path, *lines: dict[str, object]) -> Path:
    file = folder / "facts.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_longer_than_the_window_is_told_with_its_line(lm: LM, tmp_path: Path, field: str) -> None:
    long = {"subject": "Ada", "prompt": "Ada works as a", "target": "plumber", **FIELDS[field]}
    given = read_facts(facts(tmp_path, FINE, long, FINE | {"prompt": "Mara Kel plays the"}))
    seen: list[str] = []
    with pytest.raises(DataError) as refused:
        edit_model(lm, given, EditRequest("ft"), lambda stage, done: seen.append(stage))
    assert "facts: 1 thing is wrong in 3 facts" in str(refused.value) and seen == []
    assert f"\n  line 2: {field.strip()}: prompt and answer need " in str(
        refused.value
    ) and "micro-llama has 512. Shorten it" in str(refused.value)
    left = fitting(lm, given, BadLines(skip_bad=True))
    assert [fact.line for fact in left.facts] == [1, 3] and left.skipped[0].startswith(
        f"line 2: {field.strip()}: "
    )


def test_what_just_fits_is_taken_and_a_token_more_is_not(lm: LM) -> None:
    free = int(lm.model.config.max_position_embeddings) - len(lm.encode(["Ada is"], ["x"])[0].ids)
    both = [
        UserFact(
            1,
            "Ada",
            f"{'the ' * count}Ada is",
            "x",
            training_paraphrases=("Ada",),
            training_locality=("Ada",),
        )
        for count in (free, free + 1)
    ]
    assert len(lm.encode([both[0].prompt], ["x"])[0].ids) == lm.model.config.max_position_embeddings
    assert fitting(lm, Facts("x", (both[0],))).facts == (both[0],)
    with pytest.raises(DataError, match="need 513 tokens"):
        fitting(lm, Facts("x", (both[1],)))


def test_facts_without_lines_and_those_of_an_update_are_named(lm: LM) -> None:
    long = Facts("more", (UserFact(0, "Ada", f"{LONG}Ada works as a", "plumber", id="ada"),))
    with pytest.raises(DataError, match="the fact 'ada', edit: prompt and answer need"):
        update_model(lm, SavedEdits(None, object(), Facts("x", ())), long)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the fact 'ada'"):
        fitting(lm, long, BadLines(skip_bad=True))


def test_the_command_leaves_bad_lines_out_and_lists_them(tmp_path: Path) -> None:
    long = {"subject": "Ada", "prompt": f"{LONG}Ada works as a", "target": "plumber"}
    file = facts(tmp_path, FINE, FINE | {"target": "Trident Steel"}, long, {"subject": "Bo"})
    words = [
        "edit",
        "--model",
        "micro-llama",
        "--method",
        "ft",
        "--set",
        "max_epochs=1",
        "--facts",
        str(file),
        "--out",
        str(tmp_path / "patch"),
    ]
    strict = CliRunner().invoke(app, words)
    assert strict.exit_code == 2 and "--skip-bad" in strict.output and not (tmp_path / "patch").exists()
    done = CliRunner().invoke(app, [*words, "--skip-bad"])
    assert done.exit_code == 0, done.output
    assert (
        f"4 things are wrong with the facts: these lines are skipped and listed in {tmp_path / 'patch' / 'skipped.txt'}."
        in done.output
    )
    listed = (tmp_path / "patch" / "skipped.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == ["line 2", "line 4", "line 4", "line 3"]
    assert is_patch(tmp_path / "patch") and [
        fact.target for fact in read_facts(tmp_path / "patch" / "facts.jsonl").facts
    ] == ["Falcon Lines"]


def test_the_command_shows_all_errors_and_notes_contradictions(tmp_path: Path) -> None:
    bad = facts(
        tmp_path, *[{"subject": f"P{i}", "prompt": "Nobody was born in", "target": "x"} for i in range(30)]
    )
    words = [
        "edit",
        "--model",
        "micro-llama",
        "--method",
        "ft",
        "--set",
        "max_epochs=1",
        "--out",
        str(tmp_path / "patch"),
        "--facts",
    ]
    assert "line 21:" not in CliRunner().invoke(app, [*words, str(bad)]).output
    assert "line 30:" in CliRunner().invoke(app, [*words, str(bad), "--all-errors"]).output
    two = facts(tmp_path, FINE, FINE | {"prompt": "The employer of Mara Kel is", "target": "Trident Steel"})
    assert (
        "(line 1) and 'The employer of Mara Kel is' (line 2), 'Falcon Lines' and 'Trident Steel'"
        in CliRunner().invoke(app, [*words, str(two)]).output
    )


def test_a_dataset_is_named_only_where_one_helps(lm: LM) -> None:
    given = Facts("x", (UserFact(1, "Mara Kel", "Mara Kel plays the", "horn"),))
    with pytest.raises(UserError, match=r"It has no corpus to take statistics of.* --training: zsre"):
        edit_model(lm, given, EditRequest("rome"))
    with pytest.raises(UserError, match=r"Unknown corpus .* 'wrold'") as misspelt:
        edit_model(lm, given, EditRequest("rome", {"corpus": "wrold"}))
    with pytest.raises(UserError, match="Locate-then-edit methods cannot edit it") as normed:
        edit_model(tiny.lm("gemma3_text"), given, EditRequest("rome"))
    assert "--training" not in f"{misspelt.value} {normed.value}"

    class Lacking:
        title = "IKE"

        def prepare(self, *given: object) -> float:
            raise NothingToLearnFrom("There are none.")

    with pytest.raises(UserError) as hinted:
        _prepare(lm, Lacking(), [], "", no_progress)  # type: ignore[arg-type]
    assert (
        str(hinted.value)
        == f"IKE learns from other texts or edits before it edits. There are none. {TRAINING_HINT}"
    )
    with pytest.raises(NothingToLearnFrom, match=r"^There are none.$"):
        _prepare(lm, Lacking(), [], "world", no_progress)  # type: ignore[arg-type]
