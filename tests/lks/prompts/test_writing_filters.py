"""How replies are read, and each reason to reject one."""

import pytest

from lks.prompts.filters import PromptFact, Seen, Written, WrittenPrompt, fault, read, same_fact, says

FACT = PromptFact(
    "0",
    "Alfred Nobel",
    "The birthplace of Alfred Nobel is",
    "Oslo",
    "Stockholm",
    published=("Alfred Nobel hails from",),
)
QUESTION = PromptFact("1", "France", "What is the capital of France?", "Lyon", "Paris")


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("Alice's job is", WrittenPrompt("Alice's job is")),
        ('  "Alice\'s  job is"\n', WrittenPrompt("Alice's job is")),
        ("New prompt: Alice's job is", WrittenPrompt("Alice's job is")),
        ("**New prompt:** Alice's job is", WrittenPrompt("Alice's job is")),
        ("paraphrase:\nAlice's job is", WrittenPrompt("Alice's job is")),
        ("```\nAlice's job is\n```", WrittenPrompt("Alice's job is")),
        ("- Alice's job is", WrittenPrompt("Alice's job is")),
        ("<think>hm\nhm</think>\nAlice's job is", WrittenPrompt("Alice's job is")),
        ("Alice's job is\nAlice works as", "more than one line"),
        ("Sure!\nAlice's job is", "more than one line"),
        ("", "empty"),
        ("New prompt:", "empty"),
    ],
)
def test_how_a_paraphrase_is_read(reply, wanted):
    assert read("paraphrase", reply) == wanted


GOOD = WrittenPrompt("The river of Paris is", "the Seine")


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("EvalPrompt: The river of Paris is\nEvalAnswer: the Seine", GOOD),
        ("evalprompt : The river of Paris is\n\nEVALANSWER: the Seine.", GOOD),
        ("**EvalPrompt:** The river of Paris is\n**EvalAnswer:** the Seine", GOOD),
        ("**EvalPrompt**: *The river of Paris is*\n**EvalAnswer**: `the Seine`", GOOD),
        ("1. Eval Prompt: The river of Paris is\n2. Eval Answer: 'the Seine'", GOOD),
        ("Of course:\nEvalPrompt: The river of Paris is\nEvalAnswer: the Seine", GOOD),
        ("EvalPrompt: a\nEvalAnswer: b\nEvalPrompt: c\nEvalAnswer: d", "wrong format"),
        ("EvalAnswer: the Seine\nEvalPrompt: The river of Paris is", "wrong format"),
        ("EvalPrompt: The river of Paris is\nEvalAnswer: the Seine\nIt flows north.", "wrong format"),
        ("EvalPrompt: The river of Paris is the Seine", "wrong format"),
        ("The river of Paris is / the Seine", "wrong format"),
        ("EvalPrompt:\nEvalAnswer: the Seine", "empty"),
        ("EvalPrompt: The river of Paris is\nEvalAnswer:", "empty"),
    ],
)
def test_how_a_locality_prompt_is_read(reply, wanted):
    assert read("locality", reply) == wanted


@pytest.mark.parametrize(
    ("fact", "text", "reason"),
    [
        (FACT, "Alfred Nobel was born in the city of", None),
        (FACT, "Nobel was born in", "subject missing"),
        (FACT, "the birthplace of alfred nobel is", "subject missing"),
        (FACT, "Birthplace of Alfred Nobel is:", "copy of the edit prompt"),
        (
            FACT,
            "If one were asked in which town it was that the later inventor Alfred Nobel saw the light of day, one would say it was",
            "length",
        ),
        (FACT, "Where was Alfred Nobel born?", "question or statement"),
        (FACT, "Alfred Nobel was born in.", "question or statement"),
        (FACT, "Alfred Nobel was born in ___", "question or statement"),
        (FACT, "In Stockholm was born Alfred Nobel", "answer in the prompt"),
        (FACT, "Alfred Nobel was born in oslo and", "answer in the prompt"),
        (QUESTION, "France has which city as its capital?", None),
        (QUESTION, "The capital of France is", "question or statement"),
    ],
)
def test_paraphrases(fact, text, reason):
    assert fault("evaluation", "paraphrase", WrittenPrompt(text), fact, Written(), Seen.of([fact])) == reason


@pytest.mark.parametrize(
    ("text", "answer", "reason"),
    [
        ("The invention of Alfred Nobel is", "dynamite", None),
        ("What did Alfred Nobel invent?", "a new explosive", None),
        ("What did Alfred Nobel invent?", "a quite new explosive", "answer too long"),
        ("What did he invent?", "dynamite", "subject missing"),
        ("The dynamite of Alfred Nobel is called", "Dynamite", "answer in the prompt"),
        ("The first name of Alfred Nobel is", "Alfred", None),
        ("The place of birth of Alfred Nobel is", "Solna", "asks the same fact"),
        ("Alfred Nobel grew up in", "Stockholm", "asks the same fact"),
        ("Alfred Nobel grew up in", "Oslo", "asks the same fact"),
        ("Alfred Nobel " + "very " * 40, "x", "length"),
    ],
)
def test_locality(text, answer, reason):
    assert (
        fault("evaluation", "locality", WrittenPrompt(text, answer), FACT, Written(), Seen.of([FACT]))
        == reason
    )


def test_what_the_record_and_the_dataset_have():
    other = PromptFact("2", "Alfred Nobel", "Alfred Nobel's profession was", "poet", "chemist")
    seen = Seen.of([FACT, other])
    own = Written(
        (WrittenPrompt("Alfred Nobel was born in the city of"),),
        (WrittenPrompt("The invention of Alfred Nobel is", "dynamite"),),
    )

    def reason(split, kind, text, answer=""):
        return fault(split, kind, WrittenPrompt(text, answer), FACT, own, seen)

    assert reason("training", "paraphrase", "Alfred Nobel was born in a city of") == "duplicate in the record"
    assert (
        reason("training", "locality", "The inventions of Alfred Nobel are", "x") == "duplicate in the record"
    )
    assert reason("training", "locality", "In which city was Alfred Nobel born?", "x") == "asks the same fact"
    assert reason("training", "locality", "Alfred Nobel's profession was", "x") == "an edit prompt"
    assert reason("training", "paraphrase", "Alfred Nobel hails from") == "in the other split"
    assert reason("evaluation", "paraphrase", "Alfred Nobel hails from") is None  # to be made anew is no harm
    seen.written["training"].add("alfred nobel s home was in")
    assert reason("evaluation", "paraphrase", "Alfred Nobel's home was in") == "in the other split"
    assert reason("training", "paraphrase", "Alfred Nobel's home was in") == "duplicate in the dataset"


def test_whole_words():
    assert says("He lives in New York City", "new york")
    assert not says("He is a Romanian", "Roman")
    assert not says("anything", "")
    assert same_fact("Where was Ann born?", "In what place was Ann born?", "Ann")
    assert not same_fact("Where was Ann born?", "Where did Ann die?", "Ann")
