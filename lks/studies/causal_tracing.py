"""Causal tracing (ROME): corrupt the subject, restore one clean state, and see if the answer returns."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lks.edits import Edit
from lks.models.frozen_prefix import BlockStates, batches, states
from lks.models.lm import LM, Encoded
from lks.models.prefill import installed_hooks
from lks.progress import Progress, no_progress
from lks.results.study_rows import ANYWHERE, StudyRow
from lks.studies.base import Entities, Findings, Study
from lks.studies.blockwise import Blockwise, Ends, captured, replaced

SITES = ("subject_last", "last")
KINDS = ("state", "mlp", "attention")
UNKNOWN = "that the model does not answer right"


@dataclass(frozen=True, slots=True)
class TracingParams:
    """Parameters of causal tracing.

    Attributes:
        noise: standard deviation of the noise, in standard deviations of the subjects' token embeddings
            (ROME: 3).
        samples: noise samples per prompt (ROME: 10).
        window: number of blocks whose MLP or attention outputs are restored at once, centred on the given
            block (ROME: 10); 0 means a third of the blocks, at most 10.
    """

    noise: float = 3.0
    samples: int = 10
    window: int = 0

    def blocks(self, block: int, count: int) -> range:
        """Return the window around a block of a model with `count` blocks."""
        width = self.window or min(10, -(-count // 3))
        return range(max(0, block - width // 2), min(count, block + width - width // 2))


@dataclass(frozen=True, slots=True)
class _TracedPrompt:
    """A prompt with its subject and the first token of its answer."""

    edit: Edit
    ids: list[int]
    subject: tuple[int, int]
    answer: int

    @property
    def sites(self) -> list[int]:
        """Positions of the subject's last token and the prompt's last token."""
        return [self.subject[1], len(self.ids) - 1]


class Tracing(Study[TracingParams]):
    """Recovered probability of the answer's first token: restored minus corrupted, means over the noise.

    Only prompts whose true answer the model gives are traced. Sites: the subject's last token and the
    prompt's last token. Quantities: `state` (block l's output is restored), `mlp` and `attention` (their
    outputs in a window of blocks around l); at block -1 `known` (of all prompts, 0 or 1), `clean` and
    `corrupted` (the probability without noise, and with noise and nothing restored).
    """

    title: ClassVar = "Causal tracing"
    source: ClassVar = "ROME, arXiv 2202.05262, Sec. 2, Figs. 1 to 3"
    params_type: ClassVar = TracingParams

    @torch.no_grad()
    def run(
        self,
        lm: LM,
        entities: Entities,
        seed: int = 0,
        progress: Progress = no_progress,
        batch_tokens: int = 8192,
    ) -> Findings:
        """Trace all prompts that the model answers correctly; a batch holds several with all their noise."""
        asked = [edit for edit in entities.edits if edit.subject in edit.prompt]
        encoded = lm.encode(
            [e.prompt for e in asked], [e.ground_truth for e in asked], [e.subject for e in asked]
        )
        prompts = list(_prompts(asked, encoded))
        right = _clean(lm, prompts)
        rows = [
            entities.row(prompt.edit, -1, ANYWHERE, "known", probability is not None)
            for prompt, probability in zip(prompts, right, strict=True)
        ]
        known = [
            (prompt, probability)
            for prompt, probability in zip(prompts, right, strict=True)
            if probability is not None
        ]
        left_out = {
            UNKNOWN: len(prompts) - len(known),
            "whose prompt lacks the subject": len(entities.edits) - len(asked),
        }
        scale, blockwise, done = self.params.noise * _spread(lm, prompts), Blockwise(lm), 0
        for group in batches([len(prompt.ids) * self.params.samples for prompt, _ in known], batch_tokens):
            some = [known[i][0] for i in group]
            batch = _NoiseBatch(blockwise, some, _noise(lm, some, self.params.samples, scale, seed))
            for prompt, i, corrupted in zip(some, group, batch.corrupted, strict=True):
                values = {"clean": known[i][1], "corrupted": corrupted}
                rows += [
                    entities.row(prompt.edit, -1, ANYWHERE, quantity, value)
                    for quantity, value in values.items()
                ]
            rows += [row for site in range(len(SITES)) for row in self._traced(entities, batch, site)]
            done += len(group)
            progress(done / len(known))
        return Findings(rows, left_out)

    def _traced(self, entities: Entities, batch: "_NoiseBatch", site: int) -> Iterator[StudyRow]:
        """Yield the rows of one site."""
        for block, kind, effects in batch.effects(site, self.params.blocks):
            for prompt, effect in zip(batch.prompts, effects, strict=True):
                yield entities.row(prompt.edit, block, SITES[site], kind, effect)


def _prompts(asked: Sequence[Edit], encoded: Sequence[Encoded]) -> Iterator[_TracedPrompt]:
    """Yield the prompts that name their subject and have an answer."""
    for edit, one in zip(asked, encoded, strict=True):
        if one.subject is not None and one.answer:
            yield _TracedPrompt(edit, one.ids[: one.n_prompt], one.subject, one.answer[0])


def _clean(lm: LM, prompts: Sequence[_TracedPrompt], batch_tokens: int = 8192) -> list[float | None]:
    """Return the probability of each answer's first token; None where another token is likelier."""
    found: list[float | None] = [None] * len(prompts)
    for group in batches([len(prompt.ids) for prompt in prompts], batch_tokens):
        ids, mask = lm.pad([prompts[i].ids for i in group])
        final = lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        ends = mask.sum(1) - 1
        probabilities = (
            lm.capped(lm.vocabulary_projection(final[torch.arange(len(group), device=lm.device), ends]))
            .float()
            .softmax(-1)
        )
        for row, best, i in zip(probabilities, probabilities.argmax(-1).tolist(), group, strict=True):
            found[i] = row[best].item() if best == prompts[i].answer else None
    return found


def _spread(lm: LM, prompts: Sequence[_TracedPrompt]) -> float:
    """Return the standard deviation of all numbers in the embeddings of the subjects' tokens."""
    tokens = [token for prompt in prompts for token in prompt.ids[prompt.subject[0] : prompt.subject[1] + 1]]
    embeddings = lm.model.get_input_embeddings()(
        torch.tensor(tokens, dtype=torch.long, device=lm.device)
    ).float()
    return float(embeddings.std()) if len(tokens) > 1 else 0.0


def _noise(lm: LM, prompts: Sequence[_TracedPrompt], samples: int, scale: float, seed: int) -> list[Tensor]:
    """Return noise [samples, subject's tokens, d] for each prompt, whatever else is in the batch."""
    found = []
    for prompt in prompts:
        digest = hashlib.sha256(f"noise {seed} {prompt.edit.case_id}".encode()).digest()
        shape = (samples, prompt.subject[1] - prompt.subject[0] + 1, lm.dim)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        found.append((scale * drawn).to(lm.device, lm.model.dtype))
    return found


class _NoiseBatch:
    """Some prompts, each repeated for every noise sample.

    Attributes:
        prompts: the prompts.
        corrupted: mean probability of each answer with noise and nothing restored.
    """

    def __init__(
        self, blockwise: Blockwise, prompts: Sequence[_TracedPrompt], noise: Sequence[Tensor]
    ) -> None:
        self.prompts, self._blockwise, self._samples = prompts, blockwise, len(noise[0])
        lm = blockwise.lm
        parts = [
            *lm.blocks,
            *map(lm.mlp_output, range(len(lm.blocks))),
            *map(lm.attention_output, range(len(lm.blocks))),
        ]
        clean = captured(lm, [p.ids for p in prompts], [p.sites for p in prompts], parts).to(lm.device)
        self._clean = clean.repeat_interleave(self._samples, 1).reshape(
            len(KINDS), len(lm.blocks), -1, len(SITES), lm.dim
        )
        self._cached = _blurred(lm, prompts, noise)
        self._index = torch.arange(len(prompts) * self._samples, device=lm.device)
        self._answers = torch.tensor([p.answer for p in prompts], device=lm.device).repeat_interleave(
            self._samples
        )
        self._sites = torch.tensor([p.sites for p in prompts], device=lm.device).repeat_interleave(
            self._samples, 0
        )
        ends = self._ends(len(SITES) - 1)
        self.corrupted = self._probability(ends, ends.onward(-1, ends.entering)).tolist()

    def _ends(self, site: int) -> Ends:
        """Return the ends of all rows from one site on."""
        return self._blockwise.ends(self._cached, self._index, self._sites[:, site])

    def _probability(self, ends: Ends, final: Tensor) -> Tensor:
        """Return the mean over the noise of each answer's probability, [prompts]."""
        logits = ends.logits(final, self._index, self._sites[:, -1])
        found = logits.softmax(-1).gather(1, self._answers[:, None])[:, 0]
        return found.double().reshape(-1, self._samples).mean(1).cpu()

    def effects(
        self, site: int, window: Callable[[int, int], range]
    ) -> Iterator[tuple[int, str, list[float]]]:
        """Yield block, kind and each prompt's recovered probability at one site."""
        lm, ends, before = (
            self._blockwise.lm,
            self._ends(site),
            torch.tensor(self.corrupted, dtype=torch.float64),
        )
        entering = [ends.entering, *(hidden for _, hidden in ends.walk())]
        state, mlp, attention = self._clean[:, :, :, site]
        for block in range(len(lm.blocks)):
            blocks = window(block, len(lm.blocks))
            final = ends.onward(block, replaced(entering[block + 1], state[block]))
            yield block, "state", (self._probability(ends, final) - before).tolist()
            for kind, module, outputs in (
                ("mlp", lm.mlp_output, mlp),
                ("attention", lm.attention_output, attention),
            ):
                with _restored([module(b) for b in blocks], [outputs[b] for b in blocks]):
                    final = ends.onward(blocks.start - 1, entering[blocks.start])
                yield block, kind, (self._probability(ends, final) - before).tolist()


def _blurred(lm: LM, prompts: Sequence[_TracedPrompt], noise: Sequence[Tensor]) -> BlockStates:
    """Return the states that enter block 0, with each noise sample added to the subject's tokens."""
    embedded = states(lm, -1, [prompt.ids for prompt in prompts])
    flat: list[Tensor] = []
    for number, (prompt, drawn) in enumerate(zip(prompts, noise, strict=True)):
        start = int(embedded.starts[number])
        rows = embedded.flat[start : start + len(prompt.ids)].to(lm.device).repeat(len(drawn), 1, 1)
        rows[:, prompt.subject[0] : prompt.subject[1] + 1] += drawn
        flat.append(rows.flatten(0, 1))
    lengths = embedded.lengths.repeat_interleave(len(noise[0]))
    return BlockStates(torch.cat(flat), lengths.cumsum(0) - lengths, lengths)


@contextmanager
def _restored(modules: Sequence[nn.Module], outputs: Sequence[Tensor]) -> Iterator[None]:
    """Replace position s of each module's output [rows, ends, d] by given states [rows, d]."""

    def hook(given: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda _module, _args, output: replaced(output, given)

    with installed_hooks(
        [module.register_forward_hook(hook(given)) for module, given in zip(modules, outputs, strict=True)]
    ):
        yield
