"""Factorised second moments C = E[k k^T] of the keys of MLP output layers (ROME, Sec. 3.1), and solves.

One pass over a corpus serves all blocks; the forward pass stops at the last of them. The eigenvectors and
eigenvalues of C are cached on disk in float64, by the hash of model, corpus and number of tokens. Every solve
below is then a few products, and both "C^-1 K" and the null space come from one factorisation. Systems are N
x N wherever there are fewer edits than dimensions.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines._locate_then_edit.corpus import SHIPPED, NoHubError, texts
from lks.errors import NothingToLearnFrom, UserError
from lks.io.cache import Making, known, made, making
from lks.io.checkpoint import Checkpoint
from lks.models.frozen_prefix import batches, lower_blocks
from lks.models.lm import LM
from lks.models.prefill import installed_hooks
from lks.progress import Progress, no_progress

STATISTICS = "statistics"
"""Key of the note (`Editor.notes`) that says from which text second moments were computed."""
FLOOR = 1e-10
"""Lower bound of eigenvalues as a share of the largest, used to invert C; smaller ones are rounding."""


@dataclass(frozen=True, slots=True)
class Moment:
    """C of one block as eigenvectors [d_in, d_in] (columns) and eigenvalues [d_in], ascending, in float64."""

    vectors: Tensor
    values: Tensor

    def inverse(self, keys: Tensor) -> Tensor:
        """Compute C^-1 K [d_in, n] for K [d_in, n], in float64."""
        floored = self.values.clamp_min(FLOOR * float(self.values[-1]))
        return self.vectors @ ((self.vectors.T @ keys.double()) / floored[:, None])

    def null_space(self, threshold: float) -> Tensor:
        """Return the eigenvectors U_0 [d_in, r] with eigenvalues below `threshold` (AlphaEdit, Sec. 3.2).

        The projection onto the null space is P = U_0 U_0^T.
        """
        return self.vectors[:, self.values < threshold]


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments by block.

    Attributes:
        blocks: block -> its second moment.
        seconds: time of the original computation, also if they came from the cache.
        text: readable description of the text that they were computed from.
    """

    blocks: dict[int, Moment]
    seconds: float
    text: str


def second_moments(
    lm: LM, blocks: Sequence[int], corpus: str, n_tokens: int, progress: Progress = no_progress
) -> Moments:
    """Compute second moments of the inputs of the blocks' MLP output layers, or load them from the cache.

    The beginning-of-sequence token is left out: its key is the same in every text and far larger than any
    other, and no subject ends on it.

    Args:
        lm: the unedited model.
        blocks: blocks, 0-based.
        corpus: see `baselines._locate_then_edit.corpus.texts`.
        n_tokens: number of tokens of the corpus to use.
        progress: called with the fraction done.

    Raises:
        UserError: the corpus is unknown, is not a text or is empty, or locate-then-edit methods cannot edit
            this kind of model.
    """
    if lm.architecture.output_norms:
        why = (
            "passes the MLPs' outputs through a norm, so that a change of their weights does not produce "
            "the intended state"
        )
        raise UserError(
            f"{lm.name or 'The model'} {why}. Locate-then-edit methods cannot edit it; others can, "
            "for example lks, ft or grace."
        )
    rows, text = _rows(lm, corpus, n_tokens)
    depends = {"model": lm.identity, "corpus": hashlib.sha256(str(rows).encode()).hexdigest()[:16]}
    found = {block: known("moments", depends | {"block": block}) for block in blocks}
    if not all(found.values()):
        with making("moments", depends | {"blocks": list(blocks)}) as one_pass:
            sums: dict[str, Tensor] = {}

            def factor(block: int, own: Making) -> dict[str, Tensor]:
                if not sums:
                    sums.update(
                        one_pass.step(
                            "sums", lambda: _sums(lm, blocks, rows, progress, one_pass.checkpoint("pass"))
                        )
                    )
                if block == blocks[0]:
                    own.clock.go_on(one_pass.clock.read())
                values, vectors = torch.linalg.eigh(sums[str(block)].to(lm.device))
                return {"vectors": vectors, "values": values}

            for block in blocks:
                found[block] = made("moments", depends | {"block": block}, partial(factor, block))
    progress(1.0)
    there = {block: one for block, one in found.items() if one}
    moments = {
        block: Moment(one.tensors["vectors"].to(lm.device), one.tensors["values"].to(lm.device))
        for block, one in there.items()
    }
    return Moments(moments, sum(one.seconds for one in there.values()), text)


def _rows(lm: LM, corpus: str, n_tokens: int) -> tuple[list[list[int]], str]:
    """Return token ids of a corpus and its description; shipped text replaces WikiText if unavailable."""
    instead = ""
    try:
        rows = _tokens(lm, corpus, n_tokens)
    except NoHubError as error:
        rows, instead = _tokens(lm, SHIPPED, n_tokens), f", in place of WikiText ({str(error).rstrip('.')})"
    count = sum(map(len, rows))
    name = "plain text that comes with lks-grid" if instead or corpus == SHIPPED else Path(corpus).name
    fewer = f" ({n_tokens:,} were asked for)" if count < n_tokens else ""
    return rows, f"{name}, {count:,} tokens{fewer}{instead}"


def _tokens(lm: LM, corpus: str, n_tokens: int) -> list[list[int]]:
    """Return the token ids of the texts with the first `n_tokens` tokens, in pieces of at most 512."""
    rows: list[list[int]] = []
    count = 0
    source = texts(corpus)
    while chunk := list(itertools.islice(source, 256)):
        for ids in lm.tokenizer(chunk)["input_ids"]:
            rows += [ids[start : start + 512] for start in range(0, len(ids), 512)]
            count += len(ids)
            if count >= n_tokens:
                return rows
    if not rows:
        raise NothingToLearnFrom(f"Corpus {corpus!r} holds no text. Give a text file with a text per line.")
    return rows


@torch.no_grad()
def _sums(
    lm: LM, blocks: Sequence[int], rows: Sequence[Sequence[int]], progress: Progress, kept: Checkpoint
) -> dict[str, Tensor]:
    """Compute C = sum k k^T / count by block in float64, resuming from the checkpoint in the same order."""
    part = lower_blocks(lm, max(blocks))
    sums: dict[str, Tensor] = {}
    done, count, keep = 0, 0, torch.zeros(0, dtype=torch.bool)
    if state := kept.load():
        sums = {block: total.to(lm.device) for block, total in state["sums"].items()}
        done, count = state["done"], state["count"]

    def add(block: str, keys: Tensor) -> None:
        chosen = keys[keep].float()
        product = (chosen.T @ chosen).double()
        sums[block] = sums[block] + product if block in sums else product

    def hook(block: int) -> object:
        def take(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            add(str(block), args[0])

        return take

    with installed_hooks([lm.mlp_output(b).register_forward_pre_hook(hook(b)) for b in blocks]):  # type: ignore[arg-type]
        groups = batches([len(r) for r in rows], 8192)
        for number, group in enumerate(groups[done:], done + 1):
            ids, mask = lm.pad([rows[i] for i in group])
            keep = mask.bool() & ~torch.isin(
                ids, torch.tensor(lm.opening, device=ids.device, dtype=ids.dtype)
            )
            part(input_ids=ids, attention_mask=mask, use_cache=False)
            count += int(keep.sum())
            if kept.due():
                kept.save({"sums": sums, "done": number, "count": count})
            progress(number / len(groups))
    return {block: total / count for block, total in sums.items()}


def ridge(moment: Moment, keys: Tensor, weight: float) -> Tensor:
    """Compute (lambda C + K K^T)^-1 K [d_in, n] (MEMIT, Eq. 14): least squares against lambda old keys.

    By the Woodbury identity this is C^-1 K (lambda I + K^T C^-1 K)^-1, an n x n solve; with more edits than
    dimensions it is solved in the eigenbasis of C instead.

    Args:
        moment: second moment of the block.
        keys: K [d_in, n].
        weight: lambda; 0 gives the equality constraint of ROME and EMMET.
    """
    keys = keys.double()
    if keys.shape[1] <= keys.shape[0] or not weight:
        solved = moment.inverse(keys)
        inner = keys.T @ solved
        inner.diagonal().add_(weight)
        found: Tensor = torch.linalg.solve(inner, solved.T).T
        return found
    turned = moment.vectors.T @ keys
    outer = turned @ turned.T
    outer.diagonal().add_(weight * moment.values.clamp_min(FLOOR * float(moment.values[-1])))
    result: Tensor = moment.vectors @ torch.linalg.solve(outer, turned)
    return result


def projected(basis: Tensor, keys: Tensor, earlier: Tensor, penalty: float) -> Tensor:
    """Compute A [d_in, n] such that AlphaEdit's update is R A^T (Eq. 14).

    The update is Delta = R K^T P (K K^T P + S P + L2 I)^-1 with S = K_p K_p^T. It lies in the range of P, so
    everything is computed in the coordinates U_0^T. With B = [K, K_p] in these coordinates and (B B^T +
    L2)^-1 B = B (B^T B + L2)^-1, the size of the solve is the number of keys or the dimension of the null
    space, whichever is smaller.

    Args:
        basis: U_0 [d_in, r] with P = U_0 U_0^T.
        keys: K [d_in, n] of the current edits.
        earlier: K_p [d_in, m] of earlier edits.
        penalty: L2.
    """
    n = keys.shape[1]
    joined = basis.T @ torch.cat([keys, earlier], 1).double()
    if joined.shape[1] <= joined.shape[0]:
        gram = joined.T @ joined
        gram.diagonal().add_(penalty)
        first = torch.eye(len(gram), n, dtype=gram.dtype, device=gram.device)
        narrow: Tensor = basis @ (joined @ torch.linalg.solve(gram, first))
        return narrow
    outer = joined @ joined.T
    outer.diagonal().add_(penalty)
    wide: Tensor = basis @ torch.linalg.solve(outer, joined[:, :n])
    return wide
