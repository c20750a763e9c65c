"""The training recipe of the testbed models: next-token training with interchange interventions.

Editing methods that act on the subject's last token need models that store a subject's facts there, as large
pretrained models do (Meng et al. 2022). A small model trained plainly does not: its last prompt token reads
the name itself. So in half of the rows the state at (knowledge block, subject's last token) is replaced in
the forward pass by that of a donor row about another subject, and the row's right answer is then the donor's
(interchange intervention training, Geiger et al. 2022). Noise on the same state makes the space between
subjects smooth. Attention is ordinary throughout.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from lks.errors import UserError
from lks.io.checkpoint import Checkpoint
from lks.io.training_state import TrainingState
from lks.models.precision import multiplies_bfloat16
from lks.models.recipe import Recipe, TestbedShape
from lks.testbed.corpus import IGNORED, TextSource, TokenBatch, batches, side_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_model(
    shape: TestbedShape, vocabulary: int, special: tuple[int, int, int], seed: int
) -> "PreTrainedModel":
    """Create an untrained model.

    Args:
        shape: the architecture.
        vocabulary: number of tokens.
        special: ids of `<s>`, `</s>` and padding.
        seed: random seed for the initial weights; the global random state is left unchanged.

    Raises:
        UserError: the family is neither "llama" nor "mistral".
    """
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": shape.dim, "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.dim // shape.heads,
        "max_position_embeddings": 512, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "bos_token_id": special[0], "eos_token_id": special[1], "pad_token_id": special[2],
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if shape.family == "llama":
            return LlamaForCausalLM(LlamaConfig(**common))
        if shape.family == "mistral":
            return MistralForCausalLM(MistralConfig(**common, sliding_window=shape.window or None))
    raise UserError(f"A testbed model is a 'llama' or a 'mistral', not {shape.family!r}.")


@dataclass(frozen=True, slots=True)
class Intervention:
    """Change to the states at the subject's last token in one forward pass.

    Attributes:
        block: the block after which states are changed.
        position: time index per row [rows].
        donor: the row whose state is used instead [rows].
        keep: fraction of the state that is kept when another is mixed in [rows, 1].
        other: the row that is mixed in [rows].
        noise: noise in multiples of the state's root mean square [rows, dim].
        states: after the forward pass, the unchanged states [rows, dim].
    """

    block: int
    position: Tensor
    donor: Tensor
    keep: Tensor
    other: Tensor
    noise: Tensor
    states: list[Tensor] = field(default_factory=list)

    def __call__(self, states: Tensor) -> Tensor:
        """Return the states after the block with the intervention [rows, time, dim]."""
        rows = torch.arange(len(states), device=states.device)
        here = states[rows, self.position]
        self.states.append(here)
        scale = here.detach().float().square().mean(-1, keepdim=True).sqrt()
        here = here[self.donor]
        here = self.keep * here + (1 - self.keep) * here[self.other].detach() + self.noise * scale
        changed = states.clone()
        changed[rows, self.position] = here.to(states.dtype)
        return changed


@contextmanager
def intervened(model: "PreTrainedModel", block: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a block's states by `change(states)` inside the context."""

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = model.model.layers[block].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def draw_intervention(batch: TokenBatch, recipe: Recipe, step: int) -> Intervention:
    """Draw the random part of a step; the result depends on the arguments alone."""
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    rows = len(batch.ids)
    with_subject = (batch.last > 0).float().cpu()[:, None]
    noisy = (torch.rand(rows, 1, generator=rng) < recipe.noisy_share).float() * with_subject
    strength = torch.rand(rows, 1, generator=rng) * noisy
    noise = torch.randn(rows, recipe.shape.dim, generator=rng) * recipe.noise * strength
    keep = 1 - recipe.mixing * torch.rand(rows, 1, generator=rng) * noisy
    other = torch.randint(rows, (rows,), generator=rng)
    lower = random.Random(f"{recipe.seed} block {step}").random() < 0.3 and recipe.block > 0
    device = batch.ids.device
    return Intervention(
        recipe.block - int(lower),
        batch.last,
        batch.donor,
        keep.to(device),
        other.to(device),
        noise.to(device),
    )


def answer_loss(model: "PreTrainedModel", batch: TokenBatch, smoothing: float) -> Tensor:
    """Compute the mean cross-entropy of the labelled tokens, with logits at their positions only."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    labels = batch.labels[:, 1:]
    wanted = labels != IGNORED
    return F.cross_entropy(model.lm_head(hidden[wanted]).float(), labels[wanted], label_smoothing=smoothing)


def optimizers(model: "PreTrainedModel", heads: nn.Linear, recipe: Recipe) -> list[Optimizer]:
    """Create the optimizers: Muon for matrices inside blocks, AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in (*model.parameters(), *heads.parameters()) if id(p) not in inside]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.lr_muon, weight_decay=recipe.weight_decay, nesterov=True, ns_steps=5
        ),
        torch.optim.AdamW(
            rest, lr=recipe.lr_adam, weight_decay=0.01, betas=(0.9, 0.98), fused=recipe.economical
        ),
    ]


def rate(step: int, recipe: Recipe) -> float:
    """Return the step size at a step as a fraction of the full one: linear warm-up, then linear decay."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    return warm * max(0.0, 1 - step / recipe.steps)


@dataclass(slots=True)
class TestbedTraining:
    """A training run that can stop after any step and resume later with the same result.

    Attributes:
        model: trained in place.
        source: source of rows.
        recipe: hyperparameters.
        pad: id of the padding token.
        kept: checkpoint to resume from and to save to, or None to save nothing.
        state: steps done, and the loss on facts of each.
        whole: false while a step is half done; saving then would not give the same model.
    """

    model: "PreTrainedModel"
    source: TextSource
    recipe: Recipe
    pad: int
    kept: Checkpoint | None = None
    whole: bool = True
    state: TrainingState = field(init=False)
    optimizers: list[Optimizer] = field(init=False)
    heads: nn.Linear = field(init=False)
    _pool: tuple[int, list[TokenBatch]] = field(init=False, default=(-1, []))

    def __post_init__(self) -> None:
        relations, values = self.recipe.heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.heads = nn.Linear(self.recipe.shape.dim, max(1, relations * values), bias=False).to(
                self.model.device
            )
        self.optimizers = optimizers(self.model, self.heads, self.recipe)
        muon, adam = self.optimizers
        self.state = TrainingState(self.model, self.kept, heads=self.heads, muon=muon, adam=adam)

    def _batch(self) -> TokenBatch:
        """Return the batch of the current step."""
        number, place = divmod(self.state.step, 16)
        if self._pool[0] != number:
            self._pool = (number, batches(self.source, number, self.recipe.rows, self.recipe.seed, self.pad))
        return self._pool[1][place]

    def advance(self) -> float:
        """Run one step and return the loss on facts."""
        recipe, device, step = self.recipe, self.model.device, self.state.step
        batch = self._batch().to(device)
        side = side_batch(self.source, step, recipe.side_rows, recipe.seed, self.pad).to(device)
        change = draw_intervention(batch, recipe, step)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=recipe.economical and multiplies_bfloat16(device)
        ):
            with intervened(self.model, change.block, change):
                loss = answer_loss(self.model, batch, recipe.smoothing)
            total = loss + 0.5 * answer_loss(self.model, side, recipe.smoothing)
            if batch.traits.numel() and change.states:
                total = total + recipe.heads_weight * self._heads_loss(change.states[0], batch.traits)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.whole = False
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("full_lr", group["lr"])
                group["lr"] = group["full_lr"] * rate(step, recipe)
            optimizer.step()
            optimizer.zero_grad()
        self.state.step += 1
        self.state.history.append(loss.item())
        self.whole = True
        return self.state.history[-1]

    def _heads_loss(self, states: Tensor, traits: Tensor) -> Tensor:
        """Compute the cross-entropy of linear readings of the subject's state, all its values at once.

        states [rows, dim] -> [].
        """
        relations, values = self.recipe.heads
        states = F.rms_norm(states, states.shape[-1:])
        if self.recipe.economical:
            present, traits = _renumbered(traits)
            scores = F.linear(
                states, self.heads.weight.view(relations, values, -1)[:, present].flatten(0, 1)
            ).view(-1, len(present))
        else:
            scores = self.heads(states).view(-1, values)
        return F.cross_entropy(
            scores.float(), traits.flatten(), label_smoothing=self.recipe.smoothing, ignore_index=IGNORED
        )


def _renumbered(traits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values that occur [present], and the traits renumbered among them."""
    known = traits != IGNORED
    present, numbers = torch.unique(traits[known], return_inverse=True)
    renumbered = traits.clone()
    renumbered[known] = numbers
    return present, renumbered


def measured_steps(training: TestbedTraining, minutes: float) -> int:
    """Return how many steps fit into `minutes`.

    This is judged by eight steps (after three slow first ones) of a training run that is discarded
    afterwards.
    """
    for _ in range(3):
        training.advance()
    start = time.monotonic()
    for _ in range(8):
        training.advance()
    return max(100, math.floor(minutes * 60 / ((time.monotonic() - start) / 8)))
