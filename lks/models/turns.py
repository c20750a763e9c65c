"""Positions of the user's turn of a chat, in text and tokens, found with the tokenizer's chat template."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARKS = ("qzjx", "xjzq", "zqxj")
"""Placeholder contents that no template contains, used to find the position of a content."""


def rendered(tokenizer: "PreTrainedTokenizerFast", messages: Sequence[dict[str, str]]) -> str:
    """Render messages as the text of a chat that the model is to answer, with all its special tokens.

    Raises:
        jinja2.TemplateError, ValueError, TypeError: the tokenizer has no template, or it does not take these
            messages.
    """
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


class Turns:
    """Finds the content of the user's last turn.

    The template renders a first turn, a later one and one after a system message; what precedes the user's
    content each time is how turns open. A template that refuses one of the three is used for the others.

    Args:
        tokenizer: a tokenizer; without a chat template no text is a chat.
        opening: ids that the tokenizer puts before every text by itself.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", opening: Sequence[int] = ()) -> None:
        self.template = tokenizer.chat_template
        self._tokenizer = tokenizer
        self._atoms = frozenset(
            {
                *tokenizer.all_special_ids,
                *(i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()),
            }
        )
        self._opening = "".join(tokenizer.convert_ids_to_tokens(list(opening)))

    def whole(self, text: str) -> bool:
        """Return whether a text contains its own beginning, as rendered chats do.

        The tokenizer must not add special tokens to such a text.
        """
        return bool(self._opening) and text.startswith((self._opening, *self._begin))

    def place(self, ids: Sequence[int]) -> int | None:
        """Return the index of the first token of the last user turn's content, without leading white space.

        It is None where the ids contain no such turn.
        """
        ends = [at + len(one) for one in self.openings if (at := _last(ids, one)) is not None]
        return max(ends) + self._blanks(ids[max(ends) :]) if ends else None

    def content(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens of the last user turn's content.

        They are all that follows where no special token ends a turn, and all ids where they contain no turn.
        """
        start = self.place(ids)
        if start is None:
            return list(ids)
        closing = next((token for token in self._behind if token in self._atoms), None)
        return list(ids[start : next((i for i in range(start, len(ids)) if ids[i] == closing), len(ids))])

    def place_in(self, text: str) -> int | None:
        """Return the index of the first character of the last user turn's content in a rendered chat.

        It is None where there is no such turn.
        """
        if not self.openings:
            return None
        ids, offsets = self._tokenized(text)
        start = self.place(ids)
        if start is None or start == len(ids):
            return None if start is None else len(text)
        at = offsets[start][0]
        return at + len(text[at:]) - len(text[at:].lstrip())

    @cached_property
    def openings(self) -> tuple[tuple[int, ...], ...]:
        """How a user's turn begins: as few ids as distinguish it from the assistant's.

        White space in front of the content is left out.
        """
        return tuple(dict.fromkeys(found for front in self._fronts if (found := self._shortest(front))))

    @cached_property
    def _begin(self) -> tuple[str, ...]:
        """What a rendered chat of one turn begins with, if anything."""
        text = self._asked([("user", MARKS[0])])
        front = "" if text is None else text[: text.rfind(MARKS[0])]
        return (front,) if front.strip() else ()

    @cached_property
    def _fronts(self) -> list[list[int]]:
        """Ids in front of the user's content.

        They begin at the start of the text, at the end of the previous answer, or at the end of the system
        message.
        """
        first, second, third = MARKS
        talks = (
            [("user", third)],
            [("user", first), ("assistant", second), ("user", third)],
            [("system", second), ("user", third)],
        )
        return [front for text in map(self._asked, talks) if text is not None for front in self._front(text)]

    def _front(self, text: str) -> list[list[int]]:
        """Return the ids between the content before the last one, if there is one, and the last.

        They are also returned without the first id, which may merge with a content.
        """
        end, start = text.rfind(MARKS[2]), text.rfind(MARKS[1])
        start = start + len(MARKS[1]) if 0 <= start < end else 0
        ids, offsets = self._tokenized(text)
        front = [token for token, (a, b) in zip(ids, offsets, strict=True) if a >= start and b <= end]
        return [front, front[1:]] if start else [front]

    @cached_property
    def _behind(self) -> list[int]:
        """Ids after the user's content: the end of that turn and the opening of the assistant's."""
        text = self._asked([("user", MARKS[2])]) or ""
        ids, offsets = self._tokenized(text)
        return [
            token
            for token, (a, _) in zip(ids, offsets, strict=True)
            if a >= text.rfind(MARKS[2]) + len(MARKS[2])
        ]

    def _asked(self, talk: Sequence[tuple[str, str]]) -> str | None:
        """Render a chat; return None where the template refuses it or omits the last content."""
        if not self.template:
            return None
        try:
            text = rendered(self._tokenizer, [{"role": role, "content": content} for role, content in talk])
        except Exception:  # noqa: BLE001  a template is a program and may fail in any way
            return None
        return text if talk[-1][1] in text else None

    def _shortest(self, front: list[int]) -> tuple[int, ...]:
        """Return the shortest end of a front that identifies it, else the whole front.

        Such an end begins with a special token and does not also occur after the content.
        """
        while front and self._blanks(front[-1:]):
            front = front[:-1]
        starts = [i for i in range(len(front) - 1, -1, -1) if front[i] in self._atoms]
        return next(
            (tuple(front[i:]) for i in (*starts, 0) if front and _last(self._behind, front[i:]) is None), ()
        )

    def _blanks(self, ids: Sequence[int]) -> int:
        """Return how many leading tokens are only white space."""
        return next(
            (i for i, token in enumerate(ids) if token in self._atoms or not _blank(self._tokenizer, token)),
            len(ids),
        )

    def _tokenized(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and character offsets of a text."""
        made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(made["input_ids"]), list(made["offset_mapping"])


def _blank(tokenizer: "PreTrainedTokenizerFast", token: int) -> bool:
    """Return whether a token spells only white space."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    return not piece.replace("▁", "").strip() or str(tokenizer.decode([token])).isspace()


def _last(ids: Sequence[int], part: Sequence[int]) -> int | None:
    """Return the index of the last occurrence of some ids in others."""
    wanted = list(part)
    return next(
        (i for i in range(len(ids) - len(wanted), -1, -1) if list(ids[i : i + len(wanted)]) == wanted), None
    )
