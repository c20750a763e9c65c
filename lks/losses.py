"""The loss of LKS: paper, Eqs. 2 to 5."""

import torch.nn.functional as F
from torch import Tensor


def negative_log_likelihood(logits: Tensor, labels: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Eqs. 3 and 4: mean over rows of the per-token mean of -log p(y_t | x, y_<t).

    Args:
        logits: [tokens, vocabulary] at the positions that predict the labels.
        labels: [tokens].
        rows: [tokens] which row each token belongs to.
        n_rows: number of rows.
    """
    per_token = F.cross_entropy(logits, labels, reduction="none")
    return row_means(per_token, rows, n_rows).mean()


def kl_divergence(logits: Tensor, reference: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Eq. 5: mean over rows of the per-position mean of KL(unedited || edited).

    Args:
        logits: [tokens, vocabulary] of the edited model.
        reference: [tokens, vocabulary] log-probabilities of the unedited model.
        rows: [tokens] which row each position belongs to.
        n_rows: number of rows.
    """
    per_token = F.kl_div(F.log_softmax(logits, -1), reference, reduction="none", log_target=True).sum(-1)
    return row_means(per_token, rows, n_rows).mean()


def row_means(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Mean of the values of each row, [n_rows]."""
    sums = values.new_zeros(n_rows).index_add(0, rows, values)
    return sums / values.new_zeros(n_rows).index_add(0, rows, values.new_ones(len(values)))
