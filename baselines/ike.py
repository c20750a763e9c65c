"""IKE: the edited fact is put in front of the prompt, after demonstrations of how to use a new fact.

The method is from Zheng et al. 2023 (arXiv 2305.12740). A demonstration states another fact (x', y') and
answers a prompt under it (Sec. 3.2):

    copy    New Fact: x' y'   Prompt: x' y'                        the fact itself
    update  New Fact: x' y'   Prompt: <paraphrase of x'> y'        a question in its scope
    retain  New Fact: x' y'   Prompt: <another fact's prompt> <its true answer>

Each of the k facts nearest to the edited one gives a demonstration, in the proportions 1 : 3 : 4, the nearest
last (Sec. 3.3). They come from edits that are never evaluated and are passed to `prepare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from baselines._in_context.retrieval_patch import FactsInFront, FactText, Lookup
from baselines._in_context.retrievers import RetrieverName, retriever
from lks.editing.editor import After, Editor, Lengths, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import Choices, Range, SearchSpace
from lks.edits import Edit
from lks.errors import NothingToLearnFrom, UserError
from lks.models.joining import joined
from lks.models.lm import LM
from lks.progress import Progress, no_progress

Form = Literal["copy", "update", "retain"]
FORMS: tuple[Form, ...] = ("retain", "update", "retain", "copy", "update", "retain", "update", "retain")
"""Forms of the demonstrations from the nearest on, repeated cyclically: 1 copy, 3 updates, 4 retains."""


@dataclass(frozen=True, slots=True)
class IKEParams:
    """Parameters of IKE.

    Attributes:
        demonstrations: k, number of demonstrations before a fact; fewer if the model's window is full or
            fewer facts are available.
        retriever: retriever of demonstrations and facts: "tfidf" (cosine), "bm25" or "dense" (cosine; needs
            sentence-transformers).
        encoder: sentence encoder of the dense retriever.
        threshold: facts whose score with the prompt is below this are left out; 0 (published) keeps all.
    """

    search_space: ClassVar[SearchSpace] = (
        Choices("demonstrations", (2, 4, 8, 16, 32)),
        Choices("retriever", ("tfidf", "bm25")),
        Range("threshold", 0.0, 0.6),
    )

    demonstrations: int = 32
    retriever: RetrieverName = "tfidf"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    threshold: float = 0.0


class IKE(Editor[IKEParams]):
    """A memory of facts as text, with demonstrations; no weight changes and nothing is trained."""

    title: ClassVar = "IKE"
    source: ClassVar = "Zheng et al. 2023, arXiv 2305.12740"
    changes: ClassVar = "context"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = IKEParams
    trains: ClassVar = True
    made_for: ClassVar = Lengths(3, 26, "CounterFact")
    presets: ClassVar = {
        # EasyEdit, hparams/IKE/llama-7b.yaml and mistral-7b.yaml (k); the paper uses 32. The retriever is our
        # choice: it needs no extra package
        "llama-2-7b-chat": always(IKEParams(demonstrations=16)),
        "mistral-7b-instruct-v0.3": always(IKEParams(demonstrations=16)),
        # our choice: one round of the forms, in a window of 512. Testbed models saw no context in training
        # and do not use one
        "micro": always(IKEParams(demonstrations=8)),
        "mini": always(IKEParams(demonstrations=8)),
    }

    def __init__(self, params: IKEParams) -> None:
        super().__init__(params)
        self.training: tuple[Edit, ...] = ()

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: Progress = no_progress) -> float:
        """Store the edits that demonstrations are made from.

        Raises:
            NothingToLearnFrom: the edits have fewer than two different subjects.
        """
        if len({e.subject for e in training}) < 2:
            raise NothingToLearnFrom(
                "IKE makes its demonstrations from edits of at least two subjects that are not evaluated. "
                "Use a larger dataset."
            )
        self.training = tuple(training)
        return 0.0

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Store the facts as text, each with the demonstrations nearest to it.

        Raises:
            UserError: `prepare` was not called.
        """
        p = self.params
        lookup = Lookup(p.retriever, p.encoder, 1, p.threshold, "")
        if not edits:
            return FactsInFront([], [], lookup)
        if not self.training:
            raise UserError(
                "IKE has no edits to make demonstrations of. Call prepare with training edits first."
            )
        memory = retriever(p.retriever, p.encoder)
        memory.fit([joined(e.prompt, e.target) for e in self.training])
        nearest, _ = memory.search([joined(e.prompt, e.target) for e in edits], p.demonstrations)
        texts: dict[str, int] = {}  # demonstration -> its number
        facts = []
        for edit, row in zip(edits, nearest.tolist(), strict=True):
            shown = [demonstration(self.training, i, FORMS[n % len(FORMS)]) for n, i in enumerate(row)]
            facts.append(
                FactText(
                    edit.prompt,
                    edit.target,
                    tuple(texts.setdefault(text, len(texts)) for text in reversed(shown)),
                    edit.subject,
                )
            )
        progress(1.0)
        return FactsInFront(facts, list(texts), lookup)


def demonstration(training: Sequence[Edit], index: int, form: Form) -> str:
    """Return one demonstration as text.

    It falls back to a copy if an update lacks a paraphrase, or if no edit of another subject has an old
    answer to retain.
    """
    edit = training[index]
    prompt, answer = edit.prompt, edit.target
    if form == "update" and edit.training_paraphrases:
        prompt = edit.training_paraphrases[0]
    elif form == "retain":
        others = (
            o
            for o in [*training[index + 1 :], *training[:index]]
            if o.subject != edit.subject and o.ground_truth
        )
        if other := next(others, None):
            prompt, answer = other.prompt, other.ground_truth
    return f"New Fact: {joined(edit.prompt, edit.target)}\nPrompt: {joined(prompt, answer)}\n\n"
