"""Chat templates of several families on real tokenizers: the ids of a rendered chat, the place of the user's
last turn, contexts in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from baselines._in_context.retrieval_patch import FactsInFront, FactText, Lookup
from baselines._locate_then_edit.contexts import behind
from lks.editing.context_patch import asked_in, with_context
from lks.edits import Context, Edit
from lks.evaluation.prompt_formats import Form, form_of, is_request, preceded, wrapped
from lks.models.lm import LM
from tests.helpers import real, tiny

TEMPLATES = {
    "ChatML": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "ChatML with a default system prompt": "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "Llama 3": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "Gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + m.role.replace('assistant', 'model') + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "Mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}{{ raise_exception('No system') }}{% endif %}{% endfor %}",
    "Llama 2": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if messages[0].role == 'system' and loop.index0 == 1 %}{{ '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    "Zephyr, without BOS": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "Vicuna": "{% if messages[0].role != 'system' %}{{ 'A chat between a curious user and an assistant. ' }}{% endif %}"
    "{% for m in messages %}{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: ', 'system': ''}[m.role] + m.content }}"
    "{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "one turn alone": "{% if messages | length > 1 %}{{ raise_exception('One') }}{% endif %}{{ '[user]' + messages[0].content + '[answer]\n' }}",
}
QUESTIONS = [
    "Who runs Torvik?", "Wo steht die Sternwarte Torvik?", "日本の首都は？", "أين يقع مرصد تورفيك؟", " 7 é?", "What, in 1999, was \"it\"?\nSay it.",
    "a\n\nb \n c?", "x", "user", "Is the assistant a system user?", "\n\nHow much is 12,5 %? ", "{{ bos_token }} {% for %}?",
]  # fmt: skip
TALKS = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user"),
)


@contextmanager
def chatting(lm: LM, template: str) -> Iterator[LM]:
    """The model with another chat template, for a while."""
    own = lm.tokenizer.chat_template
    lm.tokenizer.chat_template = template
    try:
        yield lm
    finally:
        lm.tokenizer.chat_template = own


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return TEMPLATES[request.param]


@pytest.fixture(params=real.FAMILIES)
def lm(request: pytest.FixtureRequest) -> LM:
    return real.tokenizer_only(request.param)


def ids_of(lm: LM, talk: tuple[str, ...], content: str = "Who runs Torvik?") -> list[int]:
    """A chat's ids as transformers makes them; its last turn is the content, the others say other things."""
    said = [{"role": role, "content": f"The {role} says so."} for role in talk[:-1]] + [
        {"role": talk[-1], "content": content}
    ]
    return list(lm.tokenizer.apply_chat_template(said, add_generation_prompt=True)["input_ids"])


def talks(lm: LM) -> Iterator[list[int]]:
    """Chats of several turns, as far as the template takes them."""
    from jinja2 import TemplateError

    for talk in TALKS:
        try:
            yield ids_of(lm, talk)
        except TemplateError:
            assert len(talk) > 1


def test_what_a_tokenizer_adds_is_not_what_it_has() -> None:
    smollm, gemma, qwen = map(real.tokenizer_only, real.FAMILIES)
    assert smollm.tokenizer.bos_token and qwen.tokenizer.bos_token
    assert smollm.opening == qwen.opening == () and gemma.opening == (gemma.tokenizer.bos_token_id,)
    assert tiny.lm("llama").opening == (1,) and tiny.lm("gpt2").opening == ()


def test_a_prompt_as_chat_has_the_templates_own_ids(lm: LM, template: str) -> None:
    with chatting(lm, template):
        for question in QUESTIONS:
            (encoded,) = lm.encode([wrapped("chat", lm, question)], [""])
            assert encoded.ids == ids_of(lm, ("user",), question), question


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_so_it_has_behind_every_kind_of_beginning(family: str, template: str) -> None:
    """SentencePiece style with a space in front of the first word alone, without one, and bytes."""
    with chatting(tiny.lm(family), template) as lm:
        assert lm.encode([wrapped("chat", lm, "Oslo works")], [""])[0].ids == ids_of(
            lm, ("user",), "Oslo works"
        )


@pytest.mark.parametrize("family", [real.FAMILIES[0], real.FAMILIES[2]])
def test_a_prompt_in_the_models_own_template_has_its_ids(family: str) -> None:
    lm = real.tokenizer_only(family)
    for question in QUESTIONS:
        assert lm.encode([wrapped("chat", lm, question)], [""])[0].ids == ids_of(lm, ("user",), question)


def test_bare_and_chat_prompts_in_one_batch_begin_once(lm: LM) -> None:
    with chatting(lm, TEMPLATES["Llama 3"]):
        prompts = ["Torvik stands in", wrapped("chat", lm, "Who runs Torvik?"), "Torvik is"]
        assert [one.ids for one in lm.encode(prompts, [""] * 3)] == [
            lm.encode([prompt], [""])[0].ids for prompt in prompts
        ]
        assert all(lm.head(one.ids) == len(lm.opening) for one in lm.encode(prompts, [""] * 3))


def test_the_users_last_turn_is_found(lm: LM, template: str) -> None:
    with chatting(lm, template):
        for ids in talks(lm):
            assert asked_in(lm, ids).startswith("Who runs Torvik?")
            assert "says so" not in asked_in(lm, ids)
        assert lm.turns.place(lm.encode(["Who runs Torvik?"], [""])[0].ids) is None, (
            "a bare prompt is no chat"
        )


def test_a_context_is_put_before_the_users_content_and_nowhere_else(lm: LM, template: str) -> None:
    with chatting(lm, template):
        for ids in talks(lm):
            longer = with_context(lm, ids, "New Fact: It is Mara.\nPrompt: ")
            before, found, after = lm.tokenizer.decode(longer).partition("New Fact: It is Mara.\nPrompt: ")
            assert found and after.startswith("Who runs Torvik?")
            assert (before + after).replace(" ", "") == lm.tokenizer.decode(ids).replace(" ", "")
            at = lm.turns.place(ids)
            assert (
                at is not None
                and longer[:at] == ids[:at]
                and longer[len(longer) - len(ids) + at :] == ids[at:]
            )


def test_a_context_of_a_bare_prompt_follows_what_the_tokenizer_added(lm: LM) -> None:
    ids = lm.encode(["Who runs Torvik?"], [""])[0].ids
    longer = with_context(lm, ids, "New Fact: It is Mara.\nPrompt: ")
    assert tuple(longer[: len(lm.opening)]) == lm.opening
    assert (
        lm.tokenizer.decode(longer, skip_special_tokens=True).strip()
        == "New Fact: It is Mara.\nPrompt: Who runs Torvik?"
    )
    assert with_context(lm, ids, "") == ids


def test_a_turns_opening_that_is_the_bos_token_is_not_parted_from_its_role() -> None:
    lm = real.tokenizer_only(real.FAMILIES[0])
    assert lm.tokenizer.bos_token == "<|im_start|>"
    text = lm.tokenizer.decode(with_context(lm, ids_of(lm, ("user",)), "New Fact: It is Mara.\nPrompt: "))
    assert text.startswith("<|im_start|>system\n")
    assert "<|im_start|>user\nNew Fact: It is Mara.\nPrompt: Who runs Torvik?<|im_end|>\n" in text


@pytest.mark.parametrize("name", ["ChatML", "Gemma", "Mistral"])
def test_a_batch_and_a_served_prompt_get_the_same_context(name: str) -> None:
    """The model reads under the patch what the server makes of the prompt."""
    lm = real.tokenizer_only(real.FAMILIES[0])
    patch = FactsInFront(
        [FactText("Who runs Torvik?", "Mara", (), "Torvik"), FactText("Lena plays the", "oboe", (), "Lena")],
        [],
        Lookup("tfidf", "", 1, 0, ""),
    )
    with chatting(lm, TEMPLATES[name]):
        rows = [
            ids_of(lm, ("user",)),
            ids_of(lm, ("user", "assistant", "user"), "What does Lena play?"),
            lm.encode(["Lena plays the"], [""])[0].ids,
        ]
        served = patch.by_rows(lm)
        assert served is not None
        ids, mask = lm.pad(rows, "left")
        with torch.no_grad():
            with patch.applied(lm):
                got = lm.model(
                    input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0)
                ).logits[:, -1]
            for row, logits in zip(rows, got, strict=True):
                whole = served.prompt(row)
                assert ("oboe" if row is not rows[0] else "Mara") in lm.tokenizer.decode(whole)
                torch.testing.assert_close(
                    logits, lm.model(torch.tensor([whole])).logits[0, -1], rtol=1e-3, atol=1e-4
                )


def test_sampled_texts_of_locating_methods_begin_the_users_turn() -> None:
    lm = real.tokenizer_only(real.FAMILIES[0])
    prompt = wrapped("chat", lm, "Who runs Torvik?")
    assert preceded(lm, prompt, "Birds sing. ").endswith(
        "<|im_start|>user\nBirds sing. Who runs Torvik?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert preceded(lm, "Torvik is run by", "Birds sing. ") == "Birds sing. Torvik is run by"
    ((plain, longer),) = behind(lm, [Edit("1", "Torvik", prompt, "Mara", "")], ["Birds sing"], answered=True)
    for row in (plain, longer):
        assert row.subject is not None
        assert (
            lm.tokenizer.decode(row.ids[row.subject[0] : row.subject[1] + 1]).strip() == "Torvik"
            and lm.tokenizer.decode(row.answer) == "Mara"
        )


@pytest.mark.parametrize(
    ("prompt", "asks"),
    [
        ("Who runs Torvik?", True),
        ("Who runs “Torvik?”", True),
        ("誰がトルヴィクを経営していますか？", True),
        ("من يدير تورفيك؟", True),
        ("Ποιος διευθύνει το Τόρβικ;", True),
        ("Name the city in which Torvik stands.", True),
        ("Say it!", True),
        ("请说出首都。", True),
        ("टोर्विक कहाँ है।", True),
        ("Who runs Torvik? ", True),
        ("Torvik stands in the city of", False),
        ("Torvik, as everybody knows, is run by...", False),
        ("The answer to the question 'Who?' is", False),
        ("Q: Who runs Torvik?\nA:", False),
        ("Torvik was founded in 1999,", False),
        ("トルヴィクの首都は", False),
        ("", False),
    ],
)
def test_a_question_or_an_instruction_is_a_request(prompt: str, asks: bool) -> None:
    assert is_request(prompt) == asks


@pytest.mark.parametrize(
    ("form", "prompt", "context"),
    [
        ("auto", "Who runs Torvik?", "chat"),
        ("auto", "Torvik is run by", "bare"),
        ("chat", "Torvik is run by", "chat"),
        ("qa", "Who runs Torvik?", "qa"),
        ("bare", "Who runs Torvik?", "bare"),
        ("chat", "<|im_start|>user\nWho runs Torvik?<|im_end|>\n<|im_start|>assistant\n", "bare"),
        (
            "qa",
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
            "bare",
        ),
    ],
)
def test_the_form_of_a_prompt(form: Form, prompt: str, context: Context) -> None:
    assert form_of(form, real.tokenizer_only(real.FAMILIES[0]), prompt) == context


def test_without_a_template_a_question_is_bare() -> None:
    assert form_of("auto", tiny.lm("llama"), "Who runs Torvik?") == "bare"
