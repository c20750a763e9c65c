"""Translation of a request into rows of a batch: which patch, which tokens, how long, how chosen."""

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from jinja2 import TemplateError

from lks.editing.patch import Patch
from lks.models.lm import LM
from lks.models.turns import rendered
from workbench.serving.batch import GeneratingRow, Sampling
from workbench.serving.engine import Engine
from workbench.serving.protocol import ChatRequest, Completion, CompletionFields, Message, Refusal
from workbench.serving.text_stream import TextStream
from workbench.serving.ticket import Closed, Full, Ticket


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits and access rules of the server.

    Attributes:
        length: maximum tokens of a prompt, with what a patch adds to it, and its answer.
        rows: maximum number of answers generated at the same time.
        waiting: maximum number of waiting answers.
        body: maximum bytes of a request.
        key: API key that clients must send; None for none.
        hosts: names by which clients may address the server; empty for any. This keeps out a web page that
            makes its own name point to this server.
    """

    length: int
    rows: int = 32
    waiting: int = 256
    body: int = 1 << 20
    key: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as rows.

    Attributes:
        rows: the answers to generate; n per prompt, one prompt after the other.
        patch: patch whose own batches the rows go to, if it cannot share batches.
        prompt_tokens: tokens of all prompts, as they were asked.
    """

    rows: list[GeneratingRow]
    patch: Patch | None
    prompt_tokens: int


class ModelService:
    """The model, its edited versions and the engine that runs them.

    Args:
        lm: the model.
        patches: patches by the names they are served under, the unedited model with `NoPatch` among them.
        rules: limits and access rules.
        facts: further facts that /v1/models reports for each name.
    """

    def __init__(
        self,
        lm: LM,
        patches: Mapping[str, Patch],
        rules: Rules,
        facts: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self.lm, self.rules, self.facts = lm, rules, facts or {}
        self.engine = Engine(lm, patches, rules.rows, rules.waiting)
        self.reader = ThreadPoolExecutor(1, "reader")
        self._pieces = lm.pieces

    @property
    def names(self) -> list[str]:
        """Names of the models that can be requested."""
        return list(self.engine.patches)

    def batches(self, name: str) -> str:
        """Return whether a model shares its batches with all others: "shared" or "own"."""
        return "own" if self.engine.by_row[name] is None else "shared"

    def prepare(self, asked: Completion | ChatRequest) -> Prepared:
        """Read a request's prompts; this takes as long as tokenising and finding contexts.

        Raises:
            Refusal: the model does not exist, it lacks a token, or the prompt is too long.
        """
        if asked.model not in self.engine.patches:
            known = ", ".join(self.names)
            raise Refusal(
                404,
                f"The model {asked.model!r} is not served here. Served: {known}.",
                param="model",
                code="model_not_found",
            )
        by_row = self.engine.by_row[asked.model]
        prompts = (
            self._chat(asked.messages)
            if isinstance(asked, ChatRequest)
            else [self._tokens(one) for one in asked.prompts]
        )
        n = asked.n or 1
        if len(prompts) * n > self.rules.rows + self.rules.waiting:
            raise Refusal(
                400,
                f"{len(prompts) * n} answers are requested; "
                f"at most {self.rules.rows + self.rules.waiting} fit.",
                param="n",
            )
        rows: list[GeneratingRow] = []
        for number, ids in enumerate(prompts):
            read = ids if by_row is None else by_row.prompt(ids)
            sampling = self._sampling(asked, len(read) + self._grows(asked.model))
            for choice in range(n):
                draws = (
                    random.Random()
                    if asked.seed is None
                    else random.Random(f"{asked.seed} {number} {choice}")
                )
                text = TextStream(self._pieces, sampling.stops, spaced=isinstance(asked, ChatRequest))
                rows.append(GeneratingRow(read, by_row, sampling, text, draws))
        own = self.engine.patches[asked.model] if by_row is None else None
        return Prepared(rows, own, sum(map(len, prompts)))

    def submit(self, prepared: Prepared) -> Ticket:
        """Hand the rows to the engine.

        Raises:
            Refusal: there is no room, or the server is ending.
        """
        ticket = Ticket(prepared.rows, prepared.patch)
        try:
            self.engine.submit(ticket)
        except Full:
            raise Refusal(
                429,
                "Too many answers are in progress. Try again shortly.",
                "rate_limit_exceeded",
                code="rate_limit_exceeded",
            ) from None
        except Closed:
            raise Refusal(503, "The server is ending.", "server_error", code="ending") from None
        return ticket

    def _grows(self, name: str) -> int:
        """Return the tokens that the patch of an own batch may put in front of a prompt."""
        return self.engine.patches[name].context_tokens(self.lm) if self.engine.by_row[name] is None else 0

    def _sampling(self, asked: CompletionFields, length: int) -> Sampling:
        """Return how an answer is chosen; its length defaults to the room that is left.

        Raises:
            Refusal: the prompt and the answer are too long.
        """
        room = self.rules.length - length
        longest = room if asked.longest is None else asked.longest
        if longest > room or room < 1:
            message = (
                f"The prompt has {length} tokens and {max(longest, 1)} are requested; "
                f"this server's limit is {self.rules.length} for both."
            )
            field = "messages" if isinstance(asked, ChatRequest) else "prompt"
            raise Refusal(400, message, param=field, code="context_length_exceeded")
        heat = 1.0 if asked.temperature is None else asked.temperature
        return Sampling(longest, heat, 1.0 if asked.top_p is None else asked.top_p, asked.stops)

    def _tokens(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the tokens of a prompt, at least one.

        Raises:
            Refusal: the model does not have a token, or the prompt is empty.
        """
        if isinstance(prompt, str):
            return self._checked(self.lm.tokenized([prompt])[0])
        known = len(self.lm.tokenizer)
        if any(token >= known for token in prompt):
            raise Refusal(
                400, f"prompt has a token that the model does not have; there are {known}.", param="prompt"
            )
        return self._checked(list(prompt))

    def _checked(self, ids: list[int]) -> list[int]:
        ids = ids or list(self.lm.opening)
        if not ids:
            raise Refusal(400, "prompt is empty.", param="prompt")
        return ids

    def _chat(self, messages: Sequence[Message]) -> list[list[int]]:
        """Return the single prompt that a chat amounts to.

        Raises:
            Refusal: the chat template does not accept the messages.
        """
        if self.lm.tokenizer.chat_template is None:
            return [self._tokens(plain(messages))]
        try:
            text = rendered(self.lm.tokenizer, [{"role": one.role, "content": one.text} for one in messages])
        except (TemplateError, ValueError, TypeError) as error:
            raise Refusal(
                400, f"The model's chat template does not accept these messages: {error}.", param="messages"
            ) from None
        return [self._checked(list(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]))]


def plain(messages: Sequence[Message]) -> str:
    """Render a chat as text, for tokenizers without a template.

    What the system says comes first, then each turn after its speaker's name, in paragraphs.
    """
    names = {"user": "User: ", "assistant": "Assistant: "}
    return "".join(f"{names.get(one.role, '')}{one.text}\n\n" for one in messages) + "Assistant:"
