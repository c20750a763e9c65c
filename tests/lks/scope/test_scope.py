"""`lks.scope.exact`: what is a mention and what is not, in both scopes."""

import unicodedata
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lks.errors import UserError
from lks.scope.exact import ExactScope, Mention
from lks.scope.indicator import make_scope
from lks.scope.normalization import fold
from lks.scope.official import OfficialScope, entity_spans

NAMES = [
    ["Mara Kel"],
    ["Mara Kelorin"],
    ["Anna Toll", "Dr Toll"],
    ["Anna Toll Vesting"],
    ["José Müller"],
    ["東京"],
    ["Life"],
    ["Yahoo!"],
]
LETTERS = st.text(st.sampled_from("abcdeéßİK東ﬁ"), min_size=1, max_size=6)
NAME = st.lists(LETTERS.map(lambda letters: "qxz" + letters), min_size=1, max_size=3).map(" ".join)


def spelt(text: str, names: list[list[str]] | None = None) -> list[tuple[int, str]]:
    """Subjects of the mentions with the text they cover."""
    return [
        (m.subject_index, text[m.start : m.end])
        for m in ExactScope(NAMES if names is None else names).find(text)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where was Mara Kel born?", [(0, "Mara Kel")]),
        ("Mara Kel", [(0, "Mara Kel")]),
        ("Mara Kelorin sings", [(1, "Mara Kelorin")]),
        ("Mara Kelor sings", []),
        ("Mara Kel2", []),
        ("Mara Kel_x", []),
        ("(Mara Kel), Mara Kel.", [(0, "Mara Kel"), (0, "Mara Kel")]),
        ("AMara Kel", []),
        ("O'Mara Kel", []),
        ("'Mara Kel'", [(0, "Mara Kel")]),
        ("Mara Kel's pet", [(0, "Mara Kel")]),
        ("Mara Kel’s pet", [(0, "Mara Kel")]),
        ("Mara Kelorin's pet", [(1, "Mara Kelorin")]),
        ("Mara Kel'ar", []),
        ("Mara Kel-based", [(0, "Mara Kel")]),
        ("Anna Toll and Anna Toll Vesting", [(2, "Anna Toll"), (3, "Anna Toll Vesting")]),
        ("Anna Toll Vestings", []),
        ("anna toll vestings", [(2, "anna toll")]),
        ("ask Dr Toll", [(2, "Dr Toll")]),
        ("where was mara kel born", [(0, "mara kel")]),
        ("MARA KELORIN", [(1, "MARA KELORIN")]),
        ("this is life", []),
        ("this is Life, this is LIFE", [(6, "Life"), (6, "LIFE")]),
        ("it is a Life in Oslo", [(6, "Life")]),
        ("The Fight of My Life", []),
        ("Life of Brian", []),
        ("Yahoo! is", [(7, "Yahoo!")]),
        ("Yahoo is", []),
        ("私は東京タワーへ", [(5, "東京")]),
        ("", []),
    ],
)
def test_mentions_are_whole_names(text: str, expected: list[tuple[int, str]]) -> None:
    assert spelt(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Who built Chicago Opera House?", False),
        ("Who is Davies Chicago?", False),
        ("David Chicago sings", False),
        ("Yesterday Chicago slept", True),
        ("What did Chicago do? Did Chicago sleep", True),
        ("the Chicago 8", False),
        ("136 Chicago", False),
        ("in 1998 Chicago slept", True),
        ("the 1998 Chicago fire", False),
        ("Chicago/Bergen", False),
        ("Frank Chicago sings", False),
        ("Constance of Chicago", False),
        ("The CEO of Chicago", True),
        ("Mayor Jan de Chicago", False),
        ("Chicago de Vries", False),
        ("Krauss-Chicago", False),
        ("Chicago-Bergen", False),
        ("Chicago-based", True),
        ("Krauss & Chicago", False),
        ("Chicago & Sons", False),
        ("Chicago, Illinois; (Chicago)", True),
        ("Bergen's Chicago", True),
        ("Chicago's Field Museum", True),
        ("WHO IS CHICAGO OPERA", True),
        ("who is chicago Opera", True),
        ("Dr. Chicago", False),
        ("That was Dr Who. Chicago slept", True),
    ],
)
def test_a_part_of_a_longer_name_is_no_mention(text: str, found: bool) -> None:
    assert bool(spelt(text, [["Chicago"]])) is found


def test_a_title_is_no_part_of_a_name_of_several_words() -> None:
    assert spelt("President Anna Toll", [["Anna Toll"]]) and not spelt("King David", [["David"]])


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("It", "It is late. Is It a film? It", True),
        ("It", "It is late", False),
        ("It", "is it late", False),
        ("It", "the IT department", False),
        ("The Band", "the Band", True),
        ("The Band", "the band", False),
        ("The Band", "THE BAND", True),
        ("60 Minutes", "in 60 minutes", False),
        ("60 Minutes", "on 60 Minutes", True),
        ("New Tricks", "new tricks", False),
        ("bishop", "the bishop", True),
        ("bishop", "The Bishop of Meath", False),
        ("Oslo", "where is oslo", True),
        ("Average Joe", "on average Joe runs", False),
        ("Average Joe", "average joe", True),
    ],
)
def test_names_that_could_be_ordinary_text_need_their_capitals(name: str, text: str, found: bool) -> None:
    assert bool(spelt(text, [[name]])) is found


def test_a_longer_name_that_ends_inside_a_word_does_not_hide_a_shorter_one() -> None:
    names = [["Mara"], ["Mara Kelor"], ["Kel"]]
    assert spelt("mara kelorin's", names) == [(0, "mara")]
    assert spelt("mara kelor's", names) == [(1, "mara kelor")]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_every_unicode_form_of_a_name_is_found_in_every_form_of_a_text(
    form: Literal["NFC", "NFD", "NFKC", "NFKD"],
) -> None:
    text = unicodedata.normalize(form, "Wo lebt JOSÉ Müller, José Müllers Sohn? é José Müller")
    for name in (unicodedata.normalize("NFC", "José Müller"), unicodedata.normalize("NFD", "José Müller")):
        found = spelt(text, [[name]])
        assert [unicodedata.normalize("NFC", covered) for _, covered in found] == [
            "JOSÉ Müller",
            "José Müller",
        ]


def test_a_name_is_not_found_inside_a_character() -> None:
    assert spelt("Jose\u0301 x", [["Jose"]]) == []
    assert spelt("x\u0302 y", [["X"]]) == []
    assert spelt("of ﬁ", [["f"], ["i"]]) == []
    assert spelt("Jose\ufffd", [["Jose"]]) == []


def test_characters_that_fold_to_several_keep_their_place() -> None:
    assert spelt("kİn STRASSE und Straße 5", [["Straße 5"], ["Strasse"]]) == [(1, "STRASSE"), (0, "Straße 5")]
    assert spelt("the Fine OFﬁCE, FINE", [["Fine Office"], ["office fine"]]) == [(0, "Fine OFﬁCE")]


def test_of_subjects_with_one_name_the_exact_spelling_counts_then_the_first() -> None:
    names = [["MARA KEL"], ["Mara Kel"], ["Mara Kel"], ["Other", "mara kel"]]
    assert [subject for subject, _ in spelt("Mara Kel, MARA KEL, mara kel, mArA Kel", names)] == [1, 0, 3, 0]


@pytest.mark.parametrize("kind", ["exact", "fuzzy", "official"])
@pytest.mark.parametrize("names", [[], [[]], [[""]], [["  "]]])
def test_no_names_no_mentions(kind: str, names: list[list[str]]) -> None:
    assert make_scope(kind, names).find("Mara Kel was here") == ()  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match="Did you mean 'exact'"):
        make_scope("exakt", NAMES)  # type: ignore[arg-type]


@given(st.lists(NAME, min_size=1, max_size=5), st.data())
def test_a_name_between_fillers_is_found_where_it_is(names: list[str], data: st.DataObject) -> None:
    fillers = st.text(st.sampled_from(" .,é\u0301?🙂"), max_size=10)
    index = data.draw(st.integers(0, len(names) - 1))
    before, after = data.draw(fillers), data.draw(fillers.filter(lambda text: not text.startswith("\u0301")))
    name = names[index]
    text = f"{before} {name} {after}"
    found = ExactScope([[n] for n in names]).find(text)
    start = len(before) + 1
    covering = [m for m in found if m.start <= start and m.end >= start + len(name)]
    assert len(covering) == 1
    if (covering[0].start, covering[0].end) == (start, start + len(name)):
        assert fold(names[covering[0].subject_index])[0] == fold(name)[0]
    else:  # a longer name that begins with this one, or one that began further left
        assert any(len(fold(other)[0]) > len(fold(name)[0]) for other in names)


@given(
    st.text(st.sampled_from("aA bé\u0301ßİ'’ﬁK東가ᄀ\u1161\ufffd"), max_size=30), st.lists(NAME, max_size=6)
)
def test_mentions_are_ordered_disjoint_and_spelt_like_the_name(text: str, names: list[str]) -> None:
    assume(all(names))
    end = 0
    for mention in ExactScope([[name] for name in names]).find(text):
        assert end <= mention.start < mention.end <= len(text)
        end = mention.end
        assert fold(text[mention.start : mention.end])[0] == fold(names[mention.subject_index])[0]


@given(st.text(max_size=30))
def test_folding_does_not_depend_on_the_unicode_form(text: str) -> None:
    clusters = unicodedata.normalize("NFD", text)
    folded, places = fold(text)
    assert places is None or len(places) == len(folded)
    assert fold(clusters)[0] == fold(unicodedata.normalize("NFC", clusters))[0]


OFFICIAL = OfficialScope([["Mara Kelorin", "Ms Kel"], ["Anna Toll"], ["Anna Toll Vesting"], ["Kel"]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where was Mara Kelorin born?", [Mention(0, 10, 22)]),  # exact
        ("Anna Toll Vesting sings", [Mention(2, 0, 17)]),  # the longest
        ("Kelvin is a unit", [Mention(3, 0, 3)]),  # no word boundaries
        (
            "where was mara kelorin born?",
            [Mention(0, 10, 14)],
        ),  # partial_ratio 100; no capital: every word is a span
        (
            "Where was Mara Kelorim born?",
            [Mention(3, 15, 18)],
        ),  # "Kel" is a substring, and exact comes before fuzzy
        ("What is one plus one?", []),
    ],
)
def test_official_rules(text: str, expected: list[Mention]) -> None:
    assert list(OFFICIAL.find(text)) == expected


def test_official_rules_forgive_a_typo_and_know_no_aliases() -> None:
    scope = OfficialScope([["Mara Kelorin", "The Singer"], ["Bela Zund"]])
    assert scope.find("Where was Mara Kelorim born?") == (Mention(0, 10, 22),)
    assert scope.find("Nothing about a singer") == ()


def test_official_rules_fall_back_to_the_likest_span() -> None:
    """Neither ratio reaches its threshold on a long prompt; the Levenshtein ratio of the span does."""
    scope = OfficialScope([["Karolina Stein"], ["Bela Zund"]])
    text = "In the long winter of that year, as everybody who was there will remember, Carola Steen opened the ball"
    assert scope.find(text) == (Mention(0, text.index("Carola"), text.index("Carola") + len("Carola Steen")),)


def test_entity_spans_are_runs_of_capitalised_words_or_all_words() -> None:
    def spans(text: str) -> list[str]:
        return [text[start:end] for start, end in entity_spans(text)]

    assert spans("Where was Edwin of Northumbria born?") == ["Edwin of Northumbria"]
    assert spans("Is Anna Toll's pet in Zürich.") == ["Anna Toll's", "Zürich"]
    assert spans("The river Élbe, Port 7, Nora of course") == ["Élbe", "Port 7", "Nora"]
    assert spans("no capitals here") == ["no", "capitals", "here"]
