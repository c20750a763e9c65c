"""Whether a text says an answer and ends there."""

import unicodedata
from dataclasses import replace

import pytest

from lks.evaluation.endings import judged, says, wild_right
from lks.results.answers import Answer
from tests.helpers import stores

SAYINGS = [
    ("42", "420", "begins"),
    ("42", " 42.", "answered"),
    ("42", "42. The", "answered"),
    ("42", "42.5", "begins"),
    ("42", "42,000 people", "begins"),
    ("42", "42, and", "answered"),
    ("42", "42 000 people", "begins"),
    ("42", "42\u202f000", "begins"),
    ("42", "42 arches", "answered"),
    ("42", "42nd", "begins"),
    ("42", "42km long", "answered"),
    ("42", "42 km", "answered"),
    ("42", "42%", "answered"),
    ("42", "42-year-old", "answered"),
    ("42", "42-million", "begins"),
    ("42", "42 million", "begins"),
    ("42", "42 Millionen Euro", "begins"),
    ("42", "42 miles", "answered"),
    ("42", "42 military", "answered"),
    ("42", "42万人", "begins"),
    ("42", "42人", "answered"),
    ("42", "42年", "answered"),
    ("42", "4.2", "no"),
    ("42", "-42", "no"),
    ("42", "142", "no"),
    ("1976", "1976-77", "begins"),
    ("1976", "1976–77", "begins"),
    ("1976", "1976/77", "begins"),
    ("1976", "1976, when", "answered"),
    ("1970", "1970s", "begins"),
    ("1976", "1976 1977", "answered"),
    ("1976", "1976年", "answered"),
    ("3.5", "3.55", "begins"),
    ("3.5", "3.5%", "answered"),
    ("12", "12:30", "begins"),
    ("10", "10'000", "begins"),
    ("10", "10’000", "begins"),
    ("10", "10⁶", "begins"),
    ("2", "2½", "begins"),
    ("10", "10am", "answered"),
    ("٤٢", "٤٢٠", "begins"),
    ("٤٢", "٤٢ قوس", "answered"),
    ("४२", "४२०", "begins"),
    ("３", "３０", "begins"),
    ("三", "三十", "begins"),
    ("三", "三人", "answered"),
    ("York", "Yorkshire", "begins"),
    ("York", "York.", "answered"),
    ("York", "York, England", "answered"),
    ("York", "york", "answered"),
    ("York", "York's", "answered"),
    ("York", "York Minster", "answered"),
    ("York", "New York", "no"),
    ("York", "the York", "answered"),
    ("New York", "New York-based firm", "answered"),
    ("New York", "New  York City", "answered"),
    ("Guinea", "Guinea-Bissau", "begins"),
    ("Baden", "Baden-Baden", "begins"),
    ("mother", "mother-in-law", "begins"),
    ("forty", "forty-two", "begins"),
    ("Jean", "Jean-Luc", "begins"),
    ("O", "O'Brien", "begins"),
    ("Ankara", "Ankara'da", "answered"),
    ("don", "don't", "begins"),
    ("artist", "artist's", "answered"),
    ("Paris", "Paris—the capital", "answered"),
    ("C", "C++", "begins"),
    ("C", "C#", "begins"),
    ("A", "A+", "begins"),
    ("AT", "AT&T", "begins"),
    ("AC", "AC/DC", "begins"),
    ("Amazon", "Amazon.com", "begins"),
    ("Oslo", "Oslo.The", "answered"),
    ("Zoe", "Zoë", "begins"),
    ("Zoe", "Zoë", "begins"),
    ("Zoë", "Zoë and", "answered"),
    ("cafe", "café", "begins"),
    ("Москва", "Москвариум", "begins"),
    ("Москва", "Москва, столица", "answered"),
    ("Αθήνα", "Αθήνα.", "answered"),
    ("Αθήν", "Αθήνα", "begins"),
    ("كتاب", "كتابخانه", "begins"),
    ("كتاب", "كتاب\u200cها", "begins"),
    ("תל", "תל־אביב", "begins"),
    ("किताब", "किताबें", "begins"),
    ("राम", "रामायण", "begins"),
    ("राम", "राम ने", "answered"),
    ("北京", "北京市", "answered"),
    ("北京", "北京。", "answered"),
    ("東京", "東京です", "answered"),
    ("東京", "東京都", "answered"),
    ("ロンド", "ロンドン", "begins"),
    ("ロンドン", "ロンドン市", "answered"),
    ("コーヒ", "コーヒー", "begins"),
    ("サンタ", "サンタクロース", "begins"),
    ("กรุงเทพ", "กรุงเทพมหานคร", "answered"),
    ("서울", "서울이다", "answered"),
    ("서울", "서울.", "answered"),
    ("하", "한국", "no"),
    ("Oslo", "Oslo市", "answered"),
    ("U.S.", "U.S.A.", "begins"),
    ("U.S.", "U.S. Army", "answered"),
    ("He lives in Oslo.", "He lives in Oslo.He", "answered"),
    ("C++", "C++11", "answered"),
    ("Falcon Lines", "“Falcon Lines” since", "answered"),
    ("Falcon Lines", "**Falcon Lines** is", "answered"),
    ("Henry V", "Henry VIII", "begins"),
    ("O'Brien", "O’Brien, who", "answered"),
    ("Oslo", "", "no"),
    ("marmot", "marmots", "begins"),
    ("marmot", "marmot-like", "begins"),
    ("J", "J.R.R.", "begins"),
    ("oslo", "oslo_1", "begins"),
    ("Oslo", "Oslo2", "begins"),
    ("42", "42\n0", "answered"),
    ("Coca", "Coca‑Cola", "begins"),
    ("Falcon Lines", "It is Falcon Lines", "no"),
    ("77", "777777", "begins"),
    ("34", "3400", "begins"),
    ("x", "x\xady", "begins"),
    ("Kleenex", "Kleenex™", "answered"),
    ("42", "42º", "begins"),
    ("Boeing 747", "Boeing 747-400", "begins"),
    ("5", "5G", "begins"),
    ("50%", "50% of", "answered"),
    ("1", "1/2", "begins"),
    ("100", "100 000 people", "begins"),
    ("1976", "1976 100 people", "answered"),
    ("7", "7th", "begins"),
    ("7 May", "7 May 1976", "answered"),
    ("the Who", "the Whole", "begins"),
    ("London", "Londonderry", "begins"),
    ("Nor", "Norwegian", "begins"),
    ("plumber", "plumber and", "answered"),
    ("ab", "ab@c.de", "begins"),
    ("Straße", "STRASSE", "no"),
    ("Straße", "Straßen", "begins"),
    ("İzmir", "İzmir'de", "answered"),
    ("3", "3,5", "begins"),
    ("3", "3, 5", "answered"),
]
IDS = [f"{answer}|{text}".encode("unicode_escape").decode() for answer, text, _ in SAYINGS]


@pytest.mark.parametrize(("answer", "text", "wanted"), SAYINGS, ids=IDS)
def test_where_an_answer_ends(answer: str, text: str, wanted: str) -> None:
    assert says(text, answer) == wanted
    assert says(f"  {text}", f" {answer} ") == wanted
    assert says(unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", answer)) == wanted


@pytest.mark.parametrize("answer", sorted({answer for answer, _, _ in SAYINGS}))
def test_what_ends_the_sentence_ends_the_answer(answer: str) -> None:
    for rest in ("", "\n", ", and", " (", '"'):
        assert says(answer + rest, answer) == "answered"


def test_nothing_is_no_answer() -> None:
    assert says("", "42") == says("42", " ") == says(" ", "x") == "no"


def one(text: str | None, answer: str, *, tokens: bool = False, accepted: tuple[str, ...] = ()) -> Answer:
    made = stores.answer(0, "Ann", "edit", tokens)
    return replace(
        made, answer=answer, accepted=accepted, wild_text=text, ar_ids=made.answer_ids if tokens else (-1,)
    )


def test_an_answer_is_judged_by_the_wild_rule_by_its_end_and_by_its_tokens() -> None:
    given = [
        one("the Oslo.", "Oslo"),
        one("Oslo, Norway. It", "Oslo"),
        one("420", "42", tokens=True),
        one("forty-two", "42", accepted=("Forty-two",)),
        one("Zo\ufffd", "Zoe", tokens=True),
        one("Bergen", "Oslo"),
        one(None, "Oslo"),
    ]
    assert judged(given) == ["answered", "answered", "begins", "answered", "begins", "no", "no"]
    assert wild_right(given) == [True, False, False, True, False, False, False]
    assert judged([]) == []
