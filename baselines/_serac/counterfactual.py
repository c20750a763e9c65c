"""SERAC's counterfactual model: a small language model that answers a prompt given an edit in front of it.

It reads "edit prompt, target, end-of-text, prompt" in the language model's own vocabulary, so its logits can
replace those of the language model (arXiv 2206.06520, Sec. 3.2).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from baselines._meta_training.loop import Batches, MetaTraining, Schedule, Split, fit
from lks.edits import Edit
from lks.errors import UserError
from lks.io import hub
from lks.io.checkpoint import Checkpoint
from lks.models.lm import LM
from lks.models.losses import negative_log_likelihood
from lks.progress import Progress


class Counterfactual(nn.Module):
    """A causal language model with the vocabulary of another.

    Args:
        config: JSON configuration of a model to create with fresh weights.
        model: an existing model to use instead.
    """

    def __init__(self, config: dict[str, Any] | None = None, model: nn.Module | None = None) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModelForCausalLM  # slow import, not needed to list methods

        make: Any = AutoModelForCausalLM
        self.model: Any = (
            make.from_config(AutoConfig.for_model(**config), trust_remote_code=False) if config else model
        )

    @property
    def config(self) -> dict[str, Any]:
        """Configuration from which the model can be recreated."""
        return cast(dict[str, Any], self.model.config.to_dict())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute final states [rows, time, d] of right-padded rows [rows, time]."""
        return cast(
            Tensor,
            self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state,
        )

    def logits(self, final: Tensor) -> Tensor:
        """Compute logits [..., vocabulary] from final states."""
        return cast(Tensor, self.model.get_output_embeddings()(final))

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by name; tied ones occur once."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load weights by name."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                weight.copy_(tensors[name])


def fresh(lm: LM, dim: int, blocks: int, heads: int, seed: int) -> Counterfactual:
    """Create a small untrained model with the language model's vocabulary."""
    config = {
        "model_type": "llama",
        "vocab_size": lm.vocabulary_projection.weight.shape[0],
        "hidden_size": dim,
        "intermediate_size": 3 * dim,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": lm.tokenizer.bos_token_id,
        "eos_token_id": lm.tokenizer.eos_token_id,
        "pad_token_id": lm.tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Counterfactual(config)


def from_hub(lm: LM, name: str) -> Counterfactual:
    """Load a small model from the hub or a folder; its vocabulary must be the language model's.

    Raises:
        UserError: the model cannot be loaded, or its vocabulary has another size.
    """
    no_hub = hub.why_not_for(name)
    try:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        first = " ".join(filter(None, (str(error).splitlines()[0], no_hub)))
        raise UserError(
            f"Counterfactual model {name!r} cannot be loaded: {first} Leave it empty for a fresh one."
        ) from error
    own, wanted = int(model.config.vocab_size), int(lm.vocabulary_projection.weight.shape[0])
    if own != wanted:
        raise UserError(
            f"Counterfactual model {name!r} has {own} pieces, {lm.name or 'the model'} has {wanted}. "
            "Name one with the same tokenizer."
        )
    return Counterfactual(model=cast(nn.Module, model))


def contexts(lm: LM, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
    """Return token ids of edits as the counterfactual model reads them: "prompt target" and end-of-text."""
    return [[*e.ids, _end(lm)] for e in lm.encode(prompts, targets)]


def _end(lm: LM) -> int:
    """Return the end-of-text token id."""
    end = lm.tokenizer.pad_token_id if lm.tokenizer.eos_token_id is None else lm.tokenizer.eos_token_id
    return int(end)


class CounterfactualTrainer:
    """Trainer of a counterfactual model, which learns to answer an edit's paraphrases with its target.

    Args:
        lm: language model whose tokenizer is used.
        model: the model to train.
        batch_size: edits per step.
        vary_targets: share of examples whose target is not the edit's own but, with equal probability,
            another training target or a few random tokens. Without it the model could memorise the training
            edits, or the answers that occur in them, instead of reading the edit in front.
        reading: weight of the loss on the prompts.
        ending: weight of the loss on the end-of-text token after each answer; a model that never saw it never
            stops in free generation.
    """

    def __init__(
        self,
        lm: LM,
        model: Counterfactual,
        batch_size: int,
        vary_targets: float,
        reading: float,
        ending: float,
    ) -> None:
        self.lm, self.model, self.batch_size, self.vary_targets, self.reading = (
            lm,
            model,
            batch_size,
            vary_targets,
            reading,
        )
        self.ending = ending
        self.generator = torch.Generator().manual_seed(0)

    def fit(
        self, edits: Split, lr: float, schedule: Schedule, progress: Progress, kept: Checkpoint | None = None
    ) -> list[float]:
        """Train, keep the weights with the best validation loss, and return all validation losses.

        Args:
            edits: training and validation edits.
            lr: Adam learning rate.
            schedule: the training schedule.
            progress: called with the fraction done.
            kept: checkpoint, as in `baselines._meta_training.loop.fit`.
        """
        answers = sorted({e.target for e in edits.train})
        batches = Batches(len(edits.train), self.batch_size, self.generator)
        size = min(self.batch_size, len(edits.validation))
        starts = range(0, len(edits.validation) - size + 1, size)
        held = [self._drawn(edits.validation[start : start + size], []) for start in starts]

        @torch.no_grad()
        def validation() -> float:
            return sum(float(self.loss(*rows)) for rows in held) / len(held)

        def loss() -> Tensor:
            return self.loss(*self._drawn([edits.train[i] for i in next(batches)], answers), self.reading)

        training = MetaTraining(
            self.model, torch.optim.Adam(self.model.parameters(), lr=lr), batches, loss, validation
        )
        return fit(training, schedule, progress, kept)

    def _drawn(self, edits: Sequence[Edit], answers: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Draw edit prompts, targets and prompts to answer; without `answers`, keep the edits as they are."""
        targets, asked, told = [], [], []
        for edit in edits:
            varied = bool(answers) and float(torch.rand((), generator=self.generator)) < self.vary_targets
            targets.append(self._other(answers) if varied else edit.target)
            same = (edit.prompt, *edit.training_paraphrases)
            told.append(same[self._number(len(same))] if answers else edit.prompt)
            asked.append(same[self._number(len(same))])
        return told, targets, asked

    def _other(self, answers: Sequence[str]) -> str:
        """Draw a training target or a few random tokens as text."""
        if self._number(2):
            return answers[self._number(len(answers))]
        ids = [self._number(len(self.lm.tokenizer)) for _ in range(1 + self._number(4))]
        text = str(self.lm.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return text or answers[self._number(len(answers))]

    def _number(self, count: int) -> int:
        """Draw a number from 0 to count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def loss(
        self, told: Sequence[str], targets: Sequence[str], asked: Sequence[str], reading: float = 0.0
    ) -> Tensor:
        """Compute the mean negative log-likelihood of the targets, given the edit and a prompt in its scope.

        Added to it are `ending` times that of the end-of-text token and `reading` times that of the prompt. A
        prompt repeats the subject and often the words of the edit in front of it, so predicting it teaches
        the model to copy, on many more tokens than the targets have.
        """
        front = contexts(self.lm, told, targets)
        encoded = self.lm.encode(asked, targets)
        rows = [(len(a), b.n_prompt, a + b.ids) for a, b in zip(front, encoded, strict=True)]
        ids, mask = self.lm.pad([row for _, _, row in rows])
        final = self.model(ids, mask)
        answer = [
            (k, t - 1, row[t])
            for k, (start, n_prompt, row) in enumerate(rows)
            for t in range(start + n_prompt, len(row))
        ]
        prompt = [
            (k, t - 1, row[t])
            for k, (start, n_prompt, row) in enumerate(rows)
            for t in range(start + 1, start + n_prompt)
        ]
        total = self._likelihood(final, answer)
        if self.ending:
            end = _end(self.lm)
            total = total + self.ending * self._likelihood(
                final, [(k, len(row) - 1, end) for k, (_, _, row) in enumerate(rows)]
            )
        return total + reading * self._likelihood(final, prompt) if reading else total

    def _likelihood(self, final: Tensor, where: Sequence[tuple[int, int, int]]) -> Tensor:
        """Compute the mean over rows of the mean negative log-likelihood at (row, position, label)."""
        row, position, label = torch.tensor(where, device=final.device).T
        return negative_log_likelihood(
            self.model.logits(final[row, position]).float(), label, row, len(final)
        )
