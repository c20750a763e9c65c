"""What is asked and answered: OpenAI's requests for completions and chat completions, as far as they are supported, and its errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lks.io.lines import json_line
from lks.io.untrusted import one_line

MOST_CHOICES = 16
"""Answers to one prompt."""
MOST_PROMPTS = 64
"""Prompts of one request."""
DEFAULT_COMPLETION = 16
"""New tokens of a completion that does not say how many, as in OpenAI's interface."""


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: complete on its own.
        kind: OpenAI's `type`.
        param: the field that is at fault.
        code: OpenAI's `code`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code

    @property
    def body(self) -> dict[str, object]:
        """As OpenAI's clients read it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def _only(*allowed: object) -> BeforeValidator:
    """A field that is known but not supported: it may say what happens anyway."""

    def check(value: object) -> object:
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError("is not supported by this server")
        return value

    return BeforeValidator(check)


Off = Annotated[object, _only(False)]
Zero = Annotated[object, _only(0, 0.0)]
Nothing = Annotated[object, _only({}, [])]
Tokens = Annotated[int, Field(ge=0, le=2**31 - 1)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Model):
    """Of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Off = None


class CompletionFields(_Model):
    """What both kinds of request have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    logit_bias: Nothing = None

    @property
    def stops(self) -> tuple[str, ...]:
        """As a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the count of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def longest(self) -> int | None:
        """New tokens of each answer at most."""
        return self.max_tokens


class Completion(CompletionFields):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[Tokens], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[
            list[Annotated[list[Tokens], Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)
        ]
    )
    echo: Off = None
    suffix: Annotated[object, _only("")] = None
    logprobs: Annotated[object, _only()] = None
    best_of: Annotated[object, _only(1)] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]

    @property
    def longest(self) -> int:
        """New tokens of each answer at most."""
        return self.max_tokens or DEFAULT_COMPLETION


class TextPart(_Model):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Model):
    """Of a chat."""

    role: Literal["system", "user", "assistant", "developer"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: Annotated[object, _only()] = None

    @property
    def text(self) -> str:
        """All parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(CompletionFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Off = None
    top_logprobs: Zero = None
    response_format: Annotated[object, _only({"type": "text"})] = None
    tools: Nothing = None
    tool_choice: Annotated[object, _only("none")] = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[object, _only(["text"])] = None
    store: Off = None
    metadata: dict[str, str] | None = None

    @property
    def longest(self) -> int | None:
        """New tokens of each answer at most."""
        return self.max_completion_tokens or self.max_tokens


def understood(kind: type[CompletionFields], document: object) -> CompletionFields:
    """A request, checked.

    Raises:
        Refusal: names the field that is wrong or not supported.
    """
    try:
        json_line(document)
    except ValueError:
        raise Refusal(
            400, r"The request holds half of a character (\ud800 to \udfff alone), which is no text."
        ) from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        first = (
            max(found, key=lambda one: len(one["loc"]))
            if found[0]["loc"][:1] in (("prompt",), ("stop",))
            else found[0]
        )
        field = str(first["loc"][0]) if first["loc"] else None
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason = "is not supported by this server"
        elif first["type"] == "missing":
            reason = "is missing"
        elif not reason.startswith("is not"):
            reason = f"is not valid: {reason}"
        where = ".".join(
            str(part)
            for part in first["loc"]
            if not str(part).startswith(("list[", "str", "function-", "constrained-"))
        )
        raise Refusal(
            400, f"{one_line(where) or 'The request'} {one_line(reason)}.", param=field and one_line(field)
        ) from None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of a request.

    Attributes:
        prompt: of all its prompts, without a context that a patch has put in.
        made: of all its answers.
    """

    prompt: int
    made: int

    @property
    def body(self) -> dict[str, int]:
        """As OpenAI's clients read it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.made,
            "total_tokens": self.prompt + self.made,
        }


@dataclass(frozen=True, slots=True)
class Form:
    """How one request is answered, in OpenAI's words.

    Attributes:
        id, created, model: said in every part.
        chat: whether it is a chat.
    """

    id: str
    created: int
    model: str
    chat: bool

    def whole(
        self, texts: Mapping[int, str], finishes: Mapping[int, str], usage: TokenUsage
    ) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [
            self._choice(i, {"message": {"role": "assistant", "content": texts[i]}}, texts[i], finishes[i])
            for i in sorted(texts)
        ]
        return self._around("chat.completion" if self.chat else "text_completion", choices) | {
            "usage": usage.body
        }

    def part(self, index: int, text: str, finish: str | None, first: bool = False) -> dict[str, Any]:
        """A piece of a streamed answer."""
        delta = {"role": "assistant"} if first else {}
        if text or first:
            delta["content"] = text
        return self._around(
            "chat.completion.chunk" if self.chat else "text_completion",
            [self._choice(index, {"delta": delta}, text, finish)],
        )

    def usage(self, usage: TokenUsage) -> dict[str, Any]:
        """The last piece of a streamed answer that is to end with it."""
        return self._around("chat.completion.chunk" if self.chat else "text_completion", []) | {
            "usage": usage.body
        }

    def _choice(self, index: int, said: dict[str, Any], text: str, finish: str | None) -> dict[str, Any]:
        return {
            "index": index,
            **(said if self.chat else {"text": text}),
            "logprobs": None,
            "finish_reason": finish,
        }

    def _around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
