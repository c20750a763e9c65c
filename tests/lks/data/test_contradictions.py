"""Facts on one subject that contradict each other: refused where they ask letter for letter alike, noted
where they seem to ask the same.
"""

import json
from pathlib import Path

import pytest

from lks.data.contradictions import contradicting
from lks.data.fact_validation import UserFact
from lks.data.user_facts import Facts, read_facts
from lks.errors import DataError
from tests.lks.data.test_facts import refusal, written

STAFF, EMPLOYER = "Mara Kel is on the staff of", "The employer of Mara Kel is"


def facts(*lines: tuple[str, str]) -> list[UserFact]:
    return [UserFact(n, "Mara Kel", prompt, target) for n, (prompt, target) in enumerate(lines, 1)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"prompt": STAFF}, {"prompt": f"{STAFF}:"}),
        ({"prompt": STAFF}, {"prompt": "Mara Kel is on staff of"}),
        ({"prompt": STAFF}, {"prompt": EMPLOYER, "training_paraphrases": [STAFF]}),
        ({"prompt": STAFF, "training_paraphrases": [f"{EMPLOYER}?"]}, {"prompt": EMPLOYER}),
        (
            {"prompt": STAFF, "training_paraphrases": ["Mara Kel serves"]},
            {"prompt": EMPLOYER, "training_paraphrases": ["Mara Kel serves"]},
        ),
        (
            {"prompt": STAFF, "paraphrases": ["Who pays Mara Kel?"]},
            {"prompt": EMPLOYER, "paraphrases": ["who pays Mara Kel"]},
        ),
    ],
)
def test_one_question_with_two_targets_is_refused_with_both_lines(
    tmp_path: Path, first: dict[str, object], second: dict[str, object]
) -> None:
    one, other = ({"subject": "Mara Kel", **more} for more in (first, second))
    said = refusal(written(tmp_path, one | {"target": "Falcon Lines"}, other | {"target": "Trident Steel"}))
    assert (
        "line 2: " in said
        and "is asked by line 1 too, there with the target 'Falcon Lines', here it is 'Trident Steel'; keep one of them"
        in said
    )
    assert (
        len(
            read_facts(
                written(tmp_path, one | {"target": "Falcon Lines"}, other | {"target": "falcon lines"})
            ).facts
        )
        == 2
    )


def test_names_that_differ_in_case_alone_are_no_contradiction(tmp_path: Path) -> None:
    lines = [
        {"subject": name, "prompt": f"In a text, {name} is short for", "target": target}
        for name, target in (("US", "United States"), ("us", "we"))
    ]
    assert len(read_facts(written(tmp_path, *lines)).facts) == 2


WORDS = [
    ("Mara Kel was born in", "The birthplace of Mara Kel is"),
    ("Where was Mara Kel born?", "Mara Kel was born in the"),
    ("The employer of Mara Kel is", "Mara Kel's employer is called"),
    ("Mara Kel died in", "Mara Kel's place of death is"),
    ("Mara Kel arbeitet bei der Firma", "Bei der Firma arbeitet Mara Kel,"),
    ("In 1990 Mara Kel worked for", "Mara Kel worked in 1990 for"),
]
OTHER_WORDS = [
    ("In 1990 Mara Kel worked for", "In 1995 Mara Kel worked for"),
    ("Mara Kel was born in", "When was Mara Kel born?"),
    ("The father of Mara Kel is", "The mother of Mara Kel is"),
    (STAFF, EMPLOYER),
    ("Mara Kel plays the", "Mara Kel lives in"),
]


@pytest.mark.parametrize(("one", "other"), WORDS)
def test_the_same_content_words_are_noted_with_both_lines(one: str, other: str) -> None:
    (note,) = contradicting(facts((one, "Oslo"), ("Mara Kel eats", "fish"), (other, "Rome")))
    assert (
        f"{one!r} (line 1) and {other!r} (line 3) seem to ask the same and have different targets: 'Oslo' and 'Rome'"
        in note
    )
    assert contradicting(facts((one, "Oslo"), (other, "oslo"))) == ()


@pytest.mark.parametrize(("one", "other"), OTHER_WORDS)
def test_where_nothing_tells_relations_apart_one_line_says_that_they_may_be_the_same(
    one: str, other: str
) -> None:
    texts = [(name, prompt.replace("Mara Kel", name)) for name in ("Ada", "Bo") for prompt in (one, other)]
    pairs = [UserFact(n, name, prompt, f"answer {n}") for n, (name, prompt) in enumerate(texts, 1)]
    (note,) = contradicting(pairs)
    assert (
        note.startswith("2 subjects have facts with different targets: ")
        and "unless two of them ask the same" in note
    )


def test_paraphrases_of_other_facts_tell_that_two_ask_the_same() -> None:
    ida = UserFact(9, "Ida", "Ida is on the staff of", "x", paraphrases=("The employer of Ida is",))
    (note,) = contradicting([*facts((STAFF, "Falcon Lines"), (EMPLOYER, "Trident Steel")), ida])
    assert "seem to ask the same" in note


def test_relations_that_are_known_to_be_others_bring_no_note(tmp_path: Path) -> None:
    triples = written(
        tmp_path,
        "Mara Kel | employer | Falcon",
        "Mara Kel | former employer | Trident",
        "Mara Kel | pet | cat",
        name="facts.txt",
    )
    assert contradicting(read_facts(triples).facts) == ()
    staff = UserFact(1, "Mara Kel", STAFF, "x", paraphrases=("Who pays Mara Kel?",))
    assert (
        contradicting(
            [
                staff,
                UserFact(
                    2,
                    "Mara Kel",
                    "Mara Kel plays the",
                    "y",
                    training_paraphrases=("Mara Kel's instrument is",),
                ),
            ]
        )
        == ()
    )


def test_many_are_counted() -> None:
    many = [
        fact
        for i in range(9)
        for fact in (
            UserFact(i, f"P{i}", f"P{i} was born in", "a"),
            UserFact(i, f"P{i}", f"Where was P{i} born?", "b"),
        )
    ]
    notes = contradicting(many)
    assert len(notes) == 6 and notes[-1].startswith("4 more pairs")


def test_earlier_facts_of_a_patch_count_too() -> None:
    earlier, later = (
        Facts("x", tuple(facts(("Mara Kel was born in", "Oslo")))),
        Facts("y", tuple(facts(("Where was Mara Kel born?", "Rome")))),
    )
    (note,) = contradicting(earlier.joined(later).facts)
    assert "(the fact 'Mara Kel was born in')" in note
    with pytest.raises(DataError, match="keep one of them"):
        earlier.joined(Facts("y", tuple(facts(("Mara Kel was born in:", "Rome")))))


def test_the_relation_is_no_part_of_what_is_kept(tmp_path: Path) -> None:
    from lks.data.user_facts import write_facts

    found = read_facts(written(tmp_path, "Mara Kel | employer | Falcon", name="facts.txt"))
    assert found.facts[0].relation == "employer"
    write_facts(tmp_path / "copy.jsonl", found)
    assert "relation" not in json.loads((tmp_path / "copy.jsonl").read_text())
