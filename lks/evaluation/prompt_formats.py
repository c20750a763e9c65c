"""Ways to put a question to a model: as the bare prompt, as question and answer, or as a chat turn."""

from typing import Literal

from lks.edits import Context
from lks.models.lm import LM
from lks.models.turns import rendered

Form = Literal["auto", "bare", "qa", "chat"]
"""How prompts should be put: in one context, or in the one that fits each prompt ("auto", `form_of`)."""

SENTENCE_ENDS = tuple("?？؟⁇⁈⁉‽՞;;፧!！.．。｡।॥۔։።။។")
"""Marks that end a question or an instruction. The Greek question mark looks like a semicolon and is typed
as one."""
CLOSERS = "\"'”’»)」』）】"
"""Marks that may follow `SENTENCE_ENDS`."""


def available(context: Context, lm: LM) -> bool:
    """Return whether a model supports a context: only some tokenizers have a chat template."""
    return context != "chat" or bool(lm.tokenizer.chat_template)


def wrapped(context: Context, lm: LM, prompt: str, fact: str = "") -> str:
    """Put a prompt in its context, as text for `LM.encode`.

    Args:
        context: the context.
        lm: model whose chat template is used.
        prompt: the bare prompt.
        fact: the edited fact as a sentence without its full stop; for "given".

    Raises:
        jinja2.TemplateError: the chat template does not take the prompt.
    """
    match context:
        case "bare":
            return prompt
        case "qa":
            return f"Q: {prompt.strip()}\nA:"
        case "given":
            return f"{fact.rstrip(' .')}. {prompt}"
        case "chat":
            return rendered(lm.tokenizer, [{"role": "user", "content": prompt}])


def form_of(form: Form, lm: LM, prompt: str) -> Context:
    """Return the context that a prompt is put in.

    Args:
        form: the requested form. "auto": a question or an instruction is a chat turn, for a model that has a
            chat template; a sentence to complete, and every prompt of another model, is bare.
        lm: model whose chat template is used.
        prompt: the prompt as the user gives it; one that is already written in the template is left as it is.
    """
    if form == "bare" or lm.turns.place_in(prompt) is not None:
        return "bare"
    if form == "auto":
        return "chat" if available("chat", lm) and is_request(prompt) else "bare"
    return form


def is_request(prompt: str) -> bool:
    """Return whether a prompt is a whole sentence to answer, not the beginning of one to complete."""
    text = prompt.rstrip().rstrip(CLOSERS).rstrip()
    return text.endswith(SENTENCE_ENDS) and not text.endswith("..")


def preceded(lm: LM, prompt: str, lead: str) -> str:
    """Insert a text before a prompt; in a chat, at the beginning of the user's turn."""
    at = lm.turns.place_in(prompt) or 0
    return prompt[:at] + lead + prompt[at:]
