"""Facts as text, found for a prompt and put in front of it: what in-context editors share.

A retriever encodes the memory once and is then asked for the entries nearest to a prompt. TF-IDF and BM25 need nothing beyond the
package's own dependencies; a dense encoder is used where sentence-transformers is installed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lks.context import ContextPatch
from lks.errors import UserError
from lks.lm import LM

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
RetrieverName = Literal["tfidf", "bm25", "dense"]
WORDS = r"(?u)\w+"
QUERIES = 256
"""How many queries are scored at once."""
ANSWER_ROOM = 32
"""Positions of the model's window that a context leaves free for the answer."""


class Retriever(Protocol):
    """Finds the nearest of some texts."""

    def fit(self, texts: Sequence[str]) -> None:
        """Encode the texts to search in."""

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """Nearest texts first: indices and scores, both [queries, min(k, texts)]; of equals the one fitted first comes first."""


class Tfidf:
    """Cosine of TF-IDF vectors of lower-case words, in [0, 1]."""

    def fit(self, texts: Sequence[str]) -> None:
        """Count the words."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(token_pattern=WORDS)
        self._memory = self._vectorizer.fit_transform(texts).T.tocsc()

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """See `Retriever`."""
        return _search(lambda part: (self._vectorizer.transform(part) @ self._memory).toarray(), queries, k)


class BM25:
    """Okapi BM25 of lower-case words (Robertson et al. 1994), at least 0 and without an upper bound.

    score(q, d) = sum over words w of q of log(1 + (N - n_w + 1/2) / (n_w + 1/2)) f_wd (k1 + 1) / (f_wd + k1 (1 - b + b |d| / mean |d|)).
    """

    def __init__(self, k1: float = 1.5, b: float = 0.75) -> None:
        self.k1, self.b = k1, b

    def fit(self, texts: Sequence[str]) -> None:
        """Count the words and weigh them."""
        from sklearn.feature_extraction.text import CountVectorizer

        self._vectorizer = CountVectorizer(token_pattern=WORDS, dtype=np.float64)
        counts = self._vectorizer.fit_transform(texts).tocoo()
        lengths = np.asarray(counts.sum(1)).ravel()
        texts_with = np.bincount(counts.col, minlength=counts.shape[1])
        rarity = np.log1p((len(texts) - texts_with + 0.5) / (texts_with + 0.5))
        damping = self.k1 * (1 - self.b + self.b * lengths / lengths.mean())
        counts.data = rarity[counts.col] * counts.data * (self.k1 + 1) / (counts.data + damping[counts.row])
        self._memory = counts.T.tocsc()

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """See `Retriever`."""
        return _search(lambda part: (self._vectorizer.transform(part).sign() @ self._memory).toarray(), queries, k)


class Dense:
    """Cosine of sentence embeddings, in [-1, 1].

    Raises:
        UserError: sentence-transformers is not installed, or has no such model.
    """

    def __init__(self, encoder: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "The dense retriever needs sentence-transformers, which is not installed: pip install sentence-transformers, or set retriever=tfidf."
            ) from None
        try:
            self._model = SentenceTransformer(encoder)
        except (OSError, ValueError) as error:
            raise UserError(f"Sentence encoder {encoder!r} cannot be loaded: {str(error).splitlines()[0]}") from error

    def fit(self, texts: Sequence[str]) -> None:
        """Embed the texts."""
        self._memory = self._embed(texts)

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """See `Retriever`."""
        return _search(lambda part: self._embed(part) @ self._memory.T, queries, k)

    def _embed(self, texts: Sequence[str]) -> Scores:
        return np.asarray(self._model.encode(list(texts), batch_size=64, normalize_embeddings=True), dtype=np.float64)


def _search(score: Any, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
    """The k best columns of each row of score(queries) [queries, texts], found in pieces."""
    indices, scores = [], []
    for start in range(0, len(queries), QUERIES):
        found: Scores = score(queries[start : start + QUERIES])
        best = np.argsort(-found, axis=1, kind="stable")[:, :k]
        indices.append(best)
        scores.append(np.take_along_axis(found, best, 1))
    return np.concatenate(indices), np.concatenate(scores)


def retriever(name: RetrieverName, encoder: str) -> Retriever:
    """The retriever of a name; `encoder` is the dense one's model."""
    match name:
        case "tfidf":
            return Tfidf()
        case "bm25":
            return BM25()
        case "dense":
            return Dense(encoder)


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
class Fact:
    """One edit as text.

    Attributes:
        prompt, target: of the edit.
        demonstrations: which demonstrations go before it, in this order.
    """

    prompt: str
    target: str
    demonstrations: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The line that states it."""
        return f"New Fact: {self.prompt} {self.target}\n"


class FactsInFront(ContextPatch):
    r"""Puts the facts nearest to a prompt, and their demonstrations, in front of it.

    The context is "<instruction><demonstrations>New Fact: <prompt> <target>\nPrompt: " (Zheng et al. 2023, Sec. 3.2). The memory is
    encoded once, when it is first searched.
    """

    kind = "facts in front"

    def __init__(self, facts: Sequence[Fact], demonstrations: Sequence[str], lookup: Lookup) -> None:
        self.facts, self.demonstrations, self.lookup = list(facts), list(demonstrations), lookup

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
        if not self.facts:
            return [""] * len(prompts)
        indices, scores = self._memory.search(prompts, self.lookup.facts)
        chosen = [
            [self.facts[i] for i, score in zip(row, values, strict=True) if not self.lookup.threshold or score >= self.lookup.threshold]
            for row, values in zip(indices.tolist(), scores.tolist(), strict=True)
        ]
        return [self._context(lm, prompt, facts[::-1]) if facts else "" for prompt, facts in zip(prompts, chosen, strict=True)]

    def _context(self, lm: LM, prompt: str, facts: list[Fact]) -> str:
        """Facts and as many of their demonstrations, the nearest ones, as the model's window holds."""
        end = "".join(fact.text for fact in facts) + ("Prompt:" if _brings_its_space(lm) else "Prompt: ")
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
        longest = max((_length(lm, fact.text) + sum(shown[d] for d in fact.demonstrations) for fact in self.facts), default=0)
        return min(int(lm.model.config.max_position_embeddings), self.lookup.facts * longest + _length(lm, self.lookup.instruction))

    def tensors(self) -> dict[str, Tensor]:
        """None: everything is text."""
        return {}

    def settings(self) -> dict[str, object]:
        """All text, and how it is searched."""
        return {"facts": [asdict(fact) for fact in self.facts], "demonstrations": self.demonstrations, "lookup": asdict(self.lookup)}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """As saved."""
        facts = [Fact(f["prompt"], f["target"], tuple(f["demonstrations"])) for f in cast(list[dict[str, Any]], settings["facts"])]
        return cls(facts, cast(list[str], settings["demonstrations"]), Lookup(**cast(dict[str, Any], settings["lookup"])))


def _length(lm: LM, text: str) -> int:
    return len(lm.tokenizer.encode(text, add_special_tokens=False))


def _brings_its_space(lm: LM) -> bool:
    """Whether a text's first token carries a leading space (SentencePiece), so that none is to be put before it."""
    both = [*lm.tokenizer.encode("a:", add_special_tokens=False), *lm.tokenizer.encode("a", add_special_tokens=False)]
    return " " in str(lm.tokenizer.decode(both))
