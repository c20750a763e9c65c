"""Free answers: which count as the same, and answers of several sentences or lines."""

from tests.lks.results.test_wild_sql import of_rows

# Answers that are not the same, whichever is wanted and whichever is said; and some that are.
DIFFERENT = [
    ("5", "-5"),
    ("+5", "-5"),
    ("15", "1.5"),
    ("1.5", "1,5"),
    ("1.000", "1000"),
    ("0,500", "0500"),
    (".5", "5"),
    ("5.0", "50"),
    ("192.168.0.1", "19216801"),
    ("2-1", "21"),
    ("7-6(5)", "7-65"),
    ("1939-1945", "19391945"),
    ("10:30", "1030"),
    ("9/11", "911"),
    ("5'11", "511"),
    ("10^5", "105"),
    ("2 + 2", "2 - 2"),
    ("5%", "5"),
    ("$5", "5"),
    ("€5", "$5"),
    ("5 °C", "5 C"),
    ("< 5", "> 5"),
    ("18+", "18"),
    ("C#", "C++"),
    ("C", "C++"),
    ("C", "C#"),
    ("F#", "F♭"),
    ("A-", "A+"),
    ("A", "A+"),
    ("AB-", "AB+"),
    ("Rh-", "Rh+"),
    ("A*", "A"),
    ("Disney", "Disney+"),
    ("AT&T", "ATT"),
    ("vitamin", "Vitamin A"),
    ("Hepatitis", "Hepatitis A"),
    ("A", "The"),
    ("A", "B"),
    ("Symphony", "Symphony No. 5"),
    ("٥", "-٥"),
    ("１５", "１．５"),
]
SAME = [
    ("−5", "-5"),
    ("–5", "-5"),
    ("(-5)", "-5"),
    ("1,000", "1000"),
    ("1'000", "1000"),
    ("1\u202f000\u202f000", "1,000,000"),
    ("1,00,000", "100000"),
    ("1,000km", "1000km"),
    ("2–1", "2-1"),
    ("1939 – 1945", "1939-1945"),
    ("5 %", "5%"),
    ("$ 5", "$5"),
    ("5° C", "5°C"),
    ("５％", "5%"),
    ("١٩٩٠", "1990"),
    ("२५", "25"),
    ("'A+'", "A+"),
    ("“A-”", "A-"),
    ("**A**", "A"),
    ("**Paris**", "Paris"),
    ("Paris -", "Paris"),
    ("O’Brien", "O'Brien"),
    ("Oʻahu", "O'ahu"),
    ("COVID-19", "COVID19"),
    ("B\u201152", "B-52"),
    ("M*A*S*H", "MASH"),
    ("U.S.A.", "USA"),
    ("The Beatles", "Beatles"),
    ("a", "A"),
    ("#1", "1"),
    ("No 5", "No. 5"),
    ("Jeopardy", "Jeopardy!"),
    ("ΣΩΚΡΆΤΗΣ", "Σωκράτης"),
]


def test_what_tells_answers_apart_counts_and_nothing_else() -> None:
    pairs = [*DIFFERENT, *SAME]
    both = [*pairs, *((b, a) for a, b in pairs)]
    plain = [row[1] for row in of_rows([(text, answer, [], "") for text, answer in both])]
    listed = [
        row[1] for row in of_rows([(text, "other", ["C# 5%", answer, None], "") for text, answer in both])
    ]
    expected = ([0] * len(DIFFERENT) + [1] * len(SAME)) * 2
    wrong = [
        pair
        for pair, one, two, right in zip(both, plain, listed, expected, strict=True)
        if (one, two) != (right, right)
    ]
    assert not wrong


PARTED = [
    ("Love. Angel. Music. Baby. It is an album", "Love. Angel. Music. Baby."),
    ("love. angel. music. baby", "Love. Angel. Music. Baby."),
    ("Yahoo! Inc. It was founded in 1994", "Yahoo! Inc"),
    ("“Yahoo! Inc.”", "Yahoo! Inc"),
    ("Help! I need somebody.", "Help! I need somebody"),
    ("Who Wants to Be? A Millionaire! It is a show", "Who Wants to Be? A Millionaire"),
    ("1. FC Köln. It", "1. FC Köln"),
    ("モーニング娘。です。東京", "モーニング娘。です"),
    ("Roses are red,\nviolets are blue.\nSugar is sweet", "Roses are red,\nviolets are blue"),
    ("First line\nsecond line\n\nQ: Who?", "First line\nsecond line"),
    ("First line second line. More", "First line\nsecond line"),
    ("It was long. " * 12 + "The end. More", "It was long. " * 12 + "The end."),
]


def test_an_answer_of_several_sentences_or_lines_is_not_cut() -> None:
    rows = [(f" {text}", answer, [], "") for text, answer in PARTED]
    rows += [(text, "other", [None, "x", answer], "") for text, answer in PARTED]
    assert [row[1] for row in of_rows(rows)] == [1] * len(rows)
    cut = [(text, answer + " and so on", [], "") for text, answer in PARTED]
    cut += [(answer.rstrip(".") + " and so on. It", answer, [], "") for _, answer in PARTED]
    cut += [
        ("Yahoo! It is", "Yahoo! Inc", [], ""),
        ("First line\nthird line", "First line\nsecond line", [], ""),
    ]
    assert [row[1] for row in of_rows(cut)] == [0] * len(cut)
