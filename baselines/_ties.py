"""TIES merging of separately trained changes of one weight matrix (Yadav et al. 2023, arXiv 2306.01708)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(changes: Sequence[Tensor], density: float) -> Tensor:
    """Trim each change, elect signs, and average the entries that agree (Algorithm 1 with lambda = 1).

    Args:
        changes: differences from the unedited weight, all of the same shape.
        density: share in (0, 1] of each change's entries that is kept, largest magnitude first.
    """
    kept = torch.stack([_trim(change, density) for change in changes])
    elected = kept.sum(0).sign()
    agrees = (kept.sign() == elected) & (kept != 0)
    return (kept * agrees).sum(0) / agrees.sum(0).clamp_min(1)


def _trim(change: Tensor, density: float) -> Tensor:
    """Zero all but the entries of largest magnitude."""
    size = change.abs().flatten()
    least = size.kthvalue(len(size) - max(1, round(density * len(size))) + 1).values
    return torch.where(change.abs() >= least, change, 0.0)
