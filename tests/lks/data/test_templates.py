"""When two prompts are the same question (`lks.data.templates.normalised`), and when a name is told apart by
it.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lks.data.answer_aliases import tellable
from lks.data.fact_validation import UserFact, check_together
from lks.data.templates import normalised

SAME = [
    ("Where  was the ANNA Toll born?", "where was Anna Toll born"),
    ("The capital of France is", "capital of france is:"),
    ("Who is the king?", "who is king"),
    ("Mara is a", "Mara is"),
    ("A friend of Mara is", "friend of Mara is"),
    ("Mara works as a baker in", "Mara works as baker in"),
    ("Q: A man is", "q a man is"),
    ('"Inception" was directed by', "Inception was directed by ..."),
    ("\u201cInception\u201d was directed by", "Inception was directed by"),
    ("Jean-Luc Picard is", "Jean Luc Picard is"),
    ("Panic! at the Disco is", "Panic at the Disco is"),
    ("2+2 is", "2 + 2 is"),
    ("R&B is", "R & B is"),
    ("\u22125 degrees is", "-5 degrees is"),
    ("1990\u20131995 was", "1990-1995 was"),
    ("cafe\u0301 is", "caf\xe9 is"),
    ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
    ("\u2764\ufe0f is", "\u2764 is"),
    ("ICQ\xae is", "ICQ is"),
    ("\u4e2d\u56fd\u7684\u9996\u90fd\u662f\u3002", "\u4e2d\u56fd\u7684\u9996\u90fd\u662f"),
    ("\xbfD\xf3nde est\xe1 Mara?", "d\xf3nde est\xe1 Mara"),
    ("O\xf9 est Mara\xa0?", "O\xf9 est Mara?"),
    ("l\xb4amour est", "l'amour est"),
]
OTHERS = [
    ("C++ was designed by", "C# was designed by"),
    ("C++ was designed by", "C was designed by"),
    (".NET was made by", "Net was made by"),
    ("A+ is compatible with", "A- is compatible with"),
    ("A+ is compatible with", "A is compatible with"),
    ("Blood group O- is rarer in", "Blood group O is rarer in"),
    ("Vitamin A helps the", "Vitamin helps the"),
    ("Hepatitis A is", "Hepatitis B is"),
    ("Serie A", "Serie"),
    ("Plan A. Then", "Plan. Then"),
    ("A. Milne wrote", "Milne wrote"),
    ("A* is a", "Search is a"),
    ("Who wrote A Farewell to Arms", "Who wrote Farewell to Arms"),
    ("Kong An is", "Kong is"),
    ("The 3.5 mm plug is", "The 3-5 mm plug is"),
    ("-5 degrees is", "5 degrees is"),
    ("$5 is", "\u20ac5 is"),
    ("50% of it is", "50 of it is"),
    ("2+2 is", "2*2 is"),
    ("2 < 3 is", "2 > 3 is"),
    ("#1 is", "1 is"),
    ("9/11 was", "9.11 was"),
    ("F\u266f is", "F\u266d is"),
    ("\U0001f1eb\U0001f1f7 is", "\U0001f1e9\U0001f1ea is"),
    (
        "\u0930\u093e\u0928\u0940 \u0915\u093e \u0918\u0930",
        "\u0930\u093f\u0928\u0940 \u0915\u093e \u0918\u0930",
    ),
    ("\u0e19\u0e49\u0e33", "\u0e19\u0e33"),
    ("\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd", "\u0bb5\u0ba3\u0b95\u0b95\u0bae\u0bcd"),
    ("x\u0304 is", "x is"),
    ("caf\xe9 is", "cafe is"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_other_questions(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)
    assert check_together([UserFact(1, "x", one, "y", locality=((other, "z"),))]) == []
    assert check_together([UserFact(1, "x", one, "y", locality=((f" {one}?", "z"),))])


@given(st.text("bc+\u0440\u0940\xe9 "))
@settings(deadline=None)
def test_case_and_spaces_never_count(text: str) -> None:
    assert (
        normalised(f" {text.upper()} ?")
        == normalised(text.replace(" ", "\xa0 ").lower())
        == normalised(normalised(text))
    )


NOISE = [
    ("fr", True),
    ("A1", True),
    ("F", False),
    ("The", False),
    ("C++", False),
    ("L.A.", False),
    ("\U0001f1eb\U0001f1f7", False),
]


@pytest.mark.parametrize(("name", "told"), NOISE)
def test_answers_are_told_from_noise_without_signs(name: str, told: bool) -> None:
    assert tellable(name) == told
