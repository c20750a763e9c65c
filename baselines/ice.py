r"""ICE: the edited fact is put in front of the prompt, without demonstrations.

A baseline of the KnowEdit survey (arXiv 2401.01286) and the zero-shot form of IKE (Zheng et al. 2023,
arXiv 2305.12740): "New Fact: <prompt> <target>\nPrompt: <the prompt asked>". Published evaluations edit one
fact at a time and always put it in front; with T facts in memory a retriever chooses, and with `threshold`
above 0 it may choose none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from baselines._in_context.retrieval_patch import FactsInFront, FactText, Lookup
from baselines._in_context.retrievers import RetrieverName
from lks.editing.editor import LONG, After, Editor, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import Choices, Range, SearchSpace
from lks.edits import Edit
from lks.models.lm import LM
from lks.progress import Progress, no_progress

INSTRUCTION = "Please acknowledge the following new facts and use them to answer the question:\n"


@dataclass(frozen=True, slots=True)
class ICEParams:
    """Parameters of ICE.

    Attributes:
        retriever: "tfidf" (cosine), "bm25" or "dense" (cosine; needs sentence-transformers).
        encoder: sentence encoder of the dense retriever.
        facts: number of facts put in front of a prompt, the nearest last.
        threshold: facts whose score with the prompt is below this are left out; 0 (published) keeps all.
        instruction: text put before the facts.
    """

    search_space: ClassVar[SearchSpace] = (
        Choices("retriever", ("tfidf", "bm25")),
        Choices("facts", (1, 2, 3)),
        Range("threshold", 0.0, 0.6),
    )

    retriever: RetrieverName = "tfidf"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    facts: int = 1
    threshold: float = 0.0
    instruction: str = ""


class ICE(Editor[ICEParams]):
    """A memory of facts as text; no weight changes and nothing is trained."""

    title: ClassVar = "ICE"
    source: ClassVar = "Zhang et al. 2024, arXiv 2401.01286"
    changes: ClassVar = "context"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = ICEParams
    made_for: ClassVar = LONG
    presets: ClassVar = {
        # EasyEdit, examples/PROMPT.md (wording). The retriever is our choice: published edits are evaluated
        # one at a time
        "llama-2-7b-chat": always(ICEParams(instruction=INSTRUCTION)),
        "mistral-7b-instruct-v0.3": always(ICEParams(instruction=INSTRUCTION)),
        # our choice: no instruction. Testbed models saw no context in training and do not use one in any
        # wording
        "micro": always(ICEParams()),
        "mini": always(ICEParams()),
    }

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Store the facts as text."""
        p = self.params
        if edits:
            progress(1.0)
        facts = [FactText(e.prompt, e.target, subject=e.subject) for e in edits]
        return FactsInFront(facts, [], Lookup(p.retriever, p.encoder, p.facts, p.threshold, p.instruction))
