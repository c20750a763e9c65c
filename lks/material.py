"""What LKS trains on, prepared once: parameters, rows, cached states, loss positions, references, keys."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lks.edits import Edit
from lks.hypernetwork import Features, Form, Kind
from lks.lm import LM, Encoded
from lks.prefix import States, Upper, batches, states

Positions = Literal["last", "all"]


@dataclass(frozen=True, slots=True)
class LKSParams:
    """Parameters of LKS.

    Attributes:
        block: l, the decoder block whose output is replaced (0-based).
        hypernetwork: "linear" (paper), "mlp", or "free" (one trained vector per subject: the upper bound).
        form: "replace" (paper) or "residual" (new block = the subject's own + h_phi).
        features: inputs of h_phi as they are ("plain", paper) or "whitened" over the edit set.
        key: input of h_phi: "edit" (state of the last token of "prompt target", as the authors' code), "entity" (the name alone,
            as the paper's text) or "both" side by side.
        positions: the subject's "last" token (authors' code) or "all" its tokens.
        optimisation: "joint" (Eq. 2 in one step) or "alternating" (three passes an epoch, as the authors' code).
        lambda_edit: weight of the edit and paraphrase losses against locality (Eq. 2).
        lr: AdamW learning rate, linear decay without warm-up.
        weight_decay: of AdamW.
        max_epochs, batch_size: of Algorithm 1.
        patience: epochs without a better mean loss before stopping; the best epoch is kept.
        stop_loss: stop once an epoch's mean loss is below this.
        paraphrases, locality_prompts: per edit and step; drawn anew each epoch where an edit has more of them.
        locality_pool: at most this many locality prompts of an edit are prepared.
        locality_tokens: next tokens over which Eq. 5 is taken.
        scope: "exact" (ours) or "official" (the authors' rules).
    """

    block: int
    hypernetwork: Kind = "linear"
    form: Form = "replace"
    features: Features = "plain"
    key: Literal["edit", "entity", "both"] = "edit"
    positions: Positions = "last"
    optimisation: Literal["joint", "alternating"] = "joint"
    lambda_edit: float = 1.0
    lr: float = 1e-4
    weight_decay: float = 0.01
    max_epochs: int = 20
    batch_size: int = 32
    patience: int = 3
    stop_loss: float = 1e-2
    paraphrases: int = 1
    locality_prompts: int = 2
    locality_pool: int = 2
    locality_tokens: int = 3
    scope: Literal["exact", "official"] = "exact"


Part = Literal["edit", "paraphrase", "locality"]
PARTS: tuple[Part, ...] = ("edit", "paraphrase", "locality")


@dataclass(frozen=True, slots=True)
class Material:
    """Everything a step needs, on the model's device.

    Rows are sequences; an edit owns one edit row and any number of paraphrase and locality rows.

    Attributes:
        ids: token ids of all rows.
        cached: their block-l states.
        spans: [rows, 2] first and last replaced position.
        subject: [rows] number of the row's subject.
        owned: part -> for each edit, its rows.
        offsets: [rows + 1] where each row's loss positions begin in the three tensors below.
        positions: [loss positions] position in the row whose final state is projected.
        labels: [loss positions] next token (edit and paraphrase rows).
        reference: [locality positions, vocabulary] unedited log-probabilities; row r's begin at `reference_offsets[r]`.
        reference_offsets: [rows].
        keys, own: [subjects, d] inputs of h_phi and unedited subject states.
        skipped: prompts that do not contain their subject and so cannot train a replacement.
    """

    ids: list[list[int]]
    cached: States
    spans: Tensor
    subject: Tensor
    owned: dict[Part, list[list[int]]]
    offsets: Tensor
    positions: Tensor
    labels: Tensor
    reference: Tensor
    reference_offsets: Tensor
    keys: Tensor
    own: Tensor
    skipped: int


def subjects_of(edits: Sequence[Edit]) -> dict[str, int]:
    """Each distinct subject's number, in order of first appearance. Edits of one subject share a knowledge block."""
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


def prepare(lm: LM, edits: Sequence[Edit], params: LKSParams) -> Material:
    """All rows of all edits with their states, loss positions and references."""
    numbers = subjects_of(edits)
    rows: list[_Row] = []
    owned: dict[Part, list[list[int]]] = {part: [[] for _ in edits] for part in PARTS}
    skipped = 0
    for part in PARTS:
        texts = [(i, prompt) for i, edit in enumerate(edits) for prompt in _prompts(edit, part, params)]
        targets = ["" if part == "locality" else edits[i].target for i, _ in texts]
        encoded = lm.encode([p for _, p in texts], targets, [edits[i].subject for i, _ in texts])
        tails = continuations(lm, encoded, params.locality_tokens - 1) if part == "locality" else [[] for _ in encoded]
        for (i, _), row, tail in zip(texts, encoded, tails, strict=True):
            if row.subject is None:
                skipped += 1
                continue
            owned[part][i].append(len(rows))
            rows.append(_row(row, tail, numbers[edits[i].subject], params.positions))
    cached = states(lm, params.block, [r.ids for r in rows])
    reference, reference_offsets = _references(lm, params.block, cached, rows, owned["locality"])
    device = lm.device
    counts = torch.tensor([0, *(len(r.positions) for r in rows)])
    return Material(
        ids=[r.ids for r in rows],
        cached=cached,
        spans=torch.tensor([r.span for r in rows], device=device).reshape(-1, 2),
        subject=torch.tensor([r.subject for r in rows], device=device, dtype=torch.long),
        owned=owned,
        offsets=counts.cumsum(0).to(device),
        positions=torch.tensor([p for r in rows for p in r.positions], device=device, dtype=torch.long),
        labels=torch.tensor([t for r in rows for t in r.labels], device=device, dtype=torch.long),
        reference=reference,
        reference_offsets=reference_offsets,
        keys=_keys(lm, edits, params),
        own=_own(cached, rows, owned["edit"], len(numbers)),
        skipped=skipped,
    )


def _prompts(edit: Edit, part: Part, params: LKSParams) -> Sequence[str]:
    if part == "edit":
        return (edit.prompt,)
    if part == "paraphrase":
        return edit.training_paraphrases
    prompts, count = edit.training_locality, min(params.locality_pool, len(edit.training_locality))
    return [prompts[i * len(prompts) // count] for i in range(count)]  # spread over all that the edit has


def _row(encoded: Encoded, tail: list[int], subject: int, positions: Positions) -> _Row:
    """Loss positions: those that predict the answer, or the last prompt token and the continuation (locality)."""
    assert encoded.subject is not None
    first, last = encoded.subject
    ids = encoded.ids + tail
    end = len(ids) - 1 if len(encoded.ids) > encoded.n_prompt else len(ids)
    loss = range(encoded.n_prompt - 1, end)
    labels = [ids[p + 1] if p + 1 < len(ids) else 0 for p in loss]
    return _Row(ids, (first if positions == "all" else last, last), subject, loss, labels)


@torch.no_grad()
def continuations(lm: LM, encoded: Sequence[Encoded], count: int) -> list[list[int]]:
    """The unedited model's greedy next `count` tokens after each prompt, cut before the end-of-sequence token."""
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
def _references(lm: LM, block: int, cached: States, rows: Sequence[_Row], locality: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The unedited model's log-probabilities at the locality rows' loss positions."""
    upper = Upper(lm, block)
    offsets = torch.zeros(len(rows), dtype=torch.long)
    parts: list[Tensor] = []
    used = 0
    wanted = [r for own in locality for r in own]
    for group in batches([len(rows[r].ids) for r in wanted], 8192):
        chosen = [wanted[g] for g in group]
        hidden, mask = cached.rows(torch.tensor(chosen, device=lm.device))
        final = upper(hidden, mask)
        for k, r in enumerate(chosen):
            offsets[r] = used
            parts.append(upper.logits(final[k, list(rows[r].positions)]).log_softmax(-1))
            used += len(rows[r].positions)
    vocabulary = lm.vocabulary_projection.weight.shape[0]
    reference = torch.cat(parts) if parts else torch.zeros(0, vocabulary, device=lm.device)
    return reference, offsets.to(lm.device)


def _keys(lm: LM, edits: Sequence[Edit], params: LKSParams) -> Tensor:
    """Inputs of h_phi [subjects, k]: state of the last token of "prompt target" (joined when it has several), of the name, or both."""
    numbers = subjects_of(edits)
    texts: list[list[str]] = [[] for _ in numbers]
    for edit in edits:
        texts[numbers[edit.subject]].append(f"{edit.prompt.rstrip()} {edit.target}")
    choices = {"edit": [[" ".join(t) for t in texts]], "entity": [list(numbers)]}
    choices["both"] = choices["edit"] + choices["entity"]
    return torch.cat([_last_states(lm, params.block, choice) for choice in choices[params.key]], -1)


def _last_states(lm: LM, block: int, texts: Sequence[str]) -> Tensor:
    """Block states [texts, d] of the last token of each text."""
    found = states(lm, block, [e.ids for e in lm.encode(texts, [""] * len(texts))])
    return found.at(torch.arange(len(texts), device=lm.device), found.lengths - 1)


def _own(cached: States, rows: Sequence[_Row], owned: Sequence[Sequence[int]], n_subjects: int) -> Tensor:
    """Each subject's unedited state at its last token, the mean over its edit prompts."""
    device = cached.flat.device
    chosen = [r for own in owned for r in own]
    last = torch.tensor([rows[r].span[1] for r in chosen], device=device, dtype=torch.long)
    found = cached.at(torch.tensor(chosen, device=device, dtype=torch.long), last)
    which = torch.tensor([rows[r].subject for r in chosen], device=device, dtype=torch.long)
    sums = torch.zeros(n_subjects, found.shape[-1], device=device).index_add(0, which, found.float())
    return sums / torch.bincount(which, minlength=n_subjects).clamp_min(1)[:, None]
