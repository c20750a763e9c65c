"""Protocol of the server: the supported part of OpenAI's completion and chat completion requests, and its
errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lks.io.lines import json_line
from lks.io.untrusted import one_line

MOST_CHOICES = 16
"""Maximum number of answers to one prompt."""
MOST_PROMPTS = 64
"""Maximum number of prompts in one request."""
DEFAULT_COMPLETION = 16
"""New tokens of a completion that does not give a number, as in OpenAI's interface."""


class Refusal(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status code.
        message: error message, complete on its own.
        kind: OpenAI's `type`.
        param: name of the field at fault.
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
        """The error body as OpenAI's clients read it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def _only(*allowed: object) -> BeforeValidator:
    """Validate a field that is known but not supported: only values that request the default behaviour
    pass.
    """

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
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Off = None


class CompletionFields(_Model):
    """Fields that both kinds of request have."""

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
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def longest(self) -> int | None:
        """Maximum number of new tokens per answer."""
        return self.max_tokens


class Completion(CompletionFields):
    """Body of POST /v1/completions."""

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
        """The prompts, one or several, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]

    @property
    def longest(self) -> int:
        """Maximum number of new tokens per answer."""
        return self.max_tokens or DEFAULT_COMPLETION


class TextPart(_Model):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class Message(_Model):
    """A message of a chat."""

    role: Literal["system", "user", "assistant", "developer"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: Annotated[object, _only()] = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(CompletionFields):
    """Body of POST /v1/chat/completions."""

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
        """Maximum number of new tokens per answer."""
        return self.max_completion_tokens or self.max_tokens


def understood(kind: type[CompletionFields], document: object) -> CompletionFields:
    """Validate a request.

    Raises:
        Refusal: a field is wrong or not supported; the message names it.
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
    """Token counts of a request.

    Attributes:
        prompt: tokens of all its prompts, without a context that a patch has added.
        made: tokens of all its answers.
    """

    prompt: int
    made: int

    @property
    def body(self) -> dict[str, int]:
        """The token counts as OpenAI's clients read them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.made,
            "total_tokens": self.prompt + self.made,
        }


@dataclass(frozen=True, slots=True)
class Form:
    """Builder of the response to one request, in OpenAI's format.

    Attributes:
        id, created, model: repeated in every part.
        chat: whether it is a chat.
    """

    id: str
    created: int
    model: str
    chat: bool

    def whole(
        self, texts: Mapping[int, str], finishes: Mapping[int, str], usage: TokenUsage
    ) -> dict[str, Any]:
        """Return the response in one piece."""
        choices = [
            self._choice(i, {"message": {"role": "assistant", "content": texts[i]}}, texts[i], finishes[i])
            for i in sorted(texts)
        ]
        return self._around("chat.completion" if self.chat else "text_completion", choices) | {
            "usage": usage.body
        }

    def part(self, index: int, text: str, finish: str | None, first: bool = False) -> dict[str, Any]:
        """Return a piece of a streamed response."""
        delta = {"role": "assistant"} if first else {}
        if text or first:
            delta["content"] = text
        return self._around(
            "chat.completion.chunk" if self.chat else "text_completion",
            [self._choice(index, {"delta": delta}, text, finish)],
        )

    def usage(self, usage: TokenUsage) -> dict[str, Any]:
        """Return the last piece of a streamed response that is to end with the token counts."""
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
