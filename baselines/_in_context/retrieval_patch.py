"""The patch of in-context editors: facts as text, retrieved for a prompt and put in front of it."""

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
"""Number of positions of the model's window that a context leaves free for the answer."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """How facts are retrieved and introduced.

    Attributes:
        retriever: name of the retriever.
        encoder: sentence encoder of the dense retriever.
        facts: number of facts put in front of a prompt, the nearest last.
        threshold: facts whose score with the prompt is below this are left out; 0 (published) keeps all.
        instruction: text put before everything else.
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
        prompt, target: prompt and target of the edit.
        demonstrations: indices of the demonstrations before it, in this order.
        subject: subject of the edit; "" in patches from before it was saved.
    """

    prompt: str
    target: str
    demonstrations: tuple[int, ...] = ()
    subject: str = ""

    @property
    def text(self) -> str:
        """The line that states the fact."""
        return f"New Fact: {joined(self.prompt, self.target)}\n"


class FactsInFront(ContextPatch):
    r"""A patch that puts the facts nearest to a prompt, and their demonstrations, in front of it.

    The context is "<instruction><demonstrations>New Fact: <prompt> <target>\nPrompt: " (Zheng et al. 2023,
    Sec. 3.2). The memory is encoded once, on the first search.
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
        """Size of all text in bytes, in UTF-8."""
        return sum(len(text.encode()) for text in [*(fact.text for fact in self.facts), *self.demonstrations])

    def contexts(self, lm: LM, prompts: Sequence[str]) -> list[str]:
        """Return the context of each prompt; "" where no fact is near enough."""
        return [context for context, _ in self.choices(lm, prompts)]

    def choices(self, lm: LM, prompts: Sequence[str]) -> list[tuple[str, int]]:
        """Return each prompt's context and the index of its nearest fact; "" and -1 if none is near."""
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
        """Return whether a fact is near enough to each prompt; None for a dense encoder with a threshold.

        A dense encoder's scores depend, by rounding, on the other prompts of the batch.
        """
        return (
            None if self.lookup.retriever == "dense" and self.lookup.threshold else super().fires(lm, prompts)
        )

    def _context(self, lm: LM, prompt: str, facts: list[FactText]) -> str:
        """Return the facts with as many of their nearest demonstrations as fit into the model's window."""
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
        """Return an upper bound of the context's length: the longest fact times the number of facts shown.

        Demonstrations and instruction are included; the bound is at most the model's window.
        """
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
        """Return no tensors: everything is text."""
        return {}

    def settings(self) -> dict[str, object]:
        """Return all text and how it is searched."""
        return {
            "facts": [asdict(fact) for fact in self.facts],
            "demonstrations": self.demonstrations,
            "lookup": asdict(self.lookup),
        }

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Create the patch from saved settings.

        Raises:
            ValueError: a demonstration does not exist, the number of facts is negative, or the encoder is a
                folder.
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
    """Saved settings of a `FactsInFront` patch."""

    facts: list[FactText]
    demonstrations: list[str]
    lookup: Lookup


def _length(lm: LM, text: str) -> int:
    """Return the number of tokens of a text, without special tokens."""
    return len(lm.tokenizer.encode(text, add_special_tokens=False))
