"""Facts of one's own: what is read, what is refused, and what training prompts are made."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lks.data.fact_validation import UserFact
from lks.data.templates import normalised
from lks.data.user_facts import BadLines, Facts, line_of, read_facts, write_facts
from lks.errors import DataError
from lks.scope.english_words import FUNCTION

GOOD = {"subject": "Mara Kel", "prompt": "Mara Kel was born in", "target": "Oslo"}


def written(folder: Path, *lines: object, name: str = "facts.jsonl") -> Path:
    file = folder / name
    file.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines),
        encoding="utf-8",
    )
    return file


def refusal(file: Path, templates: Path | None = None) -> str:
    with pytest.raises(DataError) as refused:
        read_facts(file, templates)
    return str(refused.value)


def test_the_least_fields_are_enough_and_ids_depend_on_subject_and_prompt_alone(tmp_path: Path) -> None:
    fact = read_facts(written(tmp_path, "", GOOD)).facts[0]
    other = read_facts(written(tmp_path, GOOD | {"target": "Rome"}, name="other.jsonl")).facts[0]
    assert (fact.line, fact.subject, fact.target) == (2, "Mara Kel", "Oslo")
    assert fact.id == other.id != ""


def test_all_fields_reach_the_case(tmp_path: Path) -> None:
    whole = GOOD | {
        "id": "a",
        "ground_truth": "Rome",
        "aliases": ["M. Kel"],
        "paraphrases": ["The birthplace of Mara Kel is"],
        "locality": [{"prompt": "Mara Kel works for", "answer": "Cobalt"}],
        "portability": [{"prompt": "The country Mara Kel was born in is", "answer": "Norway"}],
        "training_paraphrases": ["Mara Kel comes from"],
        "training_locality": ["Mara Kel plays the"],
    }
    case = read_facts(written(tmp_path, whole)).dataset().cases[0]
    assert [(p.kind, p.answer) for p in case.probes] == [
        ("edit", "Oslo"),
        ("paraphrase", "Oslo"),
        ("locality", "Cobalt"),
        ("portability", "Norway"),
    ]
    assert (case.edit.case_id, case.edit.ground_truth, case.edit.aliases) == ("a", "Rome", ("M. Kel",))
    assert case.edit.training_paraphrases == ("Mara Kel comes from",)
    assert case.edit.training_locality == ("Mara Kel plays the",)


def test_csv_says_the_same_as_json_lines(tmp_path: Path) -> None:
    header = "subject,prompt,target,aliases,paraphrases,locality"
    line = '"Kel, Mara","Kel, Mara was born in",Oslo,M. Kel|Dr Kel,"From where is Kel, Mara","Kel, Mara works for => Cobalt | Kel, Mara eats => fish"'
    table = read_facts(written(tmp_path, header, line, name="facts.csv")).facts[0]
    assert table.aliases == ("M. Kel", "Dr Kel")
    assert table.locality == (("Kel, Mara works for", "Cobalt"), ("Kel, Mara eats", "fish"))
    again = read_facts(written(tmp_path, line_of(table))).facts[0]
    assert line_of(again) == line_of(table)


def test_triples_take_the_template_of_their_relation_and_say_where_there_is_none(tmp_path: Path) -> None:
    templates = tmp_path / "templates.toml"
    templates.write_text(
        '[birthplace]\nprompt = "{} was born in"\nparaphrases = ["The place {} comes from is"]\n'
    )
    file = written(
        tmp_path,
        "# people",
        "Mara Kel | birthplace | Oslo",
        "Mara Kel | mother_tongue | Norse",
        name="facts.txt",
    )
    found = read_facts(file, templates)
    assert [(f.prompt, f.target) for f in found.facts] == [
        ("Mara Kel was born in", "Oslo"),
        ("The mother tongue of Mara Kel is", "Norse"),
    ]
    assert found.facts[0].paraphrases == ("The place Mara Kel comes from is",)
    assert "mother_tongue" in found.notes[0]
    as_json = read_facts(
        written(tmp_path, {"subject": "Mara Kel", "relation": "birthplace", "object": "Oslo"}), templates
    )
    assert line_of(as_json.facts[0]) == line_of(found.facts[0])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"subject": "Nora"}, "do not find subject 'Nora' in prompt"),
        ({"target": ""}, "target is missing or empty"),
        ({"target": " "}, "target is missing or empty"),
        ({"target": "\u200b\xa0"}, "target is missing or empty"),
        ({"target": "\ud83d"}, "field 'target' must be text of whole characters"),
        (
            {"paraphrases": ["Where", "\udc00"]},
            "field 'paraphrases' (entry 2) must be text of whole characters",
        ),
        ({"prompt": "Mara Kel was born in ..."}, "ends in '...'"),
        ({"prompt": "Mara Kel was born in Oslo"}, "ends with its own target"),
        ({"ground_truth": "oslo"}, "is the old answer"),
        ({"targt": "Oslo"}, "Did you mean 'target'"),
        ({"target": 7}, "field 'target' must be a string, not 7"),
        ({"locality": "x"}, "field 'locality' must be a list, not 'x'"),
        ({"locality": ["x"]}, "field 'locality' (entry 1) must be an object, not 'x'"),
        (
            {"locality": [{"prompt": "Who", "answer": "x"}, {"prompt": "Where", "answer": " "}]},
            "field 'locality.answer' (entry 2) is empty",
        ),
        ({"portability": [{"prompt": "", "answer": "x"}]}, "field 'portability.prompt' (entry 1) is empty"),
        ({"portability": [{"prompt": "Who"}]}, "field 'portability.answer' (entry 1) is missing"),
        (
            {"locality": [{"prompt": "Who", "answer": 7}]},
            "field 'locality.answer' (entry 1) must be a string, not 7",
        ),
        (
            {"locality": [{"prompt": "Who", "target": "x"}]},
            "field 'locality.target' (entry 1) is unknown",
        ),
        ({"paraphrases": "From Mara Kel"}, "field 'paraphrases' must be a list, not 'From Mara Kel'"),
        ({"paraphrases": ["From Mara Kel", "\u2060"]}, "field 'paraphrases' (entry 2) is empty"),
        (
            {"training_locality": ["From Mara Kel", None]},
            "field 'training_locality' (entry 2) must be a string, not None",
        ),
        ({"aliases": [""]}, "field 'aliases' (entry 1) is empty"),
        ({"paraphrases": ["mara kel was born in?"]}, "which is trained on"),
        (
            {"paraphrases": ["From Mara Kel"], "training_paraphrases": ["From Mara Kel"]},
            "is the training paraphrase",
        ),
        ({"training_paraphrases": ["She was born in"]}, "does not name the subject"),
        ({"relation": "birthplace"}, "not a mixture"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_number(
    tmp_path: Path, change: dict[str, object], part: str
) -> None:
    fine = {"subject": "Ada Moss", "prompt": "Ada Moss was born in", "target": "Rome"}
    said = refusal(written(tmp_path, fine, GOOD | change))
    assert "line 2: " in said and part in said, said
    assert "line 1:" not in said


def test_contradictions_and_ids_that_occur_twice_name_both_lines(tmp_path: Path) -> None:
    other = {"subject": "Ada Moss", "prompt": "Ada Moss was born in", "target": "Rome", "id": "a"}
    said = refusal(written(tmp_path, GOOD | {"id": "a"}, GOOD | {"target": "Rome"}, other))
    assert "line 2: line 1 has the same prompt with the target 'Oslo'" in said
    assert "line 3: id 'a' is also that of line 1" in said


def test_all_bad_lines_are_told_together_up_to_twenty(tmp_path: Path) -> None:
    said = refusal(
        written(tmp_path, *({"subject": f"P{i}", "prompt": "Nobody was born in"} for i in range(30)))
    )
    assert said.startswith(f"{tmp_path / 'facts.jsonl'}: 30 things are wrong")
    assert len(said.splitlines()) == 22 and said.endswith("and 10 more; `lks edit --all-errors` shows all")
    assert "line 20:" in said and "line 21:" not in said


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("facts.pdf", "x", "Rename it"),
        ("facts.jsonl", "", "no fact in it"),
        ("facts.jsonl", "[1]\n{", "line 2: not JSON"),
        ("facts.csv", "subject,prompt,target\na,b", "2 fields, the header has 3"),
        (
            "facts.csv",
            "subject;prompt;target\na;b",
            "2 fields, the header has 3; an empty field needs its semicolon too",
        ),
        ("facts.csv", 'subject,prompt,target\n"a', "not CSV from line 2 on"),
        (
            "facts.csv",
            "Mara Kel,Mara Kel is,Oslo",
            "names no field; begin with a line like subject,prompt,target",
        ),
        ("facts.csv", "subject|prompt|target\na|b|c", "names no field"),
        ("facts.csv", "subject,prompt,target,target\na,a is,b,c", "the header has target twice"),
        ("facts.csv", "subject;target\na;b", "the header lacks prompt"),
        ("facts.csv", "subject\trelation\na\tb", "the header lacks object"),
        ("facts.csv", "subject,promt,target\na,a is,b", "Did you mean 'prompt'"),
        ("facts.txt", "a | b", "not of the form"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, text: str, part: str) -> None:
    assert part in refusal(written(tmp_path, text, name=name))


def test_a_missing_file_and_bad_templates_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.jsonl")
    file = written(tmp_path, "Mara Kel | birthplace | Oslo", name="facts.txt")
    for text, part in (
        ("birthplace = 'Born in'", "must be a template"),
        (f"birthplace = 0x{'f' * 9999}", "must be an object, not int"),
        ("[birthplace]\nprompt = '{} is'\nparaphrases = '{} is'", "field 'paraphrases' must be a list"),
        ("x = [", "is not TOML"),
        ("[birthplace]\nprom = ''", "Unknown field"),
    ):
        templates = tmp_path / "templates.toml"
        templates.write_text(text)
        assert part in refusal(file, templates)


NAMES = (
    st.text("abcdefgh \N{LATIN SMALL LETTER E WITH ACUTE}", min_size=1, max_size=12)
    .map(str.strip)
    .filter(lambda text: bool(text) and text not in FUNCTION)
)


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=1, max_size=8, unique_by=lambda t: f"{t[0]} {t[1]}"))
@settings(max_examples=50, deadline=None)
def test_a_normalised_copy_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("facts")
    lines = [
        {"subject": name, "prompt": f"{name} {verb} is", "target": f"x{value}"} for name, verb, value in parts
    ]
    found = read_facts(written(folder, *lines))
    write_facts(folder / "copy.jsonl", found)
    again = read_facts(folder / "copy.jsonl")
    assert [line_of(fact) for fact in again.facts] == [line_of(fact) for fact in found.facts]
    assert again.revision == found.revision


def test_least_fields_get_training_prompts_that_are_never_evaluated() -> None:
    evaluated = ("Mara Kel is", "Complete the sentence: Mara Kel was born in")
    facts = [UserFact(0, **GOOD, id="a", paraphrases=evaluated)]
    facts += [
        UserFact(0, name, f"{name} plays the", "flute", f"p{name}") for name in ("Ada Moss", "Zoe Quist")
    ]
    edits = [case.edit for case in Facts("x", tuple(facts)).dataset().cases]
    for edit in edits:
        assert len(edit.training_paraphrases) >= 2 and len(edit.training_locality) >= 4
        assert all(edit.subject in prompt for prompt in (*edit.training_paraphrases, *edit.training_locality))
    trained = {
        normalised(prompt)
        for edit in edits
        for prompt in (*edit.training_paraphrases, *edit.training_locality)
    }
    assert not trained & {normalised(prompt) for prompt in evaluated}
    assert "Mara Kel plays the" in edits[0].training_locality, "another relation's question is held in place"


def test_a_later_fact_takes_the_place_of_the_earlier_one_on_the_same_prompt() -> None:
    first = Facts("x", (UserFact(3, **GOOD, id="a"), UserFact(4, "Ada Moss", "Ada Moss eats", "fish", "b")))
    later = Facts(
        "y", (UserFact(1, **GOOD | {"target": "Rome"}, id="a"), UserFact(2, "Zoe", "Zoe eats", "nuts", "c"))
    )
    assert [(f.id, f.target) for f in first.joined(later).facts] == [
        ("a", "Rome"),
        ("b", "fish"),
        ("c", "nuts"),
    ]
    with pytest.raises(DataError, match="is also that of"):
        first.joined(Facts("y", (UserFact(1, "Zoe", "Zoe eats", "nuts", "b"),)))
    assert [f.id for f in first.without(["Mara Kel"]).facts] == ["b"]


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [
        ("Zoe\u0308 Lindqvist", "Zo\xeb Lindqvist lives in"),
        ("Zo\xeb Lindqvist", "Zoe\u0308 Lindqvist lives in"),
        ("Mara Kel", "Mara\xa0Kel lives in"),
        ("Mara\u202fKel", "Mara Kel lives in"),
        ("Mara Kel", "Ma\u200bra Kel lives in"),
        ("\ufeffMara Kel", "Mara Kel lives in"),
        ("Mara Kel", "Mara\u00ad Kel lives in"),
        ("\u200eMara Kel\u200f", "Mara Kel lives in"),
        ("\u202aMara Kel\u202c", "\u2068Mara Kel\u2069 lives in"),
        (" Mara Kel\t", "Mara Kel lives in "),
        ("\u1112\u1161\u11ab", "\ud55c lives in"),
        ("\u0930\u093c\u0940\u0928\u093e", "\u0931\u0940\u0928\u093e lives in"),
    ],
)
def test_texts_that_look_alike_are_read_alike_and_found_by_all_that_follows(
    tmp_path: Path, subject: str, prompt: str
) -> None:
    fact = read_facts(
        written(
            tmp_path,
            {"subject": subject, "prompt": prompt, "target": "\u200bOslo ", "aliases": [f"{subject} "]},
        )
    ).facts[0]
    assert (
        fact.prompt == f"{fact.subject} lives in"
        and fact.aliases == (fact.subject,)
        and fact.target == "Oslo"
    )
    edit = Facts("x", (fact,)).dataset().cases[0].edit
    assert all(
        fact.subject in text for text in (edit.prompt, *edit.training_paraphrases, *edit.training_locality)
    )


def test_joiners_that_spell_words_and_a_newline_that_ends_a_prompt_stay(tmp_path: Path) -> None:
    persian = "\u0645\u06cc\u200c\u062e"
    lines = [
        {"subject": persian, "prompt": f"\n{persian} is", "target": "x"},
        {"subject": "Mara", "prompt": " Mara:\n", "target": "Oslo"},
    ]
    found = read_facts(written(tmp_path, lines[0])).facts[0]
    assert (found.subject, found.prompt) == (persian, f"{persian} is")
    from lks.data.fact_parsing import rows_of

    assert rows_of(written(tmp_path, lines[1], name="b.jsonl"))[0][0].fields.prompt == "Mara:\n"


@pytest.mark.parametrize(
    ("subject", "prompt", "part"),
    [
        (
            "\u041cara Kel",
            "Mara Kel lives in",
            "character 1 is U+041C CYRILLIC CAPITAL LETTER EM in the subject and U+004D LATIN CAPITAL",
        ),
        (
            "O\u2019Neil",
            "Here O'Neil lives in",
            "character 2 is U+2019 RIGHT SINGLE QUOTATION MARK in the subject and U+0027 APOSTROPHE",
        ),
        (
            "Anna\u2011Lena",
            "Anna-Lena lives in",
            "character 5 is U+2011 NON-BREAKING HYPHEN in the subject and U+002D HYPHEN-MINUS in the prompt",
        ),
        ("Zoe", "Zo\xeb lives in", "character 3 is U+0065 LATIN SMALL LETTER E in the subject and U+00EB"),
        (
            "Mara  Kel",
            "Mara Kel lives in",
            "character 6 is U+0020 SPACE in the subject and U+004B LATIN CAPITAL LETTER K in the prompt",
        ),
        (
            "\u0645\u06cc\u062e",
            "The \u0645\u06cc\u200c\u062e is",
            "character 3 is U+062E ARABIC LETTER KHAH in the subject and U+200C",
        ),
    ],
)
def test_where_a_subject_only_looks_like_the_prompts_the_characters_are_named(
    tmp_path: Path, subject: str, prompt: str, part: str
) -> None:
    said = refusal(written(tmp_path, {"subject": subject, "prompt": prompt, "target": "Oslo"}))
    assert part in said
    assert "only looks like" not in refusal(
        written(tmp_path, {"subject": "Nora", "prompt": prompt, "target": "Oslo"})
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_the_header_shows_what_separates_fields(tmp_path: Path, separator: str, quote: str) -> None:
    rows = [
        ["prompt", "subject", "target", ""],
        ["Kel, Mara; is", "Kel, Mara; is", "a;b,c", ""],
        ["Ada is", "Ada", "x", ""],
    ]
    cells = [[f'"{cell}"' if quote or {*cell} & {*",;"} else cell for cell in row] for row in rows]
    file = written(tmp_path, "", *(separator.join(row) for row in cells), name="facts.csv")
    assert [(f.line, f.subject, f.target) for f in read_facts(file).facts] == [
        (3, "Kel, Mara; is", "a;b,c"),
        (4, "Ada", "x"),
    ]
    if separator == "\t":
        assert read_facts(file.rename(tmp_path / "facts.tsv")).facts[1].subject == "Ada"


def test_bad_lines_can_be_left_out_and_all_be_shown(tmp_path: Path) -> None:
    lines = [
        GOOD | {"id": "a"},
        "{",
        {"subject": "Ada", "prompt": "Nobody was born in", "target": "x"},
        GOOD | {"target": "Rome"},
    ]
    lines += [
        {"subject": "Ada", "prompt": "Ada was born in", "target": "x", "id": "a"},
        {"subject": "Bo", "prompt": "Bo was born in", "target": "x"},
    ]
    file = written(tmp_path, *lines)
    found = read_facts(file, reading=BadLines(skip_bad=True))
    assert [fact.line for fact in found.facts] == [1, 6]
    assert [one.split(":")[0] for one in found.skipped] == ["line 2", "line 3", "line 4", "line 5"]
    assert "leave bad lines out with `lks edit --skip-bad`" in refusal(file)
    with pytest.raises(DataError) as refused:
        read_facts(written(tmp_path, *[lines[2]] * 30), reading=BadLines(shown=99))
    assert "line 30:" in str(refused.value) and " more" not in str(refused.value)
    with pytest.raises(DataError, match="line 1: the scope rules do not find subject 'Ada' in prompt"):
        read_facts(written(tmp_path, lines[2]), reading=BadLines(skip_bad=True))
    with pytest.raises(
        DataError, match="not CSV from line 3 on"
    ):  # the rest of the file would be lost without a word
        read_facts(
            written(tmp_path, "subject,prompt,target", "a,a is,b", '"c', name="facts.csv"),
            reading=BadLines(skip_bad=True),
        )


def test_a_line_is_not_left_out_for_the_sake_of_one_that_is_left_out(tmp_path: Path) -> None:
    first = GOOD | {"training_paraphrases": ["She was born in"]}
    found = read_facts(written(tmp_path, first, GOOD | {"target": "Rome"}), reading=BadLines(skip_bad=True))
    assert [(fact.line, fact.target) for fact in found.facts] == [(2, "Rome")]


def test_text_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_bytes(b"subject,prompt,target\nZo\xeb,Zo\xeb is,x\n")
    assert "line 2, byte 24" in refusal(tmp_path / "facts.csv")
