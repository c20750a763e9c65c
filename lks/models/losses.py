"""The losses of LKS (paper, Eqs. 2 to 5), and cross-entropy through a frozen projection."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lks.models.memory import allocate


def negative_log_likelihood(logits: Tensor, labels: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Compute Eqs. 3 and 4: the mean over rows of the per-token mean of -log p(y_t | x, y_<t).

    Args:
        logits: [tokens, vocabulary] at the positions that predict the labels.
        labels: [tokens] token ids.
        rows: [tokens] which row each token belongs to.
        n_rows: number of rows.
    """
    per_token = F.cross_entropy(logits, labels, reduction="none")
    return row_means(per_token, rows, n_rows).mean()


class FrozenCrossEntropy(torch.autograd.Function):
    """Cross-entropy through a vocabulary projection that is not trained: `FrozenCrossEntropy.apply(...)`.

    The gradient with respect to the final states is computed along with the loss, in pieces, so that neither
    the logits nor their log-probabilities are kept: for few final states of a small model they are the
    largest tensors of a step.
    """

    PIECE = 128
    """Positions that are projected together."""

    @staticmethod
    def forward(ctx: FunctionCtx, final: Tensor, weight: Tensor, labels: Tensor, cap: float | None) -> Tensor:
        """Return the losses [n], in float32.

        Args:
            ctx: keeps the gradient.
            final: [n, d] final states.
            weight: [vocabulary, d] of the projection, which has no bias.
            labels: [n] token ids.
            cap: bound c of logits c tanh(x / c); None for none.
        """
        losses, slopes = final.new_empty(len(final), dtype=torch.float32), torch.empty_like(final)
        for start in range(0, len(final), FrozenCrossEntropy.PIECE):
            part = slice(start, start + FrozenCrossEntropy.PIECE)
            logits = F.linear(final[part], weight).float()
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
            total = logits.logsumexp(-1, keepdim=True)
            label = labels[part, None]
            losses[part] = (total - logits.gather(-1, label))[:, 0]
            slope = (logits - total).exp_().scatter_add_(-1, label, logits.new_full(label.shape, -1.0))
            if cap is not None:
                slope *= 1 - (logits / cap).square_()
            slopes[part] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient with respect to the final states."""
        (slopes,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (upstream[:, None] * slopes).to(slopes.dtype), None, None, None


def kl_divergence(logits: Tensor, reference: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Compute Eq. 5: the mean over rows of the per-position mean of KL(unedited || edited).

    Args:
        logits: [tokens, vocabulary] of the edited model.
        reference: [tokens, vocabulary] log-probabilities of the unedited model.
        rows: [tokens] which row each position belongs to.
        n_rows: number of rows.
    """
    return row_means(_kl(F.log_softmax(logits, -1), reference), rows, n_rows).mean()


def _kl(edited: Tensor, reference: Tensor) -> Tensor:
    """Compute KL(reference || edited) of log-probabilities [positions, outcomes] -> [positions]."""
    return F.kl_div(edited, reference, reduction="none", log_target=True).sum(-1)


def row_means(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Return the mean of the values of each row, [n_rows]; 0 for a row without any."""
    sums = values.new_zeros(n_rows).index_add(0, rows, values)
    return sums / values.new_zeros(n_rows).index_add(0, rows, values.new_ones(len(values))).clamp_min(1)


@dataclass(frozen=True, slots=True)
class References:
    """Distributions of the unedited model, whole or as their most likely tokens and the rest's mass.

    The KL divergence over "token 1, ..., token k, any other" is a lower bound of that over the vocabulary
    (data-processing inequality); it is tight because the tail holds little mass.

    Attributes:
        logprobs: [positions, vocabulary], or [positions, k + 1] with the rest's log-mass last.
        tokens: [positions, k] the most likely tokens; None if the distributions are whole.
    """

    logprobs: Tensor
    tokens: Tensor | None

    @classmethod
    def room(cls, positions: int, vocabulary: int, top: int, device: torch.device) -> "References":
        """Allocate space for distributions, to be filled by `put`."""
        if not 0 < top < vocabulary:
            return cls(allocate((positions, vocabulary), torch.float32, device), None)
        return cls(
            allocate((positions, top + 1), torch.float32, device),
            allocate((positions, top), torch.int32, device),
        )

    def put(self, where: Tensor, logits: Tensor) -> None:
        """Store the distributions of logits [n, vocabulary] at positions `where` [n]."""
        where = where.to(self.logprobs.device)
        whole = logits.log_softmax(-1)
        if self.tokens is None:
            self.logprobs[where] = whole.to(self.logprobs.device)
            return
        tokens = whole.topk(self.tokens.shape[1]).indices
        self.tokens[where] = tokens.to(self.tokens)
        self.logprobs[where] = _with_rest(whole, tokens).to(self.logprobs.device)

    def kl(self, logits: Tensor, where: Tensor) -> Tensor:
        """Compute KL(unedited || edited) [n] of edited logits [n, vocabulary] at positions `where` [n]."""
        edited = F.log_softmax(logits, -1)
        reference = self.logprobs[where.to(self.logprobs.device)].to(logits.device)
        if self.tokens is not None:
            edited = _with_rest(
                edited, self.tokens[where.to(self.tokens.device)].to(logits.device, torch.long)
            )
        return _kl(edited, reference)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored distributions."""
        return sum(t.numel() * t.element_size() for t in (self.logprobs, self.tokens) if t is not None)


def _with_rest(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """Return log-probabilities of some tokens and, last, of any other: [n, k] tokens -> [n, k + 1]."""
    rest = logprobs.scatter(-1, tokens, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, tokens), rest], -1)
