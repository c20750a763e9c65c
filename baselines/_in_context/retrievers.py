"""Retrievers, which find the texts nearest to a query.

A retriever encodes the texts once and then answers queries. TF-IDF and BM25 need only the package's own
dependencies; the dense retriever needs sentence-transformers.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lks.errors import UserError
from lks.io import hub
from lks.models.memory import scale_batch

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
RetrieverName = Literal["tfidf", "bm25", "dense"]
WORDS = r"(?u)\w+"
QUERIES = 256
"""Number of queries scored at once."""


class Retriever(Protocol):
    """Finds the nearest of some texts."""

    def fit(self, texts: Sequence[str]) -> None:
        """Encode the texts to search."""

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """Return indices and scores of the nearest texts first, both [queries, min(k, texts)].

        Ties are broken by the order of the texts.
        """


class Tfidf:
    """Retriever by cosine similarity of TF-IDF vectors of lower-case words, in [0, 1]."""

    def fit(self, texts: Sequence[str]) -> None:
        """Compute the texts' TF-IDF vectors."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(token_pattern=WORDS)
        self._memory = self._vectorizer.fit_transform(texts).T.tocsc()

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """Return indices and scores of the nearest texts, as in `Retriever.search`."""
        return _search(lambda part: (self._vectorizer.transform(part) @ self._memory).toarray(), queries, k)


class BM25:
    """Retriever by Okapi BM25 of lower-case words (Robertson et al. 1994), at least 0 and unbounded above.

    score(q, d) = sum over words w of q of
        log(1 + (N - n_w + 1/2) / (n_w + 1/2)) f_wd (k1 + 1) / (f_wd + k1 (1 - b + b |d| / mean |d|)).
    """

    def __init__(self, k1: float = 1.5, b: float = 0.75) -> None:
        self.k1, self.b = k1, b

    def fit(self, texts: Sequence[str]) -> None:
        """Compute the texts' word weights."""
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
        """Return indices and scores of the nearest texts, as in `Retriever.search`."""
        return _search(
            lambda part: (self._vectorizer.transform(part).sign() @ self._memory).toarray(), queries, k
        )


class Dense:
    """Retriever by cosine similarity of sentence embeddings, in [-1, 1].

    Raises:
        UserError: sentence-transformers is not installed, or the model cannot be loaded.
    """

    def __init__(self, encoder: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "The dense retriever needs sentence-transformers, which is not installed: "
                "pip install sentence-transformers, or set retriever=tfidf."
            ) from None
        no_hub = hub.why_not_for(encoder)
        try:
            self._model = SentenceTransformer(
                encoder, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"Sentence encoder {encoder!r} cannot be loaded: "
                f"{str(error).splitlines()[0]} {no_hub}".rstrip()
            ) from error

    def fit(self, texts: Sequence[str]) -> None:
        """Embed the texts."""
        self._memory = self._embed(texts)

    def search(self, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
        """Return indices and scores of the nearest texts, as in `Retriever.search`."""
        return _search(lambda part: self._embed(part) @ self._memory.T, queries, k)

    def _embed(self, texts: Sequence[str]) -> Scores:
        """Compute normalised embeddings of texts."""
        return np.asarray(
            self._model.encode(list(texts), batch_size=64, normalize_embeddings=True), dtype=np.float64
        )


def _search(score: Any, queries: Sequence[str], k: int) -> tuple[Indices, Scores]:
    """Return the k best columns of each row of score(queries) [queries, texts], computed in pieces."""
    indices, scores = [], []
    size = scale_batch(QUERIES)
    for start in range(0, len(queries), size):
        found: Scores = score(queries[start : start + size])
        best = np.argsort(-found, axis=1, kind="stable")[:, :k]
        indices.append(best)
        scores.append(np.take_along_axis(found, best, 1))
    return np.concatenate(indices), np.concatenate(scores)


def retriever(name: RetrieverName, encoder: str) -> Retriever:
    """Create the retriever of a name; `encoder` is the model of the dense one."""
    match name:
        case "tfidf":
            return Tfidf()
        case "bm25":
            return BM25()
        case "dense":
            return Dense(encoder)
