"""`lks.scope.fuzzy`: what is a typing mistake and what is another name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from lks.scope.exact import ExactScope
from lks.scope.fuzzy import FuzzyScope
from lks.scope.indicator import make_scope
from lks.scope.typo_index import Hashed, TypoIndex

NAMES = [
    ["Mara Kelorin"],
    ["Mara Kel"],
    ["John Smithson"],
    ["Karolina Stein", "Ms Stein"],
    ["Windows 1998"],
    ["José Müllerson"],
    ["Kelorinburg"],
]
SCOPE = FuzzyScope(NAMES)


def spelt(text: str, scope: FuzzyScope = SCOPE) -> list[tuple[int, str]]:
    return [(m.subject_index, text[m.start : m.end]) for m in scope.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where was Mara Kelorim born?", [(0, "Mara Kelorim")]),
        ("Where was Mara Klorin born?", [(0, "Mara Klorin")]),
        ("Where was Mara Keloorin's son born?", [(0, "Mara Keloorin")]),
        ("Where was Mara Keolrin born?", [(0, "Mara Keolrin")]),
        ("Where was MaraKelorin born?", [(0, "MaraKelorin")]),
        ("where was karolina stien born?", [(3, "karolina stien")]),
        (
            "Karolina Stien and Mara Kel and Mara Kelorim",
            [(3, "Karolina Stien"), (1, "Mara Kel"), (0, "Mara Kelorim")],
        ),
        ("Jose Mullerson", [(5, "Jose Mullerson")]),
        ("José Müllrson", [(5, "José Müllrson")]),
        ("Kelorinbugr", [(6, "Kelorinbugr")]),
        ("Where was Mara Kelorms born?", []),  # two mistakes
        ("Joan Smithson", []),  # another first name
        ("Windows 1999", []),
        ("Windows 19988", []),
        ("Mara Kelorins", []),
        ("Melorinburg", []),
        ("Mra Kel", []),  # too short
        ("Anna Mara Kelorim", []),  # a part of a longer name
        ("Mara Kelorim Street", []),
        ("no name here at all", []),
        ("", []),
    ],
)
def test_one_mistake_is_forgiven_where_it_makes_no_other_name(
    text: str, expected: list[tuple[int, str]]
) -> None:
    assert spelt(text) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Louis XIV", "Louis XV"),
        ("Cadillac DTS", "The Cadillac XTS is"),
        ("Sri Lanka", "Sri Lankan"),
        ("In Dust", "in dusk"),
        ("Life Story", "lief story"),
    ],
)
def test_near_names_that_are_others(name: str, text: str) -> None:
    assert spelt(text, FuzzyScope([[name]])) == []


def test_two_subjects_equally_near_are_left_alone() -> None:
    scope = FuzzyScope([["Tomas Verinar"], ["Tomas Verinor"]])
    assert spelt("Tomas Verinur", scope) == []
    assert spelt("Tomas Verinar", scope) == [(0, "Tomas Verinar")]
    assert spelt("Tomas Verinaar", scope) == [(0, "Tomas Verinaar")]
    assert spelt("Tomas Verinaar", FuzzyScope([["Tomas Verinar"], ["tomas verinar"]])) == []


def test_what_is_exact_stays() -> None:
    text = "Mara Kel met John Smithson in Kelorinburg"
    assert make_scope("fuzzy", NAMES).find(text) == ExactScope(NAMES).find(text) != ()


WORDS = (
    st.lists(st.text("abcdxyz", min_size=3, max_size=7), min_size=1, max_size=3)
    .map(" ".join)
    .filter(lambda name: 6 <= len(name) <= 20)
)


@given(WORDS, st.data())
def test_the_index_finds_every_name_one_mistake_away(name: str, data: st.DataObject) -> None:
    kind, at = (
        data.draw(st.sampled_from(["in", "out", "other", "swap"])),
        data.draw(st.integers(0, len(name) - 2)),
    )
    letter = data.draw(st.sampled_from("abcdxyz"))
    made = {
        "in": name[:at] + letter + name[at:],
        "out": name[:at] + name[at + 1 :],
        "other": name[:at] + letter + name[at + 1 :],
        "swap": name[:at] + name[at + 1] + name[at] + name[at + 2 :],
    }[kind]
    assert OSA.distance(made, name) <= 1
    index = TypoIndex(["zzzzzz zz", name])
    text = f"xx {made} yy"
    found = set(index.near(Hashed(text), np.array([3, 0]), np.array([3 + len(made), 2 + 6])))
    assert (0, 1) in found and index.name(1) == name


@given(st.text(max_size=60))
def test_mentions_are_ordered_disjoint_and_near_their_name(text: str) -> None:
    end = 0
    for mention in SCOPE.find(text):
        assert end <= mention.start < mention.end <= len(text)
        end = mention.end


PIECES = st.sampled_from(
    ["Mara", "Kelorim", "Kel", "the", "of", "Karolina", "Stien", "1998", "Windows", ",", "'s", "joan"]
)


@given(st.lists(PIECES, max_size=9).map(" ".join))
def test_mentions_of_near_names_are_ordered_and_disjoint(text: str) -> None:
    end = 0
    for mention in SCOPE.find(text):
        assert end <= mention.start < mention.end <= len(text)
        end = mention.end
        assert any(
            OSA.distance(text[mention.start : mention.end].lower(), name.lower()) <= 1
            for name in NAMES[mention.subject_index]
        )
