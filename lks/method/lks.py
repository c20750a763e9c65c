"""The LKS editor: the Latent Knowledge Scalpel (arXiv 2508.03741)."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

import lks.io.cache
from lks.editing.editor import SHORT, After, Editor, canonical, no_callback
from lks.editing.patch import Patch
from lks.edits import Edit, loose_subjects, spellings_of
from lks.errors import UserError
from lks.io.checkpoint import Checkpoint
from lks.method.gates import fit_gate
from lks.method.params import LKSParams
from lks.method.replacer import KnowledgeBlockPatch
from lks.method.trainer import LKSTrainer
from lks.method.training_data import prepare, subjects_of
from lks.models.lm import LM
from lks.models.precision import training_dtype
from lks.progress import Progress, no_progress

EntryT = TypeVar("EntryT")

_LLAMA_ZSRE = {
    1: (1.0, 10, 1),
    10: (0.5, 20, 2),
    100: (1.0, 20, 32),
    500: (1.0, 20, 32),
    1000: (10.0, 20, 32),
    10000: (80.0, 20, 32),
}
# Batch size 32 instead of the paper's 1 on Mistral: the authors' code forces 1, this code has no such limit.
_MISTRAL_ZSRE = {
    1: (1.0, 10, 1),
    10: (1.0, 10, 10),
    100: (1.0, 20, 32),
    500: (5.0, 20, 32),
    1000: (12.0, 20, 32),
    10000: (50.0, 20, 32),
}
TABLE_2_AND_4: Mapping[tuple[str, str], Mapping[int, tuple[float, int, int]]] = {
    ("llama-2-7b-chat", "zsre"): _LLAMA_ZSRE,
    ("llama-2-7b-chat", "counterfact"): _LLAMA_ZSRE | {1000: (3.0, 20, 32)},
    ("mistral-7b-instruct-v0.3", "zsre"): _MISTRAL_ZSRE,
    ("mistral-7b-instruct-v0.3", "counterfact"): _MISTRAL_ZSRE | {1000: (12.0, 20, 32)},
}
"""(model, dataset) -> T -> lambda_edit, max epochs, batch size: the paper's Tables 2 and 4."""


def _for(table: Mapping[int, EntryT], n_edits: int) -> EntryT:
    """Return the entry of the largest T that is not above `n_edits`."""
    return table[max((t for t in table if t <= n_edits), default=min(table))]


def _paper(model: str, block: int) -> Callable[[int, str], LKSParams]:
    """Return the paper's preset for a model."""

    def preset(n_edits: int, dataset: str) -> LKSParams:
        table = TABLE_2_AND_4.get((model, dataset), TABLE_2_AND_4[model, "zsre"])
        lambda_edit, epochs, batch = _for(table, n_edits)
        return LKSParams(block=block, lambda_edit=lambda_edit, max_epochs=epochs, batch_size=batch)

    return preset


FREE_STEP = 1.0
"""Step size of free vectors, in units of the size of a state's entries, for models without a preset."""

_SMALL = {1: (0.1, 60, 12), 10: (0.2, 30, 6), 100: (0.3, 30, 3), 1000: (0.3, 20, 3), 10_000: (0.3, 12, 2)}
"""T -> lambda_edit, max epochs, locality prompts per edit and step. Few edits mean few steps, so each edit
gets more locality prompts."""
_POOLS = {1: 12, 1000: 6, 10_000: 4}
"""T -> locality prompts that are prepared per edit."""


def _small(block: int) -> Callable[[int, str], LKSParams]:
    """Return this project's preset for testbed models.

    It was chosen on cases that the micro grid does not use: see docs/method.md.
    """

    def preset(n_edits: int, _dataset: str) -> LKSParams:
        lambda_edit, epochs, locality_prompts = _for(_SMALL, n_edits)
        return LKSParams(
            block=block,
            form="residual",
            features="whitened",
            lambda_edit=lambda_edit,
            lr=1e-2,
            max_epochs=epochs,
            patience=10,
            locality_prompts=locality_prompts,
            locality_pool=_for(_POOLS, n_edits),
            precision="fast" if n_edits >= 1000 else "model",
        )

    return preset


def _by_rule(block: int) -> LKSParams:
    """Return parameters for a model that LKS was not tuned for: the same for every T.

    Found on development cases of SmolLM2-135M (docs/experiments/lks-settings.md).
    """
    return LKSParams(
        block=block,
        hypernetwork="free",
        independent=True,
        form="residual",
        lr=FREE_STEP,
        max_epochs=30,
        batch_size=32,
        patience=10,
        stop_loss=0.1,
        locality_for="ungated",
        locality_prompts=4,
        locality_pool=12,
        gate="contrast",
        gate_questions=6,
        precision="fast",
        end_of_answer=True,
    )


def _identity(lm: LM, edits: Sequence[Edit], params: LKSParams, seed: int) -> str:
    """Return a hash of everything that decides a training.

    It names the file that a killed training resumes from.
    """
    digest = hashlib.sha256(f"{lm.identity} {canonical(params)} {seed}".encode())
    for edit in edits:
        digest.update(repr(edit).encode())
    return digest.hexdigest()[:16]


class LKS(Editor[LKSParams]):
    """An editor that replaces a subject's knowledge block at one middle block by one that h_phi made."""

    title: ClassVar = "LKS"
    name: ClassVar = "lks"
    source: ClassVar = "Latent Knowledge Scalpel, arXiv 2508.03741"
    changes: ClassVar = "activations"
    regime: ClassVar = "simultaneous"
    params_type: ClassVar = LKSParams
    effort: ClassVar = "max_epochs"
    step: ClassVar = "lr"
    made_for: ClassVar = SHORT
    presets: ClassVar = {
        "llama-2-7b-chat": _paper("llama-2-7b-chat", 16),
        "mistral-7b-instruct-v0.3": _paper("mistral-7b-instruct-v0.3", 18),
        "micro": _small(2),
        "mini": _small(2),
    }

    def __init__(self, params: LKSParams) -> None:
        super().__init__(params)
        self.learnt: dict[str, Tensor] = {}
        """What h_phi learnt in the last `edit` or `update`, to continue from; empty if nothing was edited."""

    @classmethod
    def untuned(cls, blocks: int, dim: int) -> Callable[[int, str], object] | None:
        """Return the rule for a model without a preset: free vectors at the middle block, behind the gate.

        The paper chose the middle block on Llama-2 (16 of 32). A linear h_phi takes twice the passes to come
        near its upper bound, free vectors, and holds at most d subjects exactly. The contrast gate takes the
        place of the locality loss, which on real models costs more generality than it gives locality. Targets
        are trained with their end. All measured in docs/experiments/lks-settings.md.
        """
        return lambda _n_edits, _dataset: _by_rule(blocks // 2)

    def warnings(self, lm: LM, edits: Sequence[Edit]) -> list[str]:
        """Return a warning about subjects that are a part of a longer name in their own prompt."""
        names = list(spellings_of(edits))
        found = [names[number] for number in loose_subjects(edits)]
        if not found:
            return []
        several = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return [
            f"The scope rules take {found[0]!r}{several} for a part of a longer name in the subject's own "
            "prompt. It is edited anyway, and the edit will also act inside longer names elsewhere. If the "
            "longer name is meant, make that the subject."
        ]

    def edit(
        self,
        lm: LM,
        edits: Sequence[Edit],
        seed: int = 0,
        progress: Progress = no_progress,
        after: After = no_callback,
    ) -> Patch:
        """Train h_phi on the edits (Algorithm 1) and keep the table of knowledge blocks it makes.

        Raises:
            UserError: an edit's subject does not occur in its prompt, or a block does not exist or is out of
                order.
        """
        self._check(lm)
        p = self.params
        self.learnt = {}
        if not edits:
            return KnowledgeBlockPatch(
                [], torch.zeros(len(p.all_blocks), 0, lm.dim), p.all_blocks, p.positions, p.scope, p.mentions
            )
        trainer = LKSTrainer(lm, prepare(lm, edits, p), p, seed)
        identity = _identity(lm, edits, p, seed)
        kept = Checkpoint(lks.io.cache.folder() / "training" / f"{identity}.state", identity)
        trainer.train(progress, kept)
        return self._made(lm, edits, trainer, seed)

    def update(
        self,
        lm: LM,
        edits: Sequence[Edit],
        learnt: Mapping[str, Tensor],
        seed: int = 0,
        progress: Progress = no_progress,
    ) -> KnowledgeBlockPatch:
        """Make blocks for new or changed subjects, continuing from what h_phi learnt on other edits.

        It takes at most half the epochs.

        Args:
            lm: the model that `learnt` was learnt on.
            edits: all edits of the new and changed subjects, and of no others.
            learnt: result of an earlier `edit` or `update` with the same parameters, the number of edits
                aside.
            seed: random seed of the training.
            progress: called with the fraction done.

        Returns:
            A patch of these subjects alone, to be joined with the earlier one.

        Raises:
            UserError: an edit's subject does not occur in its prompt, or a block does not exist.
            ValueError: `learnt` does not fit the model or the parameters.
        """
        self._check(lm)
        p = replace(self.params, max_epochs=-(-self.params.max_epochs // 2))
        trainer = LKSTrainer(lm, prepare(lm, edits, p), p, seed, learnt)
        trainer.train(progress)
        return self._made(lm, edits, trainer, seed)

    def _made(self, lm: LM, edits: Sequence[Edit], trainer: LKSTrainer, seed: int) -> KnowledgeBlockPatch:
        """Return the patch from the trained networks' table, with names and gate."""
        p = self.params
        self.learnt = trainer.networks.learnt()
        dtype = training_dtype(p.precision, lm.device)
        gate = fit_gate(p.gate, lm, p.block, edits, subjects_of(edits), seed, p.gate_questions, dtype)
        table = trainer.networks.table()
        names = list(spellings_of(edits).values())
        return KnowledgeBlockPatch(
            names, table, p.all_blocks, p.positions, p.scope, p.mentions, gate, loose_subjects(edits)
        )

    def _check(self, lm: LM) -> None:
        """Check that the blocks exist and are in ascending order, and that vectors can be independent."""
        if self.params.independent and self.params.hypernetwork != "free":
            raise UserError(
                "LKS with independent = true trains vectors that share nothing, "
                f'which those of hypernetwork = "{self.params.hypernetwork}" do. Set hypernetwork = "free" '
                "or independent = false."
            )
        blocks = self.params.all_blocks
        for block in blocks:
            lm.block(block)
        if list(blocks) != sorted(set(blocks)):
            raise UserError(
                f"LKS replaces at blocks {blocks}: more_blocks must be above block, in ascending order."
            )
