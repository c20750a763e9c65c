"""SERAC's patch: a memory of edits and two small networks that use it (arXiv 2206.06520, Eq. 1)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from baselines._serac.counterfactual import Counterfactual
from baselines._serac.saved_model import plain
from baselines._serac.scope_classifier import HubEncoder, ScopeClassifier, StateEncoder
from lks.editing.patch import Patch, check_tensor, checked
from lks.models.lm import LM
from lks.models.prefill import FIRED, FOUND, Pass, Prefills, installed_hooks, track_prefill

CHOICE, IDS, MASK = "serac_choice", "serac_ids", "serac_mask"
"""Keys of the row state: each row's edit (-1 for none) and the tokens so far with their mask."""


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Settings from which a classifier's encoder is created.

    Attributes:
        name: hub id; empty for the embedded encoder, which the other fields describe.
        block, width, dim: see `StateEncoder`.
    """

    name: str
    block: int
    width: int
    dim: int

    def make(self) -> ScopeClassifier:
        """Create an untrained classifier."""
        return ScopeClassifier(
            HubEncoder(self.name) if self.name else StateEncoder(self.block, self.width, self.dim, seed=0)
        )


@dataclass(frozen=True, slots=True)
class _SeracSettings:
    """Saved settings of a `SeracPatch`."""

    counterfactual: dict[str, Any]
    encoder: EncoderSettings
    threshold: float
    subjects: tuple[str, ...] = ()


class SeracPatch(Patch):
    """A patch that answers prompts in the scope of an edit with a counterfactual model.

    Args:
        contexts: token ids of each edit as the counterfactual model reads it.
        embeddings: [edits, dim] embeddings of the edits' prompts.
        classifier, encoder: the scope classifier and the settings of its encoder.
        counterfactual: the small model.
        threshold: probability above which a prompt is in scope.
        subjects: subject of each edit; empty in patches from before they were saved.
    """

    kind = "serac"
    subjects: tuple[str, ...] = ()

    def __init__(
        self,
        contexts: Sequence[Sequence[int]],
        embeddings: Tensor,
        classifier: ScopeClassifier,
        encoder: EncoderSettings,
        counterfactual: Counterfactual,
        threshold: float,
        subjects: Sequence[str] = (),
    ) -> None:
        self.contexts = [list(c) for c in contexts]
        self.subjects = tuple(subjects)
        self.embeddings = embeddings
        self.classifier, self.encoder, self.counterfactual = classifier, encoder, counterfactual
        self.threshold = threshold

    @contextmanager
    def applied(self, lm: LM) -> Iterator[None]:
        """Patch the model inside the `with`: route before the decoder, replace logits after the model."""
        self.classifier.to(lm.device)
        self.counterfactual.to(lm.device)
        self.embeddings = self.embeddings.to(lm.device)
        with track_prefill(lm) as prefills:
            router = _Router(self, lm, prefills)
            model = cast(nn.Module, lm.model)
            handles = [
                lm.decoder.register_forward_pre_hook(router.decide, with_kwargs=True),
                model.register_forward_hook(router.answer),
            ]
            with installed_hooks(handles):
                yield

    @torch.no_grad()
    def choose(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Return the edit with the most probable scope for each prompt, [prompts]; -1 for none."""
        log_p = self.classifier.log_probability(self.classifier.embed(lm, prompts), self.embeddings)
        best, edit = log_p.max(1)
        return torch.where(best.exp() > self.threshold, edit, -1)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the memory and of both networks, none of which is part of the model."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Return the memory and the weights of classifier and counterfactual model."""
        memory = {
            "memory.ids": torch.tensor([i for c in self.contexts for i in c]),
            "memory.lengths": torch.tensor([len(c) for c in self.contexts]),
            "memory.embeddings": self.embeddings,
        }
        scope = {f"scope.{k}": v.detach() for k, v in self.classifier.named_parameters()}
        return memory | scope | {f"counterfactual.{k}": v for k, v in self.counterfactual.tensors().items()}

    def settings(self) -> dict[str, object]:
        """Return the networks' settings, the threshold and the subjects."""
        networks = {"counterfactual": self.counterfactual.config, "encoder": asdict(self.encoder)}
        return {**networks, "threshold": self.threshold, "subjects": list(self.subjects)}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], settings: dict[str, object]) -> Self:
        """Create the patch from saved tensors and settings, with networks no larger than their saved tensors.

        Raises:
            ValueError: tensors and settings do not match.
        """
        saved = checked(_SeracSettings, settings)
        if not saved.encoder.name:
            check_tensor(
                "scope.encoder.output.weight",
                tensors["scope.encoder.output.weight"],
                saved.encoder.dim,
                saved.encoder.width,
            )
        counterfactual = Counterfactual(plain(saved.counterfactual, tensors))
        classifier = saved.encoder.make()
        load(classifier, counterfactual, tensors)
        contexts = [
            part.tolist() for part in torch.split(tensors["memory.ids"], tensors["memory.lengths"].tolist())
        ]
        embeddings = check_tensor("memory.embeddings", tensors["memory.embeddings"], len(contexts), None)
        if any(
            not 0 <= token < saved.counterfactual["vocab_size"] for context in contexts for token in context
        ):
            raise ValueError("memory.ids holds no tokens of the counterfactual model")
        if len(saved.subjects) not in (0, len(contexts)):
            raise ValueError(f"{len(contexts)} edits, {len(saved.subjects)} subjects")
        return cls(
            contexts, embeddings, classifier, saved.encoder, counterfactual, saved.threshold, saved.subjects
        )


def load(classifier: ScopeClassifier, counterfactual: Counterfactual, tensors: dict[str, Tensor]) -> None:
    """Load trained weights into both networks and freeze them."""
    counterfactual.load(
        {k.removeprefix("counterfactual."): v for k, v in tensors.items() if k.startswith("counterfactual.")}
    )
    with torch.no_grad():
        for name, weight in classifier.named_parameters():
            weight.copy_(tensors[f"scope.{name}"])
    for network in (classifier, counterfactual):
        network.train(False).requires_grad_(False)


class _Router:
    """Hooks that choose an edit at prefill, from the prompt's text alone, for all later steps."""

    def __init__(self, patch: SeracPatch, lm: LM, prefills: Prefills) -> None:
        self.patch, self.lm, self.prefills = patch, lm, prefills
        self.row_state: dict[str, Tensor] = {}

    def decide(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Choose who answers each row and record the tokens so far (decoder pre-hook)."""
        now = self.prefills.now
        self.row_state = {}
        if now is None or (now.ends is None and CHOICE not in now.row_state):
            return
        mask = kwargs.get("attention_mask")
        mask = (
            mask[:, -now.ids.shape[1] :]
            if isinstance(mask, Tensor) and mask.ndim == 2
            else torch.ones_like(now.ids)
        )
        if now.is_prefill:
            choice = now.row_state[CHOICE] = self._choice(now)
            now.row_state |= (
                {FIRED: choice >= 0, FOUND: choice} if self.patch.subjects else {FIRED: choice >= 0}
            )
        before = {IDS: now.ids[:, :0], MASK: now.ids[:, :0]} if now.ends is not None else now.row_state
        now.row_state[IDS] = torch.cat([before[IDS], now.ids], 1)
        now.row_state[MASK] = torch.cat([before[MASK], mask.to(now.ids.dtype)], 1)
        self.row_state = now.row_state

    def _choice(self, now: Pass) -> Tensor:
        """Decode the prompts and choose an edit for each."""
        texts = [
            self.lm.pieces.decode(ids[keep].tolist()).text
            for ids, keep in zip(now.ids, now.prompt, strict=True)
        ]
        return self.patch.choose(self.lm, texts)

    @torch.no_grad()
    def answer(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Replace the logits of rows in scope by the counterfactual model's (model hook)."""
        if not self.row_state:
            return None
        rows = (self.row_state[CHOICE] >= 0).nonzero().flatten()
        if not len(rows):
            return None
        count = output.logits.shape[1]
        fronts = [self.patch.contexts[i] for i in self.row_state[CHOICE][rows].tolist()]
        ids, kept = self.row_state[IDS][rows], self.row_state[MASK][rows].bool()
        whole = [front + own[keep].tolist() for front, own, keep in zip(fronts, ids, kept, strict=True)]
        lengths = torch.tensor([[len(front)] for front in fronts], device=ids.device)
        # position of each column's token in its row of `whole`
        columns = (lengths + kept.long().cumsum(1) - 1)[:, -count:]
        model = self.patch.counterfactual
        final = model(*self.lm.pad(whole))[torch.arange(len(rows), device=ids.device)[:, None], columns]
        logits = output.logits.clone()
        logits[rows] = model.logits(final).to(logits.dtype)
        output.logits = logits
        return output
