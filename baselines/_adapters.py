"""Low-rank adapters of the attention projections, trained with peft and returned as weight differences.

peft inserts its modules into the model in place. They exist only while `trained` runs: on exit, with or
without an error, every module, attribute and `requires_grad` of the model is restored. All blocks are
adapted, including the first, so no prefix of the model is frozen and nothing can be precomputed
(`lks.models.frozen_prefix` does not apply); batches hold sequences of similar length, and only loss positions
are projected to the vocabulary.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from baselines._fine_tuning import TrainingSequence, places, target_in_place
from lks.editing.patch import WeightPatch
from lks.errors import UserError
from lks.models.architectures import family_of
from lks.models.lm import LM, Encoded
from lks.models.losses import negative_log_likelihood
from lks.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"
"""Name under which peft registers the adapter."""
USUAL = (("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",))
"""Names of the query and value projections, or of the fused projection that computes both."""


class AdapterSettings(Protocol):
    """Settings of adapter training; the parameters of an adapter method have these fields."""

    @property
    def lr(self) -> float:
        """Adam learning rate."""

    @property
    def epochs(self) -> int:
        """Maximum number of passes over the edits."""

    @property
    def batch_size(self) -> int:
        """Edits per step."""

    @property
    def stop_loss(self) -> float:
        """Epoch mean loss below which training stops; 0 disables stopping."""


class Rule:
    """What a method does in addition to gradient steps; plain LoRA does nothing."""

    def penalty(self) -> Tensor | float:
        """Return the term that is added to the loss of each step."""
        return 0.0

    def stepped(self, step: int) -> None:
        """Handle the end of a step (1-based); the gradients are still available."""

    def may_stop(self, step: int) -> bool:
        """Return whether training may end after this step if the loss is low enough."""
        return True


@dataclass(frozen=True, slots=True)
class Adapter:
    """How a method creates its adapter and reads its weights.

    Attributes:
        tuner: inserts the adapter into a model, given the total number of steps; returns peft's tuner and the
            method's rule.
        factors: returns peft's B [out, rank] and A [rank, in] of an adapted module, with all scaling applied.
    """

    tuner: Callable[[nn.Module, int], tuple[nn.Module, Rule]]
    factors: Callable[[Any], tuple[Tensor, Tensor]]


def trained(
    lm: LM,
    encoded: Sequence[Encoded],
    adapter: Adapter,
    settings: AdapterSettings,
    seed: int,
    progress: Progress,
) -> WeightPatch:
    """Train an adapter on the targets behind their prompts and return it as low-rank weight differences.

    Raises:
        UserError: peft knows no target modules for the model, or the model has none of the named ones.
    """
    if not encoded:
        return WeightPatch({})
    examples = [target_in_place(e) for e in encoded]
    groups = _groups([len(e.ids) for e in examples], settings.batch_size)
    with _randomness(lm, seed), as_it_was(lm.model), torch.enable_grad():
        try:
            tuner, rule = adapter.tuner(lm.model, settings.epochs * len(groups))
        except ValueError as error:
            raise UserError(
                f"No adapter for {lm.name or 'the model'}: {error} "
                "Name its attention projections in `target_modules`."
            ) from error
        _train(
            lm,
            [[examples[i] for i in group] for group in groups],
            settings,
            rule,
            random.Random(seed),
            progress,
        )
        return WeightPatch(low_rank(tuner, adapter.factors))


def config_of(lm_model: nn.Module, target_modules: str) -> dict[str, Any]:
    """Return the model-dependent part of peft's configuration: target modules and weight orientation."""
    return {
        "target_modules": [name.strip() for name in target_modules.split(",")]
        if target_modules
        else _usual(lm_model),
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in lm_model.modules()),
    }


def _usual(model: nn.Module) -> Any:
    """Return peft's default target modules for the model's family, else the first match in `USUAL`."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOSEN

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return CHOSEN.get(family_of(cast("PreTrainedModel", model))) or next(
        (list(choice) for choice in USUAL if names.issuperset(choice)), None
    )


def low_rank(tuner: nn.Module, factors: Callable[[Any], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the factors of each adapted weight's difference, named for `lks.editing.patch.WeightPatch`.

    A linear layer's weight is [out, in] and its difference B A; a `Conv1D`'s weight is [in, out] and its
    difference (B A)^T = A^T B^T. Modules whose adapter has rank 0 are left out.
    """
    from peft.tuners.lora import LoraLayer

    deltas: dict[str, Tensor] = {}
    for name, module in tuner.model.named_modules():  # type: ignore[union-attr]
        if not isinstance(module, LoraLayer):
            continue
        left, right = factors(module)
        if cast(Any, module).fan_in_fan_out:
            left, right = right.T, left.T
        if left.shape[1]:
            deltas[f"{name}.weight.left"] = left.detach().clone().contiguous()
            deltas[f"{name}.weight.right"] = right.detach().clone().contiguous()
    return deltas


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Restore the model's modules, attributes, `requires_grad` flags and train or eval modes on exit."""
    children = [(module, dict(module._modules)) for module in model.modules()]
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    attributes = dict(vars(model))
    try:
        yield
    finally:
        for module, known in children:
            module._modules.clear()
            module._modules.update(known)
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
        for name in vars(model).keys() - attributes.keys():
            delattr(model, name)


@contextmanager
def _randomness(lm: LM, seed: int) -> Iterator[None]:
    """Seed initial factors and dropout inside the `with`, leaving the caller's generators unchanged."""
    with torch.random.fork_rng([lm.device] if lm.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _groups(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Group indices into batches of at most `size` sequences of similar length."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[start : start + size] for start in range(0, len(order), size)]


def _train(
    lm: LM,
    groups: list[list[TrainingSequence]],
    s: AdapterSettings,
    rule: Rule,
    shuffle: random.Random,
    progress: Progress,
) -> None:
    """Train on the batches in random order, with the model in eval mode and the adapter's dropout active."""
    optimiser = torch.optim.Adam([p for p in lm.model.parameters() if p.requires_grad], lr=s.lr)
    step = 0
    for epoch in range(s.epochs):
        total = 0.0
        for number in shuffle.sample(range(len(groups)), len(groups)):
            loss = batch_loss(lm, groups[number])
            total += float(loss.detach()) * len(groups[number])
            optimiser.zero_grad()
            torch.autograd.backward(loss + rule.penalty())
            optimiser.step()
            step += 1
            rule.stepped(step)
        progress((epoch + 1) / s.epochs)
        if rule.may_stop(step) and total / sum(map(len, groups)) < s.stop_loss:
            break


def batch_loss(lm: LM, examples: Sequence[TrainingSequence]) -> Tensor:
    """Compute the mean over examples of the mean negative log-likelihood of the target tokens."""
    ids, mask = lm.pad([e.ids for e in examples])
    final = lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    row, position, label = places(examples, lm.device)
    return negative_log_likelihood(
        lm.capped(lm.vocabulary_projection(final[row, position])).float(), label, row, len(examples)
    )
