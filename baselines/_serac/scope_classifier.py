"""SERAC's scope classifier, which decides whether a prompt is in the scope of an edit.

It follows arXiv 2206.06520, Sec. 3.2. An encoder turns prompts into embeddings; p(in scope) = exp(-scale * |e
- e'|^2). The embeddings of the memory are computed once, so a prompt costs one encoding and one matrix
product, however many edits there are.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines._meta_training.loop import Batches, MetaTraining, Schedule, Split, fit
from lks.edits import Edit
from lks.errors import UserError
from lks.io import hub
from lks.io.checkpoint import Checkpoint
from lks.models.frozen_prefix import batches, lower_blocks
from lks.models.lm import LM
from lks.models.memory import scale_batch
from lks.progress import Progress


class Encoder(Protocol):
    """Maps prompts to embeddings; an `nn.Module`, so that it can be trained and saved."""

    def measure(self, lm: LM, prompts: Sequence[str]) -> None:
        """Measure the statistics that the encoder needs on some prompts, before training."""

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Precompute what training would otherwise compute repeatedly for these prompts."""

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Compute embeddings [prompts, dim]; each depends on its own prompt only."""


class StateEncoder(nn.Module):
    """Embedded default encoder: a trained linear map of the states of the language model's own lower blocks.

    The state of a prompt's last token at a late block represents what is asked about which subject, whatever
    the wording. As with a pretrained encoder from the hub, few training edits suffice, because the language
    is known already; here only the map is trained.

    Args:
        block: block whose output is read.
        width: dimension of the language model's states.
        dim: dimension of the embeddings.
        seed: random seed for the initialisation.
    """

    def __init__(self, block: int, width: int, dim: int, seed: int) -> None:
        super().__init__()
        self.block = block
        self._known: dict[str, Tensor] = {}
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(width), requires_grad=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.output = nn.Linear(width, dim, bias=False)

    def measure(self, lm: LM, prompts: Sequence[str]) -> None:
        """Set mean and standard deviation from the prompts' states."""
        found = self.states(lm, prompts)
        with torch.no_grad():
            self.mean.copy_(found.mean(0))
            self.deviation.copy_(found.std(0) + 1e-6)

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Compute and keep the prompts' states."""
        self.states(lm, [p.strip() for p in prompts])

    def states(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Return states [prompts, width] of the last tokens; during training each is computed only once."""
        if not self.training:
            return self._computed(lm, prompts)
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            self._known.update(zip(new, self._computed(lm, new), strict=True))
        return torch.stack([self._known[p] for p in prompts])

    @torch.no_grad()
    def _computed(self, lm: LM, prompts: Sequence[str], batch_tokens: int = 8192) -> Tensor:
        """Compute states [prompts, width] of the prompts' last tokens."""
        part = lower_blocks(lm, self.block)
        # without the hooks of the patch that calls this
        part._forward_hooks, part._forward_pre_hooks = OrderedDict(), OrderedDict()
        encoded = lm.encode(prompts, [""] * len(prompts))
        made = torch.empty(len(prompts), lm.dim, device=lm.device)
        for chosen in batches([len(e.ids) for e in encoded], batch_tokens):
            ids, mask = lm.pad([encoded[i].ids for i in chosen])
            hidden = part(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            made[chosen] = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1].float()
        return made

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Compute embeddings as a linear map of the standardised states."""
        return cast(
            Tensor, self.output((self.states(lm, [p.strip() for p in prompts]) - self.mean) / self.deviation)
        )


class HubEncoder(nn.Module):
    """An encoder from the hub, as published: the final state of its first token ([CLS] of DistilBERT).

    Args:
        name: hub id or folder ("distilbert-base-cased").

    Raises:
        UserError: the encoder cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer  # imported here, since the default does not need it

        no_hub = hub.why_not_for(name)
        try:
            self.model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            first = " ".join(filter(None, (str(error).splitlines()[0], no_hub)))
            raise UserError(
                f"Encoder {name!r} cannot be loaded: {first} Leave `encoder` empty for the embedded one."
            ) from error

    def measure(self, lm: LM, prompts: Sequence[str]) -> None:
        """Do nothing: the encoder is pretrained."""

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Do nothing: the whole encoder is trained, so nothing can be precomputed."""

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Return the final state of each prompt's first token."""
        given = self.tokenizer(
            [p.strip() for p in prompts], return_tensors="pt", padding=True, truncation=True
        ).to(self.model.device)
        return cast(Tensor, self.model(**given).last_hidden_state[:, 0]).float()


class ScopeClassifier(nn.Module):
    """Scope classifier with p(prompt in scope of edit) = exp(-scale * |e - e'|^2).

    Args:
        encoder: encoder of both prompts and the edits' prompts.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.zeros(()))

    def measure(self, lm: LM, prompts: Sequence[str]) -> None:
        """Let the encoder measure statistics on some training prompts."""
        cast(Encoder, self.encoder).measure(lm, prompts)

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Let the encoder precompute what training needs repeatedly for these prompts."""
        cast(Encoder, self.encoder).look(lm, prompts)

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Compute embeddings [prompts, dim]."""
        return cast(Encoder, self.encoder).embed(lm, prompts)

    @torch.no_grad()
    def embed_all(self, lm: LM, prompts: Sequence[str], batch: int = 512) -> Tensor:
        """Compute embeddings [prompts, dim] of many prompts, in batches of similar length."""
        batch = scale_batch(batch)
        order = [i for group in batches([len(p) for p in prompts], batch * 100) for i in group]
        made = [
            self.embed(lm, [prompts[i] for i in order[start : start + batch]])
            for start in range(0, len(order), batch)
        ]
        return torch.cat(made)[torch.tensor(order).argsort().to(made[0].device)]

    def log_probability(self, prompts: Tensor, edits: Tensor) -> Tensor:
        """Compute log-probabilities [prompts, edits] from embeddings [prompts, dim] and [edits, dim]."""
        squared = torch.cdist(prompts, edits, compute_mode="donot_use_mm_for_euclid_dist").pow(2)
        return -self.log_scale.exp() * squared


def binary_cross_entropy(log_p: Tensor, inside: Tensor, ignored: Tensor) -> Tensor:
    """Compute the classifier's loss: the average of an in-scope term and an out-of-scope term.

    The first is the mean of -log p over pairs in scope; the second is the mean over prompts of -log(1 - p)
    for the most probable edit out of scope. Only that edit counts, because the decision depends on the most
    probable edit alone.

    Args:
        log_p: [prompts, edits] log-probabilities.
        inside: [prompts, edits] whether the prompt is in the edit's scope.
        ignored: [prompts, edits] pairs whose label is unknown.
    """
    nearest = log_p.masked_fill(inside | ignored, -torch.inf).amax(1).clamp(-50.0, -1e-6)
    return (-log_p[inside].mean() - torch.log1p(-nearest.exp()).mean()) / 2


_Drawn = tuple[Sequence[Edit], list[str], list[str], list[list[str]]]


class ScopeClassifierTrainer:
    """Trainer of a classifier on paraphrases (in scope) and locality and other edits' prompts (out of scope).

    One in five phrasings is reserved for validation, which therefore measures prompts in new words, as in
    later use.

    Args:
        lm: language model for the encoder.
        classifier: the classifier to train.
        batch_size: edits per step.
        locality_prompts: locality prompts per edit and step.
        seed: random seed for all draws.
    """

    def __init__(
        self, lm: LM, classifier: ScopeClassifier, batch_size: int, locality_prompts: int, seed: int
    ) -> None:
        self.lm, self.classifier, self.batch_size, self.locality_prompts = (
            lm,
            classifier,
            batch_size,
            locality_prompts,
        )
        self.generator = torch.Generator().manual_seed(seed)

    def fit(
        self, edits: Split, lr: float, schedule: Schedule, progress: Progress, kept: Checkpoint | None = None
    ) -> list[float]:
        """Train, keep the weights with the best validation loss, calibrate the scale, and return all losses.

        Args:
            edits: training and validation edits.
            lr: Adam learning rate.
            schedule: the training schedule.
            progress: called with the fraction done.
            kept: checkpoint, as in `baselines._meta_training.loop.fit`.

        Returns:
            The validation losses; the last one is after calibration.
        """
        # all prompts at once: computed later in other batches, states would differ in the last digits
        prompts = [
            p
            for e in [*edits.train, *edits.validation]
            for p in (e.prompt, *e.training_paraphrases, *e.training_locality)
        ]
        self.classifier.look(self.lm, prompts)
        batches = Batches(len(edits.train), min(self.batch_size, len(edits.train)), self.generator)
        size = min(self.batch_size, len(edits.validation))
        held = [
            self._drawn(edits.validation[i : i + size], True)
            for i in range(0, len(edits.validation) - size + 1, size)
            for _ in range(4)
        ]

        @torch.no_grad()
        def validation() -> float:
            return sum(float(self.loss(*rows)) for rows in held) / len(held)

        def loss() -> Tensor:
            return self.loss(*self._drawn([edits.train[i] for i in next(batches)], False))

        optimiser = torch.optim.Adam([p for p in self.classifier.parameters() if p.requires_grad], lr=lr)
        history = fit(
            MetaTraining(self.classifier, optimiser, batches, loss, validation), schedule, progress, kept
        )
        self._calibrate(held)
        return [*history, validation()]

    @torch.no_grad()
    def _calibrate(self, held: Sequence[_Drawn]) -> None:
        """Set the scale so that p = 1/2 lies midway between prompts in scope and out of scope.

        If validation is error-free, likelihood does not determine where in the gap the border should lie; the
        middle leaves the same margin to new phrasings and to new neighbours.
        """
        scale = self.classifier.log_scale
        trained = float(scale)
        scale.zero_()  # log p = -|e - e'|^2
        near, far = [], []
        for drawn in held:
            log_p, inside, ignored = self._compared(*drawn)
            near.append(log_p[inside])
            far.append(log_p.masked_fill(inside | ignored, -torch.inf).amax(1))
        inside, outside = torch.cat(near), torch.cat(far)
        outside = outside[outside.isfinite()]
        middle = (
            float((-inside).sqrt().quantile(0.95) + (-outside).sqrt().quantile(0.05)) / 2
            if len(outside)
            else 0.0
        )
        scale.fill_(math.log(math.log(2) / middle**2) if middle > 0 else trained)

    def _drawn(self, edits: Sequence[Edit], validates: bool) -> _Drawn:
        """Draw for each edit a prompt for the memory, one prompt in its scope, and some out of scope."""
        memory, inside, outside = [], [], []
        for edit in edits:
            same = (edit.prompt, *edit.training_paraphrases)
            kept = [p for p in same if reserved(p, edit.subject)]
            used = [p for p in same if p not in kept] or list(same)
            one, other = self._pick(used, 2)
            memory.append(one)
            inside.append(self._pick(kept, 1)[0] if validates and kept else other)
            outside.append(
                self._pick(edit.training_locality, self.locality_prompts) if edit.training_locality else []
            )
        return edits, memory, inside, outside

    def _pick(self, prompts: Sequence[str], count: int) -> list[str]:
        """Draw prompts without replacement, repeating them only if there are too few."""
        order = torch.randperm(len(prompts), generator=self.generator).tolist()
        return [prompts[order[i % len(order)]] for i in range(count)]

    def loss(
        self, edits: Sequence[Edit], memory: list[str], inside: list[str], outside: list[list[str]]
    ) -> Tensor:
        """Compute the binary cross-entropy of every prompt against every edit of the batch."""
        return binary_cross_entropy(*self._compared(edits, memory, inside, outside))

    def _compared(
        self, edits: Sequence[Edit], memory: list[str], inside: list[str], outside: list[list[str]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities, in-scope pairs and ignored pairs, each [prompts, edits].

        Pairs of a prompt and another edit of the same subject are ignored, since their label is unknown.
        """
        queries = [(prompt, i, True) for i, prompt in enumerate(inside)] + [
            (p, i, False) for i, prompts in enumerate(outside) for p in prompts
        ]
        embedded = self.classifier.embed(self.lm, [*memory, *(q for q, _, _ in queries)])
        log_p = self.classifier.log_probability(embedded[len(memory) :], embedded[: len(memory)])
        own = torch.tensor([i for _, i, _ in queries], device=log_p.device)
        positive = torch.tensor([within for _, _, within in queries], device=log_p.device)
        is_own = F.one_hot(own, len(memory)).bool()
        names = list(dict.fromkeys(e.subject for e in edits))
        subject = torch.tensor([names.index(e.subject) for e in edits], device=log_p.device)
        return log_p, is_own & positive[:, None], (subject[own][:, None] == subject[None]) & ~is_own


def reserved(prompt: str, subject: str) -> bool:
    """Return whether a phrasing is reserved for validation, by a hash of its words without the subject."""
    return hashlib.sha256(prompt.replace(subject, "").encode()).digest()[0] % 5 == 0
