"""`lks.scope.naming`: a prompt names its subject in one and the same place when facts are checked, when a
method trains and when it is asked.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lks.editing.patch
from baselines._locate_then_edit.contexts import behind, end_of_subject, first_token_warnings, placed
from lks.data.user_facts import read_facts
from lks.edits import Edit, loose_subjects, make_case
from lks.errors import DataError, UserError
from lks.method.lks import LKS
from lks.method.params import LKSParams
from lks.method.replacer import KnowledgeBlockPatch
from lks.method.training_data import _rows, subjects_of
from lks.models.lm import LM
from lks.scope.exact import ExactScope
from lks.scope.naming import mentions, names_subject, put, spelt, why_unnamed
from lks.scope.running_text import CapitalsReading, reading
from tests.helpers import real

FOUND = [
    ("Frankreich", "Die Hauptstadt von Frankreich ist"),
    ("Torvik", "Die Firma Torvik hat ihren Sitz in"),
    ("Torvik", "Wer leitet die Torvik Gruppe?"),
    ("Torvik", "Torvik-Aktien werden gehandelt in"),
    ("New York", "Der Bürgermeister von New York City heißt"),
    ("Italie", "La capitale de l'Italie est"),
    ("Italie", "L’Italie a pour capitale"),
    ("France", "Quel est le Président de la France ?"),
    ("Angleterre", "La Reine d'Angleterre est"),
    ("Ankara", "On sait qu'Ankara est la capitale de la"),
    ("Italia", "Il Presidente dell'Italia è"),
    ("España", "El Rey de España es"),
    ("Madrid", "¿Ayer Madrid ganó?"),
    ("Brasil", "O Presidente do Brasil é"),
    ("Nederland", "De Koning van Nederland is"),
    ("Catalunya", "El President de la Generalitat de Catalunya és"),
    ("Oslo", "Beliggenheten til Oslo Rådhus er"),
    ("Ankara", "Ankara'nın en büyük parkı"),
    ("Ankara", "Ankara’da bulunan Anıtkabir'in mimarı"),
    ("İstanbul", "İSTANBUL'UN NÜFUSU"),
    ("Chirac", "Żona Chirac'a nazywa się"),
    ("Торвик", "Компания Торвик находится в"),
    ("서울", "서울의 인구는"),
    ("Torvik", "Torvik은 본사가"),
    ("東京", "東京の市長は"),
    ("Torvik", "Torvik Inc の本社は"),
    ("Mara Kel", "Where Does Mara Kel Work?"),
    ("Mara Kel", "Name the City Where Mara Kel Lives:"),
    ("Torvik", "WHO LEADS TORVIK GMBH?"),
    ("Torvik", "On Monday Torvik announced that its leader is"),
    ("Torvik", "In 5 May Torvik"),
    ("Artagnan", "What did d'Artagnan do in"),
    ("Torvik", "It is said that: Die Firma Torvik hat ihren Sitz in"),
    ("Frankreich", "You are a helpful assistant.\nDie Hauptstadt von Frankreich ist"),
    ("Chicago", "user\nYesterday Chicago slept"),
    ("Chicago", "[INST] Yesterday Chicago slept [/INST]"),
]
NOT_FOUND = [
    ("Ann", "Annabel Torv lives in"),
    ("Iran", "Iranian-speaking lands are"),
    ("Java", "JavaScript was made by"),
    ("Danmark", "Hvem er Danmarks Statsminister"),
    ("Torvik", "Компания ТорвикСтрой находится в"),
    ("Mara Kel", "O'Mara Kel lives in"),
    ("Qur", "The Qur'an was written in"),
    ("Kel", "The seat of Mara Kel'ar is"),
    ("Angelo", "D'Angelo was born in"),
    ("Arc", "Jeanne d'Arc was born in"),
    ("Cruz", "Who is Juan de la Cruz?"),
    ("Chicago", "user\nChicago Opera House is in"),
    ("It", "user\nIt is late"),
    ("Life", "What Is The Meaning Of Life About?"),
    ("Friday", "Joe Friday Torvik sings"),
]


@pytest.mark.parametrize(("subject", "text"), FOUND)
def test_rules_about_english_names_hold_in_english_text_alone(subject: str, text: str) -> None:
    found = ExactScope([[subject]]).find(text)
    assert [text[one.start : one.end] for one in found] and mentions(text, subject) == found


@pytest.mark.parametrize(("subject", "text"), NOT_FOUND)
def test_what_is_no_word_of_its_own_is_no_mention(subject: str, text: str) -> None:
    assert ExactScope([[subject]]).find(text) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Die Hauptstadt von Frankreich ist", CapitalsReading.FOREIGN),
        ("Who played Juan de la Cruz in the film?", CapitalsReading.ENGLISH),
        ("El Paso County is located in", CapitalsReading.ENGLISH),
        ("Rio de Janeiro doesn't have", CapitalsReading.ENGLISH),
        ("Die Hard was directed by", CapitalsReading.ENGLISH),
        ("Where Does Mara Kel Work?", CapitalsReading.TITLE),
        ("Where does Mara Kel Work?", CapitalsReading.ENGLISH),
        ("US Navy", CapitalsReading.ENGLISH),
        ("", CapitalsReading.ENGLISH),
    ],
)
def test_readings(text: str, kind: CapitalsReading) -> None:
    assert reading(text) is kind


def edit(subject: str, prompt: str, *aliases: str, case_id: str = "0") -> Edit:
    return Edit(case_id, subject, prompt, "Bergen", "", aliases)


PROMPTS = [
    *(one for one in FOUND if one != ("İstanbul", "İSTANBUL'UN NÜFUSU")),
    ("Ann", "Ann, unlike Annabel Torv, lives in the city of"),
    ("Iran", "Iran borders Iranian-speaking lands such as"),
    ("Port", "The painter of Port, a view of Portsmouth, is"),
    ("Java", "JavaScript is not Java, and JavaFX is neither; it was made by"),
    ("Paris", "Paris Hilton was born in"),
    ("Mara Kel", "Mara Kel, mara kel and Mara Kelorin live in"),
    ("Zoë", "Zoë, that is ZOË, but not Zoëlla, lives in"),
    ("C++", "C++ and C++Builder were made by"),
    ("4 Ann", "Is 4 Ann near 14 Ann? No:"),
]
NAMES = ("Ann", "Torvik", "Mara Kel", "Zoë", "Ö. Ask", "7 Up", "東京", "l'Ann")
WORDS = st.sampled_from(
    [
        *NAMES,
        "Annabel",
        "annals",
        "Torviks",
        "in",
        "the",
        "Die",
        "ist",
        "d'",
        "l'",
        ",",
        ".",
        "'s",
        "\n",
        "<|im_start|>",
        "Opera",
        "7",
    ]
)


def asked(lm: LM, edits: list[Edit], prompt: str) -> list[tuple[int, int]]:
    names = [[one.subject, *one.aliases] for one in edits]
    patch = KnowledgeBlockPatch(
        names, torch.zeros(1, len(edits), lm.dim), (1,), "last", "exact", "last", loose=loose_subjects(edits)
    )
    return patch.find(lm, lm.encode([prompt], [""])[0].ids)


def trained(lm: LM, edits: list[Edit]) -> list[int]:
    params = LKS.presets["micro"](1, "")
    assert isinstance(params, LKSParams)
    rows, owned, _ = _rows(lm, edits, params, subjects_of(edits))
    return [rows[own[0]].span[1] for own in owned["edit"]]


@pytest.mark.parametrize("name", [*real.FAMILIES, "micro-llama"])
def test_a_block_is_trained_at_the_token_where_it_acts(name: str) -> None:
    lm = LM.load(name, "cpu") if name.startswith("micro") else real.tokenizer_only(name)
    for subject, prompt in PROMPTS:
        one = edit(subject, prompt)
        if (
            lm.pieces.text(lm.encode([prompt], [""])[0].ids).strip() != prompt
        ):  # signs that the tokenizer does not know
            continue
        places = asked(lm, [one], prompt)
        assert places == [(place, 0) for place in trained(lm, [one])], (subject, prompt)
        (row,) = lm.encode([prompt], [one.target], [subject])
        assert row.subject is not None and row.subject[1] == places[-1][0], (subject, prompt)


@pytest.mark.parametrize("name", real.FAMILIES)
@given(
    words=st.lists(WORDS, min_size=1, max_size=9),
    glue=st.sampled_from([" ", ""]),
    subject=st.sampled_from(NAMES),
)
@settings(max_examples=60, deadline=None)
def test_training_and_asking_find_the_same_token_in_any_text(
    name: str, words: list[str], glue: str, subject: str
) -> None:
    lm = real.tokenizer_only(name)
    prompt = glue.join(words).strip()
    ids = lm.encode([prompt], [""])[0].ids
    try:
        place = trained(lm, [edit(subject, prompt)])
    except UserError:
        assert asked(lm, [edit(subject, prompt)], prompt) == []
    else:
        assert asked(lm, [edit(subject, prompt)], prompt) == [(place[0], 0)]
        first, last = lm.encode([prompt], ["Bergen"], [subject])[0].subject or (-1, -1)
        assert last == place[0] and subject.casefold()[-1] in lm.pieces.text(ids[first : last + 1]).casefold()


@pytest.mark.parametrize("name", [one for one in real.FAMILIES if one != "gemma3-270m"])
def test_an_edit_acts_in_chat_form(name: str) -> None:
    lm = real.tokenizer_only(name)
    for subject, prompt in PROMPTS:
        chat = str(
            lm.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
        )
        assert len(asked(lm, [edit(subject, prompt)], chat)) == 1, (subject, prompt)


def written(folder: Path, *facts: dict[str, object]) -> Path:
    (folder / "facts.jsonl").write_text(
        "\n".join(json.dumps({"target": "Bergen", **fact}, ensure_ascii=False) for fact in facts)
    )
    return folder / "facts.jsonl"


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        ({"subject": "Ann", "prompt": "Annabel Torv lives in"}, "only inside the word 'annabel'"),
        ({"subject": "Iran", "prompt": "The Iranian capital is"}, "only inside the word 'iranian'"),
        (
            {"subject": "Frankreich", "prompt": "Frankreichs Hauptstadt ist"},
            "only inside the word 'frankreichs'",
        ),
        ({"subject": "Brien", "prompt": "Who is O'Brien?"}, 'only inside the word "o\'brien"'),
        ({"subject": "Mara Kel", "prompt": "mara kel lives in"}, "it is spelt 'mara kel' there"),
        ({"subject": "It", "prompt": "It was directed by"}, "reads as ordinary words"),
        ({"subject": "Nora", "prompt": "Mara lives in"}, "because it is not there"),
        (
            {"subject": "Robert Ask", "prompt": "Bob lives in", "aliases": ["Bob"]},
            "has the alias 'Bob' in its place",
        ),
        (
            {"subject": "Ann", "prompt": "Ann lives in", "training_paraphrases": ["The home of Annabel is"]},
            "does not name the subject 'Ann'",
        ),
    ],
)
def test_a_line_that_does_not_name_its_subject_is_refused_with_the_reason(
    tmp_path: Path, fact: dict[str, object], why: str
) -> None:
    fine: dict[str, object] = {"subject": "Ada Moss", "prompt": "Ada Moss lives in"}
    with pytest.raises(DataError) as refusal:
        read_facts(written(tmp_path, fine, fact))
    assert "line 2: " in str(refusal.value) and why in str(refusal.value)


def test_every_prompt_that_is_found_is_accepted(tmp_path: Path) -> None:
    facts: list[dict[str, object]] = [
        {"subject": subject, "prompt": prompt} for subject, prompt in PROMPTS if subject in prompt
    ]
    assert len(read_facts(written(tmp_path, *facts)).facts) == len(facts)


def test_a_training_paraphrase_may_use_an_alias_and_trains_where_it_acts(tmp_path: Path) -> None:
    lm = real.tokenizer_only("smollm2-135m")
    fact = {
        "subject": "Robert Ask",
        "prompt": "Robert Ask, called Bob, lives in",
        "aliases": ["Bob"],
        "training_paraphrases": ["The home of Bob is"],
    }
    (case,) = read_facts(written(tmp_path, fact)).dataset().cases
    assert asked(lm, [case.edit], case.edit.prompt) == [(trained(lm, [case.edit])[0], 0)]
    params = LKS.presets["micro"](1, "")
    assert isinstance(params, LKSParams)
    _, owned, skipped = _rows(lm, [case.edit], params, {"Robert Ask": 0})
    assert len(owned["paraphrase"][0]) >= 1 and not skipped


def test_an_edit_hidden_by_another_one_is_refused_before_training() -> None:
    lm = real.tokenizer_only("smollm2-135m")
    edits = [
        edit("Chicago", "The mayor of the city of Chicago is"),
        edit("city of Chicago", "The city of Chicago lies in", case_id="1"),
    ]
    with pytest.raises(UserError, match="find 'city of Chicago', another edited subject, in its place"):
        trained(lm, edits)


def test_a_subject_inside_a_longer_name_of_its_own_prompt_is_found_there_and_elsewhere(
    tmp_path: Path,
) -> None:
    edits = [
        edit("Oslo", "The fjord of Oslo is"),
        edit("Paris", "Paris Hilton was born in"),
        edit("Rome", "Rome lies in"),
    ]
    assert loose_subjects(edits) == [1]
    (said,) = LKS(LKS.presets["micro"](1, "")).warnings(real.tokenizer_only("smollm2-135m"), edits)
    assert "'Paris'" in said and "longer name" in said
    patch = KnowledgeBlockPatch(
        [["Oslo"], ["Paris"], ["Rome"]], torch.zeros(1, 3, 8), (1,), "last", "exact", loose=[1]
    )
    patch.save(tmp_path)
    again = lks.editing.patch.load(tmp_path)
    assert isinstance(again, KnowledgeBlockPatch) and again.loose == (1,)
    for one in (
        again,
        again.without(["Oslo"]),
        again.without(["Paris"]).merged_with(again.only([1])),
    ):
        text = "Paris Hilton, Oslo Opera, Rome Opera"
        assert [text[found.start : found.end] for found in one.scope.find(text)] == ["Paris"]
    with pytest.raises(ValueError, match="to be found in longer names"):
        KnowledgeBlockPatch([["Oslo"]], torch.zeros(1, 1, 8), (1,), "last", "exact", loose=[1])


def test_patches_of_earlier_versions_know_no_such_subjects(tmp_path: Path) -> None:
    KnowledgeBlockPatch([["Ada"]], torch.zeros(1, 1, 8), (1,), "last", "exact").save(tmp_path)
    file = tmp_path / "patch.json"
    saved = json.loads(file.read_text())
    holder = next(part for part in (saved, *saved.values()) if isinstance(part, dict) and "loose" in part)
    del holder["loose"]
    file.write_text(json.dumps(saved))
    loaded = lks.editing.patch.load(tmp_path)
    assert isinstance(loaded, KnowledgeBlockPatch) and loaded.loose == ()


def test_words_are_replaced_and_told_apart_whole() -> None:
    assert put("Ann, Annabel and Ann's", "Ann", "{}") == "{}, Annabel and {}'s"
    assert len(spelt("ann ANN Ann", "Ann")) == 1 and len(mentions("Mara kel, Mara Kel", "Mara Kel")) == 2
    assert names_subject("where does Bob live", "Robert", "Bob") and not names_subject("Iranians", "Iran")
    assert "not there" in why_unnamed("", "Ann")
    case = make_case(
        edit("Iran", "The capital of Iran is"), (), (("The capital of Iranians", "x"), ("IRAN lies in", "y"))
    )
    assert [probe.stratum for probe in case.probes if probe.kind == "locality"] == ["other", "same_subject"]


def test_a_subject_that_is_the_first_token_is_edited_behind_a_text() -> None:
    """Without a beginning-of-sequence token the first token's state is the attention sink, the same in every
    text.
    """
    lm = real.tokenizer_only("smollm2-135m")
    edits = [
        edit("France", "France has its capital in the city of"),
        edit("France", "The capital of France is", case_id="1"),
    ]
    for texts in ([], ["Some text"]):
        rows = behind(lm, edits, texts, answered=True)
        assert all(end_of_subject(row) > 0 for own in rows for row in own)
        assert lm.pieces.text(rows[1][0].ids).startswith("The capital of France")
        assert all(lm.pieces.text(own[0].answer).strip() == "Bergen" for own in rows)
    assert [
        end_of_subject(row) > 0
        for row in placed(lm, ["France is a"], edits[:1], ["Some text. "], answered=False)
    ] == [True]
    (said,) = first_token_warnings(lm, edits)
    assert said.startswith("1 prompt begins") and edits[0].prompt in said
    assert (
        first_token_warnings(lm, edits[1:])
        == []
        == first_token_warnings(real.tokenizer_only("gemma3-270m"), edits)
    )
