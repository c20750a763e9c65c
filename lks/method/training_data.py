"""Training data of LKS, prepared once: rows, cached states, loss positions, references and keys."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lks.edits import Edit, loose_subjects, spellings_of
from lks.errors import UserError
from lks.method.gate_parts import spread
from lks.method.memory_estimate import Load, ModelShape, Needs, check, needs
from lks.method.params import LKSParams, Positions
from lks.models.frozen_prefix import BlockStates, UpperBlocks, batches, last_states, states
from lks.models.frozen_suffix import Beginnings, Suffix, fits
from lks.models.joining import joined
from lks.models.lm import LM, Encoded
from lks.models.losses import References
from lks.models.memory import free_bytes, gibibytes
from lks.models.precision import training_dtype
from lks.scope.exact import Scope
from lks.scope.indicator import make_scope
from lks.scope.naming import mentioned, names_subject, why_unnamed

logger = logging.getLogger(__name__)

Part = Literal["edit", "paraphrase", "locality"]
PADDING = 1.3
"""Tokens of a step with padding, as a multiple of those without."""

PARTS: tuple[Part, ...] = ("edit", "paraphrase", "locality")


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything a step needs, on the model's device.

    Attributes:
        upper: blocks above l, with stretches between the replaced ones.
        ids: token ids of all rows.
        cached: block-l states of all rows.
        beginnings: keys and values of what precedes each row's first replaced position; None if they do not
            fit and are recomputed.
        spans: [rows, 2] first and last replaced position.
        subject: [rows] number of the row's subject.
        owned: part -> for each edit, the numbers of its rows.
        offsets: [rows + 1] where each row's loss positions begin in the two tensors below.
        positions: [loss positions] position in the row whose final state is projected.
        labels: [loss positions] next token (edit and paraphrase rows).
        references: the unedited distributions of the locality rows; row r's begin at `reference_offsets[r]`,
            -1 for other rows.
        reference_offsets: [rows].
        keys, own: [blocks, subjects, k] inputs of h_phi and [blocks, subjects, d] unedited subject states;
            free vectors have no inputs, and `keys` is `own`.
        skipped: number of paraphrase and locality prompts that do not name their subject and so cannot train
            a replacement.
    """

    upper: UpperBlocks
    ids: list[list[int]]
    cached: BlockStates
    beginnings: Beginnings | None
    spans: Tensor
    subject: Tensor
    owned: dict[Part, list[list[int]]]
    offsets: Tensor
    positions: Tensor
    labels: Tensor
    references: References
    reference_offsets: Tensor
    keys: Tensor
    own: Tensor
    skipped: int

    def ends(self, index: Tensor) -> Suffix:
        """Return the upper blocks on the ends of some rows, from their first replaced position on."""
        return Suffix(self.upper, self.cached, index, self.spans[index, 0], self.beginnings)


def subjects_of(edits: Sequence[Edit]) -> dict[str, int]:
    """Return each distinct subject's number, in order of first appearance.

    Edits of one subject share a knowledge block.
    """
    numbers: dict[str, int] = {}
    for edit in edits:
        numbers.setdefault(edit.subject, len(numbers))
    return numbers


@dataclass(frozen=True, slots=True)
class _Row:
    """A training sequence before its states are computed."""

    ids: list[int]
    span: tuple[int, int]
    subject: int
    positions: range
    labels: list[int]


def prepare(lm: LM, edits: Sequence[Edit], params: LKSParams) -> TrainingData:
    """Prepare all rows of all edits with their states, loss positions and references."""
    numbers = subjects_of(edits)
    rows, owned, skipped = _rows(lm, edits, params, numbers)
    wanted = _needs(lm, rows, owned, params)
    logger.info("LKS, %d edits: needs %s; %s free", len(edits), wanted, gibibytes(free_bytes(lm.device)))
    check(wanted, lm.device, params.batch_size)
    device = lm.device
    dtype = training_dtype(params.precision, device)
    cached = states(lm, params.block, [r.ids for r in rows], dtype=dtype)
    upper = UpperBlocks(lm, params.block, params.more_blocks, dtype)
    spans = torch.tensor([r.span for r in rows], device=device, dtype=torch.long).reshape(-1, 2)
    beginnings = Beginnings(upper, cached, spans[:, 0]) if fits(upper, spans[:, 0]) else None
    counts = torch.tensor([0, *(len(r.positions) for r in rows)])
    locality = [r for own in owned["locality"] for r in own]
    reference_offsets = torch.full((len(rows),), -1, dtype=torch.long)
    reference_offsets[locality] = (
        (counts[1:][locality].cumsum(0) - counts[1:][locality]) if locality else counts[:0]
    )
    own = _own(lm, rows, cached, owned["edit"], params)
    material = TrainingData(
        upper=upper,
        ids=[r.ids for r in rows],
        cached=cached,
        beginnings=beginnings,
        spans=spans,
        subject=torch.tensor([r.subject for r in rows], device=device, dtype=torch.long),
        owned=owned,
        offsets=counts.cumsum(0).to(device),
        positions=torch.tensor([p for r in rows for p in r.positions], device=device, dtype=torch.long),
        labels=torch.tensor([t for r in rows for t in r.labels], device=device, dtype=torch.long),
        references=References.room(
            int(counts[1:][locality].sum()),
            lm.vocabulary_projection.weight.shape[0],
            params.reference_top,
            device,
        ),
        reference_offsets=reference_offsets.to(device),
        keys=own if params.hypernetwork == "free" else _keys(lm, edits, params),
        own=own,
        skipped=skipped,
    )
    _refer(material, locality)
    return material


def stated(lm: LM, edits: Sequence[Edit], params: LKSParams) -> Needs:
    """Estimate the memory that training on these edits needs, from their tokens alone."""
    rows, owned, _ = _rows(lm, edits, params, subjects_of(edits))
    return _needs(lm, rows, owned, params)


def _needs(lm: LM, rows: Sequence[_Row], owned: dict[Part, list[list[int]]], params: LKSParams) -> Needs:
    """Estimate the memory that training on some rows needs."""
    shape = ModelShape.of(
        lm.model.config, sum(p.numel() for p in lm.model.parameters()), lm.model.dtype.itemsize
    )
    trained = training_dtype(params.precision, lm.device)
    return needs(shape, _load(rows, owned, params), params.block, params.reference_top, trained)


def _load(rows: Sequence[_Row], owned: dict[Part, list[list[int]]], params: LKSParams) -> Load:
    """Return the size of the training data; the rows of a step are assumed to have the mean length."""
    ends = sum(len(row.ids) - row.span[0] for row in rows)
    of_locality = [rows[r] for own in owned["locality"] for r in own]
    drawn = sum(min(len(own), params.locality_prompts) for own in owned["locality"])
    per_edit = 1 + params.paraphrases + drawn / max(1, len(owned["edit"]))
    step = min(params.batch_size, len(owned["edit"])) * per_edit / max(1, len(rows))
    return Load(
        tokens=sum(len(row.ids) for row in rows),
        before=sum(row.span[0] for row in rows),
        locality_positions=sum(len(row.positions) for row in of_locality),
        step_tokens=round(PADDING * step * ends),
        step_positions=round(step * sum(len(row.positions) for row in of_locality)),
    )


def _rows(
    lm: LM, edits: Sequence[Edit], params: LKSParams, numbers: dict[str, int]
) -> tuple[list[_Row], dict[Part, list[list[int]]], int]:
    """Return all rows, which of them each edit owns, and how many prompts were skipped.

    A row's subject is where the patch will find it in the prompt: the last mention by the same scope rules.

    Raises:
        UserError: an edit's prompt does not name its subject.
    """
    rows: list[_Row] = []
    scope = make_scope(params.scope, list(spellings_of(edits).values()), loose_subjects(edits))
    owned: dict[Part, list[list[int]]] = {part: [[] for _ in edits] for part in PARTS}
    local = params.locality_for == "all" or params.gate == "none"
    skipped = 0
    for part in PARTS:
        texts = [
            (i, prompt)
            for i, edit in enumerate(edits)
            if part != "locality" or local
            for prompt in _prompts(edit, part, params)
        ]
        targets = ["" if part == "locality" else edits[i].target for i, _ in texts]
        encoded = lm.encode([p for _, p in texts], targets, end=params.end_of_answer)
        tails = (
            continuations(lm, encoded, params.locality_tokens - 1)
            if part == "locality"
            else [[] for _ in encoded]
        )
        for (i, _), row, tail in zip(texts, encoded, tails, strict=True):
            number = numbers[edits[i].subject]
            own = [
                (first, last)
                for subject, first, last in mentioned(lm.pieces, scope, row.ids[: row.n_prompt])
                if subject == number
            ]
            if own:
                owned[part][i].append(len(rows))
                rows.append(_row(replace(row, subject=own[-1]), tail, number, params.positions))
            elif part == "edit":
                raise UserError(_unfound(edits[i], scope, list(numbers)))
            else:
                skipped += 1
    return rows, owned, skipped


def _unfound(edit: Edit, scope: Scope, subjects: Sequence[str]) -> str:
    """Return the message for an edit that would not act on its own prompt."""
    found = [subjects[mention.subject_index] for mention in scope.find(edit.prompt)]
    others = [] if edit.subject in found else found
    if others and names_subject(edit.prompt, edit.subject):
        why = (
            f"because they find {others[-1]!r}, another edited subject, in its place; write the prompt so "
            "that the two are separate, or drop one edit"
        )
    elif names_subject(edit.prompt, edit.subject):
        why = (
            "because the model's tokenizer lacks characters in it or next to it; write the prompt with others"
        )
    else:
        why = why_unnamed(edit.prompt, edit.subject, edit.aliases)
    return (
        f"Edit {edit.case_id}: subject {edit.subject!r} does not occur in the prompt {edit.prompt!r} as the "
        f"scope rules look for it, {why}."
    )


def _prompts(edit: Edit, part: Part, params: LKSParams) -> Sequence[str]:
    """Return an edit's prompts of one part."""
    if part == "edit":
        return (edit.prompt,)
    if part == "paraphrase":
        return edit.training_paraphrases
    return spread(edit.training_locality, params.locality_pool)


def _row(encoded: Encoded, tail: list[int], subject: int, positions: Positions) -> _Row:
    """Build a row with its loss positions.

    They are those that predict the answer, or the last prompt token and the continuation (locality).
    """
    assert encoded.subject is not None
    first, last = encoded.subject
    ids = encoded.ids + tail
    end = len(ids) - 1 if len(encoded.ids) > encoded.n_prompt else len(ids)
    loss = range(encoded.n_prompt - 1, end)
    labels = [ids[p + 1] if p + 1 < len(ids) else 0 for p in loss]
    return _Row(ids, (first if positions == "all" else last, last), subject, loss, labels)


@torch.no_grad()
def continuations(lm: LM, encoded: Sequence[Encoded], count: int) -> list[list[int]]:
    """Return the unedited model's greedy next `count` tokens after each prompt.

    They are cut before the end-of-sequence token.
    """
    tails: list[list[int]] = [[] for _ in encoded]
    if count < 1:
        return tails
    end = lm.tokenizer.eos_token_id
    for chosen in batches([len(e.ids) for e in encoded], 4096):
        ids, mask = lm.pad([encoded[i].ids for i in chosen], side="left")
        made = lm.greedy(ids, mask, count)
        for i, row in zip(chosen, made[:, ids.shape[1] :].tolist(), strict=True):
            tails[i] = list(itertools.takewhile(lambda token: token != end, row))
    return tails


@torch.no_grad()
def _refer(material: TrainingData, locality: Sequence[int], batch_tokens: int = 8192) -> None:
    """Store the unedited model's distributions at the locality rows' loss positions."""
    device = material.spans.device
    index = torch.tensor(locality, device=device, dtype=torch.long)
    lengths = (material.cached.lengths[index] - material.spans[index, 0]).tolist()
    for group in batches(lengths, batch_tokens):
        chosen = index[torch.tensor(group, device=device)].sort().values
        ends = material.ends(chosen)
        rows, where = losses_at(material, chosen)
        final = ends(ends.hidden)[rows, material.positions[where] - material.spans[chosen, 0][rows]]
        material.references.put(
            material.reference_offsets[chosen][rows] + where - material.offsets[chosen][rows],
            material.upper.logits(final),
        )


def losses_at(material: TrainingData, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss positions of some rows.

    Returns:
        Which of the rows each belongs to, and its number in `positions` and `labels`.
    """
    counts = material.offsets[index + 1] - material.offsets[index]
    rows = torch.repeat_interleave(torch.arange(len(index), device=index.device), counts)
    within = torch.arange(len(rows), device=index.device) - (counts.cumsum(0) - counts)[rows]
    return rows, material.offsets[index][rows] + within


def _keys(lm: LM, edits: Sequence[Edit], params: LKSParams) -> Tensor:
    """Return the inputs of h_phi [blocks, subjects, k].

    They are the state of the last token of "prompt target" (joined when a subject has several), of the name,
    or both.
    """
    numbers = subjects_of(edits)
    texts: list[list[str]] = [[] for _ in numbers]
    for edit in edits:
        texts[numbers[edit.subject]].append(joined(edit.prompt, edit.target))
    choices = {"edit": [[" ".join(t) for t in texts]], "entity": [list(numbers)]}
    choices["both"] = choices["edit"] + choices["entity"]
    blocks = (params.block, *params.more_blocks)
    return torch.stack(
        [
            torch.cat([last_states(lm, block, choice) for choice in choices[params.key]], -1)
            for block in blocks
        ]
    )


def _own(
    lm: LM,
    rows: Sequence[_Row],
    cached: BlockStates,
    owned: Sequence[Sequence[int]],
    params: LKSParams,
) -> Tensor:
    """Return each subject's unedited state at its last token: [blocks, subjects, d].

    It is the mean over the subject's edit prompts. `cached` holds the rows' states at the first block.
    """
    device = lm.device
    index = [r for own in owned for r in own]
    chosen = [rows[r] for r in index]
    last = torch.tensor([row.span[1] for row in chosen], device=device, dtype=torch.long)
    which = torch.tensor([row.subject for row in chosen], device=device, dtype=torch.long)
    n_subjects = int(which.max()) + 1
    means = []
    for block in (params.block, *params.more_blocks):
        found = (
            cached.at(torch.tensor(index, device=device), last)
            if block == params.block
            else states(lm, block, [row.ids for row in chosen]).at(
                torch.arange(len(chosen), device=device), last
            )
        ).float()
        sums = torch.zeros(n_subjects, lm.dim, device=device).index_add(0, which, found)
        means.append(sums / torch.bincount(which, minlength=n_subjects).clamp_min(1)[:, None])
    return torch.stack(means)
