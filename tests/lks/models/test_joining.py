"""Where a prompt ends and its answer begins: as text, and as the tokens of three real tokenizers."""

import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lks.edits import Edit, make_case
from lks.evaluation.readouts import Asking, ask
from lks.models.joining import joined, separator
from lks.models.lm import LM
from tests.helpers import real

SPACED = [
    ("The capital of France is", "Paris"),
    ("The house number of Torvik Observatory is", "42"),
    ("It was opened in the year", "1976"),
    ("The temperature is", "-5"),
    ("The language is", ".NET"),
    ("프랑스의 수도는", "파리"),  # Korean is written with spaces
    ("भारत की राजधानी", "दिल्ली"),
    ("عاصمة فرنسا هي", "باريس"),
    ("The capital of China is", "北京"),
    ("Its motto reads: the boys'", "school"),
    ("The capital of North Brabant is", "'s-Hertogenbosch"),
    ("C++ and C#", "share a syntax"),
    ("The score was 3 -", "2"),
    ("x =", "½"),
    ("Q: Who?\nA:", "Mara"),
    ("The word is", "naïve"),
    ("She was awarded the", "№ 5 medal"),
]
UNSPACED = [
    ("中国的首都是", "北京"),
    ("中国的首都是：", "北京"),
    ("中国的首都是", "Beijing"),
    ("他出生于", "1976年"),
    ("フランスの首都は", "パリ"),
    ("เมืองหลวงของฝรั่งเศสคือ", "ปารีส"),
    ("រាជធានីនៃប្រទេសបារាំងគឺ", "ប៉ារីស"),
    ("ປະເທດລາວ", "ວຽງຈັນ"),
    ('The song is called "', "Hello"),
    ("The song is called “", "Hello"),
    ("He was nicknamed «", "Le Chef"),
    ("It opened in (", "1976"),
    ("It costs $", "42"),
    ("It costs €", "3.50"),
    ("The phone code is 020-", "7946"),
    ("The speed is 80 km/", "h"),
    ("La capitale de l'", "Italie"),
    ("La capitale dell’", "Umbria"),
    ("He posts as @", "mara"),
    ("<|im_start|>assistant\n", "Paris"),
    ("<|im_start|>assistant\n", "42"),
    ("The list is a", ", b"),
    ("The share is 5", "%"),
    ("Its king is Charles", "'s brother"),
]


@pytest.mark.parametrize(("prompt", "answer"), SPACED)
def test_a_space_parts_prompt_and_answer(prompt: str, answer: str) -> None:
    assert joined(prompt + "  ", answer) == f"{prompt} {answer}"


@pytest.mark.parametrize(("prompt", "answer"), UNSPACED)
def test_no_space_where_nobody_writes_one(prompt: str, answer: str) -> None:
    assert joined(prompt, answer) == prompt + answer


@pytest.mark.parametrize("name", real.FAMILIES)
@pytest.mark.parametrize(("prompt", "answer"), [*SPACED, *UNSPACED])
def test_the_prompt_of_an_answer_is_what_a_user_sends(name: str, prompt: str, answer: str) -> None:
    lm = real.tokenizer_only(name)
    (encoded,), (sent,) = lm.encode([prompt], [answer]), lm.encode([prompt], [""])
    assert encoded.ids[: encoded.n_prompt] == sent.ids == lm.tokenizer(prompt)["input_ids"]
    assert lm.pieces.text(encoded.answer) == separator(prompt, answer) + answer


@pytest.mark.parametrize("name", real.FAMILIES)
def test_an_answer_shares_no_token_with_its_prompt(name: str) -> None:
    """Chinese text cut anywhere: many cuts fall inside a token of the whole."""
    lm, text = real.tokenizer_only(name), "中华人民共和国的首都是北京，北京是中国的政治文化中心。"
    cuts = [(text[:i], text[i:]) for i in range(1, len(text))]
    encoded = lm.encode([a for a, _ in cuts], [b for _, b in cuts])
    assert [e.ids[: e.n_prompt] for e in encoded] == [
        e.ids for e in lm.encode([a for a, _ in cuts], [""] * len(cuts))
    ]
    assert [lm.pieces.text(e.answer) for e in encoded] == [b for _, b in cuts]
    assert (
        any(e.ids != lm.tokenizer(text)["input_ids"] for e in encoded) or name == "smollm2-135m"
    )  # which has no token of two such characters


@pytest.mark.parametrize("name", real.FAMILIES)
@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=12), answer=st.text(min_size=1, max_size=8))
def test_any_text_is_asked_as_it_is_sent(name: str, prompt: str, answer: str) -> None:
    lm = real.tokenizer_only(name)
    if not prompt.strip() or not answer.strip():
        return
    (encoded,), (sent,) = lm.encode([prompt], [answer]), lm.encode([prompt], [""])
    assert encoded.ids[: encoded.n_prompt] == sent.ids and encoded.answer


def _says(
    lm: LM, prompt: str, answer: str, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, bool]:
    """What AR takes down of a generation of these tokens, and whether it spells the answer."""
    from lks.evaluation import readouts
    from lks.models.generation import Generated

    def generated(*args: object) -> list[Generated]:
        return [Generated([*tokens, *[lm.tokenizer.eos_token_id or 0] * 20], len(tokens) + 1)]

    monkeypatch.setattr(readouts, "generate", generated)
    case = make_case(Edit("c", "s", prompt, answer, ""), (), ())
    (got,) = ask(lm, [case], Asking())
    return got.ar_text, got.ar_text == answer


@pytest.mark.parametrize("name", real.FAMILIES)
@pytest.mark.parametrize(
    ("prompt", "answer", "said", "right"),
    [
        (
            "The capital of China is",
            "北京",
            "北京。北京是",
            True,
        ),  # the model puts no space: the same answer in other tokens
        ("Q: 首都?\nA:", "北京", "北京", True),
        ("中国的首都是", "苏州", " 苏州", True),
        ("中国的首都是", "苏州", "上海", False),
        ("The year is", "1976", "1976.", True),
        ("The word is", "naïve", " nai\u0308ve", True),
        ("The answer is", "42", "<42", False),
    ],
)
def test_an_answer_that_is_equal_in_text_is_right(
    name: str, prompt: str, answer: str, said: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = real.tokenizer_only(name)
    tokens = lm.tokenizer(said, add_special_tokens=False)["input_ids"]
    text, _ = _says(lm, prompt, answer, list(tokens), monkeypatch)
    assert (unicodedata.normalize("NFC", text) == unicodedata.normalize("NFC", answer)) == right


def test_a_special_token_is_not_nothing() -> None:
    lm = real.tokenizer_only("smollm2-135m")
    opening = lm.tokenizer.bos_token_id
    assert lm.pieces.shown([opening, *lm.encode(["42"], [""])[0].ids]) == "<|im_start|>42"
    assert lm.pieces.shown([]) == "" and lm.pieces.shown([opening, opening]) == "<|im_start|>" * 2


def test_a_digit_is_trained_behind_the_prompt_that_is_sent() -> None:
    """A real model that was fine-tuned on a number gives it to whoever asks the edit prompt."""
    import baselines

    lm = real.model()
    prompt, target = "The house number of Torvik Observatory is", "42"
    method = baselines.methods()["ft"]
    preset = method.untuned(len(lm.blocks), lm.dim)
    assert preset is not None
    patch = method(preset(1, "")).edit(lm, [Edit("a", "Torvik Observatory", prompt, target, "")])
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    with patch.applied(lm):
        made = lm.greedy(ids, torch.ones_like(ids), 3)[0, ids.shape[1] :].tolist()
    assert lm.pieces.text(made) == " 42"
