"""Knowledge extraction: sentences brought up to date and turned into gaps, with a model that answers as it is
told.
"""

import json
from collections.abc import Sequence

import pytest

from lks.llm.client import ChatModel, ChatReply, Request
from lks.llm.limits import RequestLimits
from lks.llm.reply_cache import Correspondence
from lks.llm.server import ChatServer
from lks.prompts.extraction import GAP, VERSION, Gap, extract, gap_in, updated
from lks.prompts.filters import PromptFact
from tests.helpers.fake_server import running

NOBEL = PromptFact("0", "Alfred Nobel", "The birthplace of Alfred Nobel is", "Oslo", "Stockholm")
SENTENCES = """1. Alfred Nobel was born in Stockholm.
- Alfred Nobel invented dynamite.
* He never married.
Alfred Nobel invented dynamite
Alfred Nobel had a house in Stockholm for many years.
Alfred Nobel died in the year 1896."""
REPLIES = {
    "Alfred Nobel invented dynamite.": "GapPrompt: Alfred Nobel invented ___.\nGapAnswer: dynamite",
    "Alfred Nobel died in the year 1896.": "GapPrompt: Alfred Nobel died in ___.\nGapAnswer: 1896",
}


class Model:
    """Answers by the last line of what it is asked."""

    def __init__(
        self, sentences: str = SENTENCES, statement: str = "The birthplace of Alfred Nobel is Oslo."
    ) -> None:
        self.sentences, self.statement, self.asked = sentences, statement, list[str]()

    def __call__(self, requests: Sequence[Request]) -> list[ChatReply]:
        return [ChatReply(self.says(request.messages[-1][1])) for request in requests]

    def says(self, text: str) -> str:
        self.asked.append(text)
        last = text.rsplit("\n", maxsplit=1)[-1]
        if last.startswith("Answer: "):
            return self.statement
        return (
            REPLIES.get(last.removeprefix("Sentence: "), "")
            if last.startswith("Sentence: ")
            else self.sentences
        )


def test_sentences_updated_and_turned_into_gaps():
    (found,) = extract([NOBEL], Model())
    assert found.sentences == (
        "Alfred Nobel was born in Oslo.",
        "Alfred Nobel invented dynamite.",
        "Alfred Nobel died in the year 1896.",
    )
    assert found.gaps == (
        Gap("Alfred Nobel was born in ___.", "Oslo", True),
        Gap("Alfred Nobel invented ___.", "dynamite", False),
    )
    assert found.gaps[0].opening == "Alfred Nobel was born in"
    assert found.rejects == (
        ("He never married.", "subject missing"),
        ("Alfred Nobel invented dynamite", "duplicate"),
        ("Alfred Nobel had a house in Stockholm for many years.", "says the old answer"),
        ("GapPrompt: Alfred Nobel died in ___.\nGapAnswer: 1896", "not the sentence"),
    )


def test_the_edited_fact_is_stated_where_no_sentence_does():
    model = Model("Alfred Nobel invented dynamite.")
    (found,) = extract([NOBEL], model)
    assert found.sentences[0] == "The birthplace of Alfred Nobel is Oslo."
    assert found.gaps[0] == Gap("The birthplace of Alfred Nobel is ___.", "Oslo", True)
    assert "Answer: Oslo" in model.asked[1]
    (found,) = extract(
        [NOBEL], Model("Alfred Nobel invented dynamite.", "Alfred Nobel was born in Stockholm.")
    )
    assert not any(gap.edited for gap in found.gaps)
    assert found.rejects == (("Alfred Nobel was born in Stockholm.", "new answer missing"),)


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("Alfred Nobel was born in Stockholm.", "Alfred Nobel was born in Oslo."),
        ("Stockholm is where Alfred Nobel was born.", "Oslo is where Alfred Nobel was born."),
        ("Alfred Nobel was born in stockholm.", "Alfred Nobel was born in Oslo."),
        ("Alfred Nobel was a Stockholmer.", None),
        ("Alfred Nobel of Stockholm was born in Stockholm.", None),
    ],
)
def test_updating(sentence, wanted):
    assert updated(sentence, NOBEL) == wanted


def test_names_stay_as_they_are():
    paris = PromptFact("1", "Paris Hilton", "Paris Hilton lives in", "Rome", "Paris")
    assert updated("Paris Hilton lives in Paris.", paris) == "Paris Hilton lives in Rome."
    assert gap_in("Paris Hilton lives in Paris.", "Paris", "Paris Hilton") == f"Paris Hilton lives in {GAP}."
    assert gap_in("Paris Hilton sings.", "Paris", "Paris Hilton") is None
    assert gap_in(r"The sign of Ann is \1.", r"\1", "Ann") == f"The sign of Ann is {GAP}."


def test_replies_are_kept(tmp_path):
    model = Model()
    with running() as server:
        server.says = model.says

        def opened() -> Correspondence:
            return Correspondence(
                ChatModel(ChatServer.named("The model", server.url), "fake", RequestLimits(retries=0)),
                tmp_path / "replies.jsonl",
                VERSION,
            )

        first = extract([NOBEL], opened().ask)
        asked = len(server.requests)
        assert asked == 3
        assert extract([NOBEL], opened().ask) == first
        assert len(server.requests) == asked
    assert all("key" in json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines())
