"""Facts as text, found for a prompt and put in front of it: what in-context editors share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Self

from torch import Tensor

from baselines._in_context.retrievers import Retriever, RetrieverName, retriever
from lks.editing.context_patch import ContextPatch
from lks.editing.patch import checked
from lks.models.joining import joined
from lks.models.lm import LM

ANSWER_ROOM = 32
"""Positions of the model's window that a context leaves free for the answer."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """How facts are found and introduced.

    Attributes:
        retriever: which one.
        encoder: model of the dense retriever.
        facts: how many facts are put in front of a prompt, the nearest last.
        threshold: a fact whose score with the prompt is below it is left out; 0 (published) leaves none out.
        instruction: said before everything else.
    """

    retriever: RetrieverName
    encoder: str
    facts: int
    threshold: float
    instruction: str


@dataclass(frozen=True, slots=True)
class FactText:
    """One edit as text.

    Attributes:
        prompt, target: of the edit.
        demonstrations: which demonstrations go before it, in this order.
        subject: of the edit; "" in patches saved before it was kept.
    """

    prompt: str
    target: str
    demonstrations: tuple[int, ...] = ()
    subject: str = ""

    @property
    def text(self) -> str:
        """The line that states it."""
        return f"New Fact: {joined(self.prompt, self.target)}\n"


class FactsInFront(ContextPatch):
    r"""Puts the facts nearest to a prompt, and their demonstrations, in front of it.

    The context is "<instruction><demonstrations>New Fact: <prompt> <target>\nPrompt: " (Zheng et al. 2023, Sec. 3.2). The memory is
    encoded once, when it is first searched.
    """

    kind = "facts in front"
    subjects: tuple[str, ...] = ()

    def __init__(self, facts: Sequence[FactText], demonstrations: Sequence[str], lookup: Lookup) -> None:
        self.facts, self.demonstrations, self.lookup = list(facts), list(demonstrations), lookup
        if all(fact.subject for fact in facts):
            self.subjects = tuple(fact.subject for fact in facts)

    @cached_property
    def _memory(self) -> Retriever:
        made = retriever(self.lookup.retriever, self.lookup.encoder)
        made.fit([fact.prompt for fact in self.facts])
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of all text, in UTF-8."""
        return sum(len(text.encode()) for text in [*(fact.text for fact in self.facts), *self.demonstrations])

    def contexts(self, lm: LM, prompts: Sequence[str]) -> list[str]:
        """The context of each prompt; "" where no fact is near enough."""
        return [context for context, _ in self.choices(lm, prompts)]

    def choices(self, lm: LM, prompts: Sequence[str]) -> list[tuple[str, int]]:
        """The context of each prompt and its nearest fact; "" and -1 where none is near enough."""
        if not self.facts:
            return [("", -1)] * len(prompts)
        made, least = [], self.lookup.threshold
        for prompt, row, scores in zip(
            prompts,
            *(found.tolist() for found in self._memory.search(prompts, self.lookup.facts)),
            strict=True,
        ):
            near = [i for i, score in zip(row, scores, strict=True) if not least or score >= least]
            made.append(
                (self._context(lm, prompt, [self.facts[i] for i in near[::-1]]), near[0])
                if near
                else ("", -1)
            )
        return made

    def fires(self, lm: LM, prompts: Sequence[str]) -> list[bool] | None:
        """Whether any fact is near enough; None where scores differ by rounding with what else is asked: a dense encoder and a threshold."""
        return (
            None if self.lookup.retriever == "dense" and self.lookup.threshold else super().fires(lm, prompts)
        )

    def _context(self, lm: LM, prompt: str, facts: list[FactText]) -> str:
        """Facts and as many of their demonstrations, the nearest ones, as the model's window holds."""
        end = "".join(fact.text for fact in facts) + "Prompt: "
        begin = self.lookup.instruction
        left = int(lm.model.config.max_position_embeddings) - ANSWER_ROOM - _length(lm, begin + end + prompt)
        shown: list[str] = []
        for number in reversed([d for fact in facts for d in fact.demonstrations]):
            left -= _length(lm, self.demonstrations[number])
            if left < 0:
                break
            shown.append(self.demonstrations[number])
        return begin + "".join(reversed(shown)) + end

    def context_tokens(self, lm: LM) -> int:
        """Of the longest fact with its demonstrations, as often as facts are shown; at most the model's window."""
        shown = [_length(lm, text) for text in self.demonstrations]
        longest = max(
            (_length(lm, fact.text) + sum(shown[d] for d in fact.demonstrations) for fact in self.facts),
            default=0,
        )
        return min(
            int(lm.model.config.max_position_embeddings),
            self.lookup.facts * longest + _length(lm, self.lookup.instruction),
        )

    def tensors(self) -> dict[str, Tensor]:
        """None: everything is text."""
        return {}

    def settings(self) -> dict[str, object]:
        """All text, and how it is searched."""
        return {
            "facts": [asdict(fact) for fact in self.facts],
            "demonstrations": self.demonstrations,
            "lookup": asdict(self.lookup),
        }

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """As saved.

        Raises:
            ValueError: a demonstration that is not there, or an encoder that is a folder.
        """
        saved = checked(_FactsInFrontSettings, settings)
        if any(
            not 0 <= number < len(saved.demonstrations)
            for fact in saved.facts
            for number in fact.demonstrations
        ):
            raise ValueError(f"a fact names a demonstration, of which there are {len(saved.demonstrations)}")
        if (
            saved.lookup.facts < 0
            or len(saved.lookup.encoder.split("/")) > 2
            or saved.lookup.encoder.startswith((".", "~", "/"))
        ):
            raise ValueError(f"{saved.lookup.facts} facts, encoder {saved.lookup.encoder!r}")
        return cls(saved.facts, saved.demonstrations, saved.lookup)


@dataclass(frozen=True, slots=True)
class _FactsInFrontSettings:
    """Settings as `FactsInFront` takes them."""

    facts: list[FactText]
    demonstrations: list[str]
    lookup: Lookup


def _length(lm: LM, text: str) -> int:
    return len(lm.tokenizer.encode(text, add_special_tokens=False))
