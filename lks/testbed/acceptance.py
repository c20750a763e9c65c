"""The acceptance test of a testbed model: does it know its facts, and where does it store them?

It has four parts: recall (trained and held-out phrasings), swap transfer (does the donor's state at the
subject's last token produce the donor's answer? after causal tracing, Meng et al. 2022), a linear probe of
that state, and the ability tasks.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lks.data.synthetic_text import AbilityItem
from lks.scope.naming import spelt
from lks.testbed.corpus import TokenBatch, TrainingText, collate
from lks.testbed.interchange import intervened

RECALL_TRAINED, RECALL_HELD_OUT, SWAP, ABILITY = 0.99, 0.95, 0.80, 0.90  # what a model must reach


@dataclass(frozen=True, slots=True)
class Question:
    """A fact in words.

    Attributes:
        subject: as spelt in `prompt`.
        prompt: the text before the answer.
        answer: the true answer.
        relation: questions with the same relation may lend each other their subject's state.
    """

    subject: str
    prompt: str
    answer: str
    relation: str


@dataclass(frozen=True, slots=True)
class Exam:
    """Questions of the acceptance test."""

    trained: tuple[Question, ...]
    held_out: tuple[Question, ...]
    ability: dict[str, tuple[AbilityItem, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Results of the acceptance test; all numbers are fractions between 0 and 1.

    Attributes:
        name: name of the model.
        block: its knowledge block.
        recall_trained: fraction of right answers under trained phrasings.
        recall_held_out: fraction of right answers under phrasings never trained on; None if the data has
            none.
        swap_new: per block, how often the donor's answer is given.
        swap_old: per block, how often the old answer is kept.
        probe: per block, accuracy of a linear probe on subjects it has not seen; None if groups are too
            small.
        probe_chance: accuracy of always predicting the most frequent value.
        ability: task -> accuracy on held-out items.
    """

    name: str
    block: int
    recall_trained: float
    recall_held_out: float | None
    swap_new: tuple[float, ...]
    swap_old: tuple[float, ...]
    probe: tuple[float, ...] | None
    probe_chance: float
    ability: dict[str, float]

    @property
    def criteria(self) -> dict[str, bool]:
        """Each criterion of the acceptance test and whether it is met."""
        met = {
            f"recall under trained phrasings >= {RECALL_TRAINED:.0%}": self.recall_trained >= RECALL_TRAINED,
            f"swap transfer at block {self.block} >= {SWAP:.0%}": self.swap_new[self.block] >= SWAP,
            "swap transfer falls above it": self.swap_new[-1] < 0.5 * self.swap_new[self.block],
        }
        if self.recall_held_out is not None:
            met[f"recall under held-out phrasings >= {RECALL_HELD_OUT:.0%}"] = (
                self.recall_held_out >= RECALL_HELD_OUT
            )
        if self.probe is not None:
            met["probe above chance"] = self.probe[self.block] > 2 * self.probe_chance
        met |= {f"{task} >= {ABILITY:.0%}": accuracy >= ABILITY for task, accuracy in self.ability.items()}
        return met

    @property
    def passed(self) -> bool:
        """Whether every criterion is met."""
        return all(self.criteria.values())

    def table(self) -> tuple[Table, Table]:
        """Return the criteria and the per-block numbers as tables for rich."""
        summary = Table(
            "criterion", "result", title=f"{self.name}: {'passed' if self.passed else 'not passed'}"
        )
        for criterion, met in self.criteria.items():
            summary.add_row(criterion, "[green]yes[/]" if met else "[red]no[/]")
        numbers = {
            "recall, trained": self.recall_trained,
            "recall, held out": self.recall_held_out,
            **self.ability,
        }
        for label, value in numbers.items():
            summary.add_row(label, "-" if value is None else f"{value:.1%}")
        blocks = Table(
            "block",
            "swap: donor's answer",
            "swap: old answer",
            "probe",
            title="state at the subject's last token",
        )
        for i, (new, old) in enumerate(zip(self.swap_new, self.swap_old, strict=True)):
            mark = f"{i} *" if i == self.block else str(i)
            blocks.add_row(
                mark, f"{new:.0%}", f"{old:.0%}", "-" if self.probe is None else f"{self.probe[i]:.0%}"
            )
        return summary, blocks


class Examiner:
    """Asks a model questions in batches; answers are compared token by token (teacher forcing)."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = cast(PreTrainedModel, model.train(False))
        self.tokenizer = tokenizer
        self.pad = int(tokenizer.pad_token_id)

    def row(self, question: Question, answer: str | None = None) -> TrainingText:
        """Encode the question as token ids, with its own or another answer."""
        encoded = self.tokenizer(question.prompt)
        named = spelt(question.prompt, question.subject)
        last = encoded.char_to_token(named[-1].end - 1) if named else 0
        ids = self.tokenizer.encode(question.answer if answer is None else answer, add_special_tokens=False)
        return TrainingText(tuple(encoded.input_ids), tuple(ids), last or 0)

    def _collate(self, rows: Sequence[TrainingText]) -> TokenBatch:
        """Pad rows to a batch on the model's device."""
        return collate(rows, self.pad).to(self.model.device)

    @torch.no_grad()
    def right(self, rows: Sequence[TrainingText], block: int = 0, states: Tensor | None = None) -> list[bool]:
        """Return whether each answer is given.

        With `states` [rows, dim], these replace the states at (block, subject's last token).
        """
        verdicts: list[bool] = []
        for start in range(0, len(rows), 256):
            batch = self._collate(rows[start : start + 256])
            index = torch.arange(len(batch.ids), device=batch.ids.device)

            def change(
                hidden: Tensor, begin: int = start, at: Tensor = batch.last, index: Tensor = index
            ) -> Tensor:
                if states is None:
                    return hidden
                hidden = hidden.clone()
                hidden[index, at] = states[begin : begin + len(index)]
                return hidden

            with intervened(self.model, block, change):
                guessed = self.model(input_ids=batch.ids, use_cache=False).logits[:, :-1].argmax(-1)
            labels = batch.labels[:, 1:]
            verdicts += ((guessed == labels) | (labels < 0)).all(1).tolist()
        return verdicts

    @torch.no_grad()
    def states(self, rows: Sequence[TrainingText]) -> Tensor:
        """Return the states at the subject's last token after every block [blocks, rows, dim]."""
        found = []
        for start in range(0, len(rows), 256):
            batch = self._collate(rows[start : start + 256])
            kept: list[Tensor] = []
            handles = [
                layer.register_forward_hook(
                    lambda _m, _i, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
                )
                for layer in self.model.model.layers
            ]
            self.model.model(input_ids=batch.ids, use_cache=False)
            for handle in handles:
                handle.remove()
            index = torch.arange(len(batch.ids), device=batch.ids.device)
            found.append(torch.stack([hidden[index, batch.last] for hidden in kept]))
        return torch.cat(found, dim=1)

    def recall(self, questions: Sequence[Question]) -> float:
        """Return the fraction of questions answered right."""
        return _share(self.right([self.row(question) for question in questions]))

    def swap(
        self, questions: Sequence[Question], count: int, rng: random.Random
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Measure swap transfer over `count` random pairs.

        Returns:
            Per block how often the donor's answer is given, and per block how often the old one is given.
        """
        by_relation: dict[str, list[Question]] = defaultdict(list)
        by_subject: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            by_relation[question.relation].append(question)
            by_subject[question.subject].append(question)
        pairs: list[tuple[Question, Question]] = []
        for _ in range(50 * count):
            asked = rng.choice(questions)
            donor = rng.choice(by_relation[asked.relation])
            if donor.subject != asked.subject and donor.answer != asked.answer:
                pairs.append((asked, donor))
            if len(pairs) == count:
                break
        given = self.states([self.row(rng.choice(by_subject[donor.subject])) for _, donor in pairs])
        new = [self.row(asked, donor.answer) for asked, donor in pairs]
        old = [self.row(asked) for asked, _ in pairs]
        blocks = range(len(given))
        return (
            tuple(_share(self.right(new, block, given[block])) for block in blocks),
            tuple(_share(self.right(old, block, given[block])) for block in blocks),
        )

    def probe(
        self, questions: Sequence[Question], limit: int, rng: random.Random
    ) -> tuple[tuple[float, ...] | None, float]:
        """Return per block the accuracy of a ridge probe of the answer, and the chance level.

        The accuracy is measured on subjects held out from fitting; None if no group is large enough.
        """
        groups: dict[str, dict[str, Question]] = defaultdict(dict)
        for question in questions:
            groups[question.relation].setdefault(question.subject, question)
        largest = sorted(groups.values(), key=len, reverse=True)[:3]
        results, chances = [], []
        for group in largest:
            asked = list(group.values())
            rng.shuffle(asked)
            asked = asked[:limit]
            if len(asked) < 60:
                continue
            values = sorted({question.answer for question in asked})
            truth = torch.tensor([values.index(question.answer) for question in asked])
            states = self.states([self.row(question) for question in asked]).float().cpu()
            results.append([_ridge_accuracy(hidden, truth, len(values)) for hidden in states])
            chances.append(Counter(truth.tolist()).most_common(1)[0][1] / len(asked))
        if not results:
            return None, 0.0
        return tuple(torch.tensor(results).mean(0).tolist()), sum(chances) / len(chances)


def _share(verdicts: Sequence[bool]) -> float:
    """Return the fraction of true verdicts; 0 if there are none."""
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def _ridge_accuracy(states: Tensor, truth: Tensor, values: int) -> float:
    """Fit one-hot values on 80 % of the rows by ridge regression and return the accuracy on the rest.

    states [rows, dim].
    """
    states = torch.nn.functional.rms_norm(states, states.shape[-1:]).double()
    cut = int(0.8 * len(states))
    seen, unseen = states[:cut], states[cut:]
    centre = seen.mean(0)
    wanted = torch.nn.functional.one_hot(truth[:cut], values).double()
    gram = (seen - centre).T @ (seen - centre) + 0.1 * cut * torch.eye(states.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, (seen - centre).T @ (wanted - wanted.mean(0)))
    scores = (unseen - centre) @ weights + wanted.mean(0)
    return float((scores.argmax(-1) == truth[cut:]).double().mean())


def examine(
    name: str,
    block: int,
    exam: Exam,
    subject: tuple[PreTrainedModel, PreTrainedTokenizerFast],
    sample: int = 400,
    seed: int = 0,
) -> CheckReport:
    """Run the acceptance test.

    Args:
        name: name of the model, for the report.
        block: its knowledge block.
        exam: the questions.
        subject: the model and its tokenizer.
        sample: questions asked per measurement; five times as many for recall.
        seed: random seed for choosing them.
    """
    rng = random.Random(f"examine {seed}")
    examiner = Examiner(*subject)

    def some(questions: Sequence[Question]) -> list[Question]:
        return rng.sample(list(questions), min(5 * sample, len(questions)))

    swap_new, swap_old = examiner.swap(exam.trained, min(sample, 300), rng)
    probe, chance = examiner.probe(exam.trained, 2 * sample, rng)
    ability = {
        task: examiner.recall([Question("", item.prompt, item.answer, task) for item in items[:sample]])
        for task, items in exam.ability.items()
    }
    return CheckReport(
        name=name,
        block=block,
        recall_trained=examiner.recall(some(exam.trained)),
        recall_held_out=examiner.recall(some(exam.held_out)) if exam.held_out else None,
        swap_new=swap_new,
        swap_old=swap_old,
        probe=probe,
        probe_chance=chance,
        ability=ability,
    )
