"""SERAC's scope classifier: is a prompt within the scope of an edit? (arXiv 2206.06520, Sec. 3.2).

An encoder turns prompts into embeddings; p(in scope) = exp(-scale * |e - e'|^2). The embeddings of the memory are computed
once, so a prompt costs one encoding and one matrix product, however many edits there are.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines._meta_training.loop import Schedule, Split, fit
from baselines._meta_training.state import Batches, MetaTraining
from lks.editing.editor import Progress
from lks.edits import Edit
from lks.errors import UserError
from lks.io import hub
from lks.io.checkpoint import Checkpoint
from lks.models.frozen_prefix import batches, lower_blocks
from lks.models.lm import LM
from lks.models.memory import scale_batch


class Encoder(Protocol):
    """Turns prompts into embeddings; an `nn.Module`, so that it can be trained and kept."""

    def measure(self, lm: LM, prompts: Sequence[str]) -> None:
        """Take what the encoder needs to know of prompts in general from some of them, before training."""

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Do once what training would do with these prompts again and again."""

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Embeddings [prompts, dim]. None depends on the other prompts."""


class StateEncoder(nn.Module):
    """Embedded default: the language model's own lower blocks read the prompt, a trained linear map embeds what they make of it.

    The state of a prompt's last token at a late block says what is asked about whom, in whatever words. As with a pretrained encoder
    from the hub, few training edits suffice, because the words are known already; here only the map is trained.

    Args:
        block: whose output is read.
        width: of the language model's states.
        dim: of the embeddings.
        seed: of the initialisation.
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
        """Take the mean and deviation of the prompts' states."""
        found = self.states(lm, prompts)
        with torch.no_grad():
            self.mean.copy_(found.mean(0))
            self.deviation.copy_(found.std(0) + 1e-6)

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Compute the prompts' states."""
        self.states(lm, [p.strip() for p in prompts])

    def states(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """States [prompts, width] of the last tokens; each is computed once while the encoder trains."""
        if not self.training:
            return self._computed(lm, prompts)
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            self._known.update(zip(new, self._computed(lm, new), strict=True))
        return torch.stack([self._known[p] for p in prompts])

    @torch.no_grad()
    def _computed(self, lm: LM, prompts: Sequence[str], batch_tokens: int = 8192) -> Tensor:
        part = lower_blocks(lm, self.block)
        part._forward_hooks, part._forward_pre_hooks = (
            OrderedDict(),
            OrderedDict(),
        )  # not those of the patch that asks
        encoded = lm.encode(prompts, [""] * len(prompts))
        made = torch.empty(len(prompts), lm.dim, device=lm.device)
        for chosen in batches([len(e.ids) for e in encoded], batch_tokens):
            ids, mask = lm.pad([encoded[i].ids for i in chosen])
            hidden = part(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            made[chosen] = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1].float()
        return made

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Linear map of the standardised states."""
        return cast(
            Tensor, self.output((self.states(lm, [p.strip() for p in prompts]) - self.mean) / self.deviation)
        )


class HubEncoder(nn.Module):
    """An encoder from the hub, as published: the last state of its first token ([CLS] of DistilBERT).

    Args:
        name: hub id or folder ("distilbert-base-cased").

    Raises:
        UserError: it cannot be fetched.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer  # here: the default needs no download

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
        """Nothing to see: it comes trained."""

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Nothing can be done once: all of it is trained."""

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """First token's state."""
        given = self.tokenizer(
            [p.strip() for p in prompts], return_tensors="pt", padding=True, truncation=True
        ).to(self.model.device)
        return cast(Tensor, self.model(**given).last_hidden_state[:, 0]).float()


class ScopeClassifier(nn.Module):
    """p(prompt in scope of edit) = exp(-scale * |e - e'|^2).

    Args:
        encoder: of prompts and of the edits' prompts alike.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.zeros(()))

    def measure(self, lm: LM, prompts: Sequence[str]) -> None:
        """Let the encoder look at some training prompts before training."""
        cast(Encoder, self.encoder).measure(lm, prompts)

    def look(self, lm: LM, prompts: Sequence[str]) -> None:
        """Let the encoder do once what training would do again and again with these prompts."""
        cast(Encoder, self.encoder).look(lm, prompts)

    def embed(self, lm: LM, prompts: Sequence[str]) -> Tensor:
        """Embeddings [prompts, dim]."""
        return cast(Encoder, self.encoder).embed(lm, prompts)

    @torch.no_grad()
    def embed_all(self, lm: LM, prompts: Sequence[str], batch: int = 512) -> Tensor:
        """Embeddings [prompts, dim] of many prompts, in batches of similar length."""
        batch = scale_batch(batch)
        order = [i for group in batches([len(p) for p in prompts], batch * 100) for i in group]
        made = [
            self.embed(lm, [prompts[i] for i in order[start : start + batch]])
            for start in range(0, len(order), batch)
        ]
        return torch.cat(made)[torch.tensor(order).argsort().to(made[0].device)]

    def log_probability(self, prompts: Tensor, edits: Tensor) -> Tensor:
        """Log-probabilities [prompts, edits] from embeddings [prompts, dim] and [edits, dim]."""
        squared = torch.cdist(prompts, edits, compute_mode="donot_use_mm_for_euclid_dist").pow(2)
        return -self.log_scale.exp() * squared


def binary_cross_entropy(log_p: Tensor, inside: Tensor, ignored: Tensor) -> Tensor:
    """Half the mean over pairs in scope of -log p, half the mean over prompts of -log(1 - p) for the most probable edit of another scope.

    The decision looks at the most probable edit of the memory, so that one is what must be far enough away.

    Args:
        log_p: [prompts, edits].
        inside: [prompts, edits] the prompt is in the edit's scope.
        ignored: [prompts, edits] pairs whose truth is not known.
    """
    nearest = log_p.masked_fill(inside | ignored, -torch.inf).amax(1).clamp(-50.0, -1e-6)
    return (-log_p[inside].mean() - torch.log1p(-nearest.exp()).mean()) / 2


_Drawn = tuple[Sequence[Edit], list[str], list[str], list[list[str]]]


class ScopeClassifierTrainer:
    """Trains a classifier on paraphrases (in scope), locality prompts and other edits' prompts (out of scope).

    One in five phrasings is kept for validation, so that it measures what matters later: prompts in new words.

    Args:
        lm: given to the encoder.
        classifier: what is trained.
        batch_size: edits per step.
        locality_prompts: of each edit and step.
        seed: of what is drawn.
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
        """Train on some edits, keep what is best on others; returns the validation losses, the last one after the scale was set anew.

        `kept` as in `baselines._meta_training.loop.fit`.
        """
        # all at once, as the states of those that come late in the training would come out otherwise (in the last digits) in other batches
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
        """Set the scale so that p = 1/2 lies midway between prompts in scope and prompts out of it.

        Where validation is without fault, likelihood does not say where in the gap the border should lie; the middle leaves new
        phrasings and new neighbours the same room.
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
        """Edits, for each the prompt that stands in the memory, one in its scope, and some out of it."""
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
        """Different ones as far as there are enough."""
        order = torch.randperm(len(prompts), generator=self.generator).tolist()
        return [prompts[order[i % len(order)]] for i in range(count)]

    def loss(
        self, edits: Sequence[Edit], memory: list[str], inside: list[str], outside: list[list[str]]
    ) -> Tensor:
        """Binary cross-entropy of every prompt against every edit of the batch."""
        return binary_cross_entropy(*self._compared(edits, memory, inside, outside))

    def _compared(
        self, edits: Sequence[Edit], memory: list[str], inside: list[str], outside: list[list[str]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [prompts, edits], which pairs are in scope, and which are left open: what is said of one subject twice."""
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
    """Whether a phrasing is kept for validation: decided by its words, the subject's left out."""
    return hashlib.sha256(prompt.replace(subject, "").encode()).digest()[0] % 5 == 0
