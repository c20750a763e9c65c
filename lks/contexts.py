"""How a question is put to a model: the bare prompt, as question and answer, or as a chat turn."""

from typing import cast

from lks.edits import Context
from lks.lm import LM


def available(context: Context, lm: LM) -> bool:
    """Whether a model can be asked so: only some tokenizers have a chat template."""
    return context != "chat" or bool(lm.tokenizer.chat_template)


def wrapped(context: Context, lm: LM, prompt: str, fact: str = "") -> str:
    """A prompt in its context, as text that the tokenizer puts its own beginning of sequence before.

    Args:
        context: which.
        lm: whose chat template.
        prompt: the bare prompt.
        fact: the edited fact as a sentence without its full stop; for "given".
    """
    match context:
        case "bare":
            return prompt
        case "qa":
            return f"Q: {prompt.strip()}\nA:"
        case "given":
            return f"{fact.rstrip(' .')}. {prompt}"
        case "chat":
            turn = [{"role": "user", "content": prompt}]
            text = cast(str, lm.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
            return text.removeprefix(str(lm.tokenizer.bos_token or ""))
