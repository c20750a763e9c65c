"""Merging changes of one weight matrix that were made apart from each other: TIES (Yadav et al. 2023, arXiv 2306.01708)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(changes: Sequence[Tensor], density: float) -> Tensor:
    """Trim, elect signs, average what agrees (their Algorithm 1, with lambda = 1).

    Args:
        changes: differences to the unedited weight, all of one shape.
        density: share of each change's entries that are kept, the largest first, in (0, 1].
    """
    kept = torch.stack([_trim(change, density) for change in changes])
    elected = kept.sum(0).sign()
    agrees = (kept.sign() == elected) & (kept != 0)
    return (kept * agrees).sum(0) / agrees.sum(0).clamp_min(1)


def _trim(change: Tensor, density: float) -> Tensor:
    """Zero all but the largest entries."""
    size = change.abs().flatten()
    least = size.kthvalue(len(size) - max(1, round(density * len(size))) + 1).values
    return torch.where(change.abs() >= least, change, 0.0)
