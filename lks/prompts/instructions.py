"""Instructions to a language model that writes prompts, with the worked examples of the paper."""

from collections.abc import Sequence

from lks.llm.client import Request

VERSION = "writing-1"
"""Part of a reply's cache key and of the summary; must be raised with every change of what is asked here."""
TEMPERATURE = 0.7
"""Above 0, so that another attempt after a rejected reply gives another reply."""
LONGEST_REPLY = 160
"""Maximum number of tokens of a reply."""

PARAPHRASE = """You rewrite prompts. You are given a prompt about a subject. Write another prompt that asks \
for exactly the same thing in other words, of about the same length.
- Spell the subject exactly as it is given.
- A question stays a question. The beginning of a sentence stays the beginning of a sentence, and the answer \
is what must come next.
- Never say the answer.
Reply with the new prompt alone, on one line.

Subject: United States
Prompt: What is the capital of United States?
New prompt: The capital of United States is where?

Subject: Alice
Prompt: The occupation of Alice is
New prompt: Alice's job is"""

LOCALITY = """You write test questions. You are given a prompt that asks for one fact about a subject. Write \
a new prompt that asks for a different fact about the same subject, one whose answer you know for certain \
and that has fewer than three words.
- Spell the subject exactly as it is given.
- Ask neither for what the given prompt asks nor for anything that follows from it.
- The answer must not stand in the new prompt.
Reply with two lines and nothing else: the new prompt after "EvalPrompt:", its answer after "EvalAnswer:".

Subject: United States
Prompt: What is the capital of United States?
EvalPrompt: The largest city in the United States is
EvalAnswer: New York

Subject: Alice
Prompt: The occupation of Alice is
EvalPrompt: The favorite food of Alice is
EvalAnswer: Hot dog"""


def paraphrase(subject: str, prompt: str, taken: Sequence[str], sample: int) -> Request:
    """Build the request for a prompt of the same meaning.

    Args:
        subject: who or what the prompt is about.
        prompt: the edit prompt.
        taken: existing paraphrases; another one is wanted.
        sample: number of the attempt.
    """
    return _request(
        PARAPHRASE, subject, prompt, _avoid("It must also differ from", taken) + "New prompt:", sample
    )


def locality(subject: str, prompt: str, taken: Sequence[str], sample: int) -> Request:
    """Build the request for a prompt about another fact of the subject, and its answer.

    The arguments are those of `paraphrase`.
    """
    return _request(
        LOCALITY, subject, prompt, _avoid("Ask for none of these either", taken).rstrip("\n"), sample
    )


def _request(task: str, subject: str, prompt: str, rest: str, sample: int) -> Request:
    """Build a chat request from a task and a prompt."""
    text = f"Subject: {subject}\nPrompt: {prompt}\n{rest}".rstrip("\n")
    return Request((("system", task), ("user", text)), TEMPERATURE, LONGEST_REPLY, sample)


def _avoid(what: str, taken: Sequence[str]) -> str:
    """Format the list of prompts to avoid; "" if there are none."""
    return "".join([f"{what}:\n", *(f"- {text}\n" for text in taken)]) if taken else ""
