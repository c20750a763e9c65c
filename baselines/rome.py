"""ROME: one fact, one rank-one update of one MLP output layer (Meng et al. 2022, arXiv 2202.05262, Sec. 3.1).

The layer is an associative memory W k = v. The key k* is its input at the subject's last token, the value v*
is optimised so that the model outputs the target (Eq. 4), and W + Lambda (C^-1 k*)^T is the least-squares
update under W k* = v* (Eq. 2). As in the published code, the key in C^-1 k* is the mean over sampled contexts
and the key in Lambda is that of the bare prompt; R-ROME fixes that. Edits are made one after the other, each
on the model left by the earlier ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from baselines._locate_then_edit.contexts import behind, first_token_warnings, prefixes
from baselines._locate_then_edit.covariances import STATISTICS, Moment, second_moments
from baselines._locate_then_edit.keys import Subjects
from baselines._locate_then_edit.values import ValueParams, optimise
from baselines._locate_then_edit.weight_updates import Updates
from lks.editing.editor import SHORT, After, Editor, always, no_callback
from lks.editing.patch import Patch
from lks.editing.search_space import DepthRange, SearchSpace
from lks.edits import Edit
from lks.errors import UserError
from lks.models.lm import LM
from lks.progress import Progress, no_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ROMEParams(ValueParams):
    """Parameters of ROME and R-ROME, in addition to those of value optimisation.

    Attributes:
        block: block whose MLP output layer is updated (0-based).
        short_contexts, long_contexts: number of sampled texts of 5 and of 10 tokens to put in front of the
            prompt.
        values: "each" optimises a value on the model with all earlier edits (published); "together" optimises
            all values on the unedited model, in batches.
        compat: "published", or "easyedit" for C = 1, as in EasyEdit's Llama and Mistral settings.
        corpus: text for C; see `baselines._locate_then_edit.corpus`.
        corpus_tokens: number of tokens of the corpus to use.
    """

    search_space: ClassVar[SearchSpace] = (
        *ValueParams.search_space,
        DepthRange("block", 0.0, 0.7),
    )

    block: int
    short_contexts: int = 10
    long_contexts: int = 10
    values: Literal["each", "together"] = "each"
    compat: Literal["published", "easyedit"] = "published"
    corpus: str = "wikitext"
    corpus_tokens: int = 5_000_000


def _small(block: int, lr: float, steps: int, contexts: int) -> Callable[[int, str], ROMEParams]:
    """Return the preset of a testbed model, with statistics of its own dataset."""
    return lambda n_edits, dataset: ROMEParams(
        block=block,
        lr=lr,
        steps=steps,
        short_contexts=contexts,
        long_contexts=contexts,
        corpus=dataset,
        corpus_tokens=100_000,
    )


class ROME(Editor[ROMEParams]):
    """Rank-one updates, one after the other."""

    title: ClassVar = "ROME"
    source: ClassVar = "Meng et al. 2022, arXiv 2202.05262"
    changes: ClassVar = "weights"
    regime: ClassVar = "sequential"
    params_type: ClassVar = ROMEParams
    effort: ClassVar = "steps"
    step: ClassVar = "lr"
    made_for: ClassVar = SHORT
    presets: ClassVar = {
        # EasyEdit, hparams/ROME/llama-7b.yaml and mistral-7b.yaml; corpus and its size are our choice
        # (EasyEdit does not use C at all)
        "llama-2-7b-chat": always(ROMEParams(block=5)),
        "mistral-7b-instruct-v0.3": always(ROMEParams(block=5)),
        # our choice, on held-out cases (docs/baselines.md); the mini model never saw text in front of a
        # question
        "micro": _small(block=2, lr=0.5, steps=25, contexts=10),
        "mini": _small(block=2, lr=0.1, steps=40, contexts=2),
    }

    one_key: ClassVar[bool] = False
    """Whether the same key (the mean over contexts) is used in both places."""

    _texts: list[str] | None = None
    _moment: Moment | None = None

    def prepare(self, lm: LM, training: Sequence[Edit] = (), progress: Progress = no_progress) -> float:
        """Sample the contexts and compute the factorisation of C."""
        p = self.params
        self._texts = prefixes(lm, [5] * p.short_contexts + [10] * p.long_contexts)
        if p.compat == "easyedit":
            return 0.0
        moments = second_moments(lm, [p.block], p.corpus, p.corpus_tokens, progress)
        self._moment = moments.blocks[p.block]
        self.notes = {STATISTICS: moments.text}
        return moments.seconds

    def warnings(self, lm: LM, edits: Sequence[Edit]) -> list[str]:
        """Warn of subjects that are the first token of their prompt."""
        return first_token_warnings(lm, edits)

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Update the layer once per edit.

        Raises:
            UserError: `prepare` was not called, or a prompt does not contain its subject.
        """
        if self._texts is None:
            raise UserError(f"{self.title} needs the model's second moments: call prepare(lm) before edit.")
        block = self.params.block
        with Updates(lm, [block]) as updates:
            if edits:
                keys = Subjects.before(lm, behind(lm, edits, self._texts, answered=False), block).keys(lm)
                together = (
                    self._changes(lm, edits, keys[:, 0], progress)
                    if self.params.values == "together"
                    else None
                )
                for number, edit in enumerate(edits):
                    bare = keys[number : number + 1, 0]
                    change = (
                        self._changes(lm, [edit], bare, no_progress)[0]
                        if together is None
                        else together[number]
                    )
                    updates.add(block, *self._factors(lm, keys[number], change))
                    progress((number + 1) / len(edits))
                    if after is not no_callback:
                        with updates.suspended():
                            after(number, updates.patch())
            return updates.patch()

    def _changes(self, lm: LM, edits: Sequence[Edit], bare: Tensor, progress: Progress) -> Tensor:
        """Compute v* - v of each edit [edits, d], where v is the layer's current output."""
        assert self._texts is not None
        norms = _output(lm, self.params.block, bare).norm(dim=-1)
        return optimise(lm, edits, self.params.block, norms, self._texts, self.params, progress).change

    def _factors(self, lm: LM, keys: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Compute Lambda [d_out, 1] and (C^-1 k*)^T [1, d_in] (Eq. 2) from keys [contexts, d_in]."""
        mean = keys.mean(0)
        direction = mean.double()[:, None] if self._moment is None else self._moment.inverse(mean[:, None])
        key = mean if self.one_key else keys[0]
        # the layer's output for `key` may differ from its output for the bare prompt's key, from which v* was
        # computed
        missing = (
            _output(lm, self.params.block, keys[:1])[0]
            + change
            - _output(lm, self.params.block, key[None])[0]
        )
        direction = direction / direction.norm()
        return missing[:, None] / float(key.double() @ direction[:, 0]), direction.T


@torch.no_grad()
def _output(lm: LM, block: int, keys: Tensor) -> Tensor:
    """Compute the layer's output [n, d_out] for keys [n, d_in] under its current weight, in float32."""
    module = lm.mlp_output(block)
    result: Tensor = module(keys.to(lm.model.dtype)).float()
    return result
